# Calls that the express lane answers itself. Loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.grpc.express.session cimport ExpressSession
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.trace cimport Trace
from triton_async.memory.buffer cimport Buffer
from triton_async.protocol.grpc_message cimport MessageReader
from triton_async.protocol.http2 cimport Http2Stream
from triton_async.protocol.http2_output cimport HeaderBlock

cdef HeaderBlock HEAD              # head of every answer with messages
cdef HeaderBlock OK                # trailers of success

# What a request asked for, for logs: a model's name, and its version where it said one.
cdef str asked_model(InferRequest request)

# What the calls have in common: deadline, errors, end.
cdef class ExpressCall(Http2Stream):
    cdef int64_t end_by_ns         # its deadline, CLOCK_MONOTONIC; 0: none
    cdef int64_t answer_by_ns      # when its requests have to be done; 0: never
    cdef object timer              # TimerHandle: of the deadline, or else of the pace of messages; or None
    cdef MessageReader reader
    cdef int64_t receiving_nbytes  # its part of the connection's
    cdef int64_t pace_ns           # since when the message that has begun is looked at
    cdef int64_t pace_nbytes       # what was there of it then
    # Of a request that was refused, for logs:
    cdef str request_id            # or None
    cdef str model                 # with its version, as far as it is known; or None
    cdef int64_t asked_ns          # when it was received; 0: not known
    cdef dict forwarded            # of its headers: parameters of its requests; or None
    # While requests are traced:
    cdef int64_t opened_ns         # when its head came; 0: they are not
    cdef object fields             # its header, where that is asked for; else None

    # The connection, typed.
    cdef ExpressSession connection(self)
    # Notes that `nbytes` bytes of messages are held. Raises MessageError when the connection holds too many.
    cdef int note_receiving(self, int64_t nbytes) except -1
    # A message has begun: it must grow from here on.
    cdef int _watch_pace(self, int64_t nbytes) except -1
    # Whether the server, and not the client, keeps bytes from being read.
    cdef bint holds_back(self) noexcept
    # Notes of what request logs are to speak.
    cdef int about(self, InferRequest request) except -1
    # A line of the access log, if there is one.
    cdef int note(self, str outcome, int64_t nbytes, int64_t began_ns, str model, str request_id=*) except -1
    # What was called, for logs.
    cdef str rpc(self)
    # Ends the call with an error; nothing when it has ended. The client's side too.
    cdef int fail(self, int status, str message) except -1
    # The same with the status of an exception; what is not meant for clients is logged.
    cdef int fail_with(self, object error) except -1
    # Drops what the call holds in the server; from `on_close` and when it fails. Idempotent.
    cdef int release(self) except -1
    # The server ends: nothing more is to be expected from the client.
    cdef int drain(self) except -1

# A call refused at its head.
cdef class RefusedCall(ExpressCall):
    cdef int status
    cdef str message

# ModelInfer.
cdef class UnaryInfer(ExpressCall):
    cdef Buffer message            # the request's bytes, until they are decoded
    cdef InferRequest request      # while the server has it
    cdef ModelSignature signature
    cdef InferResponse response    # while another thread looks for its classes
    cdef int64_t held_nbytes       # of what another thread decodes, held with the server; 0: none does

    cdef int submit(self) except -1
    # Has another thread make the request in `message`, or check it; what it returns is submitted.
    cdef int _look_elsewhere(self, Buffer message, int64_t nbytes, object function, object argument) except -1
    cdef int _submit(self, InferRequest request) except -1
    cdef int _refuse(self, InferRequest request, object error, Buffer message=*) except -1
    cdef int answer(self, InferResponse response) except -1
    cdef int _send(self, InferResponse response, list outputs, int64_t began_ns, Trace trace) except -1

# Takes the response of a unary call.
cdef class UnarySink(ResponseSink):
    cdef UnaryInfer call
