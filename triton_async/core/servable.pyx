"""What serves a model version, seen from the front-ends: requests in, responses and releases out. Loop thread."""

import logging
from collections import deque
from functools import partial

from triton_async.core.cache cimport ResponseCache
from triton_async.core.reactor cimport Reactor, Wakeable
from triton_async.core.stats cimport FAIL_CANCELED, ModelStatistics
from triton_async.core.trace cimport trace_end, trace_response
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport (
    AWAITS_DELIVERY,
    AWAITS_FINAL,
    AWAITS_RELEASE,
    REQUEST_DONE,
    REQUEST_NEW,
    InferRequest,
)
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.slab cimport SlabPool

from triton_async.defines import REQUEST_NBYTES as _REQUEST_NBYTES
from triton_async.errors import InternalError, Unavailable

cdef int64_t REQUEST_NBYTES = _REQUEST_NBYTES

log = logging.getLogger("triton_async.core")

cdef int64_t _n_servables = 0


cdef class Servable(Wakeable):
    """A READY model version. `input_pool`: for large request bodies, None for the host's; `ordered`: responses keep the
    order of their requests; `cache`: keeps what is answered; `identity`: what of the model an answer depends on."""

    def __init__(self, Reactor reactor, ModelSignature signature, config, SlabPool input_pool=None,
                 bint ordered=False, ResponseCache cache=None, bytes identity=b""):
        self.reactor = reactor
        self.signature = signature
        self.config = config
        self.input_pool = input_pool
        self.statistics = ModelStatistics()
        if ordered:
            self.ordered = deque()
        global _n_servables
        _n_servables += 1
        self.number = _n_servables
        self.identity = identity
        self.cache = cache
        if cache is not None:
            self.cache_owner = cache.add_owner(identity)

    @property
    def pending(self):
        """Requests that were taken and have not begun (nv_inference_pending_request_count)."""
        return 0

    @property
    def available(self):
        """Whether what is submitted can run, as far as is known: not while all instances are away."""
        return True

    cdef int submit(self, InferRequest request, ResponseSink sink, int64_t now_ns) except -1:
        raise InternalError("this servable takes no requests")

    cdef int cancel(self, InferRequest request, int64_t now_ns) except -1:
        return 0

    cdef list holders(self):
        return None

    cdef list holders_of(self, InferRequest request):
        return self.holders()

    cdef int asks_others(self, int64_t now_ns) except -1:
        return 0

    def goes_on_with(self, InferRequest request):
        """Whether the request belongs to something that has begun, and is to come to its end."""
        return False

    def sequences_left(self):
        """How many sequences have begun and not ended."""
        return 0

    cdef int lend(self, InferRequest request) except -1:
        return 0

    cdef int hold(self) except -1:
        self.holds += 1
        return 0

    cdef int let_go(self) except -1:
        self.holds -= 1
        return self._note_drained()

    cdef int _check_open(self) except -1:
        if self.draining and self.holds == 0:
            raise Unavailable(f"model '{self.signature.model_name}' is being unloaded")
        return 0

    # -- the response cache ------------------------------------------------------------------------

    cdef bint _is_cached(self, InferRequest request, ResponseSink sink, int64_t now_ns, object prepared=None) except -1:
        cdef bytes key = self.cache.key_of(self.cache_owner, request)
        cdef InferResponse response
        if key is None:
            return False
        if self.cache.remote:
            if self.cache.ask(key, partial(self._told, request, key, prepared, now_ns)):
                self._accept(request, sink)
                return True
            response = None
        else:
            response = self.cache.find(key, request, self.signature)
            self.cache.lookup_ns += max(ta_now_ns() - now_ns, 0)
        if response is None:
            request.cache_key = key
            self.statistics.record_miss(now_ns, ta_now_ns())
            return False
        self._accept(request, sink)
        request.state = REQUEST_DONE
        self.statistics.record_hit(request.received_ns or now_ns, now_ns, ta_now_ns())
        # Not yet: inside `submit` the front-end may not be ready for an answer.
        self.reactor.loop.call_soon(self._answer_cached, request, response)
        return True

    def _answer_cached(self, InferRequest request, InferResponse response):
        self._answer(request, response)
        self._free(request)

    # The cache has said what it has.
    def _told(self, InferRequest request, bytes key, prepared, int64_t asked_ns, bytes value):
        cdef InferResponse response = None
        cdef int64_t now_ns
        if request.state != REQUEST_NEW:  # its client has gone meanwhile
            self._drop_prepared(prepared)
            return
        if value is not None:
            response = self.cache.read(value, key, request, self.signature)
        now_ns = ta_now_ns()
        if response is None:
            request.cache_key = key
            self.statistics.record_miss(asked_ns, now_ns)
            self._begin(request, prepared, self.reactor.clock.now_ns())
            return
        self._drop_prepared(prepared)
        request.state = REQUEST_DONE
        self.statistics.record_hit(request.received_ns or asked_ns, asked_ns, now_ns)
        self._answer_cached(request, response)

    cdef int _begin(self, InferRequest request, object prepared, int64_t now_ns) except -1:
        return self._end(request, InternalError("this servable takes no requests"))

    cdef int _drop_prepared(self, object prepared) except -1:
        return 0

    cdef int _cancel_asked(self, InferRequest request, int64_t now_ns) except -1:
        self.statistics.record_failure(FAIL_CANCELED, request.received_ns or now_ns, now_ns)
        return self._end(request, None)

    cdef int _keep(self, InferRequest request, InferResponse response) except -1:
        cdef int64_t start_ns = ta_now_ns()
        cdef int64_t end_ns
        cdef bytes key = request.cache_key
        request.cache_key = None
        if response.error is None and not request.cancelled:
            try:
                self.cache.keep(self.cache_owner, key, response)
            except Exception:  # the answer is there all the same
                log.exception("an answer of model '%s' could not be kept", self.signature.model_name)
            end_ns = ta_now_ns()
            self.cache.insertion_ns += end_ns - start_ns
            self.statistics.record_insertion(start_ns, end_ns)
        return 0

    # -- requests ----------------------------------------------------------------------------------

    cdef int _accept(self, InferRequest request, ResponseSink sink) except -1:
        cdef Tensor tensor
        request.sink = sink
        request.model = self
        request.awaits = AWAITS_FINAL | AWAITS_DELIVERY | AWAITS_RELEASE
        self.in_flight += 1
        request.held_nbytes = REQUEST_NBYTES
        for tensor in request.inputs:
            request.held_nbytes += tensor.nbytes
        self.reactor.held_nbytes += request.held_nbytes
        if self.ordered is not None and not sink.unordered:
            request.place = []
            self.ordered.append(request)
        return 0

    cdef int _disown(self, InferRequest request) except -1:
        request.sink = None
        request.model = None
        request.awaits = 0
        request.state = REQUEST_NEW
        self.in_flight -= 1
        self.reactor.held_nbytes -= request.held_nbytes
        if request.place is not None:
            request.place = None
            self.ordered.remove(request)
        return 0

    # -- responses ---------------------------------------------------------------------------------

    # Passes on now, or keeps the place in line when responses keep the order of their requests.
    cdef int _answer(self, InferRequest request, InferResponse response) except -1:
        cdef InferRequest first
        request.taken += 1
        if response is None or response.final:
            request.awaits &= ~AWAITS_FINAL
        if request.place is None:
            return self._pass_on(request, response)
        request.place.append(response)
        while self.ordered:
            first = <InferRequest>self.ordered[0]
            if not first.place:
                break
            response = <InferResponse>first.place.pop(0)
            if response is None or response.final:
                self.ordered.popleft()
                first.place = None
            self._pass_on(first, response)
        return 0

    cdef int _pass_on(self, InferRequest request, InferResponse response) except -1:
        cdef ResponseSink sink = request.sink  # which it may lose on the way
        if response is not None and not request.cancelled:
            if request.trace is not None:
                trace_response(request.trace, response)
            try:
                sink.deliver(response)
            except Exception:
                log.exception("a front-end failed to take a response")
            if not response.final and not request.cancelled:
                self._hold_back(request)
        if response is None or response.final:
            request.awaits &= ~AWAITS_DELIVERY
            if request.held_back is not None:
                request.relieve()
            return self._leave_if_done(request)
        return 0

    # Behind a response that is not final: whether further ones had better wait.
    cdef int _hold_back(self, InferRequest request) except -1:
        if not request.congested and request.sink.congested():
            request.congested = True
            return request.sink.on_relief(request.resume)
        if request.held_back is not None and not request.congested and not request.crowded():
            return request.relieve()
        return 0

    cdef int _forsake(self, InferRequest request) except -1:
        request.cancelled = True
        if request.held_back is not None:
            request.relieve()
        return self._tell_inner(request)

    # What has become of it matters to requests that were made for its sake.
    cdef int _tell_inner(self, InferRequest request) except -1:
        if request.inner is not None:
            for sink in list(request.inner):
                (<ResponseSink>sink).forsaken(request)
        return 0

    cdef int _free(self, InferRequest request) except -1:
        request.awaits &= ~AWAITS_RELEASE
        try:
            request.sink.released(request)
        except Exception:
            log.exception("a front-end failed to take the release of a request")
        return self._leave_if_done(request)

    cdef int _end(self, InferRequest request, object error) except -1:
        cdef InferResponse response = None
        request.state = REQUEST_DONE
        if error is not None:
            response = InferResponse(request, self.signature.model_name, self.signature.model_version, [], None, error)
        self._answer(request, response)
        return self._free(request)

    cdef int _end_later(self, InferRequest request, object error) except -1:
        request.state = REQUEST_DONE
        self.reactor.loop.call_soon(self._end_now, request, error)
        return 0

    def _end_now(self, InferRequest request, error):
        self._end(request, error)

    cdef int _leave_if_done(self, InferRequest request) except -1:
        if request.awaits:
            return 0
        request.state = REQUEST_DONE
        if request.trace is not None:
            trace_end(request)
        if request.held_back is not None:
            request.relieve()
        request.sink = None
        request.model = None
        request.batch = None
        self.in_flight -= 1
        self.reactor.held_nbytes -= request.held_nbytes
        self._tell_inner(request)
        return self._note_drained()

    cdef int _note_drained(self) except -1:
        if not self.draining or self.in_flight or self.holds or self._has_lent():
            return 0
        if not self.drained.done():
            self.drained.set_result(None)
        return 0

    cdef int _call_in(self) except -1:
        return 0

    cdef bint _has_lent(self) noexcept:
        return False

    def asked_for_readiness(self):
        """Who says whether it is ready, beside being READY, for core.readiness."""
        return []

    # -- end ---------------------------------------------------------------------------------------

    def follow(self, Servable old):
        """It takes the place of an earlier load, before that is drained."""

    async def drain(self):
        """Refuses new requests and waits until none is in flight. Call once."""
        self.draining = True
        self.drained = self.reactor.loop.create_future()
        self._call_in()
        self._note_drained()
        await self.drained
        self.reactor.arm(self, 0)

    def interrupt(self):
        """Asks the engines to give up what they run, as far as they can: its requests fail soon."""

    def take_instances(self):
        """Gives up the instances, for their shutdown, after `drain`, and the answers that were kept."""
        if self.cache is not None:
            self.cache.drop_owner(self.cache_owner)
            self.cache = None
        return []
