"""Host slabs for tensor bytes: aligned and reused; in size classes, or cut from pinned memory."""

import logging

from triton_async.memory.buffer cimport MEMORY_CPU, Buffer, foreign

from triton_async.defines import SLAB_ALIGNMENT

cdef extern from "slab.h":
    enum: TA_SLAB_ALIGNMENT
    ta_slab_pool *ta_slab_pool_new(int64_t cache_limit) noexcept nogil
    ta_slab_pool *ta_slab_pool_pinned(ta_arena *arena, ta_slab_pool *fallback,
                                      void (*on_fallback)(void *context) noexcept nogil, void *context) noexcept nogil
    void ta_slab_pool_detach(ta_slab_pool *pool) noexcept nogil
    void ta_slab_pool_trim(ta_slab_pool *pool) noexcept nogil

log = logging.getLogger("triton_async.memory")

assert SLAB_ALIGNMENT == TA_SLAB_ALIGNMENT


cdef class SlabPool:
    """Pool of host slabs. `cache_limit`: bytes of freed slabs kept for reuse.

    With `arena`, a range of pinned memory, the slabs are cut from it, and leased from `fallback`, an ordinary pool,
    when it has no room. `shared_nbytes`: it is ordinary memory instead that other processes see, from which slabs of so
    many bytes and more are cut, and that may be the fallback of a pinned pool.
    """

    def __cinit__(self, int64_t cache_limit, Arena arena=None, SlabPool fallback=None, int64_t shared_nbytes=-1):
        if arena is None:
            self.pool = ta_slab_pool_new(cache_limit)
        elif fallback is None or (fallback.arena is not None and not fallback.shared):
            raise ValueError("a pinned pool needs an ordinary one to fall back to")
        else:
            self.arena = arena
            self.fallback = fallback
            self.pool = ta_slab_pool_pinned(arena.c, fallback.pool, _note_fallback, <void *>self)
        if self.pool == NULL:
            raise MemoryError
        if shared_nbytes >= 0:
            self.shared = True
            self.pool.memory_type = MEMORY_CPU
            self.pool.least_nbytes = shared_nbytes

    def __dealloc__(self):
        if self.pool != NULL:
            ta_slab_pool_detach(self.pool)

    cdef Buffer lease(self, int64_t nbytes):
        cdef ta_slab *slab = ta_slab_lease(self.pool, nbytes)
        if slab == NULL:
            raise MemoryError(f"no memory for a tensor of {nbytes} bytes")
        return foreign(ta_slab_data(slab), nbytes, slab, ta_slab_return, slab.memory_type, 0)

    def acquire(self, int64_t nbytes):
        """Writable Buffer of `nbytes` bytes; ValueError when negative, MemoryError when there is no memory."""
        if nbytes < 0:
            raise ValueError("nbytes must not be negative")
        return self.lease(nbytes)

    def trim(self):
        """Frees every cached slab."""
        with nogil:  # unmapping takes long
            ta_slab_pool_trim(self.pool)

    @property
    def leased(self):
        """Slabs out on lease, without those of the fallback."""
        return self.pool.leased

    @property
    def leased_nbytes(self):
        return self.pool.leased_nbytes

    @property
    def cached_nbytes(self):
        return self.pool.cached_nbytes

    @property
    def budget_nbytes(self):
        """Bytes of pinned memory to lease from; 0 for an ordinary pool, which has no bound."""
        return 0 if self.arena is None else self.arena.nbytes

    @property
    def fallbacks(self):
        """Slabs of a pinned pool that came from ordinary memory."""
        return self.pool.fallbacks


cdef SlabPool _transient = SlabPool(0)


cpdef Buffer transient(int64_t nbytes):
    return _transient.acquire(nbytes)


cdef void _note_fallback(void *pool) noexcept nogil:
    with gil:
        _log_fallback(<SlabPool>pool)


cdef int _log_fallback(SlabPool pool) noexcept:
    if pool.shared:
        return 0
    try:
        log.warning("the pinned memory pool of %d bytes is exhausted: falling back to pageable memory; see "
                    "--pinned-memory-pool-byte-size", pool.arena.nbytes)
    except BaseException:  # of a log handler
        return -1
    return 0
