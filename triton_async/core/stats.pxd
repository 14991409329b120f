# Statistics of one model version (Triton's statistics extension and nv_inference_* metrics). Plain integers.

from libc.stdint cimport int64_t, uint64_t

from triton_async.core.latencies cimport Latencies
from triton_async.infer.batch cimport ta_batch
from triton_async.infer.response cimport InferResponse

cdef struct Duration:
    uint64_t count
    uint64_t ns

cdef enum FailureReason:     # label `reason` of nv_inference_request_failure
    FAIL_REJECTED = 0        # refused by the scheduler: queue full, queue timeout
    FAIL_CANCELED = 1
    FAIL_BACKEND = 2         # the batch failed
    FAIL_OTHER = 3

# Executions of one batch size.
cdef class BatchStatistics:
    cdef int64_t rows
    cdef Duration compute_input
    cdef Duration compute_infer
    cdef Duration compute_output

# Loop thread.
cdef class ModelStatistics:
    cdef Duration success
    cdef Duration fail
    cdef Duration queue
    cdef Duration compute_input
    cdef Duration compute_infer
    cdef Duration compute_output
    cdef Duration cache_hit
    cdef Duration cache_miss         # the looking up, and keeping what is answered
    cdef readonly uint64_t inference_count
    cdef readonly uint64_t execution_count
    cdef readonly uint64_t last_inference_ms
    cdef uint64_t[4] failures
    cdef dict batches                # batch size -> BatchStatistics
    cdef BatchStatistics last        # the one of the last execution; None before the first
    # Histograms and summaries, where they are wanted; None else. Set before the first request.
    cdef public Latencies latencies
    cdef list responses              # ResponseStatistics by the number of the response, of a decoupled model; or None

    cdef int record_success(self, ta_batch *batch, int64_t rows, int64_t start_ns, int64_t queue_start_ns,
                            int64_t now_ns) except -1
    # A request was run, and will be once more before it is answered.
    cdef int record_pass(self, int64_t rows) except -1
    # Answered from the response cache: no inference and no execution, but a request that was served.
    cdef int record_hit(self, int64_t start_ns, int64_t lookup_ns, int64_t now_ns) except -1
    cdef int record_miss(self, int64_t lookup_ns, int64_t now_ns) except -1
    cdef int record_insertion(self, int64_t start_ns, int64_t now_ns) except -1
    cdef int record_failure(self, int reason, int64_t start_ns, int64_t now_ns) except -1
    # Of a request to an ensemble: `spent_ns`, of the executions of its steps: input, infer, output.
    cdef int record_ensemble(self, int64_t rows, int64_t start_ns, int64_t queue_start_ns, int64_t begun_ns,
                             const int64_t *spent_ns, int64_t now_ns) except -1
    # A response of a decoupled model came, to a request that is `cancelled` or not. Beyond RESPONSE_STATISTICS_MAX they
    # are not counted.
    cdef int record_response(self, InferResponse response, bint cancelled) except -1
    cdef int record_execution(self, ta_batch *batch) except -1
    # The first response to a request came, of a model that may have several, and is no error. Done for requests that
    # have one response by those methods above that end them.
    cdef int record_first(self, int64_t start_ns, int64_t now_ns) except -1
    cdef int _note(self, int64_t start_ns, int64_t queue_ns, int64_t input_ns, int64_t infer_ns, int64_t output_ns,
                   int64_t now_ns) except -1
    # The entry of a batch size, made if there is none; the last one from here on.
    cdef BatchStatistics _of(self, int64_t rows)
