# When requests are to be served, where those that are due first go first.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest

# When it is to be served: its client's deadline, its queue timeout or what its client asked for as that, whichever is
# the first, and at the latest ORDER_HORIZON_NS after it came.
cdef int64_t serve_by_ns(InferRequest request) noexcept
# Whether `one` is to be served before `other`.
cdef bint served_before(InferRequest one, InferRequest other) noexcept
