"""Request headers without an object per field. Sans-IO; one thread."""

from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from triton_async.defines import GRPC_MAX_HEADER_LIST_NBYTES

cdef int64_t _LIST_MAX = GRPC_MAX_HEADER_LIST_NBYTES

# What RFC 9113 adds to the size of each field of a header list.
cdef enum:
    FIELD_OVERHEAD = 32


cdef class HeaderList:
    """Empty at first."""

    def __dealloc__(self):
        free(self.block)

    cdef void begin(self) noexcept:
        self.block_nbytes = 0
        self.list_nbytes = 0
        self.overflow = False

    cdef int add(self, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen) except -1:
        cdef uint32_t[2] sizes
        cdef size_t nbytes = sizeof(sizes) + namelen + valuelen
        cdef size_t capacity
        cdef char *grown
        self.list_nbytes += namelen + valuelen + FIELD_OVERHEAD
        if self.list_nbytes > _LIST_MAX:
            self.overflow = True
            return 0
        if nbytes > self.block_capacity - self.block_nbytes:
            capacity = max(2 * self.block_capacity, self.block_nbytes + nbytes, <size_t>512)
            grown = <char *>realloc(self.block, capacity)
            if grown == NULL:
                raise MemoryError
            self.block = grown
            self.block_capacity = capacity
        sizes[0] = <uint32_t>namelen
        sizes[1] = <uint32_t>valuelen
        grown = self.block + self.block_nbytes
        memcpy(grown, sizes, sizeof(sizes))
        memcpy(grown + sizeof(sizes), name, namelen)
        memcpy(grown + sizeof(sizes) + namelen, value, valuelen)
        self.block_nbytes += nbytes
        return 0

    cdef list items(self):
        cdef list found = []
        cdef size_t at = 0
        cdef uint32_t[2] sizes
        while at < self.block_nbytes:
            memcpy(sizes, self.block + at, sizeof(sizes))
            at += sizeof(sizes)
            found.append((PyUnicode_DecodeLatin1(self.block + at, sizes[0], NULL),
                          PyUnicode_DecodeLatin1(self.block + at + sizes[0], sizes[1], NULL)))
            at += sizes[0] + sizes[1]
        return found
