#include "forest.h"

#include <math.h>
#include <string.h>

/* Values of expanded rows that are kept at once: half of a first-level cache. */
#define BLOCK_NBYTES (16 << 10)
#define MAX_BLOCK 64
/* LightGBM: what is no farther from zero is zero. */
#define ZERO 1e-35f

static inline int is_member(const ta_forest *forest, const ta_category_set *set, uint32_t category) {
    const uint32_t *words = forest->words + set->first;
    if (!(set->flags & TA_CATEGORY_SORTED)) {
        uint32_t word = category >> 5;
        return word < (uint32_t)set->count && (words[word] >> (category & 31) & 1);
    }
    int32_t low = 0, high = set->count;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (words[middle] < category) low = middle + 1;
        else high = middle;
    }
    return low < set->count && words[low] == category;
}

static int in_right(const ta_forest *forest, const ta_category_set *set, double value) {
    if (isnan(value)) return !(set->flags & TA_CATEGORY_NAN_LEFT);
    int least = set->flags & TA_CATEGORY_TRUNCATE ? value > -1 : value >= 0;
    int member = least && value < 2147483648.0 && is_member(forest, set, (uint32_t)(int32_t)value);
    return set->flags & TA_CATEGORY_MEMBERS_LEFT ? !member : member;
}

/* Trees that are walked at once on one row. */
#define MOST_TREES 16

static inline int alike(const ta_tree *a, const ta_tree *b) {
    return a->kind == b->kind && (a->kind != TA_TREE_PERFECT || a->depth == b->depth);
}

/* How many trees from this one on can be walked at once on one row: 16 (of perfect ones), 8, or 1. */
static inline int32_t run_length(const ta_tree *trees, int32_t n_trees) {
    const int32_t kind = trees[0].kind;
    if (kind == TA_TREE_CATEGORICAL) return 1;
    int32_t most = kind == TA_TREE_PERFECT ? MOST_TREES : 8, count = 1;
    if (most > n_trees) most = n_trees;
    while (count < most && alike(trees, trees + count)) count++;
    return count == MOST_TREES ? MOST_TREES : count >= 8 ? 8 : 1;
}

/* How many trees from this one on have their leaves found at once by ranks. */
static inline int32_t ranked_run(const ta_tree *trees, int32_t n_trees) {
    if (trees[0].ranked < 0) return 0;
    const int32_t most = n_trees < TA_RANK_TREES ? n_trees : TA_RANK_TREES;
    int32_t count = 1;
    while (count < most && trees[count].depth == trees[0].depth &&
           trees[count].ranked == trees[0].ranked + (count << trees[0].depth))
        count++;
    return count;
}

#define VALUE float
#define LEAF float
#define PERFECT ta_perfect_f
#define NODE ta_node_f
#define NAME(name) name##_ff
#define RANKS(forest, row, to) ta_ranks_of_floats((forest)->ranks, 0, row, to)
#include "forest_walk.h"
#undef NAME
#undef RANKS
#define OR_EQUAL
#define RANKS(forest, row, to) ta_ranks_of_floats((forest)->ranks, 1, row, to)
#define NAME(name) name##_ffe
#include "forest_walk.h"
#undef NAME
#undef LEAF
#define LEAF double
#define NAME(name) name##_fde
#include "forest_walk.h"
#undef NAME
#undef RANKS
#undef VALUE
#undef PERFECT
#undef NODE
#define RANKS(forest, row, to) ta_ranks_of_doubles((forest)->ranks, row, to)
#define VALUE double
#define PERFECT ta_perfect_d
#define NODE ta_node_d
#define NAME(name) name##_dde
#include "forest_walk.h"
#undef NAME
#undef RANKS
#undef VALUE
#undef LEAF
#undef PERFECT
#undef NODE

static inline int64_t aligned(int64_t nbytes) { return (nbytes + 15) & ~(int64_t)15; }

static int64_t row_nbytes(const ta_forest *forest) {
    return (int64_t)forest->n_columns * forest->n_ways * (forest->wide ? 8 : 4);
}

int64_t ta_forest_block(const ta_forest *forest) {
    int64_t nbytes = row_nbytes(forest) + 1;
    int64_t rows = BLOCK_NBYTES / nbytes / 8 * 8;
    if (rows < 8) return 8;
    return rows > MAX_BLOCK ? MAX_BLOCK : rows;
}

static int64_t rows_nbytes(const ta_forest *forest) { return aligned(row_nbytes(forest) * ta_forest_block(forest)); }

static int64_t margins_nbytes(const ta_forest *forest) {
    return aligned((int64_t)forest->n_outputs * 8 * ta_forest_block(forest));
}

static int64_t ranks_nbytes(const ta_forest *forest) {
    return forest->ranks == NULL ? 0 : ta_ranks_nbytes(forest->ranks) * ta_forest_block(forest);
}

/* A column that splits on the way to a node. */
typedef struct element {
    int32_t column; /* -1: the first one, which stands for no column */
    double zero;    /* share of the rows that go this way where the column is not known */
    double one;     /* 1 when this row goes this way, else 0 */
    double weight;  /* of all sets of known columns with as many members as this element has before it */
} element;

/* Element i of a way of depth d is kept for each d, as both children of a node begin with its way. */
static int64_t ways_nbytes(const ta_forest *forest) {
    int64_t depth = (int64_t)forest->depth + 2;
    return aligned(depth * (depth + 1) / 2 * (int64_t)sizeof(element));
}

int64_t ta_forest_scratch_nbytes(const ta_forest *forest) {
    int64_t nbytes = rows_nbytes(forest) + margins_nbytes(forest) + aligned((int64_t)forest->n_classes * 8);
    nbytes += ranks_nbytes(forest);
    if (forest->covers != NULL)
        nbytes += ways_nbytes(forest) + aligned(((int64_t)forest->n_columns + 1) * forest->n_outputs * 8);
    return nbytes;
}

static inline double one_value(const char *from, int double_rows) {
    if (double_rows) {
        double value;
        memcpy(&value, from, 8);
        return value;
    }
    float value;
    memcpy(&value, from, 4);
    return (double)value;
}

/* Floats, in which only NaN is missing. */
static void expand_floats(const ta_forest *forest, const char *from, int32_t way, float *to) {
    const float stands = way & 1 ? -INFINITY : NAN;
    for (int32_t c = 0; c < forest->n_columns; c++) {
        float value;
        memcpy(&value, from + c * 4, 4);
        to[c * 8] = isnan(value) ? stands : value;
    }
}

static void expand_any(const ta_forest *forest, const char *from, int double_rows, int32_t way, void *to) {
    const double stands = way & 1 ? -INFINITY : NAN;
    for (int32_t c = 0; c < forest->n_columns; c++) {
        double value = one_value(from + c * (double_rows ? 8 : 4), double_rows);
        int tiny = value >= -(double)ZERO && value <= (double)ZERO;
        int gone = isnan(value) || (forest->has_missing && value == forest->missing) ||
                   (way >= TA_MISSING_ZERO_RIGHT && tiny);
        if (gone) value = stands;
        else if (tiny && forest->tiny_is_zero) value = 0;
        if (forest->wide) ((double *)to)[c * 8] = value;
        else ((float *)to)[c * 8] = (float)value;
    }
}

/* Eight rows lie side by side, so that the values of a column are neighbours. */
static void expand(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows, void *to) {
    const int32_t columns = forest->n_columns;
    const int64_t width = (int64_t)columns * forest->n_ways;
    const int plain = !double_rows && !forest->wide && !forest->has_missing && !forest->tiny_is_zero;
    for (int64_t i = 0; i < n_rows; i++) {
        const char *from = rows + i * columns * (double_rows ? 8 : 4);
        for (int32_t way = 0; way < TA_MISSING_WAYS; way++) {
            if (forest->way_slot[way] < 0) continue;
            const int64_t at = (i / 8 * width + (int64_t)forest->way_slot[way] * columns) * 8 + i % 8;
            if (plain && way < TA_MISSING_ZERO_RIGHT) expand_floats(forest, from, way, (float *)to + at);
            else expand_any(forest, from, double_rows, way, (char *)to + at * (forest->wide ? 8 : 4));
        }
    }
}

static void sum_up(const ta_forest *forest, const void *rows, int64_t n_rows, void *margins, uint8_t *ranks) {
    if (forest->wide) block_dde(forest, rows, n_rows, margins, ranks);
    else if (forest->wide_leaves) block_fde(forest, rows, n_rows, margins, ranks);
    else if (forest->or_equal) block_ffe(forest, rows, n_rows, margins, ranks);
    else block_ff(forest, rows, n_rows, margins, ranks);
}

static inline double margin_of_leaf(const ta_forest *forest, int64_t at) {
    return forest->wide_leaves ? ((const double *)forest->leaves)[at] : (double)((const float *)forest->leaves)[at];
}

static inline double margin_of(const ta_forest *forest, const void *margins, int64_t at) {
    return forest->wide_leaves ? ((const double *)margins)[at] : (double)((const float *)margins)[at];
}

/* In the precision of the margins, as the libraries do: in float32 a probability is what XGBoost says to the last bit or
 * the one before. */
static double linked(const ta_forest *forest, double margin) {
    const int wide = forest->wide_leaves;
    switch (forest->link) {
    case TA_LINK_SIGMOID:
        if (wide) return 1 / (1 + exp(-forest->alpha * margin));
        return (double)(1 / (1 + expf(fminf(-(float)forest->alpha * (float)margin, 88.7f))));
    case TA_LINK_EXPONENTIAL:
        return wide ? exp(margin) : (double)expf((float)margin);
    case TA_LINK_HINGE:
        return margin > 0;
    case TA_LINK_SIGNED_SQUARE:
        return copysign(margin * margin, margin);
    case TA_LINK_LOG_ONE_PLUS_EXP:
        return margin > 30 ? margin + log1p(exp(-margin)) : log1p(exp(margin));
    case TA_LINK_EXPONENTIAL_RATIO:
        return exp2(-margin / forest->alpha);
    default:
        return margin;
    }
}

/* Over the classes of one target. */
static void softmax(double *values, int32_t count, int wide) {
    double largest = values[0], sum = 0;
    for (int32_t k = 1; k < count; k++) largest = fmax(largest, values[k]);
    for (int32_t k = 0; k < count; k++) {
        values[k] = wide ? exp(values[k] - largest) : (double)expf((float)values[k] - (float)largest);
        sum += values[k];
    }
    for (int32_t k = 0; k < count; k++) values[k] = wide ? values[k] / sum : (double)((float)values[k] / (float)sum);
}

static void normalise(double *values, int32_t count) {
    double sum = 0;
    for (int32_t k = 0; k < count; k++) sum += values[k];
    if (sum == 0) return;
    for (int32_t k = 0; k < count; k++) values[k] /= sum;
}

static inline void put(void *answers, int double_answers, int64_t at, double value) {
    if (double_answers) ((double *)answers)[at] = value;
    else ((float *)answers)[at] = (float)value;
}

/* Answers of one target of a row from its n_classes margins, which are `values`. */
static void answer_of(const ta_forest *forest, double *values, void *answers, int double_answers, int64_t at) {
    const int32_t classes = forest->n_classes;
    if (forest->link == TA_LINK_SOFTMAX) softmax(values, classes, forest->wide_leaves);
    else if (forest->link == TA_LINK_NORMALISE) normalise(values, classes);
    else for (int32_t k = 0; k < classes; k++) values[k] = linked(forest, values[k]);
    if (forest->answer == TA_ANSWER_ALL) {
        for (int32_t k = 0; k < classes; k++) put(answers, double_answers, at + k, values[k]);
    } else if (forest->answer == TA_ANSWER_TWO) {
        put(answers, double_answers, at, 1 - (forest->wide_leaves ? values[0] : (double)(float)values[0]));
        put(answers, double_answers, at + 1, values[0]);
    } else if (classes == 1) {
        put(answers, double_answers, at, (forest->wide_leaves ? values[0] : (double)(float)values[0]) > forest->threshold);
    } else {
        int32_t best = 0;
        for (int32_t k = 1; k < classes; k++) if (values[k] > values[best]) best = k;
        put(answers, double_answers, at, best);
    }
}

static void finish(const ta_forest *forest, const void *margins, int64_t n_rows, double *values, void *answers,
                   int double_answers, int64_t row) {
    const int32_t classes = forest->n_classes, targets = forest->n_outputs / classes;
    const int32_t width = forest->answer_width / targets;
    for (int64_t i = 0; i < n_rows; i++) {
        for (int32_t target = 0; target < targets; target++) {
            int64_t first = i * forest->n_outputs + (int64_t)target * classes;
            int64_t at = (row + i) * forest->answer_width + (int64_t)target * width;
            for (int32_t k = 0; k < classes; k++) values[k] = margin_of(forest, margins, first + k);
            answer_of(forest, values, answers, double_answers, at);
        }
    }
}

void ta_forest_run(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows, void *answers,
                   int double_answers, void *scratch) {
    const int64_t block = ta_forest_block(forest);
    void *margins = (char *)scratch + rows_nbytes(forest);
    double *values = (double *)((char *)margins + margins_nbytes(forest));
    uint8_t *ranks = (uint8_t *)values + aligned((int64_t)forest->n_classes * 8);
    for (int64_t row = 0; row < n_rows; row += block) {
        int64_t count = n_rows - row < block ? n_rows - row : block;
        expand(forest, rows + row * forest->n_columns * (double_rows ? 8 : 4), double_rows, count, scratch);
        sum_up(forest, scratch, count, margins, ranks);
        finish(forest, margins, count, values, answers, double_answers, row);
    }
}

/* A row and the tree that explains it. */
typedef struct explanation {
    const ta_forest *forest;
    const ta_tree *tree;
    const void *row;
    element *ways;
    double *found; /* n_outputs times n_columns + 1 */
} explanation;

static inline int32_t leaf_of(const explanation *of, int32_t node) {
    int64_t at = of->tree->node + node;
    return of->forest->wide ? ((const ta_node_d *)of->forest->nodes)[at].leaf
                            : ((const ta_node_f *)of->forest->nodes)[at].leaf;
}

static inline int32_t left_of(const explanation *of, int32_t node) {
    int64_t at = of->tree->node + node;
    return of->forest->wide ? ((const ta_node_d *)of->forest->nodes)[at].left
                            : ((const ta_node_f *)of->forest->nodes)[at].left;
}

static inline int32_t column_of(const explanation *of, int32_t node) {
    int64_t at = of->tree->node + node;
    uint32_t column = of->forest->wide ? ((const ta_node_d *)of->forest->nodes)[at].column
                                       : ((const ta_node_f *)of->forest->nodes)[at].column;
    return (int32_t)(column / 8 % (uint32_t)of->forest->n_columns);
}

static inline int32_t next_of(const explanation *of, int32_t node) {
    const ta_forest *forest = of->forest;
    int64_t at = of->tree->node + node;
    if (forest->wide) return step_dde(forest, (const ta_node_d *)forest->nodes + at, of->row);
    if (forest->or_equal) return step_ffe(forest, (const ta_node_f *)forest->nodes + at, of->row);
    return step_ff(forest, (const ta_node_f *)forest->nodes + at, of->row);
}

/* Adds a column to a way of `count` elements: each set of known columns is there with and without it. */
static void extend(element *way, int32_t count, int32_t column, double zero, double one) {
    way[count] = (element){column, zero, one, count == 0};
    for (int32_t i = count - 1; i >= 0; i--) {
        way[i + 1].weight += one * way[i].weight * (i + 1) / (count + 1);
        way[i].weight = zero * way[i].weight * (count - i) / (count + 1);
    }
}

/* Sum of the weights of a way of `count` elements without element `which`; with `remove` they stay so, else the way is
 * as before. */
static double without(element *way, int32_t count, int32_t which, int remove) {
    const int32_t last = count - 1;
    const double zero = way[which].zero, one = way[which].one;
    double next = way[last].weight, sum = 0;
    for (int32_t i = last - 1; i >= 0; i--) {
        double weight;
        if (one != 0) {
            weight = next * count / ((i + 1) * one);
            next = way[i].weight - weight * zero * (last - i) / count;
        } else {
            weight = zero != 0 ? way[i].weight * count / (zero * (last - i)) : 0;
        }
        sum += weight;
        if (remove) way[i].weight = weight;
    }
    if (remove)
        for (int32_t i = which; i < last; i++) {
            way[i].column = way[i + 1].column;
            way[i].zero = way[i + 1].zero;
            way[i].one = way[i + 1].one;
        }
    return sum;
}

static void at_leaf(const explanation *of, int32_t leaf, element *way, int32_t count) {
    const ta_forest *forest = of->forest;
    const int64_t columns = (int64_t)forest->n_columns + 1;
    for (int32_t i = 1; i < count; i++) {
        double share = without(way, count, i, 0) * (way[i].one - way[i].zero);
        if (of->tree->output >= 0) {
            of->found[of->tree->output * columns + way[i].column] += share * margin_of_leaf(forest, leaf);
            continue;
        }
        for (int32_t k = 0; k < forest->n_outputs; k++)
            of->found[k * columns + way[i].column] +=
                share * margin_of_leaf(forest, (int64_t)leaf * forest->n_outputs + k);
    }
}

/* Explains the part of a tree below `node`, which lies `depth` splits deep. Whoever made the forest has bound its depth. */
static void explain(const explanation *of, int32_t node, int32_t depth, const element *parent, int32_t count,
                    int32_t column, double zero, double one) {
    element *way = of->ways + (int64_t)depth * (depth + 1) / 2;
    if (count > 0) memcpy(way, parent, (size_t)count * sizeof(element));
    extend(way, count, column, zero, one);
    count++;
    int32_t leaf = leaf_of(of, node);
    if (leaf >= 0) {
        at_leaf(of, leaf, way, count);
        return;
    }
    const int32_t split = column_of(of, node), taken = next_of(of, node);
    const int32_t other = taken == left_of(of, node) ? taken + 1 : taken - 1;
    const double *covers = of->forest->covers + of->tree->node;
    const double whole = covers[node];
    double before_zero = 1, before_one = 1;
    for (int32_t i = 1; i < count; i++) {
        if (way[i].column != split) continue;
        before_zero = way[i].zero;
        before_one = way[i].one;
        without(way, count, i, 1);
        count--;
        break;
    }
    double share = whole > 0 ? covers[taken] / whole : 0.5, rest = whole > 0 ? covers[other] / whole : 0.5;
    explain(of, taken, depth + 1, way, count, split, before_zero * share, before_one);
    explain(of, other, depth + 1, way, count, split, before_zero * rest, 0);
}

void ta_forest_shap(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows, float *contributions,
                    void *scratch) {
    const int64_t row_values = (int64_t)forest->n_columns + 1, values = row_values * forest->n_outputs;
    char *behind = (char *)scratch + rows_nbytes(forest) + margins_nbytes(forest) +
                   aligned((int64_t)forest->n_classes * 8);
    explanation of = {forest, NULL, scratch, (element *)behind, (double *)(behind + ways_nbytes(forest))};
    for (int64_t row = 0; row < n_rows; row++) {
        expand(forest, rows + row * forest->n_columns * (double_rows ? 8 : 4), double_rows, 1, scratch);
        memset(of.found, 0, (size_t)values * sizeof(double));
        for (int32_t t = 0; t < forest->n_trees; t++) {
            of.tree = &forest->trees[t];
            explain(&of, 0, 0, NULL, 0, -1, 1, 1);
        }
        for (int64_t i = 0; i < values; i++) {
            double value = of.found[i] / forest->divisor;
            if (i % row_values == forest->n_columns) value = forest->expected[i / row_values];
            contributions[row * values + i] = (float)value;
        }
    }
}

void ta_forest_link(const ta_forest *forest, const void *margins, int64_t n_rows, void *answers, int double_answers,
                    void *scratch) {
    finish(forest, margins, n_rows, scratch, answers, double_answers, 0);
}
