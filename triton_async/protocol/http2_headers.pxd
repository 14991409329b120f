# The header list of a request, as it comes field by field.

from libc.stdint cimport int64_t, uint8_t

# In `block` stands, for each field: two uint32 with the sizes of name and value, the name, the value.
#
# Invariant: what is kept counts at most GRPC_MAX_HEADER_LIST_NBYTES
cdef class HeaderList:
    cdef char *block
    cdef size_t block_nbytes
    cdef size_t block_capacity
    cdef int64_t list_nbytes       # of all fields, counted as RFC 9113 does
    cdef bint overflow             # there were more than are kept

    # Starts anew.
    cdef void begin(self) noexcept
    cdef int add(self, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen) except -1
    # (name, value) of each, bytes decoded as Latin-1.
    cdef list items(self)
