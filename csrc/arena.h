/* Parts of one address range on lease: device memory, whose bytes the host may not touch, or pinned memory.
 *
 * Book-keeping lies outside of the range. Any thread, no GIL.
 *
 * Invariants
 *   - the blocks, free and leased, cover the range without gaps, in the order of their addresses
 *   - no two neighbours are free
 *   - leased_nbytes + the bytes of all free blocks == nbytes
 */
#ifndef TRITON_ASYNC_ARENA_H
#define TRITON_ASYNC_ARENA_H

#include <pthread.h>
#include <stdint.h>

#define TA_ARENA_ALIGNMENT 256
#define TA_ARENA_CLASSES 256

typedef struct ta_arena ta_arena;

/* Gives memory back to where it came from. Any thread, no GIL. */
typedef void (*ta_give_back)(void *context, uint64_t address);

/* A block of an arena, or memory of its own (arena == NULL). What stands behind `nbytes` is private. */
typedef struct ta_lease {
    uint64_t address;
    int64_t nbytes; /* of an arena: a multiple of the alignment, at least what was asked for */
    ta_arena *arena;
    struct ta_lease *before; /* neighbours by address */
    struct ta_lease *after;
    struct ta_lease *next;   /* in its class, or among the spare ones */
    struct ta_lease *previous;
    int32_t is_free;
    ta_give_back give_back;
    void *context;
} ta_lease;

struct ta_arena {
    pthread_mutex_t lock;
    uint64_t base;
    int64_t nbytes;
    int64_t leased;        /* blocks out */
    int64_t leased_nbytes;
    int32_t closed;
    ta_lease *first;
    ta_lease *spare;
    ta_lease *free_lists[TA_ARENA_CLASSES];
    uint64_t occupied[TA_ARENA_CLASSES / 64]; /* classes with a free block */
    ta_give_back give_back;
    void *context;
};

/* Over `nbytes` bytes at `base`, of which what the alignment cuts off at either end is not used; NULL when memory is
 * short. `give_back(context, base)` is called once, when the arena is closed and nothing of it is out any more. */
ta_arena *ta_arena_new(uint64_t base, int64_t nbytes, ta_give_back give_back, void *context);

/* Nothing can be leased any more; the arena is freed with its last lease. Nobody may be in `ta_arena_lease`. */
void ta_arena_close(ta_arena *arena);

/* At least `nbytes` bytes at an aligned address, also for 0. NULL when nbytes < 0, no free block is large enough or
 * the host has no memory for the book-keeping. The best fit of its class, else the first larger one. */
ta_lease *ta_arena_lease(ta_arena *arena, int64_t nbytes);

/* A lease of memory that belongs to no arena; `give_back(context, address)` at its end. NULL: no memory. */
ta_lease *ta_lease_new(uint64_t address, int64_t nbytes, ta_give_back give_back, void *context);

void ta_lease_return(void *lease); /* signature of ta_tensor.release */

/* Bytes of the largest free block. */
int64_t ta_arena_largest(ta_arena *arena);

#endif
