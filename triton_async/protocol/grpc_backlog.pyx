"""A queue of bytes in blocks: copied in once, read where they stand. Sans-IO; one thread."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from triton_async.defines import GRPC_BACKLOG_BLOCK_NBYTES

cdef size_t _BLOCK = GRPC_BACKLOG_BLOCK_NBYTES


cdef inline char *_bytes(Block *block) noexcept:
    return <char *>(block + 1)


cdef class Backlog:
    """Empty at first."""

    def __dealloc__(self):
        self.skip(self.nbytes)

    cdef int append(self, const char *data, size_t nbytes) except -1:
        cdef size_t part
        while nbytes:
            if self.last == NULL or self.last.nbytes == _BLOCK:
                self._add_block()
            part = min(nbytes, _BLOCK - self.last.nbytes)
            memcpy(_bytes(self.last) + self.last.nbytes, data, part)
            self.last.nbytes += part
            self.nbytes += part
            self.copied_nbytes += part
            data += part
            nbytes -= part
        return 0

    cdef int _add_block(self) except -1:
        cdef Block *block = <Block *>malloc(sizeof(Block) + _BLOCK)
        if block == NULL:
            raise MemoryError
        block.next = NULL
        block.nbytes = 0
        if self.last == NULL:
            self.first = block
        else:
            self.last.next = block
        self.last = block
        self.held_nbytes += _BLOCK
        return 0

    cdef const char *peek(self, size_t *nbytes) noexcept:
        if self.first == NULL:
            nbytes[0] = 0
            return NULL
        nbytes[0] = self.first.nbytes - self.at
        return _bytes(self.first) + self.at

    cdef void skip(self, int64_t nbytes) noexcept:
        cdef Block *block
        cdef int64_t part
        self.nbytes -= nbytes
        while nbytes:
            block = self.first
            part = min(nbytes, <int64_t>(block.nbytes - self.at))
            nbytes -= part
            self.at += part
            if self.at == block.nbytes:
                self.first = block.next
                self.at = 0
                self.held_nbytes -= _BLOCK
                free(block)
        if self.first == NULL:
            self.last = NULL
