# The express lane: connections that answer plain infer requests themselves and relay all others to the full parser.
# Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.http.answers cimport Answers
from triton_async.frontends.http.handover cimport Handover
from triton_async.frontends.http.held cimport Held
from triton_async.frontends.http.intake cimport Intake
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool
from triton_async.protocol.http_head cimport Head

#   HEAD --plain infer head--> BODY --complete--> HEAD          (the request itself waits in `first`..`last`)
#   HEAD --other head, nothing in flight--> RELAY --both sides agree that it is over--> HEAD
#   HEAD, RELAY --boundary not certain--> TUNNEL
#   any --> CLOSING (nothing is acted upon any more) --> CLOSED
cdef enum ConnectionState:
    CONNECTION_HEAD = 0      # at a request boundary, or in a head
    CONNECTION_BODY = 1      # receiving the body of an infer request into `body`
    CONNECTION_RELAY = 2     # exactly one request goes to the full parser; what is behind it is held
    CONNECTION_TUNNEL = 3    # the full parser owns the connection from here on
    CONNECTION_CLOSING = 4
    CONNECTION_CLOSED = 5

# Invariants
#   - in RELAY and TUNNEL no answer is owed, so the full parser's answers are in order too
#   - held bytes exist only while something blocks, or as the front part of a head
cdef class Connection(Answers):
    cdef int state                   # ConnectionState
    cdef bint half_closed            # the client sends no more; what it asked for before is answered
    cdef bint probed                 # it was sent something to find out whether it still reads
    cdef bint read_paused
    cdef bint resume_scheduled
    cdef int64_t head_s              # when the held part of a head began
    cdef Held held                   # received, not acted upon
    cdef Py_ssize_t seen             # of the head at the front, by find_head_end

    cdef Head head                   # of the request whose body is received
    cdef str name                    # model name of the last request: the next one is mostly the same
    cdef ModelSignature signature
    cdef SlabPool input_pool         # of its model; None: the host's
    cdef Intake intake               # its body

    cdef Handover handover           # the request that the full parser has
    cdef bint relay_paused           # the full parser wants no bytes now
    cdef Py_ssize_t linger_nbytes    # still to be dropped after a refusal

    cdef Py_ssize_t _consume(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t _take_head(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t _hand_over(self, int kind, Py_ssize_t head_nbytes) except -1
    cdef bint _admit(self, const unsigned char *data) except -1
    cdef Py_ssize_t _begin_body(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _submit(self) except -1
    # The body has grown: submits the request when it is complete, refuses it when there are too many such bytes.
    cdef int _received(self) except -1
    # Gives the body up, or over to its request.
    cdef Buffer _take_body(self)
    # Closes behind the last answer to a client that sends no more; what is not complete never will be.
    cdef int _end_input(self) except -1
    cdef int _close(self) except -1
    cdef Py_ssize_t _relay_bytes(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t _break_relay(self, Py_ssize_t size) except -1
    cdef int _return_from_relay(self) except -1
    cdef bint _blocked(self) noexcept
    cdef int _hold(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _drop_held(self, Py_ssize_t count) noexcept
    cdef int _update_reading(self) except -1
    cdef int _refuse(self, int status, str message) except -1
    cdef int _schedule_resume(self) except -1
    cdef bint _idle(self) noexcept
