"""Streams of the RPCs that service handlers answer, each in a task of its own. Loop thread."""

import asyncio

from libc.stdint cimport int64_t, uint32_t

from triton_async.frontends.grpc.express.session cimport ExpressSession, Lane
from triton_async.protocol.http2 cimport STREAM_CLOSED, STREAM_ENDING, STREAM_OPEN, Http2Stream
from triton_async.protocol.http2_output cimport HeaderBlock

from grpclib import GRPCError, Status

from triton_async.frontends.grpc.call import StreamGone

# Bytes of answers that may be queued before the handler is made to wait.
cdef int64_t _QUEUE_NBYTES = 1 << 16


cdef class SlowStream(Http2Stream):
    """A stream whose messages a task reads and answers."""

    # -- what happens ------------------------------------------------------------------------------

    cdef int on_open(self) except -1:
        self.received = bytearray()
        self.calls.accept(self, self.headers)
        return 0

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        if self.at_end or self.state == STREAM_ENDING:
            return self.consume(nbytes)
        self.received += data[:nbytes]
        self.held += nbytes
        self._give_back()
        if len(self.received) >= self.wanted:
            _wake(self.waiter)
        return 0

    cdef int on_end(self) except -1:
        self.eof()
        return 0

    cdef int on_progress(self) except -1:
        if self.queued_nbytes <= _QUEUE_NBYTES:
            self.watches_progress = False
            _wake(self.writer)
        return 0

    cdef int on_close(self, uint32_t error_code) except -1:
        cdef object calls = self.calls
        self.calls = None
        self.at_end = True
        calls.cancel(self)
        return 0

    # Bytes that the reader waits for, or has taken, need not be held back.
    cdef int _give_back(self) except -1:
        cdef Py_ssize_t keep = max(<Py_ssize_t>0, <Py_ssize_t>len(self.received) - self.wanted)
        cdef Py_ssize_t nbytes = self.held - min(keep, self.held)
        if nbytes:
            self.held -= nbytes
            self.consume(nbytes)
        return 0

    # -- what handlers do --------------------------------------------------------------------------

    def peer(self):
        """The client's address, as its transport says."""
        return (<object>self.session).peer()

    def eof(self):
        """Nothing more is to be read than what is there."""
        self.at_end = True
        _wake(self.waiter)

    async def recv_data(self, Py_ssize_t size, bint paced=False):
        """`size` bytes; fewer when the stream ends before. `paced`: GRPCError when they come too slowly."""
        self.wanted = size
        self._give_back()
        while len(self.received) < size and not self.at_end:
            self.waiter = asyncio.get_running_loop().create_future()
            if paced:
                self._look_later()
            try:
                await self.waiter
            finally:
                self.waiter = None
                if self.timer is not None:
                    self.timer.cancel()
                    self.timer = None
        self.wanted = 0
        data = bytes(memoryview(self.received)[:size])
        del self.received[:size]
        self._give_back()
        return data

    cdef int _look_later(self) except -1:
        cdef Lane lane = (<ExpressSession>self.session).lane
        self.timer = lane.loop.call_later(lane.message_timeout_s, self._look, len(self.received))
        return 0

    def _look(self, Py_ssize_t before):
        cdef Lane lane = (<ExpressSession>self.session).lane
        if self.waiter is None or self.waiter.done():
            return
        if len(self.received) - before < lane.message_pace_nbytes:
            self.waiter.set_exception(GRPCError(Status.DEADLINE_EXCEEDED, "timed out waiting for the request message"))
        else:
            self._look_later()

    async def send_headers(self, headers, bint end_stream=False):
        """Head, or trailers when the head is out."""
        cdef list fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._check_open()
        if self.state == STREAM_OPEN:
            if fields[0] != (b":status", b"200"):
                # Not what a gRPC client does; a storm of these is treated like one of resets.
                (<ExpressSession>self.session).count_reset()
            self.send_head(HeaderBlock(fields), end_stream)
        else:
            self.send_trailers(HeaderBlock(fields))

    async def send_data(self, data):
        """Queues bytes; waits while the client lags behind."""
        self._check_open()
        self.send_parts([data], len(data))
        while self.queued_nbytes > _QUEUE_NBYTES:
            self.watches_progress = True
            self.writer = asyncio.get_running_loop().create_future()
            try:
                await self.writer
            finally:
                self.writer = None

    def _check_open(self):
        if self.state == STREAM_ENDING or self.state == STREAM_CLOSED:
            raise StreamGone


cdef int _wake(object future) except -1:
    if future is not None and not future.done():
        future.set_result(None)
    return 0
