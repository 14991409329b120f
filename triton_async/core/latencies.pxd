# How long requests to one model version took, phase by phase, for the metrics: histograms, which add up over servers,
# and summaries of the last minute. Loop thread. A model of which neither is wanted has none: its requests pay one
# comparison for it.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum Phase:
    PHASE_REQUEST = 0        # whole: those of which an answer was kept, too
    PHASE_QUEUE = 1
    PHASE_COMPUTE_INPUT = 2
    PHASE_COMPUTE_INFER = 3
    PHASE_COMPUTE_OUTPUT = 4
    PHASE_FIRST_RESPONSE = 5
    PHASE_CACHE_HIT = 6
    PHASE_CACHE_MISS = 7     # the looking up alone
    N_PHASES = 8

# Counts by upper bound.
#
# Invariants
#   - `bounds_ns` ascends; counts[i] are those above bound i - 1 and not above bound i, counts[n_bounds] the rest
cdef class Histogram:
    cdef int n_bounds
    cdef int64_t *bounds_ns          # owned
    cdef uint64_t *counts            # n_bounds + 1; owned
    cdef int64_t sum_ns

    cdef void observe(self, int64_t ns) noexcept

# Quantiles of the last 48 to 60 seconds, to 1/64 of their value: times are counted in cells that are 1/32 of their
# power of two wide, in five ages of 12 seconds each.
#
# Invariants
#   - cells of age `a` are those from (a % AGES) * CELLS on; ages older than `age` - AGES + 1 are zero
cdef class Summary:
    cdef uint32_t *cells             # NULL before the first observation; owned
    cdef int64_t age                 # of the newest cells: now_ns // AGE_NS
    cdef uint64_t count              # of all observations ever
    cdef int64_t sum_ns

    cdef int observe(self, int64_t ns, int64_t now_ns) except -1
    # Brings the ages up to `now_ns`.
    cdef void _age(self, int64_t now_ns) noexcept

cdef class Latencies:
    cdef list histograms             # by Phase; None where none is wanted
    cdef list summaries

    cdef int note(self, int phase, int64_t ns, int64_t now_ns) except -1
