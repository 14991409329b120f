# ModelStreamInfer on the express lane. Loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.grpc.express.call cimport ExpressCall
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer

# A request of a stream, and the place of its answer among the others.
cdef class Slot(ResponseSink):
    cdef StreamInfer call          # None once it is finally answered, or the call is gone
    cdef Buffer message            # what errors about it can name
    cdef InferRequest request      # while the server has it
    cdef ModelSignature signature  # None while it is not known which model serves
    cdef bint wants_empty_final
    cdef object outcome            # an InferResponse or an exception that waits for its turn, or None

# Invariants
#   - open_slots == slots not finally answered, plus answers whose bytes have not left: at most
#     GRPC_MAX_STREAM_REQUESTS; at the bound nothing is read, and the client's window closes
#   - `order` holds the unanswered slots that answer in order, the oldest first
#   - backlog is None unless reading has stopped at the bound
cdef class StreamInfer(ExpressCall):
    cdef readonly bint ends_on_error  # metadata triton_grpc_error
    cdef bint drained
    cdef int open_slots
    cdef set slots                 # not finally answered
    cdef object order              # deque of Slot
    cdef object unsent             # deque: place in the stream where each answer ends that has not left
    cdef int64_t written_nbytes    # of answers, ever
    cdef object backlog            # bytearray of payload that was not looked at

    cdef int submit(self, Buffer message) except -1
    # An outcome of a slot whose turn it may be.
    cdef int arrived(self, Slot slot, object outcome) except -1

    cdef bint _has_room(self) noexcept
    cdef int _read(self, const char *data, size_t nbytes) except -1
    cdef int _read_backlog(self) except -1
    cdef int _advance(self) except -1
    cdef int _send(self, Slot slot, object outcome) except -1
    cdef int _write(self, list parts, bint final) except -1
    cdef int _finish_if_done(self) except -1
