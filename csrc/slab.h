/* Host memory of tensors: aligned slabs. Any thread, no GIL.
 *
 * An ordinary pool cuts them in size classes and keeps them on free lists. A pinned one cuts them to size from an arena
 * of pinned memory and, when that has no room, leases them from an ordinary pool; `memory_type` tells which it was. A
 * shared one does the same with memory that other processes see, and leaves small slabs to the ordinary pool.
 */
#ifndef TRITON_ASYNC_SLAB_H
#define TRITON_ASYNC_SLAB_H

#include "arena.h"
#include "memory_type.h"

#include <pthread.h>
#include <stdint.h>

#define TA_SLAB_ALIGNMENT 64
#define TA_SLAB_CLASSES 160

typedef struct ta_slab_pool ta_slab_pool;

/* Header in front of every slab's bytes; padded so that the bytes keep the alignment. */
typedef struct ta_slab {
    struct ta_slab *next;
    ta_slab_pool *pool;
    int64_t capacity;
    ta_lease *lease; /* of the arena; NULL: ordinary memory */
    int32_t size_class;
    int32_t memory_type;
} ta_slab;

struct ta_slab_pool {
    pthread_mutex_t lock;
    ta_slab *free_lists[TA_SLAB_CLASSES];
    int64_t cached_nbytes; /* on the free lists */
    int64_t cache_limit;
    int64_t leased;        /* slabs out */
    int64_t leased_nbytes;
    /* Of a pinned pool: */
    ta_arena *arena;        /* the owner's; NULL for an ordinary pool, and once it is closed */
    ta_slab_pool *fallback; /* an ordinary pool that outlives this one; NULL for an ordinary pool */
    int64_t fallbacks;      /* slabs leased from there so far */
    void (*on_fallback)(void *context); /* called once, with the first of them */
    void *context;
    int32_t memory_type;    /* of what the arena has */
    int64_t least_nbytes;   /* smaller slabs come from the fallback, and are not counted as such */
};

ta_slab_pool *ta_slab_pool_new(int64_t cache_limit);
ta_slab_pool *ta_slab_pool_pinned(ta_arena *arena, ta_slab_pool *fallback, void (*on_fallback)(void *context),
                                  void *context);
/* The pool leases from its fallback only from now on; its arena may be closed behind that. */
void ta_slab_pool_detach(ta_slab_pool *pool);
void ta_slab_pool_trim(ta_slab_pool *pool); /* frees every cached slab */

/* Lease of at least `nbytes` bytes, contents undefined. NULL when nbytes < 0 or memory is short. */
ta_slab *ta_slab_lease(ta_slab_pool *pool, int64_t nbytes);
void ta_slab_return(void *slab); /* signature of ta_tensor.release */
char *ta_slab_data(ta_slab *slab);

#endif
