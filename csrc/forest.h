/* Tree ensembles: rows in, margins and answers out. Any thread, no GIL, no memory of its own: all arrays belong to who
 * made the ta_forest, and do not change while it is used. Whoever makes one has checked every index in it.
 *
 * A row is first expanded: a copy of its columns for each way to treat missing values that the forest has. In a copy
 * the values that count as missing are NaN (so that no comparison holds and the right branch is taken) or minus infinity
 * (so that every comparison holds). What is left of a split is one comparison.
 */
#ifndef TRITON_ASYNC_FOREST_H
#define TRITON_ASYNC_FOREST_H

#include <stdint.h>

#include "forest_ranks.h"

/* Ways to treat missing values; a node's column lies in the copy of its way. */
enum ta_missing {
    TA_MISSING_RIGHT = 0,      /* NaN is missing and goes right */
    TA_MISSING_LEFT = 1,       /* NaN is missing and goes left */
    TA_MISSING_ZERO_RIGHT = 2, /* NaN and zero are missing */
    TA_MISSING_ZERO_LEFT = 3,
    TA_MISSING_WAYS = 4
};

/* How a tree is laid out. */
enum ta_tree_kind {
    TA_TREE_PERFECT = 0,    /* numeric splits only, every leaf at the same depth; children of n are 2n + 1 and 2n + 2 */
    TA_TREE_PLAIN = 1,      /* numeric splits only, nodes of any shape */
    TA_TREE_CATEGORICAL = 2 /* nodes of any shape, splits of both kinds */
};

typedef struct ta_tree {
    int64_t node;   /* the first one, in the array of its kind */
    int64_t leaf;   /* of a perfect tree: its first leaf */
    int32_t kind;   /* ta_tree_kind */
    int32_t depth;  /* most splits on a way to a leaf */
    int32_t output; /* the margin that it adds to; -1: to all of them, its leaves are vectors */
    int32_t ranked; /* of a perfect tree, where the forest has ranks: place of its first node there; else -1 */
} ta_tree;

typedef struct ta_perfect_f {
    float threshold;
    uint32_t column; /* of an expanded row, times 8: eight rows lie side by side */
} ta_perfect_f;

typedef struct ta_perfect_d {
    double threshold;
    uint32_t column;
    uint32_t reserved;
} ta_perfect_d;

/* A node of a tree of any shape. A leaf is its own right child: threshold NaN, left == its number - 1, leaf >= 0.
 * An inner node's right child is left + 1; leaf is -1, or -2 - s for a split by category set s. Numbers count from the
 * first node of the tree, leaves from the first one of the forest. */
typedef struct ta_node_f {
    float threshold;
    uint32_t column;
    int32_t left;
    int32_t leaf;
} ta_node_f;

typedef struct ta_node_d {
    double threshold;
    uint32_t column;
    int32_t left;
    int32_t leaf;
    int32_t reserved;
} ta_node_d;

enum ta_category_flags {
    TA_CATEGORY_SORTED = 1,       /* ascending numbers in place of a bit set */
    TA_CATEGORY_MEMBERS_LEFT = 2, /* else members go right */
    TA_CATEGORY_NAN_LEFT = 4,
    TA_CATEGORY_TRUNCATE = 8      /* values above -1 are truncated to 0; else a negative value is no category */
};

typedef struct ta_category_set {
    int64_t first;  /* word */
    int32_t count;  /* words: 32 members each, or one when sorted */
    int32_t flags;  /* ta_category_flags */
} ta_category_set;

/* How margins become answers. */
enum ta_link {
    TA_LINK_IDENTITY = 0,
    TA_LINK_SIGMOID = 1,           /* of alpha * margin */
    TA_LINK_EXPONENTIAL = 2,
    TA_LINK_SOFTMAX = 3,           /* over the outputs of a target */
    TA_LINK_HINGE = 4,             /* 1 above zero, else 0 */
    TA_LINK_SIGNED_SQUARE = 5,
    TA_LINK_LOG_ONE_PLUS_EXP = 6,
    TA_LINK_EXPONENTIAL_RATIO = 7, /* 2 to the power of -margin / alpha */
    TA_LINK_NORMALISE = 8          /* divided by their sum, where that is not zero */
};

/* What becomes of the answers of a row. */
enum ta_answer {
    TA_ANSWER_ALL = 0,      /* as they are */
    TA_ANSWER_CLASS = 1,    /* of one: whether it is above the threshold; of several: the number of the largest */
    TA_ANSWER_TWO = 2       /* of one: 1 - p and p */
};

typedef struct ta_forest {
    int32_t wide;        /* 1: rows and thresholds are doubles (then leaves are, too) */
    int32_t wide_leaves; /* 1: leaves and margins are doubles */
    int32_t or_equal;    /* 1: a value goes left when <= the threshold, else when < */
    int32_t base_first;  /* 1: sums begin at the base margins, else these are added to the average */
    int32_t n_columns;   /* of a row as it comes */
    int32_t n_outputs;   /* margins of a row */
    int32_t n_classes;   /* outputs of one target: n_outputs is a multiple of it */
    int32_t n_trees;
    int32_t way_slot[TA_MISSING_WAYS]; /* place of a way's copy, -1: not used */
    int32_t n_ways;      /* copies: an expanded row has n_columns * n_ways values */
    int32_t has_missing; /* 1: `missing` counts as NaN */
    int32_t tiny_is_zero; /* 1: what is as near to zero as 1e-35 is zero */
    int32_t reserved;
    double missing;
    double divisor;      /* of the sums: trees of a forest that averages, else 1 */
    int32_t link;        /* ta_link */
    int32_t answer;      /* ta_answer */
    double alpha;
    double threshold;
    const ta_tree *trees;
    const void *perfect; /* ta_perfect_f or _d */
    const void *nodes;   /* ta_node_f or _d */
    const ta_category_set *sets;
    const uint32_t *words;
    const void *leaves;  /* float or double; of a tree with vectors n_outputs for each */
    const void *base;    /* n_outputs margins, float or double */
    /* For ta_forest_shap, else NULL: what reached each node of `nodes`. All trees are plain or categorical then. */
    const double *covers;
    const double *expected; /* margins of an unknown row, n_outputs */
    const ta_ranks *ranks; /* NULL: all trees are walked */
    int32_t depth;       /* of the deepest tree */
    int32_t answer_width; /* values of a row's answer */
} ta_forest;

/* Rows that are best evaluated together; a multiple of 8. */
int64_t ta_forest_block(const ta_forest *forest);
/* Bytes that ta_forest_run and ta_forest_shap need, aligned to 16, for themselves. */
int64_t ta_forest_scratch_nbytes(const ta_forest *forest);

/* Answers of `n_rows` rows. `rows`: floats, or doubles when `double_rows`, packed, of any alignment. `answers`:
 * answer_width floats a row, or doubles when `double_answers`, aligned. */
void ta_forest_run(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows, void *answers,
                   int double_answers, void *scratch);

/* Answers from margins that something else has summed up: n_outputs for each row, doubles when wide_leaves, else floats. */
void ta_forest_link(const ta_forest *forest, const void *margins, int64_t n_rows, void *answers, int double_answers,
                    void *scratch);

/* What each column added to each margin of a row, and behind them what an unknown row would get: n_outputs times
 * n_columns + 1 floats for each row. */
void ta_forest_shap(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows, float *contributions,
                    void *scratch);

#endif
