"""ModelStreamInfer without its transport: requests in, ordered answers out, and how much of both waits. Loop thread."""

from collections import deque
from functools import partial

from libc.stdint cimport int64_t

from triton_async.core.server cimport InferenceServer
from triton_async.frontends.grpc.abandoned cimport forget
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport REQUEST_RUNNING, InferRequest, Origin
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.strings cimport has_many_strings, inputs_nbytes
from triton_async.memory.buffer cimport Buffer, wrap
from triton_async.protocol.grpc_codec cimport decode, is_long_message
from triton_async.protocol.grpc_encode cimport ENVELOPE_STREAM, choose_outputs, encode, is_long_choice

import logging

from triton_async.defines import (
    GRPC_CONGESTED_NBYTES, GRPC_MAX_HELD_NBYTES, GRPC_MAX_STREAM_ANSWERS, GRPC_MAX_STREAM_REQUESTS,
)
from triton_async.errors import ServerError, Unavailable
from triton_async.logs import access, with_id
from triton_async.protocol.grpc_codec import decode_request, request_id, requested_model
from triton_async.protocol.grpc_encode import chosen_outputs, encode_stream_failure, encode_stream_refusal
from triton_async.protocol.wire import Malformed

cdef Py_ssize_t _SLOTS_MAX = GRPC_MAX_STREAM_REQUESTS
cdef Py_ssize_t _ANSWERS_MAX = GRPC_MAX_STREAM_ANSWERS
log = logging.getLogger("triton_async.grpc")

cdef int _DEBUG = logging.DEBUG
cdef int64_t _HELD_MAX = GRPC_MAX_HELD_NBYTES
cdef int64_t _CONGESTED = GRPC_CONGESTED_NBYTES


cdef class Slot(ResponseSink):
    cdef int deliver(self, InferResponse response) except -1:
        cdef StreamRequests requests = self.requests
        if response.final:
            self.request = None
        return 0 if requests is None else requests.arrived(self, response)

    cdef int released(self, object request) except -1:
        return forget(<InferRequest>request)

    cdef bint congested(self) except -1:
        return self.requests is not None and self.requests.congested()

    cdef int on_relief(self, object resume) except -1:
        if self.requests is None:
            return ResponseSink.on_relief(self, resume)
        if self.requests.held_back is None:
            self.requests.held_back = []
        self.requests.held_back.append(resume)
        return 0


cdef class StreamRequests:
    """Of one call."""

    def __init__(self, InferenceServer server, bint ends_on_error, int64_t end_by_ns, int64_t max_waiting):
        self.max_waiting = min(max_waiting, _SLOTS_MAX)
        self.server = server
        self.ends_on_error = ends_on_error
        self.end_by_ns = end_by_ns
        self.slots = set()
        self.order = deque()
        self.unsent = deque()

    cdef int write(self, list parts, int64_t nbytes) except -1:
        self.on_answer(parts, nbytes)
        return 0

    cdef int fail(self, object error) except -1:
        self.on_failure(error)
        return 0

    cdef int changed(self) except -1:
        self.on_change()
        return 0

    # -- for a lane written in Python --------------------------------------------------------------

    def submit_message(self, message):
        """`submit`."""
        self.submit(message if isinstance(message, Buffer) else wrap(message))

    @property
    def may_read(self):
        """`has_room`."""
        return self.has_room()

    @property
    def unanswered(self):
        """Requests that are not finally answered."""
        return len(self.slots)

    def answers_sent(self, int64_t nbytes):
        """`note_sent`."""
        self.note_sent(nbytes)

    def take_requests(self):
        """`close`."""
        return self.close()

    def client_left(self):
        """`forsake`."""
        self.forsake()

    # -- requests ----------------------------------------------------------------------------------

    cdef int submit(self, Buffer message) except -1:
        cdef Slot slot = Slot.__new__(Slot)
        slot.requests = self
        self.slots.add(slot)
        try:
            if is_long_message(message):
                decoding = partial(decode_request, message, ta_now_ns())
                return self._look_elsewhere(slot, message, message.nbytes, decoding, self.server.regions)
            return self._submit(slot, message, decode(message, ta_now_ns(), self.server.regions))
        except Exception as error:
            return self._refuse(slot, message, error)

    cdef int _look_elsewhere(self, Slot slot, Buffer message, int64_t nbytes, object function, object on) except -1:
        self.server.hold(nbytes)
        self.held_nbytes = nbytes
        work = self.server.loop.run_in_executor(None, function, on)
        work.add_done_callback(partial(self._looked, slot, message))
        return 0

    def _looked(self, Slot slot, Buffer message, work):
        self.server.release(self.held_nbytes)
        self.held_nbytes = 0
        if slot.requests is None:
            work.exception()  # nobody waits any more
            return
        try:
            self._submit(slot, message, work.result())
        except Exception as error:
            self._refuse(slot, message, error)
        if self.held_nbytes == 0 and not self.ended:
            self.changed()

    cdef int _submit(self, Slot slot, Buffer message, InferRequest request) except -1:
        request.end_by_ns = self.end_by_ns
        if request.sequence_id:
            if self.origin is None:
                self.origin = Origin()
            request.origin = self.origin
        slot.wants_empty_final = request.context is True
        slot.signature = self.server.find(request.model_name, request.model_version).signature
        if request.fits is not slot.signature and has_many_strings(request):
            return self._look_elsewhere(slot, message, inputs_nbytes(request), slot.signature.validated, request)
        if not slot.signature.decoupled:
            slot.in_order = True
            self.order.append(slot)
        request.trace_parent = self.fields
        if self.forward is not None:
            self.forward(request)
        self.server.submit_request(request, slot)
        slot.request = request
        if request.trace is not None:
            slot.trace = request.trace
            slot.trace.note("GRPC_WAITREAD_START", request.received_ns)
            slot.trace.note("GRPC_WAITREAD_END", request.received_ns)
        return 0

    cdef int _refuse(self, Slot slot, Buffer message, object error) except -1:
        if not isinstance(error, ServerError) or isinstance(error, Malformed):
            # What follows on the stream cannot be trusted either.
            return self._fail(error)
        if not slot.in_order:
            self.order.append(slot)
        slot.refused = message
        slot.outcome = error
        self._advance()
        return self.changed()

    cdef bint has_room(self) except -1:
        return (
            self.held_nbytes == 0
            and len(self.slots) + len(self.unsent) < _SLOTS_MAX
            and self.written_nbytes - self.sent_nbytes < _HELD_MAX
        )

    cdef bint is_executing(self) except -1:
        cdef Slot slot
        for slot in self.slots:
            if slot.request is not None and slot.request.state == REQUEST_RUNNING:
                return True
        return False

    # -- answers -----------------------------------------------------------------------------------

    cdef int arrived(self, Slot slot, InferResponse response) except -1:
        if slot.behind is None and (response.error is not None or not is_long_choice(response)):
            return self._answer_next(slot, response)
        if slot.behind is None:
            slot.behind = deque()
            self._choose(slot, response)
        else:
            slot.behind.append(response)
        self.n_behind += 1
        return 0

    # Has another thread look for the classes of a response. Those behind it wait.
    def _choose(self, Slot slot, InferResponse response):
        work = self.server.loop.run_in_executor(None, chosen_outputs, response, slot.signature)
        work.add_done_callback(partial(self._chosen, slot, response))

    def _chosen(self, Slot slot, InferResponse response, work):
        slot.chosen = work.exception() or work.result()
        if slot.behind is None:
            return  # nobody waits any more
        self.n_behind -= 1
        self._answer_next(slot, response)
        while slot.behind:
            response = slot.behind.popleft()
            if response.error is None and is_long_choice(response):
                self._choose(slot, response)
                return
            self.n_behind -= 1
            self._answer_next(slot, response)
        slot.behind = None

    cdef int _answer_next(self, Slot slot, InferResponse response) except -1:
        if slot.signature.decoupled:
            self._send(slot, response)
        else:
            slot.outcome = response
            self._advance()
        return self.changed()

    cdef int _advance(self) except -1:
        cdef Slot slot
        while self.order and (<Slot>self.order[0]).outcome is not None:
            slot = self.order.popleft()
            outcome, slot.outcome = slot.outcome, None
            self._send(slot, outcome)
        return 0

    # What goes wrong with one answer must not leave the client waiting for it.
    cdef int _send(self, Slot slot, object outcome) except -1:
        if self.ended:
            return 0
        try:
            if slot.trace is None:
                return self._answer(slot, outcome)
            slot.trace.note("GRPC_SEND_START", ta_now_ns())
            self._answer(slot, outcome)
            slot.trace.note("GRPC_SEND_END", ta_now_ns())
            if slot.requests is None:
                slot.trace = None
            return 0
        except Exception as error:
            return self._fail(error)

    cdef int _answer(self, Slot slot, object outcome) except -1:
        cdef InferResponse response
        cdef bint final = True
        error = outcome
        if isinstance(outcome, InferResponse):
            response = <InferResponse>outcome
            final = response.final
            error = response.error
            self.request_id = (<InferRequest>response.request).id
            self.model = (<InferRequest>response.request).model_name
            self.asked_ns = (<InferRequest>response.request).received_ns
        elif access.on or log.isEnabledFor(_DEBUG):
            self.request_id = None if slot.refused is None else request_id(slot.refused)
            self.model = None if slot.refused is None else requested_model(slot.refused)
            self.asked_ns = 0
        if final:
            slot.requests = None
            self.slots.discard(slot)
        elif len(self.unsent) + self.n_behind >= _ANSWERS_MAX or self.written_nbytes - self.sent_nbytes >= _HELD_MAX:
            raise Unavailable("too many responses wait for this client")
        if error is None:
            if final and slot.signature.decoupled and not response.outputs and not slot.wants_empty_final:
                return 0
            outputs, slot.chosen = slot.chosen, None
            try:
                if isinstance(outputs, Exception):
                    raise outputs
                if outputs is None:
                    outputs = choose_outputs(response, slot.signature)
                return self._write(encode(response, outputs, ENVELOPE_STREAM))
            except ServerError as failure:
                error = failure
        if log.isEnabledFor(_DEBUG):
            log.debug("a request on a stream failed: %s", with_id(self.request_id or "", error.message))
        if self.ends_on_error:
            raise error
        if outcome is error:
            return self._write([encode_stream_refusal(error.message, request_id(slot.refused))])
        if response.refused:
            return self._write([encode_stream_refusal(error.message, self.request_id)])
        return self._write([encode_stream_failure(error.message, outcome)])

    cdef int _write(self, list parts) except -1:
        cdef int64_t nbytes = 0
        for part in parts:
            nbytes += len(part)
        self.written_nbytes += nbytes
        self.unsent.append(self.written_nbytes)
        return self.write(parts, nbytes)

    cdef int note_sent(self, int64_t nbytes) except -1:
        self.sent_nbytes = nbytes
        while self.unsent and self.unsent[0] <= nbytes:
            self.unsent.popleft()
        if self.held_back is not None and (
            len(self.unsent) + self.n_behind <= self.max_waiting // 2
            and self.written_nbytes - nbytes <= _CONGESTED // 2
        ):
            self._relieve()
        return 0

    cdef bint congested(self) except -1:
        return (
            len(self.unsent) + self.n_behind >= self.max_waiting
            or self.written_nbytes - self.sent_nbytes >= _CONGESTED
        )

    cdef int _relieve(self) except -1:
        cdef list held_back = self.held_back
        self.held_back = None
        if held_back is not None:
            for resume in held_back:
                self.server.loop.call_soon(resume)
        return 0

    # -- end ---------------------------------------------------------------------------------------

    cdef int _fail(self, object error) except -1:
        if self.ended:
            return 0
        self.ended = True
        return self.fail(error)

    cdef int forsake(self) except -1:
        return 0 if self.origin is None else self.origin.gone()

    cdef list close(self):
        cdef list left = []
        cdef Slot slot
        for slot in self.slots:
            # Slots point back at this: what they hold must not wait for the garbage collector.
            slot.requests = None
            slot.outcome = slot.chosen = slot.behind = None
            slot.trace = None
            if slot.request is not None:
                left.append(slot.request)
                slot.request = None
        self.ended = True
        self.slots = set()
        self.order = deque()
        self.unsent = deque()
        self._relieve()
        return left
