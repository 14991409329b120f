# The requests of one ModelStreamInfer call and the order of their answers, whichever lane carries it. Loop thread.

from libc.stdint cimport int64_t

from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest, Origin
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.trace cimport Trace
from triton_async.memory.buffer cimport Buffer

# A request of a stream, and the place of its answer among the others.
cdef class Slot(ResponseSink):
    cdef StreamRequests requests   # None once it is finally answered, or the call is over
    cdef InferRequest request      # while the server has it
    cdef ModelSignature signature  # None while it is not known which model serves
    cdef Buffer refused            # the message of a request that no model took, for the error about it; or None
    cdef bint wants_empty_final
    cdef bint in_order             # is in the `order` of the others
    cdef Trace trace               # of its request; None: it is not traced
    cdef object outcome            # an InferResponse or an exception that waits for its turn, or None
    cdef object chosen             # what another thread made of its outputs: a list, or an exception; or None
    cdef object behind             # deque of InferResponse behind one whose outputs another thread looks at, or None

# Answers leave in the order of the requests; those of decoupled models as they come.
#
# Invariants
#   - `slots` are not finally answered; `order` holds those of them that answer in order, the oldest first
#   - `unsent` has an entry for each answer, final or not, whose bytes have not left
#   - once `ended`, nothing is sent or submitted any more
cdef class StreamRequests:
    cdef InferenceServer server
    cdef readonly bint ends_on_error  # metadata triton_grpc_error: an error is the status of the call
    cdef readonly bint ended
    cdef int64_t max_waiting       # answers that wait from which on who makes further ones is asked to wait
    cdef int64_t end_by_ns         # when each request has to be done, because of the call's deadline; 0: never
    # Of the answer that is being written, for logs:
    cdef str request_id            # or None
    cdef str model                 # or None
    cdef int64_t asked_ns          # when its request was received; 0: not known
    cdef public object forward     # called with each request before it is submitted, or None; may raise ServerError
    cdef public object fields      # headers of the call, where traces are to follow them; else None
    cdef Origin origin             # of its sequences; None while it has none
    cdef set slots
    cdef object order              # deque of Slot
    cdef object unsent             # deque of int: place in the stream of answers where each one ends
    cdef int64_t held_nbytes       # of the request that another thread decodes, held with the server; 0: none does
    cdef Py_ssize_t n_behind       # responses that wait for another thread
    cdef readonly int64_t written_nbytes  # of answers, ever
    cdef readonly int64_t sent_nbytes  # of them, have left
    cdef list held_back            # callables of `on_relief`, or None

    # -- to be overridden; by default they call the Python methods on_answer, on_failure and on_change --
    # The parts of an answer, `nbytes` in all, are to follow those before.
    cdef int write(self, list parts, int64_t nbytes) except -1
    # The call is to end with this error, behind the answers already written. Called at most once.
    cdef int fail(self, object error) except -1
    # A slot was answered or was found to need no answer: there may be room, or nothing left to do.
    cdef int changed(self) except -1

    # -- what the call does --
    # Hands a ModelInferRequest to the server; only with `has_room`. Its errors are answers, or end the call (`fail`).
    cdef int submit(self, Buffer message) except -1
    # Whether a further message may be read: fewer than GRPC_MAX_STREAM_REQUESTS requests are not finally answered or
    # answers not sent, less than GRPC_MAX_HELD_NBYTES bytes of these, and no request before it is still being decoded.
    cdef bint has_room(self) except -1
    # So many bytes of answers have left, counted from the beginning: there may be room.
    cdef int note_sent(self, int64_t nbytes) except -1
    # Whether an instance is at work on one of the requests.
    cdef bint is_executing(self) except -1
    # The call is over. The requests that the server still has, for their cancellation. Idempotent.
    cdef list close(self)

    # The client has gone without an end: what the server keeps for it, states of sequences, ends at once. Behind
    # `close` and the cancellation of what that returned.
    cdef int forsake(self) except -1

    # -- what slots do --
    cdef int arrived(self, Slot slot, InferResponse response) except -1
    cdef bint congested(self) except -1

    # Has another thread make, or check, the request of a slot; what it returns is submitted.
    cdef int _look_elsewhere(self, Slot slot, Buffer message, int64_t nbytes, object function, object on) except -1
    cdef int _submit(self, Slot slot, Buffer message, InferRequest request) except -1
    # A request that is not submitted: its error is its answer, or ends the call.
    cdef int _refuse(self, Slot slot, Buffer message, object error) except -1
    cdef int _answer_next(self, Slot slot, InferResponse response) except -1
    cdef int _answer(self, Slot slot, object outcome) except -1
    cdef int _advance(self) except -1
    cdef int _send(self, Slot slot, object outcome) except -1
    cdef int _write(self, list parts) except -1
    cdef int _fail(self, object error) except -1
    cdef int _relieve(self) except -1
