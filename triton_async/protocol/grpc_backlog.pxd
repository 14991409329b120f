# Bytes of a call that are not read yet. Sans-IO; one thread.

from libc.stdint cimport int64_t

# Heads GRPC_BACKLOG_BLOCK_NBYTES bytes, of which `nbytes` were written.
cdef struct Block:
    Block *next
    size_t nbytes

# A queue of bytes.
#
# Invariants
#   - a byte is copied once, when it is appended, and stays where it is until it is skipped
#   - held_nbytes <= nbytes + 2 * GRPC_BACKLOG_BLOCK_NBYTES, however small the pieces came
cdef class Backlog:
    cdef Block *first              # NULL when there are no bytes
    cdef Block *last
    cdef size_t at                 # of `first`: bytes that were skipped
    cdef readonly int64_t nbytes   # appended and not skipped
    cdef readonly int64_t copied_nbytes  # ever
    cdef readonly int64_t held_nbytes  # in blocks

    # Copies `data` to the end. Raises MemoryError, with a part of it appended.
    cdef int append(self, const char *data, size_t nbytes) except -1
    # The next bytes, as many as stand together, until they are skipped; NULL when there are none.
    cdef const char *peek(self, size_t *nbytes) noexcept
    # Gives the next `nbytes` up, and the memory of every block that holds no others.
    cdef void skip(self, int64_t nbytes) noexcept

    cdef int _add_block(self) except -1
