"""Histograms and summaries of the times of one model version's requests."""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport NAN, ceil
from libc.string cimport memset

cdef extern from *:
    int octave_of "63 - __builtin_clzll" (unsigned long long) noexcept nogil

# Seconds and number of the ages of a summary, as those of Triton.
cdef int64_t AGE_NS = 12_000_000_000
cdef enum:
    AGES = 5
    STEPS = 32               # cells of one power of two
    FIRST_OCTAVE = 7         # what takes less than 128 ns shares a cell
    LAST_OCTAVE = 37         # what takes 137 s or more, too
    CELLS = (LAST_OCTAVE - FIRST_OCTAVE) * STEPS + 2

cdef int64_t LARGEST_NS = 1 << 62


@cython.final
cdef class Histogram:
    """`bounds_ns`: upper bounds in nanoseconds, ascending."""

    def __cinit__(self, list bounds_ns):
        cdef int i
        self.n_bounds = <int>len(bounds_ns)
        self.bounds_ns = <int64_t *>PyMem_Calloc(max(self.n_bounds, 1), sizeof(int64_t))
        self.counts = <uint64_t *>PyMem_Calloc(self.n_bounds + 1, sizeof(uint64_t))
        if self.bounds_ns == NULL or self.counts == NULL:
            raise MemoryError()
        for i in range(self.n_bounds):
            self.bounds_ns[i] = min(max(bounds_ns[i], -LARGEST_NS), LARGEST_NS)

    def __dealloc__(self):
        PyMem_Free(self.bounds_ns)
        PyMem_Free(self.counts)

    cdef void observe(self, int64_t ns) noexcept:
        cdef int low = 0
        cdef int high = self.n_bounds
        cdef int middle
        while low < high:
            middle = (low + high) >> 1
            if ns <= self.bounds_ns[middle]:
                high = middle
            else:
                low = middle + 1
        self.counts[low] += 1
        self.sum_ns += ns

    def read(self):
        """Observations up to each bound, the last without one, and the sum of all in nanoseconds."""
        cdef int i
        cdef uint64_t count = 0
        cdef list counts = []
        for i in range(self.n_bounds + 1):
            count += self.counts[i]
            counts.append(count)
        return counts, self.sum_ns


@cython.final
cdef class Summary:
    """Takes its memory, 19 KiB, with the first observation."""

    def __dealloc__(self):
        PyMem_Free(self.cells)

    cdef int observe(self, int64_t ns, int64_t now_ns) except -1:
        if self.cells == NULL:
            self.cells = <uint32_t *>PyMem_Calloc(AGES * CELLS, sizeof(uint32_t))
            if self.cells == NULL:
                raise MemoryError()
        self._age(now_ns)
        self.cells[(self.age % AGES) * CELLS + cell_of(ns)] += 1
        self.count += 1
        self.sum_ns += ns
        return 0

    cdef void _age(self, int64_t now_ns) noexcept:
        cdef int64_t age = now_ns // AGE_NS
        if age <= self.age:
            return
        if age - self.age >= AGES:
            memset(self.cells, 0, AGES * CELLS * sizeof(uint32_t))
            self.age = age
        while self.age < age:
            self.age += 1
            memset(self.cells + (self.age % AGES) * CELLS, 0, CELLS * sizeof(uint32_t))

    def read(self, list quantiles, int64_t now_ns):
        """The quantiles in nanoseconds, NaN where there is none, the number of all observations ever and their sum in
        nanoseconds. `quantiles`: from 0 to 1, in any order."""
        cdef uint64_t[CELLS] counts
        cdef uint64_t seen = 0
        cdef int cell, age
        if self.cells == NULL:
            return [float("nan")] * len(quantiles), self.count, self.sum_ns
        self._age(now_ns)
        for cell in range(CELLS):
            counts[cell] = 0
            for age in range(AGES):
                counts[cell] += self.cells[age * CELLS + cell]
            seen += counts[cell]
        return [_quantile(counts, seen, quantile) for quantile in quantiles], self.count, self.sum_ns


cdef double _quantile(const uint64_t *counts, uint64_t seen, double quantile) noexcept:
    cdef uint64_t rank = max(<uint64_t>1, <uint64_t>ceil(quantile * <double>seen))
    cdef uint64_t below = 0
    cdef int cell
    if seen == 0:
        return NAN
    for cell in range(CELLS):
        below += counts[cell]
        if below >= rank:
            return middle_of(cell)
    return middle_of(CELLS - 1)


cdef inline int cell_of(int64_t ns) noexcept:
    cdef int octave
    if ns < 1 << FIRST_OCTAVE:
        return 0
    octave = octave_of(<unsigned long long>ns)
    if octave >= LAST_OCTAVE:
        return CELLS - 1
    return 1 + (octave - FIRST_OCTAVE) * STEPS + <int>((ns >> (octave - 5)) & (STEPS - 1))


cdef double middle_of(int cell) noexcept:
    cdef int octave
    cdef int64_t width
    if cell == 0:
        return (1 << FIRST_OCTAVE) / 2.0
    if cell == CELLS - 1:
        return <double>(<int64_t>1 << LAST_OCTAVE)
    octave = FIRST_OCTAVE + (cell - 1) // STEPS
    width = <int64_t>1 << (octave - 5)
    return (STEPS + (cell - 1) % STEPS + 0.5) * <double>width


@cython.final
cdef class Latencies:
    """`histograms`: by Phase, of upper bounds in nanoseconds, None where none is wanted. `summaries`: whether one is
    wanted, by Phase. The first response is counted of decoupled models alone."""

    def __init__(self, list histograms, list summaries):
        if len(histograms) != N_PHASES or len(summaries) != N_PHASES:
            raise ValueError(f"{N_PHASES} phases")
        self.histograms = [None if bounds is None else Histogram(bounds) for bounds in histograms]
        self.summaries = [Summary() if wanted else None for wanted in summaries]

    cdef int note(self, int phase, int64_t ns, int64_t now_ns) except -1:
        histogram = self.histograms[phase]
        summary = self.summaries[phase]
        ns = max(ns, 0)
        if histogram is not None:
            (<Histogram>histogram).observe(ns)
        if summary is not None:
            (<Summary>summary).observe(ns, now_ns)
        return 0

    def observe(self, int phase, int64_t ns, int64_t now_ns):
        """Counts one observation, as the statistics do."""
        self.note(phase, ns, now_ns)

    def histogram(self, int phase):
        """Histogram.read of a phase; None where there is none."""
        histogram = self.histograms[phase]
        return None if histogram is None else (<Histogram>histogram).read()

    def summary(self, int phase, list quantiles, int64_t now_ns):
        """Summary.read of a phase; None where there is none."""
        summary = self.summaries[phase]
        return None if summary is None else (<Summary>summary).read(quantiles, now_ns)
