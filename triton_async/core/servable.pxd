# What a front-end holds for a model version: takes requests, answers and releases them, can be drained.

from libc.stdint cimport int64_t

from triton_async.core.cache cimport ResponseCache
from triton_async.core.reactor cimport Reactor, Wakeable
from triton_async.core.stats cimport ModelStatistics
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.slab cimport SlabPool

# Loop thread. Time is an argument. Implementations say what `submit`, `cancel` and `turn` do.
#
# A request belongs to the servable from `submit` until nothing is awaited for it any more (request.awaits): its final
# response was passed on, its inputs are free, and the execution that it was part of is over.
#
# Invariants
#   - in_flight == the requests whose `model` it is
#   - a sink gets one final response unless its request is cancelled, none behind that, and one `released`
#   - with `ordered`, responses are passed on in the order of the requests
cdef class Servable(Wakeable):
    cdef readonly ModelSignature signature
    cdef readonly object config          # config.ModelConfig
    cdef readonly SlabPool input_pool    # for large request bodies; None: the host's
    cdef readonly ModelStatistics statistics
    cdef readonly int64_t in_flight
    cdef Reactor reactor
    cdef object ordered                  # deque of requests when responses keep their order, else None
    cdef readonly ResponseCache cache    # None: its answers are not kept
    cdef readonly int64_t number         # of this load of it, among all of the process
    cdef readonly bytes identity         # what its answers depend on, apart from requests; b"": not known
    cdef int64_t cache_owner             # whose entries its answers are
    cdef int64_t holds                   # of who still has requests for it, which it takes while it is draining, too
    cdef bint draining
    cdef object drained                  # future, while draining

    # Validates and takes a request. Takes ownership iff it returns; the sink then gets its responses and its release.
    # Raises ServerError and leaves the request alone otherwise.
    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1
    # The client is gone: a request that has not begun is dropped, the responses of a running one are discarded. Does
    # nothing for a request that is not this servable's.
    cdef int cancel(self, InferRequest request, int64_t now_ns) except -1

    # The executions one of which has to end before a request that waits here can begin; None: it can without.
    cdef list holders(self)
    # The same for this request alone.
    cdef list holders_of(self, InferRequest request)
    # One of its executions waits for another request: from now on none is begun, or kept, behind one that runs.
    cdef int asks_others(self, int64_t now_ns) except -1
    # The execution that has this request waits: the resources that it holds are free for others, to its end.
    cdef int lend(self, InferRequest request) except -1

    # Someone will have requests for it for a while, for the sake of one that was taken already (a step of an ensemble):
    # its draining waits for them, and they are taken. To be ended with `let_go`.
    cdef int hold(self) except -1
    cdef int let_go(self) except -1

    # -- for implementations
    # Unavailable while it takes no requests.
    cdef int _check_open(self) except -1
    # Takes a valid request whose answer is in the cache, or one that waits for what the cache says: `_begin` goes on
    # with that, and `prepared`, if it is not there. Else it notes the key, under which the answer is to be kept.
    cdef bint _is_cached(self, InferRequest request, ResponseSink sink, int64_t now_ns, object prepared=*) except -1
    # Goes on with a request that was taken before the cache was asked, and lets go of what was prepared for one with
    # which it does not go on. The first answers for what it raises.
    cdef int _begin(self, InferRequest request, object prepared, int64_t now_ns) except -1
    cdef int _drop_prepared(self, object prepared) except -1
    # Ends a request that waits for what the cache says, because its client has gone.
    cdef int _cancel_asked(self, InferRequest request, int64_t now_ns) except -1
    cdef int _keep(self, InferRequest request, InferResponse response) except -1
    # A request is taken; and given back before anything has happened to it.
    cdef int _accept(self, InferRequest request, ResponseSink sink) except -1
    cdef int _disown(self, InferRequest request) except -1
    # The engine's final response is here, or another one. None for a request that is not answered any more.
    cdef int _answer(self, InferRequest request, InferResponse response) except -1
    # Its inputs are free.
    cdef int _free(self, InferRequest request) except -1
    # All three at once, of a request that no engine has: DONE, answered with `error`, or not at all when that is None.
    cdef int _end(self, InferRequest request, object error) except -1
    # The same later in this turn of the loop: inside `submit` the front-end may not be ready for an answer yet.
    cdef int _end_later(self, InferRequest request, object error) except -1

    # A request is cancelled: nobody holds its responses back any more, and what was asked for its sake is not wanted.
    cdef int _forsake(self, InferRequest request) except -1
    cdef int _tell_inner(self, InferRequest request) except -1
    cdef int _hold_back(self, InferRequest request) except -1
    cdef int _pass_on(self, InferRequest request, InferResponse response) except -1
    cdef int _leave_if_done(self, InferRequest request) except -1
    cdef int _note_drained(self) except -1
    # Lends nothing any more (core.lending); whether something that it has lent is not back yet.
    cdef int _call_in(self) except -1
    cdef bint _has_lent(self) noexcept
