"""ModelInfer without a task: bytes to the codec, the request to the server, the response to the stream. Loop thread."""

import logging
from functools import partial

from libc.stdint cimport int64_t, uint32_t

from triton_async.core.server cimport InferenceServer
from triton_async.frontends.grpc.express.session cimport ExpressSession, Lane
from triton_async.frontends.grpc.abandoned cimport forget
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport REQUEST_RUNNING, InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.strings cimport has_many_strings, inputs_nbytes
from triton_async.infer.trace cimport Trace
from triton_async.memory.buffer cimport Buffer
from triton_async.protocol.grpc_codec cimport decode, is_long_message
from triton_async.protocol.grpc_encode cimport ENVELOPE_UNARY, choose_outputs, encode, is_long_choice
from triton_async.protocol.grpc_message cimport (
    GRPC_DEADLINE_EXCEEDED, GRPC_INTERNAL, GRPC_RESOURCE_EXHAUSTED, GRPC_UNIMPLEMENTED, MessageReader,
)
from triton_async.protocol.http2 cimport STREAM_ANSWERING, STREAM_CLOSED, STREAM_OPEN, Http2Stream
from triton_async.protocol.http2_output cimport HeaderBlock

from grpclib.const import Status

from triton_async.defines import GRPC_MAX_RECEIVING_NBYTES
from triton_async.errors import ServerError, Unsupported
from triton_async.frontends.entry import forward
from triton_async.frontends.grpc import compression
from triton_async.frontends.grpc.status import status_of, trailers
from triton_async.logs import access, with_id
from triton_async.protocol.grpc_codec import decode_request, requested_model
from triton_async.protocol.grpc_encode import chosen_outputs
from triton_async.protocol.grpc_message import MessageError

log = logging.getLogger("triton_async.grpc")

cdef int _DEBUG = logging.DEBUG

cdef int64_t _RECEIVING_MAX = GRPC_MAX_RECEIVING_NBYTES

_HEAD = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", compression.ACCEPTED.encode()),
]
HEAD = HeaderBlock(_HEAD, True)
OK = HeaderBlock([(b"grpc-status", b"0")], True)


cdef class ExpressCall(Http2Stream):
    """A call without a task."""

    cdef ExpressSession connection(self):
        return <ExpressSession>self.session

    cdef int on_open(self) except -1:
        cdef int64_t left_ns = self.end_by_ns - self.session.now_ns
        if self.end_by_ns:
            self.timer = self.connection().lane.loop.call_later(1e-9 * left_ns, self._on_deadline)
        return 0

    def _on_deadline(self):
        self.fail(GRPC_DEADLINE_EXCEEDED, "Deadline Exceeded")

    cdef int note_receiving(self, int64_t nbytes) except -1:
        cdef ExpressSession connection = self.connection()
        if nbytes and not self.receiving_nbytes and not self.end_by_ns:
            self._watch_pace(nbytes)
        connection.receiving_nbytes += nbytes - self.receiving_nbytes
        connection.lane.receiving_nbytes += nbytes - self.receiving_nbytes
        self.receiving_nbytes = nbytes
        if nbytes and connection.receiving_nbytes > _RECEIVING_MAX:
            raise MessageError(GRPC_RESOURCE_EXHAUSTED, "too many bytes of unfinished messages on one connection")
        if nbytes and connection.lane.receiving_nbytes > connection.lane.max_receiving_nbytes:
            raise MessageError(GRPC_RESOURCE_EXHAUSTED, "too many bytes of unfinished messages")
        return 0

    # A message has begun that did not come in one piece. One timer serves all of a stream.
    cdef int _watch_pace(self, int64_t nbytes) except -1:
        self.pace_ns = self.session.now_ns
        self.pace_nbytes = nbytes
        if self.timer is None:
            self.timer = self.connection().lane.loop.call_later(self.connection().lane.message_timeout_s, self._on_pace)
        return 0

    def _on_pace(self):
        cdef Lane lane = self.connection().lane
        cdef int64_t now_ns = ta_now_ns()
        cdef double left_s = lane.message_timeout_s - 1e-9 * (now_ns - self.pace_ns)
        self.timer = None
        if self.receiving_nbytes == 0:
            return
        if left_s <= 0:
            if self.receiving_nbytes - self.pace_nbytes < lane.message_pace_nbytes and not self.holds_back():
                self.fail(GRPC_DEADLINE_EXCEEDED, "timed out waiting for the request message")
                return
            self.pace_ns = now_ns
            self.pace_nbytes = self.receiving_nbytes
            left_s = lane.message_timeout_s
        self.timer = lane.loop.call_later(left_s, self._on_pace)

    cdef bint holds_back(self) noexcept:
        return False

    cdef object room(self, int64_t nbytes):
        return None if self.reader is None else self.reader.room(nbytes)

    cdef int about(self, InferRequest request) except -1:
        self.request_id = request.id
        self.model = asked_model(request)
        self.asked_ns = request.received_ns
        return 0

    # Who is interested hears of it; what was asked for, as far as that is known.
    cdef int note(self, str outcome, int64_t nbytes, int64_t began_ns, str model, str request_id="") except -1:
        if access.on:
            access.note((<object>self.connection()).peer(), f"{self.rpc()} {model}".rstrip(), outcome, nbytes,
                        began_ns or ta_now_ns(), request_id=request_id)
        return 0

    cdef str rpc(self):
        return "refused"

    cdef int fail(self, int status, str message) except -1:
        cdef list fields = [(name.encode(), value.encode()) for name, value in trailers(Status(status), message)]
        if self.state == STREAM_OPEN or self.state == STREAM_ANSWERING:
            if log.isEnabledFor(_DEBUG):
                log.debug("%s failed with %s: %s", self.rpc(), Status(status).name,
                          with_id(self.request_id or "", message))
            self.note(Status(status).name, 0, self.asked_ns, self.model or "", self.request_id or "")
        if self.state == STREAM_OPEN:
            self.send_head(HeaderBlock(_HEAD + fields), True)
        elif self.state == STREAM_ANSWERING:
            self.send_trailers(HeaderBlock(fields))
        return self.release()

    cdef int fail_with(self, object error) except -1:
        if isinstance(error, ServerError):
            return self.fail(status_of(error).value, error.message)
        if isinstance(error, MessageError):
            return self.fail(error.status, error.message)
        log.error("gRPC call failed", exc_info=error)
        return self.fail(GRPC_INTERNAL, "Internal server error")

    cdef int release(self) except -1:
        self.reader = None
        if self.receiving_nbytes:
            self.note_receiving(0)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    cdef int drain(self) except -1:
        return 0

    cdef int on_close(self, uint32_t error_code) except -1:
        return self.release()


cdef class RefusedCall(ExpressCall):
    """Answers at once and lets the payload go by."""

    cdef int on_open(self) except -1:
        return self.fail(self.status, self.message)


cdef class UnaryInfer(ExpressCall):
    """One request, one response."""

    cdef str rpc(self):
        return "ModelInfer"

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        cdef size_t used
        self.consume(nbytes)
        if self.state != STREAM_OPEN or nbytes == 0:
            return 0
        try:
            if self.message is None:
                if self.reader is None:
                    self.reader = MessageReader(self.connection().lane.server.pool)
                    self.reader.large_pool = self.connection().lane.server.large_pool
                self.message = self.reader.feed(data, nbytes, &used)
                if used == nbytes:
                    # A message that came in one piece is soon decoded.
                    return 0 if self.message is not None else self.note_receiving(max(self.reader.received, 1))
            raise MessageError(GRPC_UNIMPLEMENTED, "unary call with more than one request message")
        except Exception as error:
            return self.fail_with(error)

    cdef bint forgives_reset(self, int64_t now_ns) except -1:
        if self.held_nbytes or self.response is not None or (
            self.request is not None and self.request.state == REQUEST_RUNNING
        ):
            return True
        return ExpressCall.forgives_reset(self, now_ns)

    cdef int on_end(self) except -1:
        if self.state != STREAM_OPEN:
            return 0
        if self.message is not None:
            return self.submit()
        if self.reader is not None and self.reader.inside():
            return self.fail(GRPC_INTERNAL, "stream ended inside a message")
        return self.fail(GRPC_UNIMPLEMENTED, "unary call without a request message")

    cdef int submit(self) except -1:
        cdef Buffer message = self.message
        cdef InferRequest request = None
        self.message = None
        if self.receiving_nbytes:
            # It has come to its end, and however long it is run, nothing of it is waited for any more.
            self.note_receiving(0)
        try:
            if is_long_message(message):
                decoding = partial(decode_request, message, ta_now_ns())
                return self._look_elsewhere(message, message.nbytes, decoding, self.connection().lane.server.regions)
            request = decode(message, ta_now_ns(), self.connection().lane.server.regions)
            return self._submit(request)
        except Exception as error:
            return self._refuse(request, error, message)

    cdef int _look_elsewhere(self, Buffer message, int64_t nbytes, object function, object argument) except -1:
        cdef InferenceServer server = self.connection().lane.server
        server.hold(nbytes)
        self.held_nbytes = nbytes
        work = server.loop.run_in_executor(None, function, argument)
        work.add_done_callback(partial(self._looked, server, message))
        return 0

    def _looked(self, InferenceServer server, Buffer message, work):
        cdef InferRequest request = None
        server.release(self.held_nbytes)
        self.held_nbytes = 0
        if self.state != STREAM_OPEN:
            work.exception()  # nobody waits any more
            return
        try:
            request = work.result()
            self._submit(request)
        except Exception as error:
            self._refuse(request, error, message)

    cdef int _refuse(self, InferRequest request, object error, Buffer message=None) except -1:
        if request is not None:
            self.about(request)
        elif access.on and message is not None:
            self.model = requested_model(message)
        return self.fail_with(error)

    cdef int _submit(self, InferRequest request) except -1:
        cdef InferenceServer server = self.connection().lane.server
        cdef UnarySink sink
        request.end_by_ns = self.answer_by_ns
        self.signature = server.find(request.model_name, request.model_version).signature
        if self.signature.decoupled:
            raise Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        if request.fits is not self.signature and has_many_strings(request):
            return self._look_elsewhere(None, inputs_nbytes(request), self.signature.validated, request)
        if self.forwarded:
            forward(request, self.forwarded)
        sink = UnarySink.__new__(UnarySink)
        sink.call = self
        request.trace_parent = self.fields
        server.submit_request(request, sink)
        self.request = request
        if request.trace is not None:
            request.trace.note("GRPC_WAITREAD_START", self.opened_ns)
            request.trace.note("GRPC_WAITREAD_END", request.received_ns)
        return 0

    cdef int fail(self, int status, str message) except -1:
        if self.request is not None:
            self.about(self.request)
        return ExpressCall.fail(self, status, message)

    cdef int answer(self, InferResponse response) except -1:
        cdef int64_t began_ns = 0 if self.request is None else self.request.received_ns
        cdef Trace trace = None if self.request is None else self.request.trace
        self.request = None
        if self.state == STREAM_CLOSED:
            return 0
        try:
            if response.error is not None:
                raise response.error
            if is_long_choice(response):
                self.response = response
                work = self.connection().lane.loop.run_in_executor(None, chosen_outputs, response, self.signature)
                work.add_done_callback(partial(self._chosen, began_ns, trace))
                return 0
            return self._send(response, choose_outputs(response, self.signature), began_ns, trace)
        except Exception as error:
            return self._refuse(<InferRequest>response.request, error)

    def _chosen(self, int64_t began_ns, Trace trace, work):
        cdef InferResponse response = self.response
        self.response = None
        if response is None:
            work.exception()
            return
        try:
            self._send(response, work.result(), began_ns, trace)
        except Exception as error:
            self._refuse(<InferRequest>response.request, error)

    cdef int _send(self, InferResponse response, list outputs, int64_t began_ns, Trace trace) except -1:
        cdef list parts = encode(response, outputs, ENVELOPE_UNARY)
        cdef InferRequest request
        cdef int64_t nbytes = 0
        for part in parts:
            nbytes += len(part)
        if trace is not None:
            trace.note("GRPC_SEND_START", ta_now_ns())
        self.send_head(HEAD, False)
        self.send_parts(parts, nbytes)
        self.send_trailers(OK)
        if trace is not None:
            trace.note("GRPC_SEND_END", ta_now_ns())
        request = <InferRequest>response.request
        self.note("OK", nbytes, began_ns, asked_model(request), request.id)
        return ExpressCall.release(self)

    cdef int release(self) except -1:
        cdef InferRequest request = self.request
        self.message = None
        self.signature = None
        self.request = self.response = None
        if request is not None:
            self.connection().abandon(request)
        return ExpressCall.release(self)


cdef str asked_model(InferRequest request):
    return request.model_name if request.model_version == -1 else f"{request.model_name}/{request.model_version}"


cdef class UnarySink(ResponseSink):
    cdef int deliver(self, InferResponse response) except -1:
        cdef UnaryInfer call = self.call
        self.call = None
        # A second response would be a mistake of whoever made it.
        return 0 if call is None else call.answer(response)

    cdef int released(self, object request) except -1:
        return forget(<InferRequest>request)
