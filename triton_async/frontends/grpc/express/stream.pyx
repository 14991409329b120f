"""ModelStreamInfer without a task: many requests on one stream, ordered answers, bounded run-ahead. Loop thread."""

from collections import deque

from libc.stdint cimport int64_t

from triton_async.frontends.grpc.express.call cimport HEAD, OK, ExpressCall
from triton_async.frontends.grpc.express.session cimport ExpressSession
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.memory.buffer cimport Buffer
from triton_async.protocol.grpc_codec cimport decode
from triton_async.protocol.grpc_encode cimport ENVELOPE_STREAM, choose_outputs, encode
from triton_async.protocol.grpc_message cimport GRPC_INTERNAL, GRPC_UNAVAILABLE, MessageReader
from triton_async.protocol.http2 cimport STREAM_ANSWERING, STREAM_OPEN

from triton_async.defines import GRPC_MAX_HELD_NBYTES, GRPC_MAX_STREAM_REQUESTS
from triton_async.errors import ServerError
from triton_async.protocol.grpc_codec import request_id
from triton_async.protocol.grpc_encode import encode_stream_failure, encode_stream_refusal
from triton_async.protocol.wire import Malformed

cdef extern from "clock.h":
    int64_t ta_now_ns() noexcept

cdef int _SLOTS_MAX = GRPC_MAX_STREAM_REQUESTS
cdef int64_t _HELD_MAX = GRPC_MAX_HELD_NBYTES


cdef class Slot(ResponseSink):
    cdef int deliver(self, InferResponse response) except -1:
        cdef StreamInfer call = self.call
        if call is None:
            return 0
        if response.final:
            self.request = None
        return call.arrived(self, response)


cdef class StreamInfer(ExpressCall):
    """A stream of requests, each answered by one message, or any number of them by a decoupled model."""

    cdef int on_open(self) except -1:
        self.slots = set()
        self.order = deque()
        self.unsent = deque()
        self.watches_progress = True
        self.reader = MessageReader(self.connection().lane.server.pool)
        return ExpressCall.on_open(self)

    # -- reading -----------------------------------------------------------------------------------

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        if self.reader is None:
            return self.consume(nbytes)
        if self.backlog is not None:
            self.backlog += data[:nbytes]
            return 0
        return self._read(data, nbytes)

    cdef bint _has_room(self) noexcept:
        return self.open_slots < _SLOTS_MAX and self.queued_nbytes < _HELD_MAX

    cdef int _read(self, const char *data, size_t nbytes) except -1:
        cdef size_t at = 0
        cdef size_t used
        cdef Buffer message
        if self.reader is not None:
            # Models come and go while a stream lives.
            self.reader.large_pool = self.connection().lane.server.large_pool
        while at < nbytes and self.reader is not None:
            if not self._has_room():
                self.backlog = bytearray(data[at:nbytes])
                return self.consume(at)
            try:
                message = self.reader.feed(data + at, nbytes - at, &used)
                self.note_receiving(self.reader.received if message is None else 0)
            except Exception as error:
                self.consume(nbytes)
                return self.fail_with(error)
            at += used
            if message is not None:
                self.submit(message)
        return self.consume(nbytes)

    cdef int _read_backlog(self) except -1:
        cdef object waiting = self.backlog
        cdef const unsigned char[::1] view
        self.backlog = None
        if waiting:
            view = waiting
            return self._read(<const char *>&view[0], view.shape[0])
        return 0

    cdef int on_end(self) except -1:
        return self._finish_if_done()

    cdef int drain(self) except -1:
        if not self.remote_ended and self.reader is not None:
            self.drained = True
            return self._finish_if_done()
        return 0

    cdef int submit(self, Buffer message) except -1:
        cdef Slot slot = Slot.__new__(Slot)
        cdef InferRequest request
        cdef bint in_order = False
        slot.call = self
        slot.message = message
        self.open_slots += 1
        self.slots.add(slot)
        try:
            request = decode(message, ta_now_ns(), self.connection().lane.server.regions)
            slot.wants_empty_final = request.context is True
            slot.signature = self.connection().lane.server.find(request.model_name, request.model_version).signature
            if not slot.signature.decoupled:
                self.order.append(slot)
                in_order = True
            self.connection().lane.server.submit_request(request, slot)
            slot.request = request
        except Malformed as error:
            # What follows on the stream cannot be trusted either.
            return self.fail_with(error)
        except ServerError as error:
            if not in_order:
                self.order.append(slot)
            slot.outcome = error
            return self._advance()
        except Exception as error:
            return self.fail_with(error)
        return 0

    # -- answering ---------------------------------------------------------------------------------

    cdef int arrived(self, Slot slot, object outcome) except -1:
        if slot.signature.decoupled:
            self._send(slot, outcome)
            return self._finish_if_done()
        slot.outcome = outcome
        return self._advance()

    cdef int _advance(self) except -1:
        cdef Slot slot
        while self.order and (<Slot>self.order[0]).outcome is not None:
            slot = self.order.popleft()
            outcome, slot.outcome = slot.outcome, None
            self._send(slot, outcome)
        return self._finish_if_done()

    cdef int _send(self, Slot slot, object outcome) except -1:
        cdef InferResponse response
        cdef bint final = True
        cdef list parts
        error = outcome
        if self.reader is None:
            return 0
        if isinstance(outcome, InferResponse):
            response = <InferResponse>outcome
            final = response.final
            error = response.error
        if final:
            slot.call = None
            self.slots.discard(slot)
        if error is None:
            if final and slot.signature.decoupled and not response.outputs and not slot.wants_empty_final:
                self.open_slots -= 1
                return 0
            try:
                parts = encode(response, choose_outputs(response, slot.signature), ENVELOPE_STREAM)
                return self._write(parts, final)
            except ServerError as failure:
                error = failure
        if self.ends_on_error:
            return self.fail_with(error)
        if outcome is error:
            return self._write([encode_stream_refusal(error.message, request_id(slot.message))], True)
        return self._write([encode_stream_failure(error.message, outcome)], final)

    cdef int _write(self, list parts, bint final) except -1:
        cdef int64_t nbytes = 0
        for part in parts:
            nbytes += len(part)
        if self.state == STREAM_OPEN:
            self.send_head(HEAD, False)
        self.send_parts(parts, nbytes)
        self.written_nbytes += nbytes
        if final:
            self.unsent.append(self.written_nbytes)
        return 0

    cdef int on_progress(self) except -1:
        cdef int64_t sent_nbytes = self.written_nbytes - self.queued_nbytes
        while self.unsent and self.unsent[0] <= sent_nbytes:
            self.unsent.popleft()
            self.open_slots -= 1
        if self.backlog is not None and self._has_room():
            self._read_backlog()
        return self._finish_if_done()

    # -- end ---------------------------------------------------------------------------------------

    cdef int _finish_if_done(self) except -1:
        if self.reader is None or not (self.remote_ended or self.drained) or self.backlog is not None:
            return 0
        if self.remote_ended and self.reader.inside():
            return self.fail(GRPC_INTERNAL, "stream ended inside a message")
        if self.slots:
            return 0
        if self.drained:
            return self.fail(GRPC_UNAVAILABLE, "Server exiting")
        if self.state == STREAM_OPEN:
            self.send_head(HEAD, False)
        if self.state == STREAM_ANSWERING:
            self.send_trailers(OK)
        return self.release()

    cdef int release(self) except -1:
        cdef ExpressSession connection = self.connection()
        cdef set slots = self.slots
        cdef Slot slot
        cdef object backlog = self.backlog
        self.slots = set()
        self.order = deque()
        self.backlog = None
        ExpressCall.release(self)
        for slot in slots:
            slot.call = None
            slot.outcome = None
            if slot.request is not None:
                connection.abandon(slot.request)
                slot.request = None
        if backlog:
            self.consume(len(backlog))
        return 0
