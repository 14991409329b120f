"""Streams of the RPCs that service handlers answer, each in a task of its own. Loop thread."""

import asyncio

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from triton_async.frontends.grpc.express.session cimport ExpressSession, Lane
from triton_async.protocol.http2 cimport STREAM_CLOSED, STREAM_ENDING, STREAM_OPEN, Http2Stream
from triton_async.protocol.http2_output cimport HeaderBlock

from grpclib import GRPCError, Status

from triton_async.frontends.grpc.call import StreamGone

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **string, Py_ssize_t size) except -1

# Bytes of answers that may be queued before the handler is made to wait.
cdef int64_t _QUEUE_NBYTES = 1 << 16

# Room for a message at the beginning, whatever size is announced; from there on it is twice what has come at most.
cdef Py_ssize_t _ROOM_NBYTES = 1 << 18


cdef class SlowStream(Http2Stream):
    """A stream whose messages a task reads and answers."""

    # -- what happens ------------------------------------------------------------------------------

    cdef int on_open(self) except -1:
        self.received = bytearray()
        self.calls.accept(self, self.headers)
        return 0

    cdef int on_data(self, const char *data, size_t nbytes) except -1:
        cdef size_t taken = 0
        cdef size_t part
        if self.at_end or self.state == STREAM_ENDING:
            return self.consume(nbytes)
        while taken < nbytes and self.room is not None and self.filled < self.wanted:
            if self.filled == PyBytes_GET_SIZE(self.room):
                self._grow()
            part = min(nbytes - taken, <size_t>(PyBytes_GET_SIZE(self.room) - self.filled))
            memcpy(PyBytes_AS_STRING(self.room) + self.filled, data + taken, part)
            taken += part
            self.filled += part
        if self.room is not None and self.filled == self.wanted:
            _wake(self.waiter)
        if taken < nbytes:
            self.received += data[taken:nbytes]
        return self.consume(taken) if taken else 0

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

    cdef int _grow(self) except -1:
        cdef Py_ssize_t size = min(2 * PyBytes_GET_SIZE(self.room), self.wanted)
        cdef PyObject *room = <PyObject *>self.room
        Py_INCREF(self.room)
        self.room = None  # what is resized has one owner
        _PyBytes_Resize(&room, size)
        self.room = <bytes>room
        Py_DECREF(self.room)
        return 0

    cdef int _take_received(self, char *out, Py_ssize_t size) except -1:
        if size:
            memcpy(out, PyByteArray_AS_STRING(self.received), size)
            del self.received[:size]
            self.consume(size)
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
        cdef Py_ssize_t there = min(size, <Py_ssize_t>len(self.received))
        self.room = PyBytes_FromStringAndSize(NULL, min(size, max(there, _ROOM_NBYTES)))
        self.wanted, self.filled = size, there
        try:
            self._take_received(PyBytes_AS_STRING(self.room), there)
            while self.filled < size and not self.at_end:
                await self._wait(paced)
            return self.room if self.filled == size else self.room[:self.filled]
        finally:
            self.room = None

    async def _wait(self, bint paced):
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

    cdef int _look_later(self) except -1:
        cdef Lane lane = (<ExpressSession>self.session).lane
        self.timer = lane.loop.call_later(lane.message_timeout_s, self._look, self.filled)
        return 0

    def _look(self, Py_ssize_t before):
        cdef Lane lane = (<ExpressSession>self.session).lane
        if self.waiter is None or self.waiter.done():
            return
        if self.filled - before < lane.message_pace_nbytes:
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
