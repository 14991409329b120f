# How long a look at the strings of a request takes.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest

# Whether validating it takes longer than the loop has for one client: the elements of BYTES inputs are looked at one by
# one. Any thread with the GIL.
cpdef bint has_many_strings(InferRequest request)

# Bytes of all inputs.
cdef int64_t inputs_nbytes(InferRequest request) noexcept
