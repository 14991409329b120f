/* The arena against a plain model of its range, and pinned slab pools over it under many threads, for the sanitizers. */
#include "arena.h"
#include "check.h"
#include "gather.h"
#include "slab.h"

#include <sched.h>
#include <string.h>

#define UNITS 64
#define NBYTES (UNITS * TA_ARENA_ALIGNMENT)

static const uint64_t BASE = 0x7f0000000100; /* an arena never touches its range */

static void count_ends(void *context, uint64_t address) {
    (void)address;
    ++*(int *)context;
}

/* What the model knows: which unit belongs to which lease. */
typedef struct {
    ta_lease *owner[UNITS];
    ta_lease *leases[UNITS];
    int count;
} model;

static int64_t largest_gap(const model *m) {
    int64_t best = 0;
    int64_t run = 0;
    for (int i = 0; i < UNITS; i++) {
        run = m->owner[i] == NULL ? run + 1 : 0;
        best = run > best ? run : best;
    }
    return best * TA_ARENA_ALIGNMENT;
}

static void check_against(const model *m, ta_arena *arena) {
    int64_t used = 0;
    for (int i = 0; i < UNITS; i++) used += m->owner[i] != NULL ? TA_ARENA_ALIGNMENT : 0;
    CHECK(arena->leased == m->count && arena->leased_nbytes == used);
    CHECK(ta_arena_largest(arena) == largest_gap(m));
    int64_t covered = 0;
    const ta_lease *before = NULL;
    for (const ta_lease *block = arena->first; block != NULL; before = block, block = block->after) {
        CHECK(block->before == before && block->address == BASE + (uint64_t)covered);
        CHECK(before == NULL || !(before->is_free && block->is_free));
        CHECK(block->nbytes > 0 && block->nbytes % TA_ARENA_ALIGNMENT == 0);
        covered += block->nbytes;
    }
    CHECK(covered == NBYTES);
}

static void take(model *m, ta_arena *arena, int64_t nbytes) {
    int64_t gap = largest_gap(m);
    ta_lease *lease = ta_arena_lease(arena, nbytes);
    int64_t need = nbytes > 0 ? (nbytes + TA_ARENA_ALIGNMENT - 1) / TA_ARENA_ALIGNMENT * TA_ARENA_ALIGNMENT
                              : TA_ARENA_ALIGNMENT;
    CHECK((lease == NULL) == (need > gap)); /* it never refuses what fits */
    if (lease == NULL) return;
    CHECK(lease->nbytes == need && lease->address % TA_ARENA_ALIGNMENT == 0);
    int64_t at = (int64_t)(lease->address - BASE) / TA_ARENA_ALIGNMENT;
    for (int64_t i = at; i < at + need / TA_ARENA_ALIGNMENT; i++) {
        CHECK(i < UNITS && m->owner[i] == NULL);
        m->owner[i] = lease;
    }
    m->leases[m->count++] = lease;
}

static void give(model *m, int index) {
    ta_lease *lease = m->leases[index];
    m->leases[index] = m->leases[--m->count];
    for (int i = 0; i < UNITS; i++) {
        if (m->owner[i] == lease) m->owner[i] = NULL;
    }
    ta_lease_return(lease);
}

static void random_leases_agree_with_the_model(void) {
    unsigned long long state = 88172645463325252ULL;
    int ends = 0;
    ta_arena *arena = ta_arena_new(BASE, NBYTES, count_ends, &ends);
    model m = {0};
    for (int round = 0; round < 100000; round++) {
        /* Ages in which the arena fills up and ages in which it empties. */
        int fills = round / 500 % 2 == 0;
        if (next_random(&state) % 10 < (fills ? 7 : 3)) {
            int64_t top = next_random(&state) % 4 == 0 ? NBYTES : 8 * TA_ARENA_ALIGNMENT;
            take(&m, arena, (int64_t)(next_random(&state) % (unsigned long long)(top + 2)));
        } else if (m.count > 0) {
            give(&m, (int)(next_random(&state) % (unsigned long long)m.count));
        }
        check_against(&m, arena);
    }
    CHECK(ends == 0);
    ta_arena_close(arena);
    while (m.count > 0) {
        CHECK(ends == 0 && ta_arena_lease(arena, 1) == NULL);
        give(&m, 0);
    }
    CHECK(ends == 1); /* with the last lease, once */
}

static void what_cannot_be_leased_is_refused(void) {
    static const int64_t sizes[] = {-1, INT64_MIN, NBYTES + 1, INT64_MAX, INT64_MAX - 255};
    int ends = 0;
    ta_arena *arena = ta_arena_new(BASE, NBYTES, count_ends, &ends);
    for (int i = 0; i < COUNT(sizes); i++) CHECK(ta_arena_lease(arena, sizes[i]) == NULL);
    ta_lease *all = ta_arena_lease(arena, NBYTES);
    CHECK(all != NULL && ta_arena_lease(arena, 0) == NULL && ta_arena_largest(arena) == 0);
    ta_lease_return(all);
    ta_arena_close(arena);
    CHECK(ends == 1);
}

static void odd_ranges_are_cut_to_the_alignment(void) {
    static const struct { uint64_t base; int64_t nbytes; int64_t usable; } ranges[] = {
        {BASE + 1, NBYTES, NBYTES - 256}, {BASE, 511, 256}, {BASE + 255, 257, 256}, {BASE + 1, 300, 0}, {BASE, 0, 0},
        {BASE, 255, 0}, {BASE + 1, 100, 0},
    };
    for (int i = 0; i < COUNT(ranges); i++) {
        int ends = 0;
        ta_arena *arena = ta_arena_new(ranges[i].base, ranges[i].nbytes, count_ends, &ends);
        CHECK(arena->nbytes == ranges[i].usable && ta_arena_largest(arena) == ranges[i].usable);
        ta_lease *lease = ta_arena_lease(arena, ranges[i].usable);
        CHECK((lease == NULL) == (ranges[i].usable == 0));
        if (lease != NULL) {
            CHECK(lease->address >= ranges[i].base && lease->address % TA_ARENA_ALIGNMENT == 0);
            CHECK(lease->address + (uint64_t)lease->nbytes <= ranges[i].base + (uint64_t)ranges[i].nbytes);
            ta_lease_return(lease);
        }
        ta_arena_close(arena);
        CHECK(ends == 1);
    }
}

static void a_lease_of_its_own_goes_back_by_itself(void) {
    int ends = 0;
    ta_lease *lease = ta_lease_new(BASE, 100, count_ends, &ends);
    CHECK(lease->address == BASE && lease->nbytes == 100 && ends == 0);
    ta_lease_return(lease);
    CHECK(ends == 1);
}

/* -- pinned slab pools ------------------------------------------------------------------------------------------- */

#define THREADS 4
#define TURNS 4000
#define ROOM (1 << 16)

static ta_slab_pool *host;
static ta_slab_pool *pinned;
static char *room;
static int freed;
static int noted;

static void free_room(void *context, uint64_t address) {
    CHECK(context == &freed && address == (uint64_t)(uintptr_t)room);
    free(room);
    ++freed;
}

static void note(void *context) { ++*(int *)context; }

static int inside(const ta_slab *slab) { return (const char *)slab >= room && (const char *)slab < room + ROOM; }

static void pinned_slabs_come_from_the_arena_and_then_from_the_host(void) {
    ta_slab *slabs[4];
    for (int i = 0; i < 4; i++) {
        slabs[i] = ta_slab_lease(pinned, ROOM / 4 + (i == 3 ? 0 : -64));
        CHECK(slabs[i] != NULL && slabs[i]->memory_type == (i == 3 ? TA_MEMORY_CPU : TA_MEMORY_CPU_PINNED));
        CHECK(inside(slabs[i]) == (i != 3) && noted == (i == 3));
        memset(ta_slab_data(slabs[i]), i, (size_t)slabs[i]->capacity);
    }
    CHECK(pinned->leased == 3 && host->leased == 1 && pinned->fallbacks == 1);
    for (int i = 0; i < 4; i++) ta_slab_return(slabs[i]);
    CHECK(pinned->leased == 0 && pinned->leased_nbytes == 0 && host->leased == 0);
    CHECK(ta_slab_lease(pinned, -1) == NULL && ta_slab_lease(pinned, INT64_MAX) == NULL);
    /* What is gathered says what it lies in. */
    ta_segment segments[2] = {{.data = "ab", .nbytes = 2}, {.data = "c", .nbytes = 1}};
    ta_tensor input = {.wanted = 1, .n_segments = 2, .segments = segments, .nbytes = 3};
    CHECK(ta_gather(&input, pinned) == 0 && memcmp(input.data, "abc", 3) == 0);
    CHECK(input.memory_type == TA_MEMORY_CPU_PINNED);
    ta_tensor_release(&input);
}

static void *work(void *argument) {
    unsigned long long state = 88172645463325252ULL + (unsigned long long)(uintptr_t)argument;
    ta_slab *held[32] = {0}; /* twice the room, so that a thread alone exhausts it */
    for (int turn = 0; turn < TURNS; turn++) {
        int i = (int)(next_random(&state) % COUNT(held));
        if (held[i] != NULL) {
            char *data = ta_slab_data(held[i]);
            CHECK(data[0] == (char)(uintptr_t)argument && data[held[i]->capacity - 1] == (char)(uintptr_t)argument);
            ta_slab_return(held[i]);
        }
        held[i] = ta_slab_lease(pinned, (int64_t)(next_random(&state) % 8000));
        CHECK(held[i] != NULL);
        ta_slab_data(held[i])[0] = (char)(uintptr_t)argument;
        ta_slab_data(held[i])[held[i]->capacity - 1] = (char)(uintptr_t)argument;
    }
    for (int i = 0; i < COUNT(held); i++) {
        if (held[i] != NULL) ta_slab_return(held[i]);
    }
    return NULL;
}

static int64_t fallbacks_so_far(void) {
    pthread_mutex_lock(&pinned->lock);
    int64_t count = pinned->fallbacks;
    pthread_mutex_unlock(&pinned->lock);
    return count;
}

static void threads_share_a_pinned_pool_that_is_closed_meanwhile(ta_arena *arena) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
    while (fallbacks_so_far() < 100) sched_yield();
    ta_slab_pool_detach(pinned);
    ta_arena_close(arena);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(freed == 1 && noted == 1);
    CHECK(pinned->leased == 0 && pinned->leased_nbytes == 0 && host->leased == 0 && host->leased_nbytes == 0);
}

int main(void) {
    random_leases_agree_with_the_model();
    what_cannot_be_leased_is_refused();
    odd_ranges_are_cut_to_the_alignment();
    a_lease_of_its_own_goes_back_by_itself();

    room = aligned_alloc(256, ROOM);
    host = ta_slab_pool_new(1 << 16);
    ta_arena *arena = ta_arena_new((uint64_t)(uintptr_t)room, ROOM, free_room, &freed);
    pinned = ta_slab_pool_pinned(arena, host, note, &noted);
    pinned_slabs_come_from_the_arena_and_then_from_the_host();
    threads_share_a_pinned_pool_that_is_closed_meanwhile(arena);
    ta_slab_pool_trim(host);
    pthread_mutex_destroy(&host->lock);
    pthread_mutex_destroy(&pinned->lock);
    free(host);
    free(pinned);
    return 0;
}
