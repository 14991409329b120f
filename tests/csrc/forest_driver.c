/* Forests at their borders, for the sanitizers. Rows are allocated to their exact size and stand at odd addresses; arrays
 * of trees, too, so that a step beyond any of them is seen. Answers are compared with a plain walk of the same trees. */
#include "check.h"
#include "forest.h"

#include <math.h>
#include <string.h>

#define COLUMNS 5

static void *exactly(const void *bytes, size_t nbytes) {
    void *copy = malloc(nbytes > 0 ? nbytes : 1);
    CHECK(copy != NULL);
    if (nbytes > 0) memcpy(copy, bytes, nbytes);
    return copy;
}

static float chance(unsigned long long *state) { return (float)(next_random(state) % 2001) / 1000 - 1; }

/* Random trees: perfect ones of `depth`, chains as deep, and one split by categories. */
typedef struct made {
    ta_forest forest;
    ta_tree trees[40];
    ta_perfect_f perfect[40 * 15];
    ta_node_f nodes[40 * 31];
    double covers[40 * 31];
    float leaves[40 * 16];
    float base[2];
    double expected[2];
    ta_category_set sets[2];
    uint32_t words[4];
    int n_perfect, n_nodes, n_leaves;
} made;

static void add_perfect(made *to, int depth, int output, unsigned long long *state) {
    ta_tree *tree = &to->trees[to->forest.n_trees++];
    *tree = (ta_tree){.node = to->n_perfect, .leaf = to->n_leaves, .kind = TA_TREE_PERFECT, .depth = depth,
                      .output = output, .ranked = -1};
    for (int i = 0; i < (1 << depth) - 1; i++)
        to->perfect[to->n_perfect++] = (ta_perfect_f){chance(state), 8 * (uint32_t)(next_random(state) % (2 * COLUMNS))};
    for (int i = 0; i < 1 << depth; i++) to->leaves[to->n_leaves++] = chance(state);
}

/* A chain: the left child is a leaf, the right one goes on. With `sets` its splits are by categories. */
static void add_chain(made *to, int depth, int output, int sets, unsigned long long *state) {
    ta_tree *tree = &to->trees[to->forest.n_trees++];
    ta_node_f *nodes = &to->nodes[to->n_nodes];
    *tree = (ta_tree){.node = to->n_nodes, .kind = sets ? TA_TREE_CATEGORICAL : TA_TREE_PLAIN, .depth = depth,
                      .output = output, .ranked = -1};
    int at = 0, next = 1;
    for (int level = 0; level < depth; level++) {
        int32_t split = sets ? -2 - level % 2 : -1;
        nodes[at] = (ta_node_f){chance(state), 8 * (uint32_t)(next_random(state) % COLUMNS), next, split};
        nodes[next] = (ta_node_f){NAN, 0, next - 1, to->n_leaves};
        to->leaves[to->n_leaves++] = chance(state);
        at = next + 1;
        next += 2;
    }
    nodes[at] = (ta_node_f){NAN, 0, at - 1, to->n_leaves};
    to->leaves[to->n_leaves++] = chance(state);
    for (int i = 0; i < 2 * depth + 1; i++) to->covers[to->n_nodes + i] = i == 0 ? 100 : 50.0 / (i + 1);
    to->n_nodes += 2 * depth + 1;
}

static ta_forest *finished(made *of) {
    ta_forest *forest = &of->forest;
    forest->n_columns = COLUMNS;
    forest->n_outputs = forest->answer_width = 2;
    forest->n_classes = 1;
    forest->base_first = 1;
    forest->divisor = forest->alpha = 1;
    forest->way_slot[TA_MISSING_RIGHT] = 0;
    forest->way_slot[TA_MISSING_LEFT] = 1;
    forest->way_slot[TA_MISSING_ZERO_RIGHT] = forest->way_slot[TA_MISSING_ZERO_LEFT] = -1;
    forest->n_ways = 2;
    of->base[0] = 0.5f;
    of->words[0] = 0x2A;
    of->words[1] = 3;
    of->words[2] = 70000;
    of->sets[0] = (ta_category_set){0, 1, TA_CATEGORY_MEMBERS_LEFT | TA_CATEGORY_TRUNCATE};
    of->sets[1] = (ta_category_set){1, 2, TA_CATEGORY_SORTED | TA_CATEGORY_NAN_LEFT};
    forest->trees = exactly(of->trees, (size_t)forest->n_trees * sizeof(ta_tree));
    forest->perfect = exactly(of->perfect, (size_t)of->n_perfect * sizeof(ta_perfect_f));
    forest->nodes = exactly(of->nodes, (size_t)of->n_nodes * sizeof(ta_node_f));
    forest->leaves = exactly(of->leaves, (size_t)of->n_leaves * sizeof(float));
    forest->base = exactly(of->base, sizeof(of->base));
    forest->sets = exactly(of->sets, sizeof(of->sets));
    forest->words = exactly(of->words, 3 * sizeof(uint32_t));
    for (int t = 0; t < forest->n_trees; t++)
        if (forest->trees[t].depth > forest->depth) forest->depth = forest->trees[t].depth;
    return forest;
}

static void release(ta_forest *forest) {
    free((void *)forest->trees);
    free((void *)forest->perfect);
    free((void *)forest->nodes);
    free((void *)forest->leaves);
    free((void *)forest->base);
    free((void *)forest->sets);
    free((void *)forest->words);
}

static int goes_left(const ta_forest *forest, float value, float threshold) {
    return forest->or_equal ? value <= threshold : value < threshold;
}

static float column_value(const float *row, uint32_t column) {
    float value = row[column / 8 % COLUMNS];
    return isnan(value) && column / 8 >= COLUMNS ? -INFINITY : value;
}

static int is_right(const ta_category_set *set, float value) {
    if (isnan(value)) return !(set->flags & TA_CATEGORY_NAN_LEFT);
    if (set->flags & TA_CATEGORY_SORTED) return value >= 0 && value < 2e9f && ((int)value == 3 || (int)value == 70000);
    return !(value > -1 && ((int)value == 1 || (int)value == 3 || (int)value == 5));
}

static void walk(const ta_forest *forest, const float *row, float *margins) {
    margins[0] = ((const float *)forest->base)[0];
    margins[1] = ((const float *)forest->base)[1];
    for (int t = 0; t < forest->n_trees; t++) {
        const ta_tree *tree = &forest->trees[t];
        const float *leaves = forest->leaves;
        int at = 0;
        if (tree->kind == TA_TREE_PERFECT) {
            const ta_perfect_f *nodes = (const ta_perfect_f *)forest->perfect + tree->node;
            for (int level = 0; level < tree->depth; level++)
                at = 2 * at + 2 - goes_left(forest, column_value(row, nodes[at].column), nodes[at].threshold);
            margins[tree->output] += leaves[tree->leaf + at - (1 << tree->depth) + 1];
            continue;
        }
        const ta_node_f *nodes = (const ta_node_f *)forest->nodes + tree->node;
        while (nodes[at].leaf < 0) {
            float value = column_value(row, nodes[at].column);
            at = nodes[at].left + (nodes[at].leaf == -1 ? !goes_left(forest, value, nodes[at].threshold)
                                                        : is_right(&forest->sets[-2 - nodes[at].leaf], value));
        }
        margins[tree->output] += leaves[nodes[at].leaf];
    }
}

static const float ODD[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 1, 3, 5, 5.9f, -0.5f, -1, 6, 32, 33, 70000, 3e38f, -3e38f, 1e-40f};

static void answers_are_those_of_a_plain_walk(void) {
    static const int counts[] = {0, 1, 7, 8, 9, 63, 64, 65, 200};
    for (int kind = 0; kind < 5; kind++) {
        unsigned long long state = 88172645463325252ULL + (unsigned)kind;
        made *of = calloc(1, sizeof(made));
        CHECK(of != NULL);
        for (int t = 0; t < 19 + kind; t++) {
            if (kind == 4 ? t % 5 == 0 : kind == 2) add_chain(of, t % 8, t % 2, 1, &state);
            else if (kind == 1 || (kind > 2 && t >= 9)) add_chain(of, t % 14, t % 2, 0, &state);
            else add_perfect(of, kind == 3 ? t % 5 : 4, t % 2, &state);
        }
        ta_forest *forest = finished(of);
        forest->or_equal = kind % 2;
        char *scratch = malloc((size_t)ta_forest_scratch_nbytes(forest));
        for (int c = 0; c < COUNT(counts); c++) {
            size_t nbytes = (size_t)counts[c] * COLUMNS * sizeof(float);
            float *rows = malloc(nbytes + 1), *found = malloc((size_t)counts[c] * 2 * sizeof(float) + 1);
            for (int i = 0; i < counts[c] * COLUMNS; i++)
                rows[i] = next_random(&state) % 3 ? chance(&state) : ODD[next_random(&state) % COUNT(ODD)];
            char *odd = malloc(nbytes + 1);
            memcpy(odd + 1, rows, nbytes);
            ta_forest_run(forest, odd + 1, 0, counts[c], found, 0, scratch);
            for (int i = 0; i < counts[c]; i++) {
                float expected[2];
                walk(forest, rows + i * COLUMNS, expected);
                CHECK(memcmp(expected, found + 2 * i, sizeof(expected)) == 0);
            }
            free(odd);
            free(rows);
            free(found);
        }
        free(scratch);
        release(forest);
        free(of);
    }
}

/* Ranks of the perfect trees, by definition: what precedes a threshold in its column's order. */
static void add_ranks(ta_forest *forest, ta_ranks *to, float *tables, uint8_t *slots, uint8_t *numbers,
                      uint32_t *sources) {
    ta_tree *trees = (ta_tree *)forest->trees;
    int counts[2 * COLUMNS] = {0}, at = 0;
    for (int slot = 0; slot < 2 * COLUMNS; slot++) sources[slot] = 8 * (uint32_t)slot;
    for (int i = 0; i < 2 * COLUMNS * TA_RANK_TABLE; i++) tables[i] = INFINITY;
    for (int pass = 0; pass < 2; pass++) {
        for (int t = 0; t < forest->n_trees; t++) {
            if (trees[t].kind != TA_TREE_PERFECT) continue;
            if (pass == 0) {
                if (t == 0 || trees[t - 1].ranked < 0 || trees[t - 1].depth != trees[t].depth) at = (at + 63) / 64 * 64;
                trees[t].ranked = at;
                at += 1 << trees[t].depth;
            }
            for (int i = 0; i < (1 << trees[t].depth) - 1; i++) {
                const ta_perfect_f *node = (const ta_perfect_f *)forest->perfect + trees[t].node + i;
                float *table = tables + node->column / 8 * TA_RANK_TABLE + TA_RANK_COARSE;
                int *count = &counts[node->column / 8], place = 0;
                while (place < *count && table[place] < node->threshold) place++;
                if (pass == 0 && (place == *count || table[place] != node->threshold)) {
                    CHECK(*count < TA_RANK_MOST);
                    memmove(table + place + 1, table + place, (size_t)(*count - place) * sizeof(float));
                    table[place] = node->threshold;
                    ++*count;
                }
                slots[trees[t].ranked + i] = (uint8_t)(node->column / 8);
                numbers[trees[t].ranked + i] = (uint8_t)place;
            }
        }
    }
    for (int slot = 0; slot < 2 * COLUMNS; slot++)
        for (int i = 0; i < TA_RANK_COARSE; i++)
            tables[slot * TA_RANK_TABLE + i] = tables[slot * TA_RANK_TABLE + TA_RANK_COARSE + 16 * i];
    *to = (ta_ranks){.n_slots = 2 * COLUMNS, .sources = exactly(sources, 2 * COLUMNS * sizeof(*sources)),
                     .tables = exactly(tables, 2 * COLUMNS * TA_RANK_TABLE * sizeof(float)),
                     .slots = exactly(slots, (size_t)at + 63), .numbers = exactly(numbers, (size_t)at + 63)};
    forest->ranks = to;
}

static void answers_by_ranks_are_those_of_a_plain_walk(void) {
    static const int counts[] = {1, 2, 7, 8, 65};
    for (int kind = 0; kind < 8 && ta_ranks_usable(); kind++) {
        unsigned long long state = 362436069ULL + (unsigned)kind;
        made *of = calloc(1, sizeof(made));
        ta_ranks ranks;
        float tables[2 * COLUMNS * TA_RANK_TABLE];
        uint8_t slots[40 * 80] = {0}, numbers[40 * 80] = {0};
        uint32_t sources[2 * COLUMNS];
        CHECK(of != NULL);
        for (int t = 0; t < 31 + kind; t++) {
            if (kind > 5 && t % 7 == 3) add_chain(of, t % 8, t % 2, t % 2, &state);
            else add_perfect(of, kind < 5 ? kind : t / 5 % 5, t % 2, &state);
        }
        ta_forest *forest = finished(of);
        forest->or_equal = kind % 2;
        add_ranks(forest, &ranks, tables, slots, numbers, sources);
        char *scratch = malloc((size_t)ta_forest_scratch_nbytes(forest));
        for (int c = 0; c < COUNT(counts); c++) {
            float *rows = malloc((size_t)counts[c] * COLUMNS * sizeof(float)), found[65 * 2];
            for (int i = 0; i < counts[c] * COLUMNS; i++) {
                const int chosen = (int)(next_random(&state) % 3);
                const ta_perfect_f *hit = (const ta_perfect_f *)forest->perfect;
                rows[i] = chosen == 0 ? chance(&state) : chosen == 1 ? ODD[next_random(&state) % COUNT(ODD)]
                          : of->n_perfect ? hit[next_random(&state) % (unsigned)of->n_perfect].threshold : 0;
            }
            ta_forest_run(forest, (const char *)rows, 0, counts[c], found, 0, scratch);
            for (int i = 0; i < counts[c]; i++) {
                float expected[2];
                walk(forest, rows + i * COLUMNS, expected);
                CHECK(memcmp(expected, found + 2 * i, sizeof(expected)) == 0);
            }
            free(rows);
        }
        free((void *)ranks.sources);
        free((void *)ranks.tables);
        free((void *)ranks.slots);
        free((void *)ranks.numbers);
        free(scratch);
        release(forest);
        free(of);
    }
}

/* What all columns added is what the margin has over that of an unknown row. */
static void contributions_add_up(void) {
    unsigned long long state = 1234567;
    made *of = calloc(1, sizeof(made));
    CHECK(of != NULL);
    for (int t = 0; t < 6; t++) add_chain(of, t + 1, t % 2, t % 3 == 0, &state);
    ta_forest *forest = finished(of);
    forest->covers = exactly(of->covers, (size_t)of->n_nodes * sizeof(double));
    forest->expected = exactly(of->expected, sizeof(of->expected));
    char *scratch = malloc((size_t)ta_forest_scratch_nbytes(forest));
    double unknown[2] = {0};
    for (int round = 0; round < 200; round++) {
        float row[COLUMNS], margins[2], found[2 * (COLUMNS + 1)];
        for (int c = 0; c < COLUMNS; c++) row[c] = round % 2 ? chance(&state) : ODD[next_random(&state) % COUNT(ODD)];
        walk(forest, row, margins);
        ta_forest_shap(forest, (const char *)row, 0, 1, found, scratch);
        for (int k = 0; k < 2; k++) {
            double sum = margins[k];
            for (int c = 0; c < COLUMNS; c++) sum -= found[k * (COLUMNS + 1) + c];
            if (round == 0) unknown[k] = sum;
            CHECK(fabs(sum - unknown[k]) < 1e-4);
            CHECK(found[k * (COLUMNS + 1) + COLUMNS] == 0);
        }
    }
    free(scratch);
    free((void *)forest->covers);
    free((void *)forest->expected);
    release(forest);
    free(of);
}

static void links_answer_for_every_margin(void) {
    static const double margins[] = {0, 1, -1, 50, -50, 800, -800, 1e300, -1e300};
    ta_forest forest = {.n_outputs = 3, .n_classes = 3, .alpha = 1, .divisor = 1, .n_columns = 1, .n_ways = 1};
    for (int32_t link = TA_LINK_IDENTITY; link <= TA_LINK_NORMALISE; link++) {
        for (int32_t answer = TA_ANSWER_ALL; answer <= TA_ANSWER_CLASS; answer++) {
            for (int wide = 0; wide < 2; wide++) {
                forest.link = link;
                forest.answer = answer;
                forest.wide_leaves = wide;
                forest.answer_width = answer == TA_ANSWER_ALL ? 3 : 1;
                double values[3], found[9];
                float narrow[9];
                for (int i = 0; i < 9; i++) narrow[i] = (float)fmax(fmin(margins[i], 1e38), -1e38);
                ta_forest_link(&forest, wide ? (const void *)margins : narrow, 3, found, 1, values);
                for (int i = 0; i < 3 * forest.answer_width; i++) {
                    if (answer == TA_ANSWER_CLASS) CHECK(found[i] >= 0 && found[i] < 3);
                    if (link == TA_LINK_SIGMOID || link == TA_LINK_SOFTMAX) CHECK(answer || (found[i] >= 0 && found[i] <= 1));
                    CHECK(!isnan(found[i]) || link == TA_LINK_NORMALISE);
                }
            }
        }
    }
}

int main(void) {
    answers_are_those_of_a_plain_walk();
    answers_by_ranks_are_those_of_a_plain_walk();
    contributions_add_up();
    links_answer_for_every_margin();
    return 0;
}
