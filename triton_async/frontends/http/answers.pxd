# The responses that a connection owes, in the order of its requests. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.http.hub cimport Hub
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature

# One infer request in work: its place in the order of responses. Owned by its connection until it is answered.
cdef class Exchange(ResponseSink):
    cdef Answers answers             # None when nobody waits any more
    cdef InferRequest request        # None when it was refused
    cdef ModelSignature signature
    cdef InferResponse response      # None until delivered
    cdef object problem              # (status, message) instead of a response
    cdef int64_t waiting_nbytes      # of the response, noted as unsent while it waits for its turn
    cdef Exchange next

    cdef int _wait(self) except -1

# The writing half of a connection. `first`..`last` are the exchanges not yet written, `in_flight` of them.
cdef class Answers:
    cdef Hub hub
    cdef object transport
    cdef bint write_paused           # the socket takes no more: responses wait
    cdef bint receiving              # a request is behind `last` whose body is not complete
    cdef bint gone                   # the connection is lost
    cdef int64_t touched_s           # when bytes last came or a response left
    cdef Exchange first
    cdef Exchange last
    cdef int in_flight
    cdef int64_t unsent_nbytes       # its part of the hub's
    cdef int64_t stalled_nbytes      # unsent bytes at the last tick that saw progress; -1 before the first
    cdef int64_t stalled_s

    # A new exchange at the end of the line.
    cdef Exchange _enqueue(self, ModelSignature signature)
    # Writes the responses whose turn it is.
    cdef int _flush(self) except -1
    cdef int _write(self, Exchange exchange) except -1
    # Changes `unsent_nbytes` by so much. May end any connection.
    cdef int _note_unsent(self, int64_t change) except -1
    # The socket takes no more, or does again.
    cdef int _pause(self) except -1
    cdef int _unpause(self) except -1
    # Looks whether the client still reads; ends the connection of one that does not.
    cdef int _check_writing(self) except -1
    # Called behind every flush.
    cdef int _after_write(self) except -1
    # The connection is lost: cancels what is in work and lets go of everything.
    cdef int _abandon(self) except -1
