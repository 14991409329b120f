# The server's side of one HTTP/2 connection: bytes in, calls of the stream objects, bytes out. Sans-IO.
#
# One thread (the loop's). Nothing here is called while `receive` or `collect` of the same session runs, except what
# the streams and sessions do in their own `on_*` methods: those may send, reset and consume, but not receive, collect
# or close.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from triton_async.protocol.http2_guard cimport FrameGuard
from triton_async.protocol.http2_headers cimport HeaderList
from triton_async.protocol.http2_output cimport HeaderBlock, OutBuffer
from triton_async.protocol.nghttp2 cimport nghttp2_frame, nghttp2_session
from triton_async.protocol.receiver cimport Receiver

#   OPEN --send_head--> ANSWERING --send_trailers--> ENDING --last frame sent--> CLOSED
#     |                     |                          |                           ^
#     +------- reset by either side, connection lost --+---------------------------+
cdef enum StreamState:
    STREAM_OPEN = 0        # nothing answered yet
    STREAM_ANSWERING = 1   # the response head is queued
    STREAM_ENDING = 2      # trailers are queued, or the head ends the stream
    STREAM_CLOSED = 3      # nothing can be sent any more; `session` may be gone

# One request and its answer. Made by a session's `open_stream`; the session holds it until `on_close`.
#
# Invariant: of `parts` at most half, or 32, have left
cdef class Http2Stream:
    cdef Http2Session session      # None before it is opened and after it is closed
    cdef readonly int32_t id
    cdef readonly int state        # StreamState
    cdef readonly bint remote_ended  # the client has ended its side
    cdef bint deferred             # nghttp2 waits for `resume`
    cdef bint watches_progress     # call on_progress when queued bytes have left
    cdef bint in_progress          # is in the session's list of these
    cdef list parts                # queue of payload parts: bytes, or objects with the buffer protocol
    cdef Py_ssize_t part_index     # first part with unsent bytes
    cdef Py_ssize_t part_start     # first unsent byte of it
    cdef readonly int64_t queued_nbytes  # unsent
    cdef int64_t unconsumed_nbytes  # received and not yet given back to the client's window
    cdef int64_t late_ns           # after this, on the session's clock, the client may give up waiting; 0: it may never
    cdef HeaderBlock trailers

    # -- what happens; to be overridden --
    # The request head is complete; it stands in the session's `head`.
    cdef int on_open(self) except -1
    # Payload bytes; they are gone after the call. Whoever takes them calls `consume`, now or later.
    cdef int on_data(self, const char *data, size_t nbytes) except -1
    # Where up to `nbytes` further payload bytes may be received, as a writable view, so that `on_data` finds them in
    # their place; None: nowhere in particular.
    cdef object room(self, int64_t nbytes)
    # Whether the client may reset it now without being counted, because it has spared itself nothing: once the answer
    # has begun, or the deadline has come. Overridden where more is known of the work.
    cdef bint forgives_reset(self, int64_t now_ns) except -1
    # The client ended its side.
    cdef int on_end(self) except -1
    # Queued bytes have left; only called with `watches_progress`.
    cdef int on_progress(self) except -1
    # The stream is over, by whatever reason. Called exactly once; drop every reference here.
    cdef int on_close(self, uint32_t error_code) except -1

    # -- what one does; a closed stream ignores all of it --
    # Response head. With `end`, it is all of the answer.
    cdef int send_head(self, HeaderBlock head, bint end) except -1
    # Queues payload, in ANSWERING. The parts are kept, and must not change, until they have left. `nbytes`: of all.
    cdef int send_parts(self, list parts, int64_t nbytes) except -1
    # Ends the answer after what is queued, in ANSWERING.
    cdef int send_trailers(self, HeaderBlock trailers) except -1
    cdef int reset(self, uint32_t error_code) except -1
    # Gives `nbytes` received bytes back to the client's windows.
    cdef int consume(self, size_t nbytes) except -1
    # Has on_progress called with the next `collect`, whether or not bytes have left.
    cdef int ask_progress(self) except -1

    cdef int _resume(self) except -1
    cdef int _take(self, OutBuffer out, Py_ssize_t nbytes) except -1
    cdef int _close(self, uint32_t error_code) except -1

# Invariants
#   - held_nbytes == sum of queued_nbytes over the open streams
#   - a stream is in `streams` iff its state is not CLOSED and it was opened
cdef class Http2Session(Receiver):
    cdef nghttp2_session *session  # NULL once closed
    cdef FrameGuard guard
    cdef OutBuffer out
    cdef dict streams              # stream id -> Http2Stream
    cdef list progressed           # streams whose on_progress is due
    cdef readonly int64_t held_nbytes
    cdef readonly bint ended       # the connection is to be closed once everything queued is sent
    cdef readonly bint sent_frames  # HEADERS, DATA or WINDOW_UPDATE were sent since this was last set to False
    cdef int64_t now_ns            # as last given
    cdef int64_t limit             # of the current `collect`
    cdef int violation             # Violation that has ended the connection
    cdef bint busy                 # inside nghttp2
    cdef object failure            # exception raised inside a callback
    cdef HeaderList head           # of the request that is being opened; its overflow is counted as a reset

    # -- to be overridden --
    # The object for a new request, or None to refuse it (REFUSED_STREAM: the client may retry elsewhere).
    cdef Http2Stream open_stream(self, int32_t id)
    cdef int on_ping(self) except -1
    cdef int on_pong(self) except -1
    # Something was queued outside of `receive`: arrange for `collect`.
    cdef int on_output(self) except -1

    # -- what one does --
    # Where the next bytes may be received; None: anywhere. To be asked before every read.
    cdef object receive_room(self)
    # Bytes from the client. Protocol errors are answered by GOAWAY and set `ended`; whatever a stream raises comes
    # out, and the session is then to be closed.
    cdef int receive(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) except -1
    # What is to be sent next, about `limit` bytes; empty when there is nothing or the windows are shut.
    cdef list collect(self, int64_t limit, int64_t now_ns)
    # Whether nothing more will be read or written.
    cdef bint is_finished(self) noexcept
    cdef int ping(self) except -1
    # Asks the client to open no more streams; refuses none of those on their way.
    cdef int announce_shutdown(self) except -1
    # Says which streams are served; the connection is finished when they are done, with `end` at once.
    cdef int goaway(self, uint32_t error_code, bytes text, bint end) except -1
    # GOAWAY and nothing else any more.
    cdef int terminate(self, uint32_t error_code) except -1
    # Something that the client did and a reset would have been the answer to.
    cdef int count_reset(self) except -1
    # Closes every stream. Idempotent.
    cdef int close(self) except -1

    cdef int _received(self, const nghttp2_frame *frame) except -1
    cdef int _open(self, int32_t id, bint end) except -1
    cdef int _reset(self, int32_t id) except -1
    cdef int _header(self, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen) except -1
    cdef int _raise(self, int status) except -1
