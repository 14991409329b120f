# The express lane: connections that answer plain infer requests themselves and relay all others to the full parser.
# Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.core.servable cimport Servable
from triton_async.frontends.http.answers cimport Exchange
from triton_async.frontends.http.held cimport Held
from triton_async.frontends.http.intake cimport Intake
from triton_async.frontends.http.slow_lane cimport SlowLane
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool
from triton_async.protocol.http_repeat cimport KnownHeader

# Invariant: held bytes exist only while something blocks, or as the front part of a head.
cdef class Connection(SlowLane):
    cdef bint probed                 # it was sent something to find out whether it still reads
    cdef bint read_paused
    cdef bint resume_scheduled
    cdef bint last_chance            # the server goes, and bytes in the socket are still to be answered
    cdef int left                    # requests that may still be begun in this turn of the loop
    cdef bint blank                  # an empty line stood in front of the next request
    cdef int64_t head_s              # when the held part of a head began
    cdef Held held                   # received, not acted upon
    cdef Py_ssize_t seen             # of the head at the front, by find_head_end

    # Of the last infer request, which the next one is mostly like:
    cdef bytes head_text             # its head, of which `head` tells; None: there is none
    cdef KnownHeader known_header    # its JSON header; None before the first one
    cdef bytes entered               # such a head that the hub's entry has let in
    cdef object entered_at           # and the generation of its keys then
    cdef dict forwarded              # of the last head: what becomes parameters of its request; or None
    cdef str name                    # model name
    cdef Servable model              # that it is for; None between two requests, for it may be unloaded
    cdef ModelSignature signature
    cdef SlabPool input_pool         # of its model; None: the host's
    cdef Intake intake               # its body
    # Of the request that is received, while requests are traced:
    cdef int64_t began_ns            # when its body began
    cdef object fields               # its header, as head_fields has it, where that is asked for; else None
    cdef Py_ssize_t linger_nbytes    # behind the last request, still to be dropped

    cdef Py_ssize_t _consume(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _parse(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *end) noexcept
    cdef Py_ssize_t _take_head(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _note_head(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int64_t _body_limit(self) noexcept
    cdef bint _alone(self) noexcept
    cdef bint _admit(self, const unsigned char *data, Py_ssize_t size) except -1
    # Whether the hub's entry lets in the head in data[0:size].
    cdef bint _enter(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t _begin_body(self, const unsigned char *data, Py_ssize_t size) except -1
    # The body has grown: submits the request when it is complete, refuses it when it cannot go on.
    cdef int _received(self) except -1
    cdef int _submit(self) except -1
    # The request in `body`; `exchange` learns whether it is like the last one.
    cdef int _submit_later(self, Exchange exchange, Buffer body) except -1
    cdef InferRequest _decode(self, Exchange exchange, Buffer body)
    cdef int _learn(self, InferRequest request, Buffer body) except -1
    cdef int _give_up_body(self) except -1
    # Closes behind the last answer to a client that sends no more; what is not complete never will be.
    cdef int _end_input(self) except -1
    cdef bint _blocked(self) noexcept
    cdef int _hold(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _drop_held(self, Py_ssize_t count) noexcept
    # Bytes behind the last request.
    cdef int _drop(self, Py_ssize_t count) except -1
    cdef int _schedule_resume(self) except -1
    # Has `_resume` called in the next turn of the loop.
    cdef int _call_next(self) except -1
    cdef bint _idle(self) noexcept
