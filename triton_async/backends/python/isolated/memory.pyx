"""Memory shared with another process: made here, sealed, handed over as a descriptor, mapped as long as anything needs
it."""

import fcntl
import mmap
import os

from libc.stdint cimport uintptr_t
from posix.unistd cimport close as close_file

# fcntl(2); Python knows them all only from 3.9 on.
cdef int F_ADD_SEALS = 1033
cdef int F_GET_SEALS = 1034
cdef int F_SEAL_SEAL = 1
cdef int F_SEAL_SHRINK = 2
cdef int F_SEAL_GROW = 4
cdef int F_SEAL_FUTURE_WRITE = 16

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
    """`nbytes`: at most; less where the system does not allow as much. `writable`: whether it is written here. `lends`:
    and whether leases of it are given here; by default where it is writable. `kept`: no other process may write to it.

    OSError when there is none.
    """

    def __cinit__(self, int64_t nbytes, bint writable, *, int fd=-1, lends=None, bint kept=False):
        """`fd`: of memory that another process has made, which is taken over. OSError when it is none."""
        self.fd = -1
        self.writable = writable
        if lends is None:
            lends = writable
        if fd >= 0:
            self._take_over(fd)
            nbytes = self.nbytes
        else:
            nbytes = self._make_most(nbytes)
            if kept:
                try:
                    fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
                except OSError:  # of a kernel that is too old: then its readers merely promise it
                    pass
            fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SEAL)
        if lends:
            self.arena = Arena(<uintptr_t>self.base, nbytes, _Unmap(<uintptr_t>self.base, nbytes))

    def _make_most(self, int64_t nbytes):
        nbytes = max(nbytes // mmap.PAGESIZE, 1) * mmap.PAGESIZE
        while True:
            try:
                self._make(nbytes)
                return nbytes
            except OSError:
                if nbytes <= LEAST_NBYTES:
                    raise
                nbytes = max(nbytes // 4 // mmap.PAGESIZE * mmap.PAGESIZE, LEAST_NBYTES)

    def __dealloc__(self):
        if self.fd >= 0:
            close_file(self.fd)  # `os` may be gone with the interpreter
        if self.base != NULL and self.arena is None:
            munmap(self.base, self.nbytes)

    def _make(self, int64_t nbytes):
        fd = os.memfd_create("triton-async", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, nbytes)
            fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
            self._map(fd, nbytes)
        except BaseException:
            os.close(fd)
            raise

    def _take_over(self, int fd):
        try:
            # Only of a length that is for good reading it never ends in a signal.
            if fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK == 0:
                raise OSError("what another process has sent is no sealed memory")
            self._map(fd, os.fstat(fd).st_size)
        except BaseException:
            os.close(fd)
            raise

    def _map(self, int fd, int64_t nbytes):
        cdef void *base = mmap_range(NULL, nbytes, PROT_READ | (PROT_WRITE if self.writable else 0),
                                     MAP_SHARED | MAP_NORESERVE, fd, 0)
        if base == MAP_FAILED:
            raise OSError("no address space for memory that is shared with another process")
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
