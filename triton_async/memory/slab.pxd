# Host slabs for tensor bytes (csrc/slab.h), as leases.

from libc.stdint cimport int32_t, int64_t

from triton_async.memory.arena cimport Arena, ta_arena
from triton_async.memory.buffer cimport Buffer

cdef extern from "slab.h":
    ctypedef struct ta_slab:
        int64_t capacity
        int32_t memory_type      # MEMORY_CPU or MEMORY_CPU_PINNED
    ctypedef struct ta_slab_pool:
        int64_t cached_nbytes
        int64_t leased
        int64_t leased_nbytes
        int64_t fallbacks
        ta_arena *arena
        int32_t memory_type
        int64_t least_nbytes
    ta_slab *ta_slab_lease(ta_slab_pool *pool, int64_t nbytes) noexcept nogil
    void ta_slab_return(void *slab) noexcept nogil
    char *ta_slab_data(ta_slab *slab) noexcept nogil

# Made by the app and handed down: one for the host and, once a GPU is used, one of pinned memory. Any thread.
cdef class SlabPool:
    cdef ta_slab_pool *pool      # never freed: slabs point at it until the process ends
    cdef Arena arena             # what slabs of a pinned pool are cut from
    cdef SlabPool fallback       # where a pinned pool leases once its arena has no room
    cdef bint shared             # the arena is memory that other processes see

    # Writable lease of exactly `nbytes` visible bytes, contents undefined. Its memory type says what it lies in.
    # MemoryError when there is none.
    cdef Buffer lease(self, int64_t nbytes)

# Writable lease of exactly `nbytes` bytes of ordinary memory that no pool keeps: for what one request brings and no
# model made. When it is large, a thread unmaps it. MemoryError when there is none.
cpdef Buffer transient(int64_t nbytes)
