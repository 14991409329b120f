"""A laid-out ensemble as C sees it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

import numpy as np


def ranks_usable():
    """Whether this processor has what csrc/forest_ranks.c is made of."""
    return bool(ta_ranks_usable())


cdef class Forest:
    """`layout`: of `layout.lay_out(ensemble)`. `answer`: of ta_answer, which gives `answer_width` values a row.
    `missing`: a value that counts as NaN, or None. Rows and answers are floats, or doubles where it is said so.
    """

    def __init__(self, ensemble, layout, int answer, int link, double threshold=0.5, missing=None,
                 bint double_rows=False, bint double_answers=False):
        cdef ta_forest *c = &self.c
        cdef int way
        self.layout = layout
        self.double_rows = double_rows
        self.double_answers = double_answers
        c.wide = layout.wide
        c.wide_leaves = layout.wide_leaves
        c.or_equal = layout.or_equal
        c.base_first = ensemble.base_first
        c.n_columns = ensemble.n_features
        c.n_outputs = ensemble.n_outputs
        c.n_classes = ensemble.n_classes
        c.n_trees = len(layout.trees)
        for way in range(4):
            c.way_slot[way] = layout.ways.index(way) if way in layout.ways else -1
        c.n_ways = len(layout.ways)
        c.has_missing = missing is not None
        if missing is not None:
            c.missing = missing if double_rows else float(np.float32(missing))
        c.tiny_is_zero = ensemble.tiny_is_zero
        c.divisor = ensemble.divisor
        c.link = link
        c.answer = answer
        c.alpha = ensemble.alpha
        c.threshold = threshold
        c.trees = <const ta_tree *>_data(layout.trees)
        c.perfect = _data(layout.perfect)
        c.nodes = _data(layout.nodes)
        c.sets = <const ta_category_set *>_data(layout.sets)
        c.words = <const uint32_t *>_data(layout.words)
        c.leaves = _data(layout.leaves)
        c.base = _data(layout.base)
        if layout.covers is not None:
            c.covers = <const double *>_data(layout.covers)
            c.expected = <const double *>_data(layout.expected)
        if layout.ranks is not None:
            self.ranks.n_slots = len(layout.ranks.sources)
            self.ranks.sources = <const uint32_t *>_data(layout.ranks.sources)
            self.ranks.tables = _data(layout.ranks.tables)
            self.ranks.slots = <const uint8_t *>_data(layout.ranks.slots)
            self.ranks.numbers = <const uint8_t *>_data(layout.ranks.numbers)
            c.ranks = &self.ranks
        c.depth = layout.depth
        c.answer_width = ensemble.n_targets * (ensemble.n_classes, 1, 2)[answer]

    @property
    def answer_width(self):
        """Values of a row's answer."""
        return self.c.answer_width

    @property
    def n_columns(self):
        """Values of a row."""
        return self.c.n_columns

    @property
    def n_outputs(self):
        """Margins of a row."""
        return self.c.n_outputs

    @property
    def scratch_nbytes(self):
        """Bytes that a run needs for itself."""
        return ta_forest_scratch_nbytes(&self.c)

    def answers(self, rows):
        """Answers (rows, answer_width) for rows (rows, columns) of the type that the forest takes. For checks."""
        cdef const char[::1] data = self._bytes(rows)
        made = np.empty((len(rows), self.c.answer_width), np.float64 if self.double_answers else np.float32)
        cdef char[::1] to = made.reshape(-1).view(np.int8)
        if not len(rows):
            return made
        self._run(&data[0], len(rows), &to[0], False)
        return made

    def linked(self, margins):
        """Answers (rows, answer_width) from margins (rows, outputs) that something else has summed up."""
        made = np.empty((len(margins), self.c.answer_width), np.float64 if self.double_answers else np.float32)
        if not len(margins):
            return made
        margins = np.ascontiguousarray(margins, np.float64 if self.c.wide_leaves else np.float32)
        if margins.ndim != 2 or margins.shape[1] != self.c.n_outputs:
            raise ValueError(f"margins have shape {margins.shape}, expected (any, {self.c.n_outputs})")
        cdef const char[::1] data = margins.reshape(-1).view(np.int8)
        cdef char[::1] to = made.reshape(-1).view(np.int8)
        scratch = np.empty(self.c.n_classes, np.float64)
        ta_forest_link(&self.c, &data[0], len(margins), &to[0], self.double_answers, <void *>_data(scratch))
        return made

    def contributions(self, rows):
        """What each column added (rows, outputs, columns + 1). For checks; the layout must be one with covers."""
        if self.c.covers == NULL:
            raise ValueError("the layout has no covers")
        cdef const char[::1] data = self._bytes(rows)
        made = np.empty((len(rows), self.c.n_outputs, self.c.n_columns + 1), np.float32)
        cdef char[::1] to = made.reshape(-1).view(np.int8)
        if not len(rows):
            return made
        self._run(&data[0], len(rows), &to[0], True)
        return made

    cdef int _run(self, const char *rows, int64_t n_rows, char *to, bint shap) except -1:
        cdef void *scratch = malloc(ta_forest_scratch_nbytes(&self.c))
        if scratch == NULL:
            raise MemoryError
        with nogil:
            if shap:
                ta_forest_shap(&self.c, rows, self.double_rows, n_rows, <float *>to, scratch)
            else:
                ta_forest_run(&self.c, rows, self.double_rows, n_rows, to, self.double_answers, scratch)
        free(scratch)
        return 0

    def _bytes(self, rows):
        rows = np.ascontiguousarray(rows, np.float64 if self.double_rows else np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.c.n_columns:
            raise ValueError(f"rows have shape {rows.shape}, expected (any, {self.c.n_columns})")
        return rows.reshape(-1).view(np.int8)


cdef const void *_data(array):
    cdef size_t address = array.ctypes.data
    return <const void *>address
