# Host slabs for tensor bytes (csrc/slab.h), as leases.

from libc.stdint cimport int64_t

from triton_async.memory.buffer cimport Buffer

cdef extern from "slab.h":
    ctypedef struct ta_slab:
        int64_t capacity
    ctypedef struct ta_slab_pool:
        int64_t cached_nbytes
        int64_t leased
        int64_t leased_nbytes
    ta_slab *ta_slab_lease(ta_slab_pool *pool, int64_t nbytes) noexcept nogil
    void ta_slab_return(void *slab) noexcept nogil
    char *ta_slab_data(ta_slab *slab) noexcept nogil

# One pool for the process, made by the app and handed down. Any thread.
cdef class SlabPool:
    cdef ta_slab_pool *pool      # never freed: slabs point at it until the process ends

    # Writable lease of exactly `nbytes` visible bytes, contents undefined. MemoryError when there is none.
    cdef Buffer lease(self, int64_t nbytes)
