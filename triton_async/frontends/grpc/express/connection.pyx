"""A connection of the express lane: one read in, one write out per turn of the loop. Loop thread."""

import asyncio
import logging
import random

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcmp

from triton_async.frontends.grpc.express.call cimport ExpressCall, RefusedCall, UnaryInfer
from triton_async.frontends.grpc.express.head cimport RPC_INFER, RPC_OTHER, CallHead, read_head
from triton_async.frontends.grpc.express.session cimport ExpressSession, Lane
from triton_async.frontends.grpc.express.slow cimport SlowStream
from triton_async.frontends.grpc.express.stream cimport StreamInfer
from triton_async.infer.clock cimport ta_now_ns
from triton_async.protocol.grpc_message cimport GRPC_RESOURCE_EXHAUSTED, GRPC_UNAVAILABLE
from triton_async.protocol.http2 cimport Http2Stream
from triton_async.protocol.nghttp2 cimport NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_NO_ERROR

from triton_async.defines import (
    GRPC_CALLS_PER_TURN, GRPC_MAX_HEADER_LIST_NBYTES, GRPC_MAX_HELD_NBYTES, GRPC_RECEIVE_NBYTES, GRPC_TURN_NS,
    GRPC_WRITE_NBYTES,
)
from triton_async.frontends.grpc.calls import Calls
from triton_async.frontends.grpc.express.keepalive import Action, Activity, KeepAlive

log = logging.getLogger("triton_async.grpc")

cdef int64_t _WRITE = GRPC_WRITE_NBYTES
cdef int64_t _HELD_MAX = GRPC_MAX_HELD_NBYTES
cdef Py_ssize_t _RECEIVE = GRPC_RECEIVE_NBYTES

# Bytes of one read that are acted upon without a look at the clock, and between two looks where that took long.
cdef Py_ssize_t _SLICE = 4096
cdef Py_ssize_t _LEAST = 512

# What one connection has of a turn of the loop for what it sent at once: time, and calls, of which one that a task of
# its own answers, later in the turn, counts as several.
cdef int64_t _TURN_NS = GRPC_TURN_NS
cdef int _CALLS_PER_TURN = GRPC_CALLS_PER_TURN
cdef int _SLOW_CALL = 8

# Nanoseconds without a byte sent after which a client counts as one that does not read.
cdef int64_t _STALLED_NS = 1_000_000_000

# Seconds that a client has to close its side of a connection that has ended in order.
_PARTING_S = 1.0

# Share of its age by which a connection may end earlier or later, as C-core spreads them.
_AGE_JITTER = 0.1


def connection(Lane lane):
    """The protocol object for a new connection."""
    return ExpressConnection(lane.out, lane)


cdef class ExpressConnection(ExpressSession):
    """One client."""

    def peer(self):
        """Who is on the other side, as the transport says; None when it is gone."""
        return None if self.transport is None else self.transport.get_extra_info("peername")

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE)
        self.lane.connections.add(self)
        self.opened_ns = self.last_read_ns = ta_now_ns()
        jitter = 1 + random.uniform(-_AGE_JITTER, _AGE_JITTER)
        self.keepalive = KeepAlive(self.lane.ping_options, self.opened_ns, jitter)
        self._arm(self.opened_ns)
        self.flush()

    cdef Py_ssize_t make_room(self, unsigned char **at) except -1:
        self.room = self.receive_room()
        if self.room is None:
            at[0] = <unsigned char *>self.lane.receive_data
            return _RECEIVE
        at[0] = <unsigned char *>PyMemoryView_GET_BUFFER(self.room).buf
        return PyMemoryView_GET_BUFFER(self.room).len

    cdef int take_bytes(self, Py_ssize_t nbytes) except -1:
        cdef int64_t now_ns = ta_now_ns()
        cdef const uint8_t *data = <const uint8_t *>self.lane.receive_data
        cdef Py_ssize_t size = _RECEIVE
        room, self.room = self.room, None
        if room is not None:
            data = <const uint8_t *>PyMemoryView_GET_BUFFER(room).buf
            size = len(room)
        if self.transport is None or not 0 < nbytes <= size:
            return 0
        self.room_taken = room is not None
        self.last_read_ns = now_ns
        return self._take(data, nbytes, now_ns)

    # Acts on bytes that came, on so many of them that others get their turn: the rest waits for the next one.
    cdef int _take(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) except -1:
        cdef Py_ssize_t taken = nbytes
        if self.leaving:
            return 0
        try:
            if nbytes <= _SLICE or self.room_taken:
                self.receive(data, nbytes, now_ns)
            else:
                taken = self._take_some(data, nbytes, now_ns)
        except Exception:
            log.exception("gRPC connection failed")
            self.abort()
            return 0
        if not self.guard.in_block:
            self.header_block_ns = 0
        elif self.header_block_ns == 0:
            self.header_block_ns = now_ns
        if taken < nbytes:
            self._wait_for_turn(data + taken, nbytes - taken)
        return self.flush()

    # Returns how many bytes were taken before the time of this turn was over.
    cdef Py_ssize_t _take_some(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) except -1:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t size = _SLICE
        cdef int64_t until_ns = now_ns + _TURN_NS
        cdef int64_t start_ns = now_ns
        cdef int64_t end_ns
        while at < nbytes:
            size = min(size, nbytes - at)
            self.receive(data + at, size, now_ns)
            at += size
            end_ns = ta_now_ns()
            # Calls are dear, and bytes of messages are not: as many as the first ones let expect.
            size = 2 * size if end_ns - start_ns < _TURN_NS // 8 else _LEAST
            if end_ns > until_ns or self.opened >= _CALLS_PER_TURN:
                break
            start_ns = end_ns
        self.opened = 0
        return at

    cdef int _wait_for_turn(self, const uint8_t *data, Py_ssize_t nbytes) except -1:
        if self.transport is None:
            return 0
        self.waiting = (<const char *>data)[:nbytes]
        self.transport.pause_reading()
        self.lane.server.reactor.turn.call_next(self._go_on)
        return 0

    def _go_on(self):
        waiting, self.waiting = self.waiting, None
        if self.transport is None or waiting is None:
            return
        self._take(<const uint8_t *><const char *>waiting, len(waiting), ta_now_ns())
        if self.waiting is None and self.transport is not None:
            self.transport.resume_reading()

    def eof_received(self):
        """None: the transport closes. No client of gRPC half-closes."""

    def connection_lost(self, _):
        self.state = CONNECTION_CLOSED
        self.transport = self.waiting = None
        self.lane.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        try:
            self.close()
        except Exception:
            log.exception("gRPC connection did not close well")
        self.note_held(0)
        self.keepalive = None
        if self.closed is not None and not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.flush()

    # -- session -----------------------------------------------------------------------------------

    cdef Http2Stream open_stream(self, int32_t id):
        self.opened += 1
        cdef CallHead head
        cdef ExpressCall call
        cdef StreamInfer stream
        if self.head.overflow:
            return _refused(GRPC_RESOURCE_EXHAUSTED,
                            f"received metadata size exceeds hard limit ({GRPC_MAX_HEADER_LIST_NBYTES} bytes)")
        if not self.has_room():
            return None
        if self.held_nbytes > _HELD_MAX:
            return _refused(GRPC_UNAVAILABLE, "too many bytes of earlier answers wait for this client")
        read_head(self.head, self.now_ns, &head)
        if head.rpc == RPC_OTHER or not self.lane.infers:
            return self._slow(&head)
        if self.lane.entry is not None and not self._enter():
            return self._slow(&head)
        if head.rpc == RPC_INFER:
            call = UnaryInfer.__new__(UnaryInfer)
        else:
            call = stream = StreamInfer.__new__(StreamInfer)
            stream.ends_on_error = head.ends_on_error
        call.forwarded = self.forwarded
        call.end_by_ns = head.end_by_ns
        call.answer_by_ns = head.answer_by_ns
        call.late_ns = head.late_ns
        if self.lane.server.tracing is not None:
            call.opened_ns = self.now_ns
            if self.lane.server.reads_context:
                call.fields = self.head.items()
        return call

    cdef bint _enter(self) except -1:
        cdef object entry = self.lane.entry
        cdef object generation = entry.generation
        cdef size_t nbytes = self.head.block_nbytes
        if self.entered is not None and generation == self.entered_at and nbytes == <size_t>len(self.entered) and (
            memcmp(self.head.block, PyBytes_AS_STRING(self.entered), nbytes) == 0
        ):
            return True
        self.entered = None
        self.forwarded = entry.admit(self.head.items())
        if self.forwarded is None:
            return False
        self.entered = self.head.block[:nbytes]
        self.entered_at = generation
        return True

    cdef Http2Stream _slow(self, CallHead *head):
        cdef SlowStream stream = SlowStream.__new__(SlowStream)
        self.opened += _SLOW_CALL
        if self.calls is None:
            self.calls = Calls(self.lane.mapping)
        stream.calls = self.calls
        stream.headers = self.head.items()
        stream.late_ns = head.late_ns
        return stream

    cdef int on_ping(self) except -1:
        if self.sent_frames:
            self.sent_frames = False
            self.keepalive.on_sent()
        if not self.keepalive.on_ping(self.now_ns, has_calls=bool(self.streams)):
            self.goaway(NGHTTP2_ENHANCE_YOUR_CALM, b"too_many_pings", True)
        return 0

    cdef int on_pong(self) except -1:
        self.keepalive.on_pong()
        if self.state == CONNECTION_ANNOUNCED:
            self._leave()
        # The timer stands at the end of the wait for this answer; the next ping may be due before.
        return self._arm(self.now_ns)

    cdef int flush(self) except -1:
        if self.transport is None:
            return 0
        try:
            return self._pump()
        except Exception:
            log.exception("gRPC connection failed")
            self.abort()
            return 0

    cdef int _pump(self) except -1:
        cdef int64_t now_ns = ta_now_ns()
        cdef int64_t held_nbytes = self.held_nbytes
        cdef list parts
        self.in_turn = True
        try:
            while not self.paused:
                parts = self.collect(_WRITE, now_ns)
                if not parts:
                    break
                if len(parts) == 1:
                    self.transport.write(parts[0])
                else:
                    self.transport.writelines(parts)
        finally:
            self.in_turn = False
        if not self.leaving and self.is_finished():
            self.leaving = True
            self._part()
        self._watch(now_ns, self.held_nbytes < held_nbytes)
        return self.note_held(self.held_nbytes + (self.transport.get_write_buffer_size() if self.paused else 0))

    # Closes behind what was sent. Bytes that nobody reads any more, such as a proxy's WINDOW_UPDATE, would make the
    # kernel reset the connection, and the client lose what it has not read: so an end in order waits for its own end.
    def _part(self):
        if self.state >= CONNECTION_ANNOUNCED and self.transport.can_write_eof():
            self.transport.write_eof()
            self.lane.loop.call_later(_PARTING_S, self._close_transport)
        else:
            self.transport.close()

    def _close_transport(self):
        if self.transport is not None:
            self.transport.close()

    def burden(self):
        """What makes this connection rather than another one to be closed: (has not read for a while, bytes held)."""
        return self.stalled_ns != 0 and ta_now_ns() - self.stalled_ns > _STALLED_NS, self.noted_nbytes

    # -- clock -------------------------------------------------------------------------------------

    # Notes what waits since when, and that somebody looks in time.
    cdef int _watch(self, int64_t now_ns, bint progress) except -1:
        if self.held_nbytes == 0 and not self.paused and not self.leaving:
            self.stalled_ns = 0
        elif progress or self.stalled_ns == 0:
            self.stalled_ns = now_ns
        if self.stalled_ns or self.header_block_ns:
            return self._arm(now_ns)
        return 0

    cdef int _arm(self, int64_t now_ns) except -1:
        cdef int64_t next_ns = self.keepalive.next_ns(self._activity())
        if next_ns == 0 or self.armed_ns and self.armed_ns <= next_ns:
            return 0
        if self.timer is not None:
            self.timer.cancel()
        self.armed_ns = next_ns
        # One millisecond is what the loop's timers resolve.
        self.timer = self.lane.loop.call_later(max((next_ns - now_ns) * 1e-9, 0.001), self._on_timer)
        return 0

    def _activity(self):
        return Activity(
            self.last_read_ns,
            handshake_ns=0 if self.guard.greeted else self.opened_ns,
            header_block_ns=self.header_block_ns,
            stalled_ns=self.stalled_ns,
            has_calls=bool(self.streams),
        )

    def _on_timer(self):
        cdef int64_t now_ns = ta_now_ns()
        self.timer = None
        self.armed_ns = 0
        if self.sent_frames:
            self.sent_frames = False
            self.keepalive.on_sent()
        unsent = self.transport.get_write_buffer_size()
        if unsent != self.unsent_nbytes and self.stalled_ns:
            self.unsent_nbytes = unsent
            self.stalled_ns = now_ns
        action = self.keepalive.due(now_ns, self._activity())
        while action is not Action.NOTHING:
            if action is Action.CLOSE:
                log.debug("closing a gRPC connection that is dead, stuck or too old")
                self.abort()
                return
            if action is Action.PING:
                self.ping()
            else:
                self.shut_down(1.0)
            action = self.keepalive.due(now_ns, self._activity())
        self._arm(now_ns)

    # -- end ---------------------------------------------------------------------------------------

    def shut_down(self, double round_trip_s):
        """Asks the client to go elsewhere; its calls finish. What it has sent until it knows is still served."""
        if self.state == CONNECTION_OPEN:
            self.state = CONNECTION_ANNOUNCED
            self.announce_shutdown()
            self.ping()
            self.lane.loop.call_later(round_trip_s, self._leave)

    def _leave(self):
        if self.state == CONNECTION_ANNOUNCED:
            self.state = CONNECTION_LEAVING
            self.goaway(NGHTTP2_NO_ERROR, b"", False)
            if self.exiting:
                self._drain_calls()

    def _drain_calls(self):
        for stream in list(self.streams.values()):
            if isinstance(stream, ExpressCall):
                (<ExpressCall>stream).drain()
        if self.calls is not None:
            self.calls.drain()

    async def drain(self, double round_trip_s):
        """`shut_down` because the server ends; returns when the connection is closed. Cancel it to stop waiting."""
        if self.transport is None:
            return
        self.exiting = True
        self.closed = asyncio.get_running_loop().create_future()
        self.shut_down(round_trip_s)
        self._drain_calls()
        await self.closed

    def abort(self):
        """Closes now; running calls are cancelled."""
        if self.transport is not None:
            self.transport.abort()

    async def wait_idle(self):
        """Returns when no task of a call is left."""
        if self.calls is not None:
            await self.calls.idle.wait()


def _refused(int status, str message):
    cdef RefusedCall call = RefusedCall.__new__(RefusedCall)
    call.status = status
    call.message = message
    return call
