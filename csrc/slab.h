/* Host memory of tensors: aligned slabs in size classes, kept on free lists. Any thread, no GIL. */
#ifndef TRITON_ASYNC_SLAB_H
#define TRITON_ASYNC_SLAB_H

#include <pthread.h>
#include <stdint.h>

#define TA_SLAB_CLASSES 160

typedef struct ta_slab_pool ta_slab_pool;

/* Header in front of every slab's bytes; padded so that the bytes keep the alignment. */
typedef struct ta_slab {
    struct ta_slab *next;
    ta_slab_pool *pool;
    int64_t capacity;
    int32_t size_class;
} ta_slab;

struct ta_slab_pool {
    pthread_mutex_t lock;
    ta_slab *free_lists[TA_SLAB_CLASSES];
    int64_t cached_nbytes; /* on the free lists */
    int64_t cache_limit;
    int64_t leased;        /* slabs out */
    int64_t leased_nbytes;
};

ta_slab_pool *ta_slab_pool_new(int64_t cache_limit);
void ta_slab_pool_trim(ta_slab_pool *pool); /* frees every cached slab */

/* Lease of at least `nbytes` bytes, contents undefined. NULL when nbytes < 0 or memory is short. */
ta_slab *ta_slab_lease(ta_slab_pool *pool, int64_t nbytes);
void ta_slab_return(void *slab); /* signature of ta_tensor.release */
char *ta_slab_data(ta_slab *slab);

#endif
