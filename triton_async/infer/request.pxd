# One inference request on its way through the server. Owned by the loop thread.

from libc.stdint cimport int64_t, uint64_t

from triton_async.infer.event cimport ta_message
from triton_async.infer.response cimport ResponseSink
from triton_async.infer.tensor cimport Tensor
from triton_async.infer.trace cimport Trace
from triton_async.memory.buffer cimport Buffer

#   NEW --enqueue--> QUEUED --batch taken--> RUNNING --all that was awaited--> DONE
#    |                 |  ^--batch revoked--'  |
#    +---- refused ----+------- cancelled ------+----------------------------> DONE
cdef enum RequestState:
    REQUEST_NEW = 0       # being built or validated; owned by the front-end
    REQUEST_QUEUED = 1    # in the queue of a model
    REQUEST_RUNNING = 2   # in a batch that an instance holds, or held by an engine behind its batch
    REQUEST_DONE = 3      # no engine knows it any more: answered, or refused

# What a request that core has still waits for.
cdef enum Awaited:
    AWAITS_FINAL = 1      # its final response, from the engine
    AWAITS_DELIVERY = 2   # that response being passed on: it may be held back for those of earlier requests
    AWAITS_RELEASE = 4    # its inputs to be free again
    AWAITS_EXECUTION = 8  # the end of an execution whose engine answers by request

cdef enum RequestFlag:    # TRITONSERVER_RequestFlag
    FLAG_SEQUENCE_START = 1
    FLAG_SEQUENCE_END = 2

# A stream of a client whose end is known: what the server keeps for it ends with it. Loop thread.
cdef class Origin:
    cdef set kept                        # objects with a method `left()`

    # The client is gone: all that is kept for it is told, once.
    cdef int gone(self) except -1

# An output that the client asks for.
cdef class RequestedOutput:
    cdef readonly str name
    cdef readonly bint binary           # HTTP: binary form instead of JSON
    cdef readonly int64_t classification  # N of the classification extension; 0: plain tensor
    cdef readonly dict parameters       # other parameters, or None
    cdef readonly Buffer region         # where its bytes go instead of the response: a writable lease; or None
    cdef readonly bint anywhere         # taken where the engine leaves it, on a device too; else it comes to the host

cdef class InferRequest:
    cdef readonly str model_name
    cdef readonly int64_t model_version  # as asked; -1: the version policy's choice
    cdef public str id                   # "" when the client gave none
    cdef public list inputs              # of Tensor, as sent
    # Of RequestedOutput; empty: every output of the model. Requests may share it: it does not change.
    cdef public list outputs
    cdef public dict parameters          # request parameters for the backend: str -> str | int | float | bool, or None
    cdef public uint64_t priority        # 0: the model's default
    cdef public uint64_t timeout_us      # 0: none
    cdef public object sequence_id       # int or str; 0 or "": none
    cdef public int flags                # RequestFlag bits
    cdef public bint binary_default      # HTTP: outputs not listed come in binary form
    cdef public int64_t received_ns      # CLOCK_MONOTONIC, when the front-end had the whole request
    cdef public int64_t end_by_ns        # when its client stops waiting for the answer; 0: never
    cdef public object context           # the front-end's own, untouched by core

    # Its trace, set by core when it is submitted; None: it is not traced. Before: the Trace for whose sake the request
    # is made, or the (name, value) of the headers that it came with, or
    # None.
    cdef readonly Trace trace
    cdef public object trace_parent

    # Set by ModelSignature.validate, or with `fits`, the signature for which that has been done
    cdef object fits
    cdef list slots                      # Tensor or None per input of the signature
    cdef int64_t held_nbytes             # of its inputs, and of itself, as core counts them while it is in flight
    cdef int64_t rows                    # batch size; 1 when the model has no batch dimension
    cdef uint64_t wanted                 # bit per output of the signature (bit 63 stands for all from there on)
    cdef int n_placements                # outputs that go to shared memory regions
    cdef bint alone                      # shares no batch: what it brings is checked by the instance thread

    # Owned by core from InferenceServer.submit on
    cdef int state                       # RequestState
    cdef int awaits                      # Awaited bits
    cdef bint cancelled
    cdef bint failed                     # its final response was an error
    cdef object model                    # the Servable that has it; None before and after
    cdef object batch                    # the Batch that an instance has it in, or None
    cdef ResponseSink sink               # who gets the responses
    cdef ta_message message              # TA_RELEASED
    cdef int64_t queue_start_ns
    cdef int64_t deadline_ns             # queue timeout; 0: none
    cdef uint64_t priority_level         # 1: most urgent; 0: the model has no levels
    cdef bint delayed                    # its queue timeout sent it behind the others of its level
    cdef bint late                       # refused because it could not end by `end_by_ns`
    cdef list place                      # where its responses wait for those before it, when order is kept; or None
    cdef bytes cache_key                 # under which its answer is to be kept, or None
    cdef object sequence                 # what the sequence batcher knows of its sequence, while it is there or runs
    cdef list states                     # states that its responses brought, Tensor or None for each; or None
    cdef bint padding                    # stands for a slot without a request: nobody's, answered to nobody
    cdef bint rescheduled                # released to be run once more; of who holds the GIL, until the loop sees it
    cdef object refusal                  # the ServerError that a scheduler which gave it up has for it, or None
    cdef public object origin            # Origin of a client that streams, or None
    cdef set inner                       # sinks of the unfinished requests made for its sake, or None

    # How far an engine that answers by request is ahead of who takes the responses. Of whoever holds the GIL.
    cdef int64_t sent                    # responses that its factory has posted
    cdef int64_t taken                   # of them, that the loop has seen
    cdef bint congested                  # the sink had better get no further one
    cdef list held_back                  # callables of those who wait with one, or None

    # The queue's own, while QUEUED
    cdef InferRequest behind             # next in its line
    cdef void *before                    # the one before it there, borrowed; NULL: none
    cdef int64_t due_place               # where it stands in the heap of deadlines; 0: nowhere
    cdef uint64_t arrival                # numbers requests in the order in which they came

    # Whether a further response had better wait. Any thread, with the GIL.
    cdef bint crowded(self) noexcept
    # The sink takes responses again, or nobody does any more: tells those who wait. Loop thread.
    cdef int relieve(self) except -1

# What the request says of this output; None when it does not name it.
cdef RequestedOutput asked_output(InferRequest request, str name)

cpdef int64_t live_requests()
