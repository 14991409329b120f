"""Earliest deadline first: when a request is to be served. Loop thread."""

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.request cimport InferRequest

from triton_async.defines import ORDER_HORIZON_NS

cdef int64_t HORIZON_NS = ORDER_HORIZON_NS


cdef int64_t serve_by_ns(InferRequest request) noexcept:
    cdef int64_t at_ns = request.queue_start_ns + HORIZON_NS
    if request.timeout_us and request.timeout_us < <uint64_t>HORIZON_NS // 1000:
        at_ns = request.queue_start_ns + <int64_t>request.timeout_us * 1000
    if request.deadline_ns:
        at_ns = min(at_ns, request.deadline_ns)
    if request.end_by_ns:
        at_ns = min(at_ns, request.end_by_ns)
    return at_ns


cdef bint served_before(InferRequest one, InferRequest other) noexcept:
    cdef int64_t at_ns = serve_by_ns(one)
    cdef int64_t other_ns = serve_by_ns(other)
    return at_ns < other_ns or (at_ns == other_ns and one.arrival < other.arrival)
