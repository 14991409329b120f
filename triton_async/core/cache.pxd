# The response cache: answers of models, by what was asked. Loop thread.

from libc.stdint cimport int64_t

from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

cdef enum:
    DIGEST_NBYTES = 16           # of a key: chance and ill will both find no two requests of one

# What a servable sees of it.
cdef class ResponseCache:
    cdef readonly bint remote            # answers have to be asked for: `ask` and `read`, not `find`
    cdef dict owners                     # number of a loaded version -> what its keys begin with; None: it has none
    cdef int64_t last_owner
    # Since the server began, for the metrics.
    cdef readonly int64_t hits
    cdef readonly int64_t misses
    cdef readonly int64_t evictions      # to make room
    cdef public int64_t lookup_ns        # by who asks and who keeps
    cdef public int64_t insertion_ns

    # A number for a loaded version, under which its entries stand. `identity`: what distinguishes it from others, for
    # who shares its answers with other processes; b"": nothing does.
    cdef int64_t add_owner(self, bytes identity) except -1
    # The key of a request that is valid; None for one that is not cached: too large, on a GPU, with outputs in regions.
    cdef bytes key_of(self, int64_t owner, InferRequest request)
    # The answer to `request`, or None.
    cdef InferResponse find(self, bytes key, InferRequest request, ModelSignature signature)
    # Has `told(value)` called with what is kept under the key, None for nothing: once, behind this call, within a short
    # bounded time. False: nobody can be asked, and it is not called.
    cdef bint ask(self, bytes key, object told) except -1
    # The answer that a value is; None where it is none to this request.
    cdef InferResponse read(self, bytes value, bytes key, InferRequest request, ModelSignature signature)
    # Keeps the answer, if it is one to keep: a success, in host memory, not too large.
    cdef int keep(self, int64_t owner, bytes key, InferResponse response) except -1
    # The version is gone.
    cdef int drop_owner(self, int64_t owner) except -1

# In this process: the least recently used answer goes first.
#
# Invariants
#   - nbytes is the sum of `entries`, and at most `budget_nbytes`
#   - every key of `entries` is in the set of its owner in `keys`, and nothing else is
cdef class LocalCache(ResponseCache):
    cdef readonly int64_t budget_nbytes
    cdef readonly int64_t nbytes         # of all entries, with what they take beside their tensors
    cdef object entries                  # OrderedDict: key -> Entry, the least recently used first
    cdef dict keys                       # number of a loaded version -> set of its keys

# Whether a response is one to keep at all.
cdef bint is_kept(InferResponse response) noexcept
