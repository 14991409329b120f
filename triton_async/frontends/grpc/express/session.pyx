"""Shared state of express connections, and gathering of their output once per turn of the loop. Loop thread."""

from triton_async.core.server cimport InferenceServer
from triton_async.frontends.grpc.abandoned cimport Abandoned
from triton_async.infer.request cimport InferRequest
from triton_async.protocol.http2 cimport Http2Session
from triton_async.protocol.http2_output cimport OutBuffer

import logging

from triton_async.defines import (
    GRPC_MAX_CONCURRENT_STREAMS, GRPC_MAX_TOTAL_HELD_NBYTES, GRPC_MAX_TOTAL_RECEIVING_NBYTES,
    GRPC_MESSAGE_MIN_NBYTES_PER_S, GRPC_MESSAGE_TIMEOUT_S, GRPC_RECEIVE_NBYTES,
)

log = logging.getLogger("triton_async.grpc")

cdef Py_ssize_t _CALLS_MAX = GRPC_MAX_CONCURRENT_STREAMS


cdef class Lane:
    """`mapping`: handlers by path; `compresses`: answers of the inference RPCs are to be compressed; `entry`: what is
    asked of these (frontends.entry), None: nothing."""

    def __init__(self, InferenceServer server, loop, mapping, ping_options, bint compresses, entry=None):
        self.server = server
        self.loop = loop
        self.mapping = mapping
        self.ping_options = ping_options
        self.connections = set()
        self.infers = not compresses
        self.entry = entry
        self.out = OutBuffer()
        self.receive_buffer = bytearray(GRPC_RECEIVE_NBYTES)
        self.receive_data = <char *>self.receive_buffer
        self.dirty = []
        self.flush_all_method = self._flush_all
        self.max_receiving_nbytes = min(GRPC_MAX_TOTAL_RECEIVING_NBYTES, server.share_nbytes)
        self.max_held_nbytes = min(GRPC_MAX_TOTAL_HELD_NBYTES, server.share_nbytes)
        self.message_timeout_s = GRPC_MESSAGE_TIMEOUT_S
        self.message_pace_nbytes = int(GRPC_MESSAGE_TIMEOUT_S * GRPC_MESSAGE_MIN_NBYTES_PER_S)

    cdef int schedule(self, ExpressSession session) except -1:
        if session.dirty:
            return 0
        session.dirty = True
        self.dirty.append(session)
        if not self.scheduled:
            self.scheduled = True
            self.server.reactor.turn.call_late(self.flush_all_method)
        return 0

    def _flush_all(self):
        cdef list dirty = self.dirty
        cdef ExpressSession session
        self.dirty = []
        self.scheduled = False
        for session in dirty:
            session.dirty = False
            session.flush()

    cdef int relieve(self) except -1:
        cdef ExpressSession slowest
        while self.held_nbytes > self.max_held_nbytes:
            slowest = max(self.connections, key=_burden)
            if slowest.noted_nbytes == 0:
                break
            log.warning("closing a gRPC connection that does not read %d bytes of its answers", slowest.noted_nbytes)
            slowest.note_held(0)
            slowest.given_up = True
            slowest.abort()
        return 0


def _burden(connection):
    return connection.burden()


cdef class ExpressSession(Http2Session):
    def __init__(self, OutBuffer out, Lane lane):
        self.lane = lane
        self.abandoned = Abandoned()

    cdef int on_output(self) except -1:
        return 0 if self.busy or self.in_turn else self.lane.schedule(self)

    cdef int flush(self) except -1:
        return 0

    cdef int note_held(self, int64_t nbytes) except -1:
        cdef int64_t change = nbytes - self.noted_nbytes
        if change == 0 or self.given_up:
            return 0
        self.noted_nbytes = nbytes
        self.lane.held_nbytes += change
        return self.lane.relieve() if change > 0 and self.lane.held_nbytes > self.lane.max_held_nbytes else 0

    cdef int abandon(self, InferRequest request) except -1:
        self.abandoned.note(request)
        return self.lane.server.cancel_request(request)

    cdef bint has_room(self) except -1:
        return len(self.streams) + self.abandoned.count < _CALLS_MAX
