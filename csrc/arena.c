#include "arena.h"

#include <assert.h>
#include <stdlib.h>

/* Four classes per doubling of the size in units of the alignment: all blocks of a higher class are larger. */
static int size_class(int64_t nbytes) {
    uint64_t units = (uint64_t)nbytes / TA_ARENA_ALIGNMENT;
    int log = 63 - __builtin_clzll(units);
    return log < 2 ? (int)units : log * 4 + (int)(units >> (log - 2) & 3);
}

static void link_free(ta_arena *arena, ta_lease *block) {
    int index = size_class(block->nbytes);
    block->is_free = 1;
    block->previous = NULL;
    block->next = arena->free_lists[index];
    if (block->next != NULL) {
        block->next->previous = block;
    }
    arena->free_lists[index] = block;
    arena->occupied[index / 64] |= 1ULL << (index % 64);
}

static void unlink_free(ta_arena *arena, ta_lease *block) {
    int index = size_class(block->nbytes);
    if (block->previous != NULL) {
        block->previous->next = block->next;
    } else {
        arena->free_lists[index] = block->next;
        if (block->next == NULL) {
            arena->occupied[index / 64] &= ~(1ULL << (index % 64));
        }
    }
    if (block->next != NULL) {
        block->next->previous = block->previous;
    }
    block->is_free = 0;
}

static ta_lease *take_spare(ta_arena *arena) {
    ta_lease *block = arena->spare;
    if (block == NULL) {
        return calloc(1, sizeof(*block));
    }
    arena->spare = block->next;
    return block;
}

static void keep_spare(ta_arena *arena, ta_lease *block) {
    block->next = arena->spare;
    arena->spare = block;
}

ta_arena *ta_arena_new(uint64_t base, int64_t nbytes, ta_give_back give_back, void *context) {
    uint64_t cut = (TA_ARENA_ALIGNMENT - base % TA_ARENA_ALIGNMENT) % TA_ARENA_ALIGNMENT;
    int64_t usable = nbytes - (int64_t)cut;
    ta_arena *arena = calloc(1, sizeof(*arena));
    if (arena == NULL) {
        return NULL;
    }
    if (pthread_mutex_init(&arena->lock, NULL) != 0) {
        free(arena);
        return NULL;
    }
    arena->base = base;
    arena->nbytes = usable > 0 ? usable - usable % TA_ARENA_ALIGNMENT : 0;
    arena->give_back = give_back;
    arena->context = context;
    if (arena->nbytes > 0) {
        ta_lease *block = take_spare(arena);
        if (block == NULL) {
            pthread_mutex_destroy(&arena->lock);
            free(arena);
            return NULL;
        }
        block->address = base + cut;
        block->nbytes = arena->nbytes;
        block->arena = arena;
        arena->first = block;
        link_free(arena, block);
    }
    return arena;
}

static void destroy(ta_arena *arena) {
    ta_lease *next;
    for (ta_lease *block = arena->spare; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    for (ta_lease *block = arena->first; block != NULL; block = next) {
        next = block->after;
        free(block);
    }
    ta_give_back give_back = arena->give_back;
    void *context = arena->context;
    uint64_t base = arena->base;
    pthread_mutex_destroy(&arena->lock);
    free(arena);
    give_back(context, base);
}

void ta_arena_close(ta_arena *arena) {
    pthread_mutex_lock(&arena->lock);
    arena->closed = 1;
    int unused = arena->leased == 0;
    pthread_mutex_unlock(&arena->lock);
    if (unused) {
        destroy(arena);
    }
}

static ta_lease *find(ta_arena *arena, int64_t nbytes) {
    int index = size_class(nbytes);
    ta_lease *best = NULL;
    for (ta_lease *block = arena->free_lists[index]; block != NULL; block = block->next) {
        if (block->nbytes >= nbytes && (best == NULL || block->nbytes < best->nbytes)) {
            best = block;
            if (block->nbytes == nbytes) {
                break;
            }
        }
    }
    if (best != NULL || ++index == TA_ARENA_CLASSES) {
        return best;
    }
    int word = index / 64;
    uint64_t classes = arena->occupied[word] & ~0ULL << (index % 64);
    while (classes == 0 && ++word < TA_ARENA_CLASSES / 64) {
        classes = arena->occupied[word];
    }
    return classes == 0 ? NULL : arena->free_lists[word * 64 + __builtin_ctzll(classes)];
}

/* Cuts what is behind `nbytes` off a block that is on no list. */
static void split(ta_arena *arena, ta_lease *block, int64_t nbytes) {
    if (block->nbytes == nbytes) {
        return;
    }
    ta_lease *rest = take_spare(arena);
    if (rest == NULL) {
        return; /* then the lease is larger than asked for */
    }
    rest->arena = arena;
    rest->address = block->address + (uint64_t)nbytes;
    rest->nbytes = block->nbytes - nbytes;
    rest->before = block;
    rest->after = block->after;
    if (rest->after != NULL) {
        rest->after->before = rest;
    }
    block->after = rest;
    block->nbytes = nbytes;
    link_free(arena, rest);
}

ta_lease *ta_arena_lease(ta_arena *arena, int64_t nbytes) {
    if (nbytes < 0 || nbytes > arena->nbytes) {
        return NULL;
    }
    nbytes = (nbytes + TA_ARENA_ALIGNMENT - 1) / TA_ARENA_ALIGNMENT * TA_ARENA_ALIGNMENT;
    nbytes = nbytes > 0 ? nbytes : TA_ARENA_ALIGNMENT;
    pthread_mutex_lock(&arena->lock);
    ta_lease *block = arena->closed ? NULL : find(arena, nbytes);
    if (block != NULL) {
        unlink_free(arena, block);
        split(arena, block, nbytes);
        arena->leased++;
        arena->leased_nbytes += block->nbytes;
    }
    pthread_mutex_unlock(&arena->lock);
    return block;
}

/* Joins `block` and the one behind it; neither is on a list. */
static void join(ta_arena *arena, ta_lease *block) {
    ta_lease *gone = block->after;
    block->nbytes += gone->nbytes;
    block->after = gone->after;
    if (block->after != NULL) {
        block->after->before = block;
    }
    keep_spare(arena, gone);
}

static void return_block(ta_arena *arena, ta_lease *block) {
    pthread_mutex_lock(&arena->lock);
    assert(!block->is_free);
    arena->leased--;
    arena->leased_nbytes -= block->nbytes;
    if (block->after != NULL && block->after->is_free) {
        unlink_free(arena, block->after);
        join(arena, block);
    }
    if (block->before != NULL && block->before->is_free) {
        block = block->before;
        unlink_free(arena, block);
        join(arena, block);
    }
    link_free(arena, block);
    int last = arena->closed && arena->leased == 0;
    pthread_mutex_unlock(&arena->lock);
    if (last) {
        destroy(arena);
    }
}

ta_lease *ta_lease_new(uint64_t address, int64_t nbytes, ta_give_back give_back, void *context) {
    ta_lease *lease = calloc(1, sizeof(*lease));
    if (lease != NULL) {
        lease->address = address;
        lease->nbytes = nbytes;
        lease->give_back = give_back;
        lease->context = context;
    }
    return lease;
}

void ta_lease_return(void *pointer) {
    ta_lease *lease = pointer;
    if (lease->arena != NULL) {
        return_block(lease->arena, lease);
        return;
    }
    lease->give_back(lease->context, lease->address);
    free(lease);
}

int64_t ta_arena_largest(ta_arena *arena) {
    int64_t largest = 0;
    pthread_mutex_lock(&arena->lock);
    for (int index = TA_ARENA_CLASSES - 1; index >= 0 && largest == 0; index--) {
        for (ta_lease *block = arena->free_lists[index]; block != NULL; block = block->next) {
            largest = block->nbytes > largest ? block->nbytes : largest;
        }
    }
    pthread_mutex_unlock(&arena->lock);
    return largest;
}
