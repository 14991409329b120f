# The requests of a line in the order in which they are due.

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.request cimport InferRequest

cdef enum:
    CHUNK_ENTRIES = 64

cdef struct Entry:
    int64_t at_ns
    uint64_t arrival                 # the order of those due at the same time
    void *request                    # borrowed: it stands in the line

cdef struct Chunk:
    int64_t size                     # never 0
    Entry entries[CHUNK_ENTRIES]

# An index beside a line that is linked through its requests: where a new one goes in it, in O(log n). Sorted chunks,
# so that a request among ten thousand moves some hundred bytes and not all that are behind it.
#
# Invariants
#   - the entries of all chunks, one after the other, are the requests of the line in its order
#   - the key of a request does not change while it is here
cdef class DeadlineOrder:
    cdef Chunk **chunks
    cdef int64_t n_chunks
    cdef int64_t room
    cdef readonly int64_t size

    # The request that it comes behind, borrowed, or NULL for none. Raises MemoryError, and has not taken it then.
    cdef void *add(self, InferRequest request) except? NULL
    cdef int discard(self, InferRequest request) noexcept

    # The last chunk whose first entry is not behind `entry`; 0 when all are.
    cdef int64_t _chunk_of(self, Entry entry) noexcept
    # An empty place for a chunk at `place`, or behind a split; False for want of memory.
    cdef bint _open(self, int64_t place) noexcept

# When it is to be served: its client's deadline, its queue timeout or what its client asked for as that, whichever is
# the first, and at the latest ORDER_HORIZON_NS after it came.
cdef int64_t serve_by_ns(InferRequest request) noexcept
# Whether `one` is to be served before `other`.
cdef bint served_before(InferRequest one, InferRequest other) noexcept
