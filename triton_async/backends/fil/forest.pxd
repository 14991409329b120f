# Tree ensembles (csrc/forest.h), ready to answer.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef extern from "forest_ranks.h":
    ctypedef struct ta_ranks:
        int32_t n_slots
        const uint32_t *sources
        const void *tables
        const uint8_t *slots
        const uint8_t *numbers
    int ta_ranks_usable() noexcept nogil

cdef extern from "forest.h":
    ctypedef struct ta_tree:
        pass
    ctypedef struct ta_category_set:
        pass
    ctypedef struct ta_forest:
        int32_t wide
        int32_t wide_leaves
        int32_t or_equal
        int32_t base_first
        int32_t n_columns
        int32_t n_outputs
        int32_t n_classes
        int32_t n_trees
        int32_t way_slot[4]
        int32_t n_ways
        int32_t has_missing
        int32_t tiny_is_zero
        double missing
        double divisor
        int32_t link
        int32_t answer
        double alpha
        double threshold
        const ta_tree *trees
        const void *perfect
        const void *nodes
        const ta_category_set *sets
        const uint32_t *words
        const void *leaves
        const void *base
        const double *covers
        const double *expected
        const ta_ranks *ranks
        int32_t depth
        int32_t answer_width
    int64_t ta_forest_scratch_nbytes(const ta_forest *forest) noexcept nogil
    void ta_forest_run(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows, void *answers,
                       int double_answers, void *scratch) noexcept nogil
    void ta_forest_link(const ta_forest *forest, const void *margins, int64_t n_rows, void *answers,
                        int double_answers, void *scratch) noexcept nogil
    void ta_forest_shap(const ta_forest *forest, const char *rows, int double_rows, int64_t n_rows,
                        float *contributions, void *scratch) noexcept nogil

# Immutable once made; shared by all instances of a model, on any thread. `c` points into `arrays`.
cdef class Forest:
    cdef ta_forest c
    cdef ta_ranks ranks              # where `c` has them
    cdef object layout               # of `layout.Layout`: keeps what `c` points at
    cdef readonly bint double_rows   # rows come as doubles
    cdef readonly bint double_answers
    cdef int _run(self, const char *rows, int64_t n_rows, char *to, bint shap) except -1
