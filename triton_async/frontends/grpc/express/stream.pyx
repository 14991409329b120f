"""ModelStreamInfer without a task: bytes to requests, answers to the stream, bounded run-ahead. Loop thread."""

from functools import partial

cimport cython
from libc.stdint cimport int64_t, uint32_t

from triton_async.frontends.grpc.express.call cimport HEAD, OK, ExpressCall
from triton_async.frontends.grpc.express.session cimport ExpressSession, Lane
from triton_async.frontends.grpc.stream_requests cimport StreamRequests
from triton_async.infer.request cimport InferRequest
from triton_async.memory.buffer cimport Buffer
from triton_async.protocol.grpc_backlog cimport Backlog
from triton_async.protocol.grpc_message cimport GRPC_INTERNAL, GRPC_UNAVAILABLE, MessageReader
from triton_async.protocol.http2 cimport STREAM_ANSWERING, STREAM_OPEN

from triton_async.frontends.entry import forward


@cython.final
cdef class ExpressRequests(StreamRequests):
    cdef int write(self, list parts, int64_t nbytes) except -1:
        cdef StreamInfer call = self.call
        if call.state == STREAM_OPEN:
            call.send_head(HEAD, False)
        call.note("message", nbytes, self.asked_ns, self.model or "", self.request_id or "")
        return call.send_parts(parts, nbytes)

    cdef int fail(self, object error) except -1:
        cdef StreamInfer call = self.call
        return call.fail_with(error)

    cdef int changed(self) except -1:
        cdef StreamInfer call = self.call
        if call is None:
            return 0
        if call._waits() and self.has_room():
            # To be read soon, not in the middle of whatever the server does.
            call.ask_progress()
        return call._finish_if_done()


cdef class StreamInfer(ExpressCall):
    """A stream of requests, each answered by one message, or any number of them by a decoupled model."""

    cdef str rpc(self):
        return "ModelStreamInfer"

    cdef int on_open(self) except -1:
        cdef Lane lane = self.connection().lane
        self.requests = ExpressRequests(lane.server, self.ends_on_error, self.answer_by_ns, lane.max_waiting)
        self.requests.call = self
        self.requests.fields = self.fields
        if self.forwarded:
            self.requests.forward = partial(forward, found=self.forwarded)
        self.watches_progress = True
        self.reader = MessageReader(self.connection().lane.server.pool)
        return ExpressCall.on_open(self)

    cdef bint forgives_reset(self, int64_t now_ns) except -1:
        if self.requests is not None and self.requests.is_executing():
            return True
        return ExpressCall.forgives_reset(self, now_ns)

    # -- reading -----------------------------------------------------------------------------------

    # Whether bytes wait to be read.
    cdef bint _waits(self) noexcept:
        return self.backlog is not None and self.backlog.nbytes > 0

    cdef bint holds_back(self) noexcept:
        return self._waits()

    cdef object room(self, int64_t nbytes):
        # What comes now is not what the reader gets next.
        return None if self._waits() else ExpressCall.room(self, nbytes)

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        cdef size_t used = 0
        if not self._waits():
            used = self._read(data, nbytes)
            self.consume(used)
        if used < nbytes:
            if self.backlog is None:
                self.backlog = Backlog()
            self.backlog.append(data + used, nbytes - used)
        return 0

    cdef size_t _read(self, const char *data, size_t nbytes) except? 0:
        cdef size_t at = 0
        cdef size_t used
        cdef Buffer message
        # Whatever is submitted may end the call.
        cdef ExpressRequests requests = self.requests
        if self.reader is not None:
            # Models come and go while a stream lives.
            self.reader.large_pool = self.connection().lane.server.large_pool
        while at < nbytes and self.reader is not None:
            if not requests.has_room():
                return at
            try:
                message = self.reader.feed(data + at, nbytes - at, &used)
                self.note_receiving(max(self.reader.received, 1) if message is None else 0)
            except Exception as error:
                self.fail_with(error)
                break
            at += used
            if message is not None:
                requests.submit(message)
        return nbytes

    cdef int _read_backlog(self) except -1:
        cdef size_t nbytes
        cdef size_t used
        cdef const char *data
        while self._waits() and self.requests.has_room():
            data = self.backlog.peek(&nbytes)
            used = self._read(data, nbytes)
            if self.reader is None:
                break  # the call has ended, and the backlog with it
            self.backlog.skip(used)
            self.consume(used)
        return 0

    cdef int on_end(self) except -1:
        return self._finish_if_done()

    cdef int drain(self) except -1:
        if not self.remote_ended and self.reader is not None:
            self.drained = True
            return self._finish_if_done()
        return 0

    # -- answering ---------------------------------------------------------------------------------

    cdef int on_progress(self) except -1:
        if self.requests is not None:
            self.requests.note_sent(self.requests.written_nbytes - self.queued_nbytes)
        if self._waits():
            self._read_backlog()
        return self._finish_if_done()

    cdef int _finish_if_done(self) except -1:
        if self.reader is None or not (self.remote_ended or self.drained) or self._waits():
            return 0
        if self.remote_ended and self.reader.inside():
            return self.fail(GRPC_INTERNAL, "stream ended inside a message")
        if self.requests.slots:
            return 0
        if self.drained:
            return self.fail(GRPC_UNAVAILABLE, "Server exiting")
        if self.state == STREAM_OPEN:
            self.send_head(HEAD, False)
        if self.state == STREAM_ANSWERING:
            self.send_trailers(OK)
        return self.release()

    # Not by us: then it is released already.
    cdef int on_close(self, uint32_t error_code) except -1:
        cdef ExpressRequests requests = self.requests
        self.release()
        return 0 if requests is None else requests.forsake()

    cdef int release(self) except -1:
        cdef ExpressSession connection = self.connection()
        cdef ExpressRequests requests = self.requests
        cdef Backlog backlog = self.backlog
        cdef InferRequest request
        self.requests = None
        self.backlog = None
        ExpressCall.release(self)
        if requests is not None:
            requests.call = None
            for request in requests.close():
                connection.abandon(request)
        return 0 if backlog is None else self.consume(backlog.nbytes)
