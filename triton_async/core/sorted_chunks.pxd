# Things in the order of a key, as sorted chunks: a new one among ten thousand moves some hundred bytes, and not all
# that are behind it.

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    CHUNK_ENTRIES = 64

cdef struct Entry:
    int64_t at_ns                    # the key: this, then `number`; no two are equal
    uint64_t number
    void *item                       # borrowed

cdef struct Chunk:
    int64_t size                     # never 0
    Entry entries[CHUNK_ENTRIES]

# Where a new one goes, and where an old one is, in O(log n).
#
# Invariants
#   - the entries of all chunks, one after the other, ascend
#   - the key of what is in here does not change
cdef class SortedChunks:
    cdef Chunk **chunks
    cdef int64_t n_chunks
    cdef int64_t room
    cdef readonly int64_t size

    # The item that it comes behind, borrowed, or NULL for none. Raises MemoryError, and has not taken it then.
    cdef void *add(self, int64_t at_ns, uint64_t number, void *item) except? NULL
    # There has to be one with this key.
    cdef int discard(self, int64_t at_ns, uint64_t number) noexcept

    # The last chunk whose first entry is not behind `entry`; 0 when all are.
    cdef int64_t _chunk_of(self, Entry entry) noexcept
    # An empty place for a chunk at `place`, or behind a split; False for want of memory.
    cdef bint _open(self, int64_t place) noexcept
