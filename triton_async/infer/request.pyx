"""Inference requests as the codecs build them and core moves them."""

import logging

cimport cython

from triton_async.infer.event cimport TA_RELEASED

from triton_async.defines import RESPONSES_AHEAD

log = logging.getLogger("triton_async.core")

cdef int64_t _live = 0

cdef int64_t AHEAD = RESPONSES_AHEAD


cdef class Origin:
    """Where the requests of one stream come from."""

    def __init__(self):
        self.kept = set()

    cdef int gone(self) except -1:
        cdef set kept = self.kept
        self.kept = set()
        for one in kept:
            try:
                one.left()
            except Exception:
                log.exception("what was kept for a client that has gone could not be dropped")
        return 0

    def leave(self):
        """`gone`."""
        self.gone()


cdef class RequestedOutput:
    """An output that the client asks for. `classification`: N of that extension, 0 for the tensor itself. `region`:
    writable Buffer that takes the bytes instead of the response. `anywhere`: the response may leave it on a device."""

    def __init__(self, str name, bint binary=False, int64_t classification=0, dict parameters=None,
                 Buffer region=None, bint anywhere=False):
        self.name = name
        self.binary = binary
        self.classification = classification
        self.parameters = parameters
        self.region = region
        self.anywhere = anywhere


# A line of requests that is given up as a whole would otherwise be freed by one recursion as deep as it is long.
@cython.trashcan(True)
@cython.freelist(64)
cdef class InferRequest:
    """One request. Built by a codec, then owned by core until its final response."""

    def __cinit__(self):
        global _live
        _live += 1
        self.message.owner = <void *>self
        self.message.event = TA_RELEASED

    def __dealloc__(self):
        global _live
        _live -= 1

    def __init__(self, str model_name, int64_t model_version=-1, str id="", list inputs=None, list outputs=None,
                 dict parameters=None, uint64_t priority=0, uint64_t timeout_us=0, sequence_id=0, int flags=0,
                 bint binary_default=False, int64_t received_ns=0, int64_t end_by_ns=0):
        self.model_name = model_name
        self.model_version = model_version
        self.id = id
        self.inputs = [] if inputs is None else inputs
        self.outputs = [] if outputs is None else outputs
        self.parameters = parameters
        self.priority = priority
        self.timeout_us = timeout_us
        self.sequence_id = sequence_id
        self.flags = flags
        self.binary_default = binary_default
        self.received_ns = received_ns
        self.end_by_ns = end_by_ns

    @property
    def is_cancelled(self):
        return self.cancelled

    @property
    def batch_size(self):
        """Rows it brings to a batch; 0 before validation."""
        return self.rows

    cdef bint crowded(self) noexcept:
        return not self.cancelled and (self.congested or self.sent - self.taken >= AHEAD)

    cdef int relieve(self) except -1:
        cdef list held_back = self.held_back
        self.congested = False
        self.held_back = None
        if held_back is not None:
            for resume in held_back:
                try:
                    resume()
                except Exception:
                    log.exception("who waited to send a response could not go on")
        return 0

    def resume(self):
        """`relieve`, for sinks to call when they take responses again. Loop thread."""
        self.relieve()

    def log_prefix(self):
        """Triton's prefix of validation errors (LogRequest)."""
        return f"[request id: {self.id or '<id_unknown>'}] "


cdef RequestedOutput asked_output(InferRequest request, str name):
    cdef RequestedOutput output
    for output in request.outputs:
        if output.name is name or output.name == name:
            return output
    return None


cpdef int64_t live_requests():
    return _live
