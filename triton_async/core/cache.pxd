# The response cache: answers of models, by what was asked. Loop thread.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

# Invariants
#   - nbytes is the sum of `entries`, and at most `budget_nbytes`
#   - every key of `entries` is in the set of its owner in `owners`, and nothing else is
cdef class ResponseCache:
    cdef readonly int64_t budget_nbytes
    cdef readonly int64_t nbytes         # of all entries, with what they take beside their tensors
    cdef object entries                  # OrderedDict: key -> Entry, the least recently used first
    cdef dict owners                     # number of a loaded version -> set of its keys
    cdef int64_t last_owner

    # A number for a loaded version, under which its entries stand.
    cdef int64_t add_owner(self) except -1
    # The key of a request that is valid; None for one that is not cached: too large, on a GPU, with outputs in regions.
    cdef bytes key_of(self, int64_t owner, InferRequest request)
    # The answer to `request`, or None.
    cdef InferResponse find(self, bytes key, InferRequest request, ModelSignature signature)
    # Keeps the answer, if it is one to keep: a success, in host memory, not too large.
    cdef int keep(self, int64_t owner, bytes key, InferResponse response) except -1
    # Forgets all entries of a version, for good.
    cdef int drop_owner(self, int64_t owner) except -1
