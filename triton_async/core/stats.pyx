"""Statistics of one model version: plain integers on the hot path, read when somebody asks."""

cimport cython

from triton_async.core.latencies cimport (
    PHASE_CACHE_HIT,
    PHASE_CACHE_MISS,
    PHASE_COMPUTE_INFER,
    PHASE_COMPUTE_INPUT,
    PHASE_COMPUTE_OUTPUT,
    PHASE_FIRST_RESPONSE,
    PHASE_QUEUE,
    PHASE_REQUEST,
)
from triton_async.infer.clock cimport ta_epoch_ms

from triton_async.infer.response cimport InferResponse

from triton_async.defines import RESPONSE_STATISTICS_MAX

cdef int64_t RESPONSES_MAX = RESPONSE_STATISTICS_MAX


@cython.final
cdef class BatchStatistics:
    """Executions of one batch size."""


@cython.final
cdef class ResponseStatistics:
    """The first, second, ... responses to all requests."""

    cdef Duration compute_infer
    cdef Duration compute_output
    cdef Duration success
    cdef Duration fail
    cdef Duration empty_response
    cdef Duration cancel

    def as_dict(self):
        return {
            "compute_infer": _form(self.compute_infer),
            "compute_output": _form(self.compute_output),
            "success": _form(self.success),
            "fail": _form(self.fail),
            "empty_response": _form(self.empty_response),
            "cancel": _form(self.cancel),
        }


cdef inline void _add(Duration *duration, int64_t start_ns, int64_t end_ns) noexcept:
    duration.count += 1
    if end_ns > start_ns:
        duration.ns += end_ns - start_ns


cdef dict _form(Duration duration):
    return {"count": duration.count, "ns": duration.ns}


@cython.final
cdef class ModelStatistics:
    """Counters of one model version since it was loaded."""

    def __cinit__(self):
        self.batches = {}

    cdef int record_success(self, ta_batch *batch, int64_t rows, int64_t start_ns, int64_t queue_start_ns,
                            int64_t now_ns) except -1:
        _add(&self.success, start_ns, now_ns)
        _add(&self.queue, queue_start_ns, batch.compute_start_ns)
        _add(&self.compute_input, batch.compute_start_ns, batch.compute_input_end_ns)
        _add(&self.compute_infer, batch.compute_input_end_ns, batch.compute_output_start_ns)
        _add(&self.compute_output, batch.compute_output_start_ns, batch.compute_end_ns)
        self.inference_count += rows
        if self.latencies is not None:
            self._note(start_ns, batch.compute_start_ns - queue_start_ns,
                       batch.compute_input_end_ns - batch.compute_start_ns,
                       batch.compute_output_start_ns - batch.compute_input_end_ns,
                       batch.compute_end_ns - batch.compute_output_start_ns, now_ns)
        return 0

    cdef int _note(self, int64_t start_ns, int64_t queue_ns, int64_t input_ns, int64_t infer_ns, int64_t output_ns,
                   int64_t now_ns) except -1:
        cdef Latencies latencies = self.latencies
        latencies.note(PHASE_REQUEST, now_ns - start_ns, now_ns)
        latencies.note(PHASE_QUEUE, queue_ns, now_ns)
        latencies.note(PHASE_COMPUTE_INPUT, input_ns, now_ns)
        latencies.note(PHASE_COMPUTE_INFER, infer_ns, now_ns)
        latencies.note(PHASE_COMPUTE_OUTPUT, output_ns, now_ns)
        return 0

    cdef int record_first(self, int64_t start_ns, int64_t now_ns) except -1:
        if self.latencies is not None:
            self.latencies.note(PHASE_FIRST_RESPONSE, now_ns - start_ns, now_ns)
        return 0

    cdef int record_pass(self, int64_t rows) except -1:
        self.inference_count += rows
        return 0

    cdef int record_ensemble(self, int64_t rows, int64_t start_ns, int64_t queue_start_ns, int64_t begun_ns,
                             const int64_t *spent_ns, int64_t now_ns) except -1:
        cdef BatchStatistics statistics = self.last
        if statistics is None or statistics.rows != rows:
            statistics = self._of(rows)
        self.last_inference_ms = ta_epoch_ms()
        self.execution_count += 1
        self.inference_count += rows
        _add(&self.success, start_ns, now_ns)
        _add(&self.queue, queue_start_ns, begun_ns)
        _add(&self.compute_input, 0, spent_ns[0])
        _add(&self.compute_infer, 0, spent_ns[1])
        _add(&self.compute_output, 0, spent_ns[2])
        _add(&statistics.compute_input, 0, spent_ns[0])
        _add(&statistics.compute_infer, 0, spent_ns[1])
        _add(&statistics.compute_output, 0, spent_ns[2])
        if self.latencies is not None:
            self._note(start_ns, begun_ns - queue_start_ns, spent_ns[0], spent_ns[1], spent_ns[2], now_ns)
        return 0

    cdef int record_hit(self, int64_t start_ns, int64_t lookup_ns, int64_t now_ns) except -1:
        self.last_inference_ms = ta_epoch_ms()
        _add(&self.success, start_ns, now_ns)
        _add(&self.queue, start_ns, lookup_ns)
        _add(&self.cache_hit, lookup_ns, now_ns)
        if self.latencies is not None:
            self.latencies.note(PHASE_REQUEST, now_ns - start_ns, now_ns)
            self.latencies.note(PHASE_QUEUE, lookup_ns - start_ns, now_ns)
            self.latencies.note(PHASE_FIRST_RESPONSE, now_ns - start_ns, now_ns)
            self.latencies.note(PHASE_CACHE_HIT, now_ns - lookup_ns, now_ns)
        return 0

    cdef int record_miss(self, int64_t lookup_ns, int64_t now_ns) except -1:
        _add(&self.cache_miss, lookup_ns, now_ns)
        if self.latencies is not None:
            self.latencies.note(PHASE_CACHE_MISS, now_ns - lookup_ns, now_ns)
        return 0

    cdef int record_insertion(self, int64_t start_ns, int64_t now_ns) except -1:
        self.cache_miss.ns += now_ns - start_ns
        return 0

    cdef int record_failure(self, int reason, int64_t start_ns, int64_t now_ns) except -1:
        self.failures[reason] += 1
        _add(&self.fail, start_ns, now_ns)
        return 0

    cdef int record_response(self, InferResponse response, bint cancelled) except -1:
        cdef ResponseStatistics statistics
        cdef int64_t whole_ns = response.compute_ns + response.output_ns
        if response.number >= RESPONSES_MAX:
            return 0
        if self.responses is None:
            self.responses = []
        while len(self.responses) <= response.number:
            self.responses.append(ResponseStatistics())
        statistics = <ResponseStatistics>self.responses[response.number]
        if cancelled:
            _add(&statistics.cancel, 0, whole_ns)
        elif response.error is not None:
            _add(&statistics.compute_infer, 0, response.compute_ns)
            _add(&statistics.fail, 0, whole_ns)
        elif response.final and not response.outputs:
            _add(&statistics.empty_response, 0, whole_ns)
        else:
            _add(&statistics.compute_infer, 0, response.compute_ns)
            _add(&statistics.compute_output, 0, response.output_ns)
            _add(&statistics.success, 0, whole_ns)
        return 0

    cdef int record_execution(self, ta_batch *batch) except -1:
        cdef BatchStatistics statistics
        self.last_inference_ms = ta_epoch_ms()
        self.execution_count += 1
        statistics = self.last if self.last is not None and self.last.rows == batch.rows else self._of(batch.rows)
        _add(&statistics.compute_input, batch.compute_start_ns, batch.compute_input_end_ns)
        _add(&statistics.compute_infer, batch.compute_input_end_ns, batch.compute_output_start_ns)
        _add(&statistics.compute_output, batch.compute_output_start_ns, batch.compute_end_ns)
        return 0

    cdef BatchStatistics _of(self, int64_t rows):
        self.last = <BatchStatistics>self.batches.get(rows)
        if self.last is None:
            self.last = self.batches[rows] = BatchStatistics()
            self.last.rows = rows
        return self.last

    def as_dict(self, str name, str version):
        """One entry of `model_stats`, fields in Triton's order; durations are {"count", "ns"}."""
        cdef BatchStatistics statistics
        batches = []
        for rows in sorted(self.batches):
            statistics = <BatchStatistics>self.batches[rows]
            batches.append({
                "batch_size": rows,
                "compute_input": _form(statistics.compute_input),
                "compute_infer": _form(statistics.compute_infer),
                "compute_output": _form(statistics.compute_output),
            })
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {
                "success": _form(self.success),
                "fail": _form(self.fail),
                "queue": _form(self.queue),
                "compute_input": _form(self.compute_input),
                "compute_infer": _form(self.compute_infer),
                "compute_output": _form(self.compute_output),
                "cache_hit": _form(self.cache_hit),
                "cache_miss": _form(self.cache_miss),
            },
            "response_stats": {
                str(number): of_number.as_dict() for number, of_number in enumerate(self.responses or ())
            },
            "batch_stats": batches,
            "memory_usage": [],
        }

    def cached(self):
        """For the metrics of a model whose answers are cached: hits, misses, and microseconds of both."""
        return self.cache_hit.count, self.cache_miss.count, self.cache_hit.ns // 1000, self.cache_miss.ns // 1000

    def counters(self):
        """For the metrics: (successes, failures by reason, duration name -> microseconds)."""
        return (
            self.success.count,
            {
                "REJECTED": self.failures[<int>FAIL_REJECTED],
                "CANCELED": self.failures[<int>FAIL_CANCELED],
                "BACKEND": self.failures[<int>FAIL_BACKEND],
                "OTHER": self.failures[<int>FAIL_OTHER],
            },
            {
                "request": self.success.ns // 1000,
                "queue": self.queue.ns // 1000,
                "compute_input": self.compute_input.ns // 1000,
                "compute_infer": self.compute_infer.ns // 1000,
                "compute_output": self.compute_output.ns // 1000,
            },
        )
