"""Memory shared with a worker: made here, sealed, handed over as a descriptor, mapped as long as anything needs it."""

import fcntl
import mmap
import os

from libc.stdint cimport uintptr_t

# fcntl(2); Python knows them all only from 3.9 on.
cdef int F_ADD_SEALS = 1033
cdef int F_SEAL_SEAL = 1
cdef int F_SEAL_SHRINK = 2
cdef int F_SEAL_GROW = 4

# Bytes of a mapping that is made where the system allows no larger one.
cdef int64_t LEAST_NBYTES = 1 << 26

cdef extern from "<sys/mman.h>" nogil:
    void *mmap_range "mmap"(void *address, size_t nbytes, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t nbytes)
    void *MAP_FAILED
    int MAP_SHARED
    int MAP_NORESERVE
    int PROT_READ
    int PROT_WRITE


cdef class SharedMemory:
    """`nbytes`: at most; less where the system does not allow as much. `writable`: whether the server writes it.

    OSError when there is none.
    """

    def __cinit__(self, int64_t nbytes, bint writable):
        self.fd = -1
        self.writable = writable
        nbytes = max(nbytes // mmap.PAGESIZE, 1) * mmap.PAGESIZE
        while True:
            try:
                self._make(nbytes)
                break
            except OSError:
                if nbytes <= LEAST_NBYTES:
                    raise
                nbytes = max(nbytes // 4 // mmap.PAGESIZE * mmap.PAGESIZE, LEAST_NBYTES)
        if writable:
            self.arena = Arena(<uintptr_t>self.base, nbytes, _Unmap(<uintptr_t>self.base, nbytes))

    def __dealloc__(self):
        if self.fd >= 0:
            os.close(self.fd)
        if self.base != NULL and self.arena is None:
            munmap(self.base, self.nbytes)

    def _make(self, int64_t nbytes):
        cdef void *base
        fd = os.memfd_create("triton-async", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
            base = mmap_range(NULL, nbytes, PROT_READ | (PROT_WRITE if self.writable else 0),
                              MAP_SHARED | MAP_NORESERVE, fd, 0)
            if base == MAP_FAILED:
                raise OSError("no address space for memory that is shared with a worker")
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.base = <char *>base
        self.nbytes = nbytes

    def close(self):
        """Closes the descriptor. What is leased stays."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    cdef ta_lease *lease(self, int64_t nbytes) noexcept nogil:
        return ta_arena_lease(self.arena.c, nbytes)

    cdef int64_t offset_of(self, ta_lease *lease) noexcept nogil:
        return <int64_t>(lease.address - <uintptr_t>self.base)

    cdef char *inside(self, uint64_t offset, uint64_t nbytes) noexcept nogil:
        if offset > <uint64_t>self.nbytes or nbytes > <uint64_t>self.nbytes - offset:
            return NULL
        return self.base + offset


# Ends the mapping of memory whose last lease is gone.
cdef class _Unmap:
    cdef uint64_t address
    cdef int64_t nbytes

    def __init__(self, uint64_t address, int64_t nbytes):
        self.address = address
        self.nbytes = nbytes

    def __call__(self, address):
        munmap(<void *><uintptr_t>self.address, self.nbytes)
