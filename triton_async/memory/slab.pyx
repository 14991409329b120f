"""Host slabs for tensor bytes: aligned, in size classes, reused."""

from triton_async.memory.buffer cimport MEMORY_CPU, Buffer, foreign

cdef extern from "slab.h":
    ta_slab_pool *ta_slab_pool_new(int64_t cache_limit) noexcept nogil
    void ta_slab_pool_trim(ta_slab_pool *pool) noexcept nogil


cdef class SlabPool:
    """Pool of host slabs. `cache_limit`: bytes of freed slabs kept for reuse."""

    def __cinit__(self, int64_t cache_limit):
        self.pool = ta_slab_pool_new(cache_limit)
        if self.pool == NULL:
            raise MemoryError

    cdef Buffer lease(self, int64_t nbytes):
        cdef ta_slab *slab = ta_slab_lease(self.pool, nbytes)
        if slab == NULL:
            raise MemoryError(f"no memory for a tensor of {nbytes} bytes")
        return foreign(ta_slab_data(slab), nbytes, slab, ta_slab_return, MEMORY_CPU, 0)

    def acquire(self, int64_t nbytes):
        """Writable Buffer of `nbytes` bytes; ValueError when negative, MemoryError when there is no memory."""
        if nbytes < 0:
            raise ValueError("nbytes must not be negative")
        return self.lease(nbytes)

    def trim(self):
        """Frees every cached slab."""
        ta_slab_pool_trim(self.pool)

    @property
    def leased(self):
        """Slabs out on lease."""
        return self.pool.leased

    @property
    def leased_nbytes(self):
        return self.pool.leased_nbytes

    @property
    def cached_nbytes(self):
        return self.pool.cached_nbytes
