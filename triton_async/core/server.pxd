# The server as front-ends see it.

from libc.stdint cimport int64_t

from triton_async.core.reactor cimport Reactor
from triton_async.core.servable cimport Servable
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport ResponseSink
from triton_async.memory.slab cimport SlabPool
from triton_async.memory.regions cimport RegionRegistry

# Loop thread.
cdef class InferenceServer:
    cdef readonly str id
    cdef readonly str version
    cdef readonly tuple extensions
    cdef readonly object repository
    cdef readonly SlabPool pool      # where front-ends lease room for what they receive
    # For large messages whose model is not known yet: that of a READY model which likes one of its own, else `pool`.
    cdef readonly SlabPool large_pool
    cdef readonly RegionRegistry regions  # what front-ends lease the memory from that requests name
    cdef object settings
    cdef object host
    cdef object loop
    cdef Reactor reactor
    cdef public int64_t max_held_nbytes  # of requests in flight; beyond it further ones are refused
    cdef readonly int64_t share_nbytes   # that each budget of a front-end may have of the process's memory
    cdef object metrics
    cdef object readiness            # who asks models that say themselves if they are ready
    cdef dict latest                 # model name -> Servable, the highest READY version
    cdef dict versions               # (model name, version) -> Servable
    cdef dict served                 # model name -> its versions in `versions`
    cdef dict input_pools            # (model name, version) -> SlabPool, of the models that have one
    cdef object traces               # core.tracing.Tracing
    cdef readonly object tracing     # the same while any model is traced, else None
    cdef readonly bint reads_context  # front-ends are to say which headers a request came with (trace_parent)
    cdef int state                   # ServerState
    cdef set readiness_waiters       # futures of those that watch readiness

    # The version that serves `name`; version -1: the highest READY one. Raises what the lookup table of Triton
    # says (InvalidArg, NotFound, Unavailable).
    cdef Servable find(self, str name, int64_t version)

    # The same without an error, for a thread that would run the request itself: None where it has to take the ordinary
    # way. Any thread with the GIL, which it keeps.
    cdef Servable at_once(self, str name, int64_t version)

    # Takes ownership of `request` iff it returns; `sink` then gets its responses, the last one final, later, on the
    # loop, unless the request is cancelled, and in any case one `released`. Raises ServerError otherwise; the request
    # is untouched. `model`: what `find` has said of it, a moment ago or before its body came.
    cdef int submit_request(self, InferRequest request, ResponseSink sink, Servable model=*) except -1

    cdef int _trace(self, InferRequest request, Servable model) except -1

    # The client is gone: drops a request that has not begun, discards the responses of a running one. Idempotent.
    # Bytes of a request that is on its way to be one: counted with those in flight until they are released. Overloaded.
    cdef int hold(self, int64_t nbytes) except -1
    cdef int release(self, int64_t nbytes) except -1

    cdef int cancel_request(self, InferRequest request) except -1
