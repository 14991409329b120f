/* Small perfect trees by ranks. A column is compared with few different numbers in all of a forest, as training puts its
 * values in bins: so each value of a row is replaced by how many of its column's thresholds it is right of, which is one
 * byte, and a threshold by its number among these. Then one instruction answers 64 nodes, all of a tree of depth 6,
 * whether the row comes by them or not, and the way to the leaf is read from the bits.
 *
 * The ranks are of the very comparisons that a walk would make, NaN and infinities included: the leaves are the same.
 *
 * Any thread, no GIL, no memory of its own, like forest.h. For processors with AVX-512 and its permutations of bytes
 * (VBMI); who makes a ta_ranks has asked ta_ranks_usable, and has checked every index in it.
 */
#ifndef TRITON_ASYNC_FOREST_RANKS_H
#define TRITON_ASYNC_FOREST_RANKS_H

#include <stdint.h>

enum {
    TA_RANK_SLOTS = 256,
    TA_RANK_COARSE = 16,
    TA_RANK_TABLE = 16 + 256, /* numbers of one column's table */
    TA_RANK_MOST = 255,       /* thresholds of a column: NaN is right of all of them */
    TA_RANK_DEPTH = 8,
    TA_RANK_TREES = 64        /* whose leaves are found at once */
};

typedef struct ta_ranks {
    int32_t n_slots; /* columns of expanded rows that are compared, at most TA_RANK_SLOTS */
    int32_t reserved;
    const uint32_t *sources; /* of each the place in an expanded row, times 8 */
    /* Of each TA_RANK_TABLE numbers of the type of rows: every 16th of the thresholds, then all of them, ascending, with
     * infinity behind the last of both. */
    const void *tables;
    /* Of each node of each tree, level by level, 2 to the power of the depth for each tree, the last one of these unused:
     * its slot, and its threshold's number. Of trees of one depth that follow each other so do the nodes; the first of
     * such a run begins at a multiple of 64, and 64 bytes from where the last begins may be read. */
    const uint8_t *slots;
    const uint8_t *numbers;
} ta_ranks;

/* Whether this processor has the instructions. */
int ta_ranks_usable(void);

/* Bytes of the ranks of one row: 64, 128 or 256. */
int64_t ta_ranks_nbytes(const ta_ranks *ranks);

/* Ranks of an expanded row, whose columns are 8 values apart. `or_equal` as of the forest; doubles always are. */
void ta_ranks_of_floats(const ta_ranks *ranks, int or_equal, const float *row, uint8_t *to);
void ta_ranks_of_doubles(const ta_ranks *ranks, const double *row, uint8_t *to);

/* The number of the leaf that a row comes to in each of `n_trees` trees, at most TA_RANK_TREES, of one depth, at most
 * TA_RANK_DEPTH, whose nodes begin at `node`, a multiple of 64, and follow each other. `leaves` has room for
 * TA_RANK_TREES. */
void ta_ranks_leaves(const ta_ranks *ranks, const uint8_t *row, int64_t node, int32_t depth, int32_t n_trees,
                     uint32_t *leaves);

#endif
