"""Files of others in our memory: POSIX shared memory of clients."""

import os
import stat

from libc.stdint cimport int64_t, uint64_t

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t nbytes, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t nbytes)
    void *MAP_FAILED
    enum:
        MAP_SHARED
        PROT_READ
        PROT_WRITE

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int64_t st_size
    int fstat(int fd, stat_t *found)

cdef extern from "guard.h" nogil:
    int ta_guard_add(void *begin, size_t nbytes)
    void ta_guard_remove(int guard)
    int ta_guard_broken(int guard)


cdef class Mapping:
    """`nbytes` bytes at `offset` of the regular file `path`, shared, for reading and writing, until `close`.

    OSError when it cannot be opened or mapped; ValueError when the file is shorter, or no regular file. The file may
    lose its name. May block: not on the loop thread.
    """

    def __init__(self, path, uint64_t offset, uint64_t nbytes):
        cdef uint64_t page = os.sysconf("SC_PAGESIZE")
        cdef void *found
        self.fd = self.guard = -1
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(self.fd)
            if not stat.S_ISREG(status.st_mode) or nbytes == 0 or nbytes > <uint64_t>status.st_size or (
                    offset > <uint64_t>status.st_size - nbytes):
                raise ValueError(f"it has no {nbytes} bytes at {offset}")
            self.end = <int64_t>(offset + nbytes)
            self.mapped = nbytes + offset % page
            self.mapped = (self.mapped + page - 1) // page * page
            found = mmap(NULL, self.mapped, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd,
                         <int64_t>(offset - offset % page))
            if found == MAP_FAILED:
                raise OSError("it can not be mapped")
            self.begin = <char *>found
            self.data = self.begin + offset % page
            self.guard = ta_guard_add(self.begin, self.mapped)
            if self.guard < 0:
                raise OSError("it can not be guarded")
        except BaseException:
            self.close()
            raise

    cdef bint whole(self) noexcept nogil:
        cdef stat_t found
        return fstat(self.fd, &found) == 0 and found.st_size >= self.end and not ta_guard_broken(self.guard)

    def close(self):
        """Gives the memory back; nobody may use it any more. A second time nothing."""
        if self.guard >= 0:
            ta_guard_remove(self.guard)
            self.guard = -1
        if self.begin != NULL:
            munmap(self.begin, self.mapped)
            self.begin = self.data = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        if self.guard >= 0:
            ta_guard_remove(self.guard)
        if self.begin != NULL:
            munmap(self.begin, self.mapped)
