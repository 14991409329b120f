# The responses that a connection owes, in the order of its requests, and its end behind the last. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.http.generation cimport Generation
from triton_async.frontends.http.hub cimport Hub
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.trace cimport Trace
from triton_async.protocol.http_repeat cimport KnownReply
from triton_async.protocol.receiver cimport Receiver

# The responses to a generate call. Its exchange, while that has one.
cdef class Generated(Generation):
    cdef Exchange exchange

# One inference request in work: its place in the order of responses. Owned by its connection until it is answered.
cdef class Exchange(ResponseSink):
    cdef Answers answers             # None when nobody waits any more
    cdef InferRequest request        # None when it was refused, and of a generate call
    cdef ModelSignature signature
    cdef InferResponse response      # None until delivered
    cdef Generated generation        # instead of both, of a generate call; or None
    cdef str request_id              # of a request that is not held here; or None
    cdef int call                    # HeadCall
    cdef int64_t version             # of the model, as asked; -1: none
    cdef int64_t received_ns         # CLOCK_MONOTONIC; 0: it was refused
    cdef object problem              # (status, message) instead of a response
    cdef bint old                    # asked in HTTP/1.0
    cdef bint closes                 # the connection closes behind the answer
    cdef bint scanned                # its header was of the plain form
    cdef bint repeats                # and that of an earlier request
    cdef int coding                  # that the client asks for (http_coding)
    cdef tuple encoded               # the response, when its body was encoded or compressed elsewhere
    cdef bint working                # another thread decodes the request, encodes or compresses the response
    cdef bytes compressed            # the body, when it was compressed
    cdef Trace trace                 # None when it is not traced
    cdef object fields               # the header of a request that another thread decodes, as Connection.fields
    cdef dict forwarded              # what becomes parameters of it; or None
    cdef int64_t began_ns            # and when its body began
    cdef int64_t held_nbytes         # its body, held with the server until it is decoded
    cdef Hub hub                     # that knows the server
    cdef int64_t waiting_nbytes      # of the response, noted as unsent while it waits for its turn
    cdef bint writing                # a part of the answer waits for the socket: it is the connection's first
    cdef list rest                   # that part, the last piece first; or None
    # Of events, which leave as they come:
    cdef bint begun                  # the head of the answer has left
    cdef bint ended                  # and the end of it
    cdef int status                  # that it has
    cdef int64_t event_nbytes        # of all that have left
    cdef int n_taken                 # events that are on their way to the socket
    cdef int64_t taken_nbytes
    cdef Exchange next

    cdef bint _ready(self) noexcept
    # Whether the answer is a stream of events, and not an error in place of it.
    cdef bint _streams(self) noexcept
    # Who gets the responses.
    cdef ResponseSink _sink(self)
    # The server has taken the request.
    cdef int _accepted(self, InferRequest request, int64_t began_ns) except -1
    cdef int _wait(self) except -1
    # `work`, an asyncio future, is under way on another thread; `done(work)` on the loop's behind it.
    cdef int _start(self, object work, object done) except -1

#   HEAD --plain infer head--> BODY --complete--> HEAD          (the request itself waits in `first`..`last`)
#   HEAD --other head, nothing in flight--> RELAY --both sides agree that it is over--> HEAD
#   HEAD, BODY, RELAY --refused, or the client wants the connection closed behind its request--> LAST
#   LAST --nothing in flight--> CLOSING
#   any --> CLOSING --> CLOSED
cdef enum ConnectionState:
    CONNECTION_HEAD = 0      # at a request boundary, or in a head
    CONNECTION_BODY = 1      # receiving the body of an infer request
    CONNECTION_RELAY = 2     # exactly one request goes to the full parser; what is behind it is held
    CONNECTION_LAST = 3      # the last answer is in line; what comes is dropped
    CONNECTION_CLOSING = 4   # everything is written; what comes is dropped
    CONNECTION_CLOSED = 5

# The writing half of a connection. `first`..`last` are the exchanges not yet written, `in_flight` of them.
cdef class Answers(Receiver):
    cdef Hub hub
    cdef object transport
    cdef int state                   # ConnectionState
    cdef bint half_closed            # the client sends no more; what it asked for before is answered
    cdef bint unread                 # bytes behind the last request came, or may come
    cdef bint write_paused           # the socket takes no more: responses wait
    cdef bint receiving              # a request is behind `last` whose body is not complete
    cdef bint gone                   # the connection is lost
    cdef int64_t touched_s           # when bytes last came or a response left
    cdef Exchange first
    cdef Exchange last
    cdef int in_flight
    cdef KnownReply known_reply      # None before a header came again
    cdef bint flush_scheduled        # `flush` is called in this turn of the loop
    cdef int64_t unsent_nbytes       # its part of the hub's
    cdef int64_t stalled_nbytes      # unsent bytes at the last tick that saw progress; -1 before the first
    cdef int64_t stalled_s

    # A new exchange at the end of the line.
    cdef Exchange _enqueue(self, ModelSignature signature)
    # Writes the responses whose turn it is.
    cdef int _flush(self) except -1
    # A generate call has got something to write.
    cdef int _generated(self, Exchange exchange) except -1
    # Writes events as far as the socket takes them. Whether all that there will ever be have left.
    cdef bint _write_events(self, Exchange exchange) except -1
    # The bytes of a response, or a list of objects with the buffer protocol; None while another thread makes it.
    cdef object _reply(self, Exchange exchange)
    cdef object _generated_reply(self, Generated generation, Exchange exchange, bytes tail)
    # A line of the access log.
    cdef int _note(self, Exchange exchange, int64_t nbytes) except -1
    # The bytes of an error, noted in a verbose log.
    cdef object _failed(self, Exchange exchange, int status, str message, bytes tail)
    cdef bytes _tail(self, Exchange exchange)
    cdef int _write(self, Exchange exchange, object data) except -1
    cdef int _write_some(self, Exchange exchange, list parts) except -1
    # The socket takes more: of the answer that is being written.
    cdef int _go_on(self) except -1
    # The first exchange is answered.
    cdef int _forget_first(self) except -1
    # Changes `unsent_nbytes` by so much. May end any connection.
    cdef int _note_unsent(self, int64_t change) except -1
    # The socket takes no more, or does again.
    cdef int _pause(self) except -1
    cdef int _unpause(self) except -1
    # Looks whether the client still reads; ends the connection of one that does not.
    cdef int _check_writing(self) except -1
    # Called behind every flush.
    cdef int _after_write(self) except -1
    # Answers `problem`, (HTTP status, message), outside of any request, behind the answers that are owed, and closes.
    cdef int _refuse(self, tuple problem) except -1
    # No request is taken behind this one.
    cdef int _end_behind(self, Exchange exchange) except -1
    # The last answer is written.
    cdef int _end(self) except -1
    cdef int _linger(self) except -1
    # No more is read; what was written still leaves.
    cdef int _close(self) except -1
    # The connection is lost: cancels what is in work and lets go of everything.
    cdef int _abandon(self) except -1
