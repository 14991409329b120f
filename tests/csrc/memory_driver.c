/* Slabs, gather and BYTES framing at their borders, for the address and undefined behaviour sanitizers. Every buffer
 * that stands for a client's bytes is allocated to its exact size, so that one byte too far is seen. */
#include "check.h"
#include "gather.h"
#include "slab.h"

#include <string.h>

static const int64_t SIZES[] = {0, 1, 255, 256, 257, 320, 321, 511, 512, 513, 4095, 4096, 4097, 100000, 1 << 20};

static void slabs_are_writable_to_the_last_byte_and_aligned(void) {
    ta_slab_pool *pool = ta_slab_pool_new(1 << 16);
    ta_slab *slabs[COUNT(SIZES)];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT(SIZES); i++) {
            slabs[i] = ta_slab_lease(pool, SIZES[i]);
            CHECK(slabs[i] != NULL && slabs[i]->capacity >= SIZES[i]);
            CHECK((uintptr_t)ta_slab_data(slabs[i]) % 64 == 0);
            memset(ta_slab_data(slabs[i]), i, (size_t)slabs[i]->capacity);
        }
        for (int i = 0; i < COUNT(SIZES); i++) {
            CHECK(SIZES[i] == 0 || ta_slab_data(slabs[i])[SIZES[i] - 1] == i);
            ta_slab_return(slabs[i]);
        }
        CHECK(pool->leased == 0 && pool->leased_nbytes == 0 && pool->cached_nbytes <= 1 << 16);
    }
    ta_slab_pool_trim(pool);
    CHECK(pool->cached_nbytes == 0);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static void impossible_sizes_give_nothing(void) {
    static const int64_t sizes[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1, INT64_MAX - 127, INT64_MAX - 128, 1LL << 62};
    ta_slab_pool *pool = ta_slab_pool_new(0);
    for (int i = 0; i < COUNT(sizes); i++) CHECK(ta_slab_lease(pool, sizes[i]) == NULL);
    CHECK(pool->leased == 0 && pool->leased_nbytes == 0);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static char *exactly(const void *bytes, int64_t nbytes) {
    char *copy = malloc(nbytes > 0 ? (size_t)nbytes : 1);
    CHECK(copy != NULL);
    if (nbytes > 0) memcpy(copy, bytes, (size_t)nbytes);
    return nbytes > 0 ? copy : (free(copy), NULL);
}

static void gather_joins_segments_in_order(void) {
    static const int64_t lengths[] = {3, 0, 256, 1, 0, 4000};
    ta_slab_pool *pool = ta_slab_pool_new(1 << 16);
    for (int count = 0; count <= COUNT(lengths); count++) {
        ta_segment segments[COUNT(lengths)] = {0};
        ta_tensor input = {.wanted = 1, .n_segments = count, .segments = segments};
        for (int i = 0; i < count; i++) {
            char bytes[4000];
            memset(bytes, 'a' + i, sizeof(bytes));
            segments[i].data = exactly(bytes, lengths[i]);
            segments[i].nbytes = lengths[i];
            input.nbytes += lengths[i];
        }
        CHECK(ta_gather(&input, pool) == 0);
        CHECK(count != 1 || input.data == segments[0].data);
        CHECK(count == 1 || (input.data != NULL && input.owner != NULL));
        const char *at = input.data;
        for (int i = 0; i < count; i++) {
            for (int64_t k = 0; k < lengths[i]; k++) CHECK(*at++ == 'a' + i);
        }
        CHECK(ta_gather(&input, pool) == 0); /* nothing to do the second time */
        ta_tensor_release(&input);
        ta_tensor_release(&input);
        for (int i = 0; i < count; i++) free((void *)segments[i].data);
    }
    CHECK(pool->leased == 0);
    ta_tensor unwanted = {.n_segments = 2};
    CHECK(ta_gather(&unwanted, pool) == 0 && unwanted.data == NULL);
    ta_tensor huge = {.wanted = 1, .n_segments = 2, .nbytes = INT64_MAX};
    CHECK(ta_gather(&huge, pool) == -1 && huge.owner == NULL);
    ta_slab_pool_trim(pool);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static void skip_never_reads_past_the_end(void) {
    unsigned long long state = 88172645463325252ULL;
    for (int round = 0; round < 200000; round++) {
        char bytes[40];
        int64_t nbytes = (int64_t)(next_random(&state) % (sizeof(bytes) + 1));
        for (int64_t i = 0; i < nbytes; i++) {
            static const char often[] = {0, 0, 0, 1, 2, 5, (char)255, (char)128};
            bytes[i] = often[next_random(&state) % sizeof(often)];
        }
        char *data = exactly(bytes, nbytes);
        int64_t count = (int64_t)(next_random(&state) % 6);
        int64_t offset = nbytes > 0 ? (int64_t)(next_random(&state) % (unsigned long long)(nbytes + 1)) : 0;
        int64_t end = ta_bytes_skip(data, nbytes, offset, count);
        CHECK(end == -1 || (end >= offset + 4 * count && end <= nbytes));
        if (end > 0 && count > 0) CHECK(ta_bytes_skip(data, end - 1, offset, count) == -1);
        free(data);
    }
    CHECK(ta_bytes_skip(NULL, 0, 0, 0) == 0);
    CHECK(ta_bytes_skip(NULL, 0, 0, INT64_MAX) == -1);
}

static void errors_are_cut_and_times_are_closed(void) {
    static ta_batch batch;
    char text[3000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    ta_batch_fail(&batch, 3, "%s", text);
    CHECK(batch.failed == 1 && batch.error_code == 3 && strlen(batch.error) == TA_ERROR_NBYTES - 1);
    ta_batch_close_times(&batch);
    CHECK(batch.compute_end_ns > 0 && batch.compute_input_end_ns == batch.compute_end_ns);
    CHECK(batch.compute_output_start_ns == batch.compute_end_ns);
}

int main(void) {
    slabs_are_writable_to_the_last_byte_and_aligned();
    impossible_sizes_give_nothing();
    gather_joins_segments_in_order();
    skip_never_reads_past_the_end();
    errors_are_cut_and_times_are_closed();
    return 0;
}
