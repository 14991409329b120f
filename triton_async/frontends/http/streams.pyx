"""The events of generate_stream: framed, written as they come, one piece for all of a turn. Event-loop thread."""

from triton_async.frontends.http.answers cimport CONNECTION_LAST, Answers, Exchange
from triton_async.frontends.http.generation cimport Generation
from triton_async.infer.clock cimport ta_now_ns
from triton_async.protocol.http_reply cimport event_parts, events_head, set_old

from triton_async.frontends.http.status import http_status
from triton_async.logs import access


cdef class Streams(Answers):
    """What a connection does while its first exchange is a stream."""

    cdef bint _write_events(self, Exchange exchange) except -1:
        cdef Generation generation = exchange.generation
        while not self.write_paused and not self.gone:
            if exchange.n_taken:
                generation.left(exchange.n_taken, exchange.taken_nbytes)
                exchange.n_taken = 0
                exchange.taken_nbytes = 0
            if exchange.ended:
                if exchange.old:
                    # Its end is that of the connection.
                    self.state = CONNECTION_LAST
                if access.on:
                    self._note(exchange, exchange.event_nbytes)
                return True
            if exchange.begun and generation.n_ready == 0 and not generation.over:
                return False
            self._write_some(exchange, self._event_parts(exchange))
        return False

    cdef list _event_parts(self, Exchange exchange):
        cdef Generation generation = exchange.generation
        cdef bytes head = b"" if exchange.begun else self._events_head(exchange)
        cdef list parts
        self.touched_s = self.hub.now_s
        exchange.begun = True
        exchange.n_taken = generation.n_ready
        exchange.ended = generation.over
        parts = event_parts(head, generation.taken(), not exchange.old, exchange.ended, &exchange.taken_nbytes)
        exchange.event_nbytes += exchange.taken_nbytes
        parts.reverse()
        return parts

    cdef bytes _events_head(self, Exchange exchange):
        cdef Generation generation = exchange.generation
        cdef bytes head
        if exchange.old:
            exchange.closes = True
        exchange.status = 200 if generation.error is None else http_status(generation.error.code)
        head = events_head(exchange.status, not exchange.old, self._tail(exchange))
        if exchange.old:
            set_old(head)
        if exchange.trace is not None:
            exchange.trace.note("HTTP_SEND_START", ta_now_ns())
        return head
