/* The walk through trees, for one type of values (VALUE), of leaves (LEAF) and one comparison. Included by forest.c for
 * each combination; NAME makes the names. */

#ifdef OR_EQUAL
#define GOES_RIGHT(value, threshold) (!((value) <= (threshold)))
#else
#define GOES_RIGHT(value, threshold) (!((value) < (threshold)))
#endif

static inline int32_t NAME(step)(const ta_forest *forest, const NODE *node, const VALUE *row) {
    VALUE value = row[node->column];
    if (node->leaf >= -1) return node->left + GOES_RIGHT(value, node->threshold);
    return node->left + in_right(forest, &forest->sets[-2 - node->leaf], (double)value);
}

static inline int32_t NAME(find)(const ta_forest *forest, const NODE *nodes, const VALUE *row) {
    int32_t at = 0;
    while (nodes[at].leaf < 0) at = NAME(step)(forest, &nodes[at], row);
    return nodes[at].leaf;
}

/* Adds a leaf's vector, or its value, to the margins of a row. */
static inline void NAME(add)(const ta_forest *forest, const ta_tree *tree, int64_t leaf, LEAF *margins) {
    const LEAF *leaves = forest->leaves;
    if (tree->output >= 0) {
        margins[tree->output] += leaves[leaf];
        return;
    }
    const LEAF *vector = leaves + leaf * forest->n_outputs;
    for (int32_t k = 0; k < forest->n_outputs; k++) margins[k] += vector[k];
}

#define LANES 8
#define ROW(i) (rows + ((i) / LANES) * LANES * width + (i) % LANES)

/* Eight walks at once: each waits for memory, and they wait together. */
static void NAME(perfect_rows)(const ta_forest *forest, const ta_tree *tree, const VALUE *rows, int64_t n_rows,
                               LEAF *margins) {
    const PERFECT *nodes = (const PERFECT *)forest->perfect + tree->node;
    const int64_t width = (int64_t)forest->n_columns * forest->n_ways;
    const int32_t depth = tree->depth, outputs = forest->n_outputs;
    const LEAF *leaves = (const LEAF *)forest->leaves + tree->leaf;
    const uint32_t first = (1u << depth) - 1;
    LEAF *to = margins + tree->output;
    int64_t i = 0;
    for (; i + LANES <= n_rows; i += LANES) {
        const VALUE *group = ROW(i);
        uint32_t at[LANES] = {0};
        for (int32_t level = 0; level < depth; level++) {
#pragma GCC unroll 8
            for (int lane = 0; lane < LANES; lane++) {
                const PERFECT *node = nodes + at[lane];
                at[lane] = 2 * at[lane] + 1 + (uint32_t)GOES_RIGHT(group[node->column + lane], node->threshold);
            }
        }
#pragma GCC unroll 8
        for (int lane = 0; lane < LANES; lane++) to[(i + lane) * outputs] += leaves[at[lane] - first];
    }
    for (; i < n_rows; i++) {
        const VALUE *row = ROW(i);
        uint32_t at = 0;
        for (int32_t level = 0; level < depth; level++)
            at = 2 * at + 1 + (uint32_t)GOES_RIGHT(row[nodes[at].column], nodes[at].threshold);
        to[i * outputs] += leaves[at - first];
    }
}

static void NAME(plain_rows)(const ta_forest *forest, const ta_tree *tree, const VALUE *rows, int64_t n_rows,
                             LEAF *margins) {
    const NODE *nodes = (const NODE *)forest->nodes + tree->node;
    const int64_t width = (int64_t)forest->n_columns * forest->n_ways;
    int64_t i = 0;
    for (; i + LANES <= n_rows; i += LANES) {
        const VALUE *group = ROW(i);
        int32_t at[LANES] = {0};
        for (int32_t level = 0; level < tree->depth;) {
            int32_t all = 0;
            for (int32_t end = level + 4 < tree->depth ? level + 4 : tree->depth; level < end; level++) {
#pragma GCC unroll 8
                for (int lane = 0; lane < LANES; lane++) {
                    const NODE *node = nodes + at[lane];
                    at[lane] = node->left + GOES_RIGHT(group[node->column + lane], node->threshold);
                }
            }
            for (int lane = 0; lane < LANES; lane++) all |= nodes[at[lane]].leaf;
            if (all >= 0) break;
        }
        for (int lane = 0; lane < LANES; lane++)
            NAME(add)(forest, tree, nodes[at[lane]].leaf, margins + (i + lane) * forest->n_outputs);
    }
    for (; i < n_rows; i++) {
        const VALUE *row = ROW(i);
        int32_t at = 0;
        while (nodes[at].leaf < 0)
            at = nodes[at].left + GOES_RIGHT(row[nodes[at].column], nodes[at].threshold);
        NAME(add)(forest, tree, nodes[at].leaf, margins + i * forest->n_outputs);
    }
}

/* Perfect trees of one depth, whose nodes and leaves follow each other, on one row. `count`, 8 or 16, is a constant. */
static inline __attribute__((always_inline)) void NAME(perfect_trees)(const ta_forest *forest, const ta_tree *trees,
                                                                      int count, const VALUE *row, LEAF *margins) {
    const PERFECT *nodes = (const PERFECT *)forest->perfect + trees[0].node;
    const LEAF *leaves = (const LEAF *)forest->leaves + trees[0].leaf;
    const int32_t depth = trees[0].depth;
    const uint32_t first = (1u << depth) - 1;
    uint32_t at[MOST_TREES] = {0};
    for (int32_t level = 0; level < depth; level++) {
#pragma GCC unroll 16
        for (int lane = 0; lane < count; lane++) {
            const PERFECT *node = nodes + lane * first + at[lane];
            at[lane] = 2 * at[lane] + 1 + (uint32_t)GOES_RIGHT(row[node->column], node->threshold);
        }
    }
    /* One sum stays in a register: each addition waits for the one before it, and would wait for memory besides. */
    if (forest->n_outputs == 1) {
        LEAF sum = margins[0];
#pragma GCC unroll 16
        for (int lane = 0; lane < count; lane++) sum += leaves[lane * (first + 1) + at[lane] - first];
        margins[0] = sum;
        return;
    }
#pragma GCC unroll 16
    for (int lane = 0; lane < count; lane++)
        margins[trees[lane].output] += leaves[lane * (first + 1) + at[lane] - first];
}

/* Eight plain trees on one row. */
static inline void NAME(plain_trees)(const ta_forest *forest, const ta_tree *trees, const VALUE *row, LEAF *margins) {
    const NODE *nodes[LANES];
    int32_t at[LANES] = {0}, all = -1;
    for (int lane = 0; lane < LANES; lane++) nodes[lane] = (const NODE *)forest->nodes + trees[lane].node;
    while (all < 0) {
        all = 0;
        for (int level = 0; level < 4; level++) {
#pragma GCC unroll 8
            for (int lane = 0; lane < LANES; lane++) {
                const NODE *node = nodes[lane] + at[lane];
                at[lane] = node->left + GOES_RIGHT(row[node->column], node->threshold);
            }
        }
        for (int lane = 0; lane < LANES; lane++) all |= nodes[lane][at[lane]].leaf;
    }
    for (int lane = 0; lane < LANES; lane++) NAME(add)(forest, &trees[lane], nodes[lane][at[lane]].leaf, margins);
}

/* As many trees as go at once, on one row; how many these were. */
static inline int32_t NAME(some_trees)(const ta_forest *forest, int32_t t, const VALUE *row, LEAF *margins) {
    const ta_tree *trees = forest->trees + t;
    int32_t run = run_length(trees, forest->n_trees - t);
    if (run == MOST_TREES) {
        NAME(perfect_trees)(forest, trees, MOST_TREES, row, margins);
    } else if (run == LANES && trees->kind == TA_TREE_PERFECT) {
        NAME(perfect_trees)(forest, trees, LANES, row, margins);
    } else if (run == LANES && trees->kind == TA_TREE_PLAIN) {
        NAME(plain_trees)(forest, trees, row, margins);
    } else if (trees->kind == TA_TREE_PERFECT) {
        NAME(perfect_rows)(forest, trees, row, 1, margins);
        return 1;
    } else {
        const NODE *nodes = (const NODE *)forest->nodes + trees->node;
        NAME(add)(forest, trees, NAME(find)(forest, nodes, row), margins);
        return 1;
    }
    return run;
}

static void NAME(one_tree)(const ta_forest *forest, const ta_tree *tree, const VALUE *rows, int64_t n_rows,
                           LEAF *margins) {
    const int64_t width = (int64_t)forest->n_columns * forest->n_ways;
    if (tree->kind == TA_TREE_PERFECT) {
        NAME(perfect_rows)(forest, tree, rows, n_rows, margins);
    } else if (tree->kind == TA_TREE_PLAIN) {
        NAME(plain_rows)(forest, tree, rows, n_rows, margins);
    } else {
        const NODE *nodes = (const NODE *)forest->nodes + tree->node;
        for (int64_t i = 0; i < n_rows; i++)
            NAME(add)(forest, tree, NAME(find)(forest, nodes, ROW(i)), margins + i * forest->n_outputs);
    }
}

/* Trees from `t` on whose leaves are found by ranks, `count` of them: each row adds theirs in their order. */
static void NAME(ranked_trees)(const ta_forest *forest, int32_t t, int32_t count, const uint8_t *ranks, int64_t n_rows,
                               LEAF *margins) {
    const ta_tree *trees = forest->trees + t;
    const int64_t stride = ta_ranks_nbytes(forest->ranks);
    const int32_t depth = trees->depth, outputs = forest->n_outputs;
    const LEAF *leaves = (const LEAF *)forest->leaves + trees->leaf;
    uint32_t found[TA_RANK_TREES];
    for (int64_t i = 0; i < n_rows; i++, margins += outputs) {
        ta_ranks_leaves(forest->ranks, ranks + i * stride, trees->ranked, depth, count, found);
        if (outputs == 1) {
            LEAF sum = margins[0];
            for (int32_t k = 0; k < count; k++) sum += leaves[((uint32_t)k << depth) + found[k]];
            margins[0] = sum;
        } else {
            for (int32_t k = 0; k < count; k++)
                margins[trees[k].output] += leaves[((uint32_t)k << depth) + found[k]];
        }
    }
}

static void NAME(ranked_block)(const ta_forest *forest, const VALUE *rows, int64_t n_rows, LEAF *margins,
                               uint8_t *ranks) {
    const int64_t width = (int64_t)forest->n_columns * forest->n_ways, stride = ta_ranks_nbytes(forest->ranks);
    for (int64_t i = 0; i < n_rows; i++) RANKS(forest, ROW(i), ranks + i * stride);
    for (int32_t t = 0; t < forest->n_trees;) {
        int32_t count = ranked_run(forest->trees + t, forest->n_trees - t);
        if (count > 0) {
            NAME(ranked_trees)(forest, t, count, ranks, n_rows, margins);
        } else if (n_rows == 1) {
            count = NAME(some_trees)(forest, t, rows, margins);
        } else {
            NAME(one_tree)(forest, forest->trees + t, rows, n_rows, margins);
            count = 1;
        }
        t += count;
    }
}

static void NAME(block)(const ta_forest *forest, const VALUE *rows, int64_t n_rows, LEAF *margins, uint8_t *ranks) {
    const int64_t width = (int64_t)forest->n_columns * forest->n_ways;
    const int32_t outputs = forest->n_outputs;
    const LEAF *base = forest->base;
    const LEAF divisor = (LEAF)forest->divisor;
    for (int64_t i = 0; i < n_rows; i++)
        for (int32_t k = 0; k < outputs; k++) margins[i * outputs + k] = forest->base_first ? base[k] : 0;
    if (forest->ranks != NULL) {
        NAME(ranked_block)(forest, rows, n_rows, margins, ranks);
    } else if (n_rows < LANES) {
        for (int64_t i = 0; i < n_rows; i++)
            for (int32_t t = 0; t < forest->n_trees;) t += NAME(some_trees)(forest, t, ROW(i), margins + i * outputs);
    } else {
        for (int32_t t = 0; t < forest->n_trees; t++) NAME(one_tree)(forest, forest->trees + t, rows, n_rows, margins);
    }
    if (forest->base_first && forest->divisor == 1) return;
    for (int64_t i = 0; i < n_rows; i++) {
        for (int32_t k = 0; k < outputs; k++) {
            LEAF sum = margins[i * outputs + k] / divisor;
            margins[i * outputs + k] = forest->base_first ? sum : sum + base[k];
        }
    }
}

#undef LANES
#undef ROW
#undef GOES_RIGHT
