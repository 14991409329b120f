"""Requests of C programs into the server's core, and responses out of it. Requests come on any thread, which takes the
GIL for them, and may run what is short; responses leave, on the loop or there, for the callback thread of the C
library, which runs without it.
"""

import logging

cimport cython
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from triton_async.core.lending cimport Loan, borrow_briefly
from triton_async.core.model cimport Model
from triton_async.core.servable cimport Servable
from triton_async.embedding.desk cimport Call, Desk
from triton_async.infer.c_api cimport (
    TRITONSERVER_Error,
    TRITONSERVER_InferenceRequest,
    TRITONSERVER_InferenceResponse,
    TRITONSERVER_InferenceTrace,
    c_library,
    error_of,
    label_of,
    request_of,
    response_to,
    ta_infer_calls,
    take_inputs,
    take_trace,
    wants_tensors,
)
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.protocol.http_codec cimport take_raw

from triton_async.errors import Cancelled, Unavailable

log = logging.getLogger("triton_async.native")

cdef ta_infer_calls calls

# So many requests in a row, each sent when there was no other, until they run on the threads that send them.
cdef int ALONE = 8


@cython.final
cdef class NativeCall(Call):
    """See capi_infer.pxd. On the loop, or on the thread that sends a request that runs at once; with the GIL."""

    cdef int deliver(self, InferResponse response) except -1:
        return 0 if self.final else self._answer(response, response.error, response.final)

    cdef int refused(self, object error) except -1:
        self._answer(None, error, True)
        self.free = True
        return self._give_back()

    cdef int cancelled(self) except -1:
        return 0 if self.final else self._answer(None, Cancelled("the request was cancelled"), True)

    cdef int released(self, object request) except -1:
        self.free = True
        return self._give_back()

    cdef int _answer(self, InferResponse response, object error, bint final) except -1:
        cdef TRITONSERVER_InferenceResponse *made
        if self.final:
            return 0
        made = response_to(self.c, self.request, response, error, final, self.decoupled, response)
        c_library().put(self.c.server, &made.answer)
        if final:
            self.final = True
            self._give_back()
        return 0

    # The request is the program's again: it may be gone in the next moment.
    cdef int _give_back(self) except -1:
        cdef TRITONSERVER_InferenceRequest *c = self.c
        if c == NULL or not self.final or not self.free:
            return 0
        self.c = NULL
        self.request = None  # which has this as its sink
        del self.desk.calls[self.serial]
        c_library().put(c.server, &c.released)
        return 0


@cython.final
cdef class NativeDesk(Desk):
    """One for a server of a C program."""

    def __init__(self, server):
        super().__init__(server)
        self.calls = {}

    @property
    def address(self):
        """By which the C library knows it: of the object, which whoever asks keeps."""
        return <uintptr_t><void *>self

    cdef int take(self, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace) except -1:
        cdef Servable model
        cdef NativeCall call
        cdef InferRequest request
        if self.closed:
            raise Unavailable("Server exiting")
        request = request_of(c)
        model = self.server.find(request.model_name, request.model_version)
        take_inputs(request, c, model.signature, take_raw, wants_tensors(trace))
        model.signature.validate(request)
        if trace != NULL:
            take_trace(request, c, trace, model.signature, None)
        call = NativeCall.__new__(NativeCall)
        call.request = request
        call.c = c
        call.desk = self
        call.decoupled = model.signature.decoupled
        self.last += 1
        call.serial = c.serial = self.last
        self.calls[call.serial] = call
        try:
            return 0 if trace == NULL and self._is_alone(c) and self._runs_now(call, model) else self.submit(call)
        except BaseException:  # the request stays the program's
            call.final = True
            call.c = NULL
            self.calls.pop(call.serial, None)
            raise

    # Whoever keeps several on their way has more of the loop's thread, which is woken once for all of them.
    cdef bint _is_alone(self, TRITONSERVER_InferenceRequest *c) noexcept:
        self.alone = min(self.alone + 1, ALONE) if c.server.on_way == 1 else 0
        return self.alone == ALONE

    cdef bint _runs_now(self, NativeCall call, Servable model) except -1:
        cdef InferResponse response
        cdef Loan loan
        if not isinstance(model, Model) or not (<Model>model).lends:
            return False
        if self.server.at_once(call.request.model_name, call.request.model_version) is not model:
            return False
        (<Model>model).offers = True
        loan = borrow_briefly(<Model>model, call.request, call)
        if loan is None:
            return False
        call.request.received_ns = ta_now_ns()
        call.asked = True
        response = loan.run()
        # The loop is told of it later, or was: then it answers. It may have cancelled the call meanwhile.
        if response is not None:
            if not call.final:
                call._answer(response, response.error, True)
            call.free = True
            call._give_back()
        return True

    def close(self):
        """See Desk. Requests that engines still hold are answered, and stay theirs."""
        cdef NativeCall call
        super().close()
        for call in list(self.calls.values()):
            if not call.final:
                call._answer(None, Unavailable("Server exiting"), True)


# -- what the C library calls: any thread, without the GIL or with it ----------------------------------

cdef TRITONSERVER_Error *_infer(void *desk, TRITONSERVER_InferenceRequest *request,
                                TRITONSERVER_InferenceTrace *trace) noexcept with gil:
    try:
        (<NativeDesk>desk).take(request, trace)
    except Exception as error:
        return error_of(error)
    return NULL


cdef void _cancel(void *desk, uint64_t serial) noexcept with gil:
    call = (<NativeDesk>desk).calls.get(serial)
    if call is not None:
        (<NativeDesk>desk).cancel(call)


cdef TRITONSERVER_Error *_find(void *desk, const char *model, int64_t version) noexcept with gil:
    try:
        (<NativeDesk>desk).server.find(model.decode(), version)
    except Exception as error:
        return error_of(error)
    return NULL


cdef char *_label(void *desk, const char *model, int64_t version, const char *output,
                  uint64_t index) noexcept with gil:
    try:
        return label_of((<NativeDesk>desk).server.find(model.decode(), version).signature, output, index)
    except Exception:  # the model has gone
        log.debug("no label", exc_info=True)
    return NULL


cdef void _drop(void **owners, uint64_t count) noexcept with gil:
    cdef uint64_t i
    for i in range(count):
        Py_DECREF(<object>owners[i])


def register(uintptr_t register_calls):
    """Once a process. `register_calls`: address of the library's function ta_register_infer."""
    calls.infer = _infer
    calls.cancel = _cancel
    calls.find = _find
    calls.label = _label
    calls.drop = _drop
    (<void (*)(const ta_infer_calls *) noexcept nogil>register_calls)(&calls)
