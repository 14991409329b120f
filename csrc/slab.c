#include "slab.h"

#include "later.h"

#include <stdlib.h>
#include <string.h>

/* The header takes one alignment unit. */
_Static_assert(sizeof(ta_slab) <= TA_SLAB_ALIGNMENT, "slab header larger than its room");

#define SMALLEST_SHIFT 8 /* 256 bytes */

/* Four classes per doubling, so that at most a fifth of a slab is unused. Returns the class and its capacity;
 * -1 for what is too large to cache. */
static int size_class(int64_t nbytes, int64_t *capacity) {
    int64_t size = 1 << SMALLEST_SHIFT;
    int index = 0;
    if (nbytes <= size) {
        *capacity = size;
        return 0;
    }
    while (index + 4 < TA_SLAB_CLASSES) {
        int64_t quarter = size / 4;
        for (int step = 1; step <= 4; step++) {
            if (nbytes <= size + step * quarter) {
                *capacity = size + step * quarter;
                return index + step;
            }
        }
        size *= 2;
        index += 4;
    }
    *capacity = nbytes;
    return -1;
}

static void free_slab(ta_slab *slab) {
    if (slab == NULL || slab->capacity < TA_LATER_NBYTES) {
        free(slab);
    } else {
        ta_later(free, slab);
    }
}

ta_slab_pool *ta_slab_pool_new(int64_t cache_limit) {
    ta_slab_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL) {
        return NULL;
    }
    if (pthread_mutex_init(&pool->lock, NULL) != 0) {
        free(pool);
        return NULL;
    }
    pool->cache_limit = cache_limit;
    return pool;
}

ta_slab_pool *ta_slab_pool_pinned(ta_arena *arena, ta_slab_pool *fallback, void (*on_fallback)(void *context),
                                  void *context) {
    ta_slab_pool *pool = ta_slab_pool_new(0);
    if (pool != NULL) {
        pool->arena = arena;
        pool->fallback = fallback;
        pool->on_fallback = on_fallback;
        pool->context = context;
        pool->memory_type = TA_MEMORY_CPU_PINNED;
    }
    return pool;
}

void ta_slab_pool_detach(ta_slab_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    pool->arena = NULL;
    pool->on_fallback = NULL;
    pthread_mutex_unlock(&pool->lock);
}

void ta_slab_pool_trim(ta_slab_pool *pool) {
    ta_slab *all = NULL;
    pthread_mutex_lock(&pool->lock);
    for (int i = 0; i < TA_SLAB_CLASSES; i++) {
        while (pool->free_lists[i] != NULL) {
            ta_slab *slab = pool->free_lists[i];
            pool->free_lists[i] = slab->next;
            slab->next = all;
            all = slab;
        }
    }
    pool->cached_nbytes = 0;
    pthread_mutex_unlock(&pool->lock);
    while (all != NULL) {
        ta_slab *next = all->next;
        free(all);
        all = next;
    }
}

static ta_slab *lease_pinned(ta_slab_pool *pool, int64_t nbytes) {
    ta_slab *slab = NULL;
    void (*on_fallback)(void *) = NULL;
    pthread_mutex_lock(&pool->lock);
    /* Under the lock, so that nobody is in the arena behind ta_slab_pool_detach. */
    ta_lease *lease = pool->arena == NULL ? NULL : ta_arena_lease(pool->arena, nbytes + TA_SLAB_ALIGNMENT);
    if (lease != NULL) {
        slab = (ta_slab *)(uintptr_t)lease->address;
        *slab = (ta_slab){.pool = pool, .capacity = lease->nbytes - TA_SLAB_ALIGNMENT, .lease = lease, .size_class = -1,
                          .memory_type = pool->memory_type};
        pool->leased++;
        pool->leased_nbytes += slab->capacity;
    } else {
        pool->fallbacks++;
        on_fallback = pool->on_fallback;
        pool->on_fallback = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    if (on_fallback != NULL) {
        on_fallback(pool->context);
    }
    return slab;
}

ta_slab *ta_slab_lease(ta_slab_pool *pool, int64_t nbytes) {
    int64_t capacity;
    ta_slab *slab = NULL;
    if (nbytes < 0 || nbytes > INT64_MAX - 2 * TA_SLAB_ALIGNMENT) {
        return NULL;
    }
    if (pool->fallback != NULL) {
        slab = nbytes < pool->least_nbytes ? NULL : lease_pinned(pool, nbytes);
        return slab != NULL ? slab : ta_slab_lease(pool->fallback, nbytes);
    }
    int index = size_class(nbytes, &capacity);
    pthread_mutex_lock(&pool->lock);
    if (index >= 0 && pool->free_lists[index] != NULL) {
        slab = pool->free_lists[index];
        pool->free_lists[index] = slab->next;
        pool->cached_nbytes -= slab->capacity;
        pool->leased++;
        pool->leased_nbytes += slab->capacity;
    }
    pthread_mutex_unlock(&pool->lock);
    if (slab != NULL) {
        return slab;
    }
    void *memory;
    if (posix_memalign(&memory, TA_SLAB_ALIGNMENT, (size_t)capacity + TA_SLAB_ALIGNMENT) != 0) {
        return NULL;
    }
    slab = memory;
    slab->next = NULL;
    slab->pool = pool;
    slab->capacity = capacity;
    slab->lease = NULL;
    slab->size_class = index;
    slab->memory_type = TA_MEMORY_CPU;
    pthread_mutex_lock(&pool->lock);
    pool->leased++;
    pool->leased_nbytes += capacity;
    pthread_mutex_unlock(&pool->lock);
    return slab;
}

void ta_slab_return(void *pointer) {
    ta_slab *slab = pointer;
    ta_slab_pool *pool = slab->pool;
    ta_lease *lease = slab->lease;
#ifdef TA_DEBUG
    /* Whoever still reads it does not find its old contents. */
    memset(ta_slab_data(slab), 0xDD, (size_t)slab->capacity);
#endif
    pthread_mutex_lock(&pool->lock);
    pool->leased--;
    pool->leased_nbytes -= slab->capacity;
    if (lease != NULL) {
        slab = NULL;
    } else if (slab->size_class >= 0 && pool->cached_nbytes + slab->capacity <= pool->cache_limit) {
        slab->next = pool->free_lists[slab->size_class];
        pool->free_lists[slab->size_class] = slab;
        pool->cached_nbytes += slab->capacity;
        slab = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    free_slab(slab);
    if (lease != NULL) {
        ta_lease_return(lease);
    }
}

char *ta_slab_data(ta_slab *slab) { return (char *)slab + TA_SLAB_ALIGNMENT; }
