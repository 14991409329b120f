"""The server side of an HTTP/2 connection on nghttp2, with the limits that nghttp2 1.52 lacks. Sans-IO; one thread."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE

from triton_async.protocol.http2_guard cimport VIOLATION_HEADER_BLOCK, FrameGuard
from triton_async.protocol.http2_headers cimport HeaderList
from triton_async.protocol.http2_output cimport HeaderBlock, OutBuffer
from triton_async.protocol.nghttp2 cimport *
from triton_async.protocol.receiver cimport Receiver

from triton_async.defines import (
    GRPC_CONNECTION_WINDOW_NBYTES, GRPC_DRIBBLE_NBYTES, GRPC_MAX_CONCURRENT_STREAMS, GRPC_MAX_DECODED_HEADERS_NBYTES,
    GRPC_MAX_FRAME_NBYTES, GRPC_MAX_HEADER_LIST_NBYTES, GRPC_STREAM_WINDOW_NBYTES,
)

cdef uint32_t _FRAME_MAX = GRPC_MAX_FRAME_NBYTES
cdef int64_t _DECODED_MAX = GRPC_MAX_DECODED_HEADERS_NBYTES
cdef size_t _DRIBBLE = GRPC_DRIBBLE_NBYTES

# Up to here a copy into the frames is cheaper than two more parts of the write.
cdef Py_ssize_t _INLINE = 8192

# Places of parts that have left, from which on they are given up once they are half of all.
cdef Py_ssize_t _GONE_MIN = 32

# Less than this is better read together with what comes behind it.
cdef int64_t _ROOM_MIN = 1 << 14


cdef class Http2Stream:
    """A request and its answer; the base class ignores the request."""

    cdef int on_open(self) except -1:
        return 0

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        return self.consume(nbytes)

    cdef object room(self, int64_t nbytes):
        return None

    cdef bint forgives_reset(self, int64_t now_ns) except -1:
        return self.state != STREAM_OPEN or self.late_ns != 0 and now_ns > self.late_ns

    cdef int on_end(self) except -1:
        return 0

    cdef int on_progress(self) except -1:
        return 0

    cdef int on_close(self, uint32_t error_code) except -1:
        return 0

    cdef int send_head(self, HeaderBlock head, bint end) except -1:
        cdef nghttp2_data_provider provider
        if self.state == STREAM_CLOSED:
            return 0
        assert self.state == STREAM_OPEN
        provider.source.ptr = <void *>self
        provider.read_callback = _read_data
        self.session._raise(nghttp2_submit_response(
            self.session.session, self.id, head.fields, head.count, NULL if end else &provider))
        self.state = STREAM_ENDING if end else STREAM_ANSWERING
        return self.session.on_output()

    cdef int send_parts(self, list parts, int64_t nbytes) except -1:
        if self.state == STREAM_CLOSED:
            return 0
        assert self.state == STREAM_ANSWERING
        if self.parts is None:
            self.parts = parts
        else:
            self.parts.extend(parts)
        self.queued_nbytes += nbytes
        self.session.held_nbytes += nbytes
        return self._resume()

    cdef int send_trailers(self, HeaderBlock trailers) except -1:
        if self.state == STREAM_CLOSED:
            return 0
        assert self.state == STREAM_ANSWERING
        self.trailers = trailers
        self.state = STREAM_ENDING
        return self._resume()

    cdef int reset(self, uint32_t error_code) except -1:
        if self.state == STREAM_CLOSED:
            return 0
        self.state = STREAM_ENDING
        self.session._raise(
            nghttp2_submit_rst_stream(self.session.session, NGHTTP2_FLAG_NONE, self.id, error_code))
        return self.session.on_output()

    cdef int consume(self, size_t nbytes) except -1:
        if self.state == STREAM_CLOSED:
            return 0
        assert nbytes <= <size_t>self.unconsumed_nbytes
        self.unconsumed_nbytes -= nbytes
        self.session._raise(nghttp2_session_consume(self.session.session, self.id, nbytes))
        return self.session.on_output()

    cdef int _resume(self) except -1:
        if self.deferred:
            self.deferred = False
            self.session._raise(nghttp2_session_resume_data(self.session.session, self.id))
        return self.session.on_output()

    # Moves the next `nbytes` queued bytes to `out`.
    cdef int _take(self, OutBuffer out, Py_ssize_t nbytes) except -1:
        cdef Py_ssize_t size
        cdef Py_ssize_t n
        cdef Py_buffer view
        self.queued_nbytes -= nbytes
        self.session.held_nbytes -= nbytes
        while nbytes:
            part = self.parts[self.part_index]
            size = PyBytes_GET_SIZE(part) if PyBytes_CheckExact(part) else len(part)
            n = min(size - self.part_start, nbytes)
            if n > _INLINE:
                out.append_view(part, self.part_start, n)
            elif PyBytes_CheckExact(part):
                out.append(PyBytes_AS_STRING(part) + self.part_start, n)
            elif n:
                PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
                try:
                    out.append(<char *>view.buf + self.part_start, n)
                finally:
                    PyBuffer_Release(&view)
            nbytes -= n
            self.part_start += n
            if self.part_start == size:
                self.part_start = 0
                # What has left is not kept until the rest has.
                self.parts[self.part_index] = None
                self.part_index += 1
        if self.queued_nbytes == 0:
            self.parts = None
            self.part_index = 0
        elif self.part_index >= _GONE_MIN and 2 * self.part_index >= len(self.parts):
            # The queue of a stream that is always a little behind never becomes empty.
            del self.parts[:self.part_index]
            self.part_index = 0
        if self.watches_progress and not self.in_progress:
            self.in_progress = True
            self.session.progressed.append(self)
        return 0

    cdef int ask_progress(self) except -1:
        if self.state == STREAM_CLOSED or self.in_progress:
            return 0
        self.in_progress = True
        self.session.progressed.append(self)
        return self.session.on_output()

    cdef int _close(self, uint32_t error_code) except -1:
        if self.state == STREAM_CLOSED:
            return 0
        self.session.held_nbytes -= self.queued_nbytes
        if self.unconsumed_nbytes:
            nghttp2_session_consume_connection(self.session.session, self.unconsumed_nbytes)
        self.queued_nbytes = self.unconsumed_nbytes = 0
        self.parts = None
        self.trailers = None
        self.state = STREAM_CLOSED
        try:
            return self.on_close(error_code)
        finally:
            self.session = None


cdef class Http2Session(Receiver):
    """One connection. `out`: where output is gathered, when the sessions of a thread are to share it."""

    def __cinit__(self, OutBuffer out=None, *args):
        self.guard = FrameGuard()
        self.head = HeaderList()
        self.out = OutBuffer() if out is None else out
        self.streams = {}
        self.progressed = []
        self._raise(nghttp2_session_server_new2(&self.session, _callbacks, <void *>self, _option))
        self._raise(nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, _settings, _N_SETTINGS))
        self._raise(nghttp2_session_set_local_window_size(
            self.session, NGHTTP2_FLAG_NONE, 0, GRPC_CONNECTION_WINDOW_NBYTES))

    def __dealloc__(self):
        nghttp2_session_del(self.session)

    cdef Http2Stream open_stream(self, int32_t id):
        return None

    cdef int on_ping(self) except -1:
        return 0

    cdef int on_pong(self) except -1:
        return 0

    cdef int on_output(self) except -1:
        return 0

    cdef object receive_room(self):
        cdef int32_t stream_id
        cdef int64_t nbytes = self.guard.payload_ahead(&stream_id)
        cdef Http2Stream stream
        if nbytes < _ROOM_MIN:
            return None
        stream = self.streams.get(stream_id)
        return None if stream is None else stream.room(nbytes)

    cdef int receive(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) except -1:
        cdef ssize_t status
        self.now_ns = now_ns
        if self.ended or self.session == NULL:
            return 0
        if not self.violation:
            self.violation = self.guard.scan(data, nbytes, now_ns)
        if self.violation:
            return self.terminate(NGHTTP2_ENHANCE_YOUR_CALM)
        self.busy = True
        status = nghttp2_session_mem_recv(self.session, data, nbytes)
        self.busy = False
        if status < 0:
            self._raise_failure()
            if status == NGHTTP2_ERR_NOMEM:
                raise MemoryError
            # Or no preface of HTTP/2, or a flood that nghttp2 knows of.
            return self.terminate(NGHTTP2_ENHANCE_YOUR_CALM if self.violation else NGHTTP2_PROTOCOL_ERROR)
        if self.violation:
            return self.terminate(NGHTTP2_ENHANCE_YOUR_CALM)
        return 0

    cdef list collect(self, int64_t limit, int64_t now_ns):
        cdef const uint8_t *data
        cdef ssize_t nbytes
        cdef list progressed
        cdef Http2Stream stream
        self.now_ns = now_ns
        self.limit = limit
        if self.session == NULL:
            return []
        while self.out.total_nbytes < limit:
            self.busy = True
            nbytes = nghttp2_session_mem_send(self.session, &data)
            self.busy = False
            if nbytes > 0:
                self.out.append(data, nbytes)
                continue
            if nbytes < 0:
                self.out.take()
                self._raise_failure()
                self._raise(<int>nbytes)
            if self.violation and not self.ended:
                self.terminate(NGHTTP2_ENHANCE_YOUR_CALM)
            elif self.progressed:
                progressed, self.progressed = self.progressed, []
                for stream in progressed:
                    stream.in_progress = False
                    if stream.state != STREAM_CLOSED:
                        stream.on_progress()
            else:
                break
        return self.out.take()

    cdef bint is_finished(self) noexcept:
        if self.session == NULL:
            return True
        if nghttp2_session_want_write(self.session):
            return False
        return self.ended or not nghttp2_session_want_read(self.session)

    cdef int ping(self) except -1:
        self._raise(nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL))
        return self.on_output()

    cdef int announce_shutdown(self) except -1:
        self._raise(nghttp2_submit_shutdown_notice(self.session))
        return self.on_output()

    cdef int goaway(self, uint32_t error_code, bytes text, bint end) except -1:
        cdef int32_t last = nghttp2_session_get_last_proc_stream_id(self.session)
        self._raise(nghttp2_submit_goaway(
            self.session, NGHTTP2_FLAG_NONE, last, error_code, <const uint8_t *>PyBytes_AS_STRING(text), len(text)))
        if end:
            self.ended = True
        return self.on_output()

    cdef int terminate(self, uint32_t error_code) except -1:
        if not self.ended:
            self.ended = True
            self._raise(nghttp2_session_terminate_session(self.session, error_code))
        return self.on_output()

    cdef int count_reset(self) except -1:
        cdef int violation = self.guard.count_reset(self.now_ns)
        if violation and not self.violation:
            self.violation = violation
            self.on_output()
        return 0

    cdef int close(self) except -1:
        cdef Http2Stream stream
        assert not self.busy
        if self.session == NULL:
            return 0
        self.ended = True
        try:
            for stream in list(self.streams.values()):
                stream._close(NGHTTP2_CANCEL)
        finally:
            self.streams.clear()
            self.progressed.clear()
            nghttp2_session_del(self.session)
            self.session = NULL
        return 0

    # -- called by nghttp2 -------------------------------------------------------------------------

    cdef int _received(self, const nghttp2_frame *frame) except -1:
        cdef bint end = frame.hd.flags & NGHTTP2_FLAG_END_STREAM
        cdef int type = frame.hd.type
        cdef void *found
        cdef Http2Stream stream
        if type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
            return self._open(frame.hd.stream_id, end)
        if type == NGHTTP2_HEADERS or type == NGHTTP2_DATA:
            found = nghttp2_session_get_stream_user_data(self.session, frame.hd.stream_id)
            if end and found != NULL:
                stream = <Http2Stream>found
                stream.remote_ended = True
                return stream.on_end()
        elif type == NGHTTP2_RST_STREAM:
            return self._reset(frame.hd.stream_id)
        elif type == NGHTTP2_PING:
            return self.on_pong() if frame.hd.flags & NGHTTP2_FLAG_ACK else self.on_ping()
        return 0

    cdef int _open(self, int32_t id, bint end) except -1:
        cdef Http2Stream stream = self.open_stream(id)
        if stream is None:
            return self._raise(nghttp2_submit_rst_stream(self.session, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM))
        stream.id = id
        stream.session = self
        stream.remote_ended = end
        self.streams[id] = stream
        self._raise(nghttp2_session_set_stream_user_data(self.session, id, <void *>stream))
        stream.on_open()
        if end:
            stream.on_end()
        return 0

    # The client's; the stream is closed next.
    cdef int _reset(self, int32_t id) except -1:
        cdef Http2Stream stream = self.streams.get(id)
        if stream is None:
            # Answered in full meanwhile; or refused, before the client has heard of it.
            return 0 if nghttp2_session_get_stream_remote_close(self.session, id) < 0 else self.count_reset()
        return 0 if stream.forgives_reset(self.now_ns) else self.count_reset()

    cdef int _header(self, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen) except -1:
        cdef bint overflow = self.head.overflow
        self.head.add(name, namelen, value, valuelen)
        if self.head.overflow and not overflow:
            self.count_reset()
        if self.head.list_nbytes > _DECODED_MAX:
            self.violation = VIOLATION_HEADER_BLOCK
        return 0

    cdef int _raise(self, int status) except -1:
        if status < 0:
            if status == NGHTTP2_ERR_NOMEM:
                raise MemoryError
            raise RuntimeError(f"nghttp2: {nghttp2_strerror(status).decode()}")
        return 0

    def _raise_failure(self):
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


cdef int _on_begin_headers(nghttp2_session *_, const nghttp2_frame *frame, void *user_data) noexcept:
    (<Http2Session>user_data).head.begin()
    return 0


cdef int _on_header(nghttp2_session *_, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                    const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data) noexcept:
    cdef Http2Session session = <Http2Session>user_data
    try:
        session._header(name, namelen, value, valuelen)
        return _go_on(session)
    except BaseException as failure:
        session.failure = failure
        return NGHTTP2_ERR_CALLBACK_FAILURE


# The request is malformed (RFC 9113, 8.1.1). Some versions of nghttp2 take it without the field, unless told.
cdef int _on_invalid_header(nghttp2_session *_, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                            const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data) noexcept:
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE


# Nothing more is looked at of what was received with the violation.
cdef int _go_on(Http2Session session) noexcept:
    return NGHTTP2_ERR_CALLBACK_FAILURE if session.violation else 0


cdef int _on_frame_recv(nghttp2_session *_, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef Http2Session session = <Http2Session>user_data
    try:
        session._received(frame)
        return _go_on(session)
    except BaseException as failure:
        session.failure = failure
        return NGHTTP2_ERR_CALLBACK_FAILURE


cdef int _on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t nbytes,
                        void *user_data) noexcept:
    cdef void *found = nghttp2_session_get_stream_user_data(session, stream_id)
    cdef Http2Stream stream
    try:
        if found == NULL:
            return (<Http2Session>user_data)._raise(nghttp2_session_consume(session, stream_id, nbytes))
        stream = <Http2Stream>found
        stream.unconsumed_nbytes += nbytes
        return stream.on_data(<const char *>data, nbytes)
    except BaseException as failure:
        (<Http2Session>user_data).failure = failure
        return NGHTTP2_ERR_CALLBACK_FAILURE


cdef int _on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *user_data) noexcept:
    cdef Http2Stream stream
    try:
        stream = (<Http2Session>user_data).streams.pop(stream_id, None)
        return 0 if stream is None else stream._close(error_code)
    except BaseException as failure:
        (<Http2Session>user_data).failure = failure
        return NGHTTP2_ERR_CALLBACK_FAILURE


cdef int _on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user_data) noexcept:
    cdef Http2Session owner = <Http2Session>user_data
    cdef void *found
    cdef int type = frame.hd.type
    if type == NGHTTP2_HEADERS:
        owner.sent_frames = True
        if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            found = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
            if found != NULL and not (<Http2Stream>found).remote_ended:
                # The call is over; the client need not send the rest (RFC 9113, 8.1).
                return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    elif type == NGHTTP2_WINDOW_UPDATE:
        owner.sent_frames = True
    elif type == NGHTTP2_RST_STREAM and frame.rst_stream.error_code != NGHTTP2_NO_ERROR and not owner.violation:
        owner.violation = owner.guard.count_reset(owner.now_ns)
    return 0


cdef ssize_t _read_data(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t length, uint32_t *flags,
                        nghttp2_data_source *source, void *user_data) noexcept:
    cdef Http2Session owner = <Http2Session>user_data
    cdef Http2Stream stream = <Http2Stream>source.ptr
    cdef int64_t nbytes = min(stream.queued_nbytes, <int64_t>length)
    if owner.out.total_nbytes >= owner.limit:
        # nghttp2 goes from one DATA frame to the next without coming back to `collect`.
        return NGHTTP2_ERR_PAUSE
    if nbytes == 0 and stream.trailers is None:
        stream.deferred = True
        return NGHTTP2_ERR_DEFERRED
    if nbytes:
        flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    if nbytes == stream.queued_nbytes and stream.trailers is not None:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        if nghttp2_submit_trailer(session, stream_id, stream.trailers.fields, stream.trailers.count) < 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
    return nbytes


cdef int _send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                    nghttp2_data_source *source, void *user_data) noexcept:
    cdef Http2Session owner = <Http2Session>user_data
    cdef Http2Stream stream = <Http2Stream>source.ptr
    try:
        owner.sent_frames = True
        owner.out.append(head, 9)
        stream._take(owner.out, length)
        if length < _DRIBBLE and stream.queued_nbytes and not owner.violation:
            owner.violation = owner.guard.count_control(owner.now_ns)
        return 0
    except BaseException as failure:
        owner.failure = failure
        return NGHTTP2_ERR_CALLBACK_FAILURE


cdef ssize_t _read_length(nghttp2_session *session, uint8_t type, int32_t stream_id, int32_t session_window,
                          int32_t stream_window, uint32_t frame_max, void *user_data) noexcept:
    return min(frame_max, _FRAME_MAX)


# -- the same for every session, made at import and never freed --------------------------------------

cdef nghttp2_session_callbacks *_callbacks = NULL
cdef nghttp2_option *_option = NULL
cdef enum:
    _N_SETTINGS = 5
cdef nghttp2_settings_entry[5] _settings


cdef int _set_up() except -1:
    if nghttp2_session_callbacks_new(&_callbacks) < 0 or nghttp2_option_new(&_option) < 0:
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_headers_callback(_callbacks, _on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(_callbacks, _on_header)
    nghttp2_session_callbacks_set_on_invalid_header_callback(_callbacks, _on_invalid_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(_callbacks, _on_frame_recv)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(_callbacks, _on_data_chunk)
    nghttp2_session_callbacks_set_on_stream_close_callback(_callbacks, _on_stream_close)
    nghttp2_session_callbacks_set_on_frame_send_callback(_callbacks, _on_frame_send)
    nghttp2_session_callbacks_set_send_data_callback(_callbacks, _send_data)
    nghttp2_session_callbacks_set_data_source_read_length_callback(_callbacks, _read_length)
    # The only back-pressure there is: windows are given back when bytes are used.
    nghttp2_option_set_no_auto_window_update(_option, 1)
    # It would count resets that we forgive.
    ta_lift_reset_limit(_option)
    # gRPC's own clients send metadata as they are, against RFC 9113, 8.2.1.
    ta_take_blanks(_option)
    for i, (setting, value) in enumerate((
        (NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, GRPC_MAX_CONCURRENT_STREAMS),
        (NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, GRPC_STREAM_WINDOW_NBYTES),
        (NGHTTP2_SETTINGS_MAX_FRAME_SIZE, GRPC_MAX_FRAME_NBYTES),
        (NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, GRPC_MAX_HEADER_LIST_NBYTES),
        # No tree of priorities that a client could churn.
        (NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1),
    )):
        _settings[i].settings_id = setting
        _settings[i].value = value
    return 0


_set_up()
