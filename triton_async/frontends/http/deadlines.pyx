"""The clocks of an HTTP connection: heads, bodies, answers, silence, and clients that may have gone."""

from libc.stdint cimport int64_t

from triton_async.frontends.http.answers cimport (
    CONNECTION_BODY,
    CONNECTION_CLOSED,
    CONNECTION_CLOSING,
    CONNECTION_HEAD,
    CONNECTION_RELAY,
)
from triton_async.frontends.http.connection cimport Connection

import socket

from triton_async.defines import HTTP_BODY_TIMEOUT_S, HTTP_HEAD_TIMEOUT_S, HTTP_KEEPALIVE_TIMEOUT_S
from triton_async.frontends.http.replies import CONTINUE

cdef int64_t HEAD_S = int(HTTP_HEAD_TIMEOUT_S)
cdef int64_t BODY_S = int(HTTP_BODY_TIMEOUT_S)
cdef int64_t KEEPALIVE_S = int(HTTP_KEEPALIVE_TIMEOUT_S)

# Seconds after which a client that sends no more is asked for a sign of life; connections count them: see eof_received.
cdef int64_t PROBE_S = 1
# Seconds after the question when its answer may be there; later ones are found by the clock.
cdef tuple LOOKS_S = (0.02, 0.1, 0.5)


cpdef int check(Connection connection) except -1:
    """Looks at one connection."""
    if connection.state == CONNECTION_CLOSED:
        return 0
    if connection.write_paused or connection.state == CONNECTION_CLOSING:
        return connection._check_writing()
    if connection.half_closed and (connection.in_flight or connection.state == CONNECTION_RELAY):
        return _probe(connection)
    if connection.state == CONNECTION_HEAD:
        return _check_head(connection)
    if connection.state == CONNECTION_BODY:
        if connection.hub.now_s - connection.touched_s > BODY_S or connection.intake.too_slow():
            connection._give_up_body()
            return connection._refuse((408, "timed out waiting for the request body"))
        return 0
    if connection.state == CONNECTION_RELAY and connection.handover.calls == 0 and (
        connection.hub.now_s - connection.handover.began_s > HEAD_S
    ):
        # The full parser waits for more than we took for the whole request.
        connection.transport.close()
    return 0


cdef int _check_head(Connection connection) except -1:
    cdef int64_t now_s = connection.hub.now_s
    if connection.in_flight:
        return 0
    if connection.held.size:
        if now_s - connection.head_s > HEAD_S:
            return connection._refuse((408, "timed out waiting for the request"))
    elif now_s - connection.touched_s > KEEPALIVE_S:
        connection.close_if_idle()
    return 0


# A socket that was closed and one that is only not written to any more differ in how they take bytes. What waits long
# enough to be worth the question is cancelled when nobody waits for it.
cdef int _probe(Connection connection) except -1:
    cdef bint old = connection.first.old if connection.in_flight else connection.head.old
    if connection.hub.now_s - connection.touched_s <= PROBE_S or old:
        return 0
    if not connection.probed:
        connection.probed = True
        for later_s in LOOKS_S:
            connection.hub.loop.call_later(later_s, check, connection)
        if not _answers(connection):
            # What every client but those of HTTP/1.0 has to take before its answer (RFC 9110 15.2).
            connection.transport.write(CONTINUE)
        return 0
    plain = connection.transport.get_extra_info("socket")
    if plain is not None and plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        connection.abort()
    return 0


# Whether a part of the answer to its first request has left.
cdef bint _answers(Connection connection) except -1:
    if connection.state == CONNECTION_RELAY:
        return connection.handover.relay.written
    return connection.in_flight > 0 and connection.first.begun
