#include "forest_ranks.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VBMI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,popcnt")))

int ta_ranks_usable(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

int64_t ta_ranks_nbytes(const ta_ranks *ranks) {
    return ranks->n_slots <= 64 ? 64 : ranks->n_slots <= 128 ? 128 : 256;
}

/* From how many of the coarse thresholds, and of those behind the last of these, a value is right of. */
static inline uint8_t joined(int block, int within) {
    int rank = 16 * block + within;
    return rank > TA_RANK_MOST ? TA_RANK_MOST : (uint8_t)rank;
}

static inline int block_of(int coarse) { return coarse > 0 ? coarse - 1 : 0; }

/* The comparisons are "not less" and "not less or equal", as a walk's are, and hold for NaN. */
#define RANKS(name, type, right)                                                                                           \
    VBMI static void name(const ta_ranks *ranks, const type *row, uint8_t *to) {                                           \
        const type *table = ranks->tables;                                                                                 \
        for (int32_t slot = 0; slot < ranks->n_slots; slot++, table += TA_RANK_TABLE) {                                    \
            const type value = row[ranks->sources[slot]];                                                                  \
            const int block = block_of(_mm_popcnt_u32(right(table, value)));                                               \
            to[slot] = joined(block, _mm_popcnt_u32(right(table + TA_RANK_COARSE + 16 * block, value)));                   \
        }                                                                                                                  \
    }

VBMI static inline uint32_t below(const float *table, float value) {
    return _mm512_cmp_ps_mask(_mm512_set1_ps(value), _mm512_loadu_ps(table), _CMP_NLT_UQ);
}

VBMI static inline uint32_t below_or_equal(const float *table, float value) {
    return _mm512_cmp_ps_mask(_mm512_set1_ps(value), _mm512_loadu_ps(table), _CMP_NLE_UQ);
}

VBMI static inline uint32_t below_doubles(const double *table, double value) {
    const __m512d wide = _mm512_set1_pd(value);
    return _mm512_cmp_pd_mask(wide, _mm512_loadu_pd(table), _CMP_NLE_UQ) |
           (uint32_t)_mm512_cmp_pd_mask(wide, _mm512_loadu_pd(table + 8), _CMP_NLE_UQ) << 8;
}

RANKS(floats, float, below)
RANKS(floats_or_equal, float, below_or_equal)
RANKS(doubles, double, below_doubles)

/* A bit for each of `words` times 64 nodes: whether the row goes right there. */
VBMI static inline void bits_of(const ta_ranks *ranks, const uint8_t *row, int64_t node, int64_t words, uint64_t *bits) {
    const uint8_t *slots = ranks->slots + node, *numbers = ranks->numbers + node;
    const __m512i first = _mm512_loadu_si512(row);
    if (ranks->n_slots <= 64) {
        for (int64_t i = 0; i < words; i++) {
            __m512i values = _mm512_permutexvar_epi8(_mm512_loadu_si512(slots + 64 * i), first);
            bits[i] = _mm512_cmpgt_epu8_mask(values, _mm512_loadu_si512(numbers + 64 * i));
        }
        return;
    }
    const __m512i second = _mm512_loadu_si512(row + 64);
    if (ranks->n_slots <= 128) {
        for (int64_t i = 0; i < words; i++) {
            __m512i values = _mm512_permutex2var_epi8(first, _mm512_loadu_si512(slots + 64 * i), second);
            bits[i] = _mm512_cmpgt_epu8_mask(values, _mm512_loadu_si512(numbers + 64 * i));
        }
        return;
    }
    const __m512i third = _mm512_loadu_si512(row + 128), fourth = _mm512_loadu_si512(row + 192);
    for (int64_t i = 0; i < words; i++) {
        __m512i places = _mm512_loadu_si512(slots + 64 * i);
        __m512i values = _mm512_mask_blend_epi8(_mm512_movepi8_mask(places),
                                                _mm512_permutex2var_epi8(first, places, second),
                                                _mm512_permutex2var_epi8(third, places, fourth));
        bits[i] = _mm512_cmpgt_epu8_mask(values, _mm512_loadu_si512(numbers + 64 * i));
    }
}

/* Eight ways at once through trees whose bits are one word each, or a part of one. */
VBMI static inline void ways(const uint64_t *bits, int32_t depth, int32_t n_trees, uint32_t *leaves) {
    const __m512i one = _mm512_set1_epi64(1), in_word = _mm512_set1_epi64(63);
    const __m512i first = _mm512_set1_epi64((1 << depth) - 1);
    const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    for (int32_t tree = 0; tree < n_trees; tree += 8) {
        __m512i at = _mm512_setzero_si512();
        if (depth == 6) {
            const __m512i words = _mm512_loadu_si512(bits + tree);
            for (int level = 0; level < 6; level++) {
                __m512i bit = _mm512_and_si512(_mm512_srlv_epi64(words, at), one);
                at = _mm512_add_epi64(_mm512_add_epi64(at, at), _mm512_add_epi64(bit, one));
            }
        } else {
            const __m512i begin = _mm512_slli_epi64(_mm512_add_epi64(lanes, _mm512_set1_epi64(tree)), (unsigned)depth);
            for (int32_t level = 0; level < depth; level++) {
                __m512i place = _mm512_add_epi64(begin, at);
                __m512i words = _mm512_i64gather_epi64(_mm512_srli_epi64(place, 6), bits, 8);
                __m512i bit = _mm512_and_si512(_mm512_srlv_epi64(words, _mm512_and_si512(place, in_word)), one);
                at = _mm512_add_epi64(_mm512_add_epi64(at, at), _mm512_add_epi64(bit, one));
            }
        }
        _mm256_storeu_si256((__m256i *)(leaves + tree), _mm512_cvtepi64_epi32(_mm512_sub_epi64(at, first)));
    }
}

VBMI static void leaves_of(const ta_ranks *ranks, const uint8_t *row, int64_t node, int32_t depth, int32_t n_trees,
                           uint32_t *leaves) {
    uint64_t bits[TA_RANK_TREES << TA_RANK_DEPTH >> 6];
    bits_of(ranks, row, node, (((int64_t)n_trees << depth) + 63) / 64, bits);
    ways(bits, depth, n_trees, leaves);
}

void ta_ranks_of_floats(const ta_ranks *ranks, int or_equal, const float *row, uint8_t *to) {
    (or_equal ? floats_or_equal : floats)(ranks, row, to);
}

void ta_ranks_of_doubles(const ta_ranks *ranks, const double *row, uint8_t *to) {
    doubles(ranks, row, to);
}

void ta_ranks_leaves(const ta_ranks *ranks, const uint8_t *row, int64_t node, int32_t depth, int32_t n_trees,
                     uint32_t *leaves) {
    leaves_of(ranks, row, node, depth, n_trees, leaves);
}

#else /* nobody makes a ta_ranks */

int ta_ranks_usable(void) { return 0; }
int64_t ta_ranks_nbytes(const ta_ranks *ranks) { return (void)ranks, 0; }
void ta_ranks_of_floats(const ta_ranks *ranks, int or_equal, const float *row, uint8_t *to) {
    (void)ranks, (void)or_equal, (void)row, (void)to;
}
void ta_ranks_of_doubles(const ta_ranks *ranks, const double *row, uint8_t *to) { (void)ranks, (void)row, (void)to; }
void ta_ranks_leaves(const ta_ranks *ranks, const uint8_t *row, int64_t node, int32_t depth, int32_t n_trees,
                     uint32_t *leaves) {
    (void)ranks, (void)row, (void)node, (void)depth, (void)n_trees, (void)leaves;
}

#endif
