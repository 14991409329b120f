# Memory that processes share: a sealed memory file without a name.

from libc.stdint cimport int64_t, uint64_t

from triton_async.memory.arena cimport Arena, ta_arena_lease, ta_lease
from triton_async.memory.buffer cimport Buffer

# The file has the length `nbytes` for good (its seals), so reading it never ends in a signal; pages are there once they
# are written to. Two for a worker: of requests, which the server writes, and of responses, which it only reads.
# What another process writes may change at any time: numbers are copied before they are looked at.
cdef class SharedMemory:
    cdef readonly int64_t nbytes
    cdef readonly int fd              # -1 once closed; the mapping stays until the last lease is gone
    cdef char *base
    cdef bint writable
    cdef readonly Arena arena         # over it, where leases of it are given here; else None

    # A lease of at least `nbytes` bytes; NULL when there is no room. To be given back by ta_lease_return. Any thread,
    # no GIL.
    cdef ta_lease *lease(self, int64_t nbytes) noexcept nogil
    cdef int64_t offset_of(self, ta_lease *lease) noexcept nogil
    # The first byte of the range; NULL when it is not wholly inside. Any thread, no GIL.
    cdef char *inside(self, uint64_t offset, uint64_t nbytes) noexcept nogil
