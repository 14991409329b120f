"""Models of libraries that ask other models, and the server: C requests to core, and responses back on a thread of the
model that asks, without the GIL.
"""

import itertools
import logging
from _thread import allocate_lock
from contextvars import copy_context

cimport cython
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from triton_async.infer.c_api cimport (
    TRITONSERVER_Error,
    TRITONSERVER_InferenceRequest,
    TRITONSERVER_InferenceResponse,
    TRITONSERVER_InferenceTrace,
    TRITONSERVER_Message,
    c_library,
    error_of,
    label_of,
    leave_trace,
    request_of,
    response_to,
    ta_control_calls,
    ta_infer_calls,
    ta_inner_side,
    ta_text,
    take_inputs,
    take_trace,
    wants_tensors,
)
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature

from triton_async.errors import Unavailable
from triton_async.native import address

log = logging.getLogger("triton_async.native")

cdef extern from *:
    """
    static __thread void *ta_running;
    """
    void *ta_running

ctypedef const ta_inner_side *(*get_side_t)() noexcept nogil
ctypedef TRITONSERVER_Error *(*new_message_t)(TRITONSERVER_Message **message, const char *text,
                                              size_t size) noexcept nogil

cdef ta_infer_calls _infer_calls
cdef ta_control_calls _control_calls
cdef new_message_t _new_message = NULL

_infer_calls.infer = _infer
_infer_calls.cancel = _cancel
_infer_calls.find = _find
_infer_calls.label = _label
_infer_calls.drop = _drop
_control_calls.call = _control

# How often who waits for the end of all calls looks whether the server has ended, which tells nobody.
cdef double _LOOKS_S = 0.2

# Number -> Asker, of those that are not closed.
cdef dict _askers = {}
_numbers = itertools.count(1)


cdef void note_running(void *instance) noexcept nogil:
    global ta_running
    ta_running = instance


@cython.final
cdef class _Told:
    """A response on its way to a callback, which is to be told as taken behind it, or None."""

    cdef InferResponse response
    cdef NativeInnerCall call


@cython.final
cdef class NativeInnerCall:
    """An InferenceCall. See asking.pxd."""

    # Askers are those that core finds by the instance.
    decoupled = True
    askers = None
    counts_reads = True
    waits = False
    bound = False

    def responded(self, InferResponse response):
        """See InferenceCall."""
        if not self.final:
            self._answer(response, response.error, response.final)

    def refused(self, error):
        """See InferenceCall."""
        if not self.final:
            self._answer(None, error, True)

    def released(self):
        """See InferenceCall."""
        self.free = True
        self._give_back()

    cdef int _answer(self, InferResponse response, object error, bint final) except -1:
        cdef _Told told = _Told.__new__(_Told)
        cdef TRITONSERVER_InferenceResponse *made
        told.response = response
        told.call = None if final else self
        made = response_to(self.c, self.request, response, error, final, self.target_decoupled, told)
        c_library().put(self.c.server, &made.answer)
        if final:
            self.final = True
            self._give_back()
        return 0

    # The request is the backend's again: it may be gone in the next moment.
    cdef int _give_back(self) except -1:
        cdef TRITONSERVER_InferenceRequest *c = self.c
        if c == NULL or not self.final or not self.free:
            return 0
        self.c = NULL
        self.request = self.inner = None
        if self.trace != NULL:
            c_library().put(c.server, &self.trace.answer)
        c_library().put(c.server, &c.released)
        return self.asker.ended(self.serial)


@cython.final
cdef class Asker:
    """The server, as one model version asks it. `inference`: the InferenceService of its backend."""

    def __init__(self, inference):
        global _new_message
        self.inference = inference
        self.context = copy_context()
        self.calls = {}
        self.instances = []
        self.number = next(_numbers)
        c_library()
        _new_message = <new_message_t><uintptr_t>address("TRITONSERVER_MessageNewFromSerializedJson")
        self.side = (<get_side_t><uintptr_t>address("ta_inner_side_table"))()
        self.c = self.side.make(&_control_calls, &_infer_calls, self.number, <void *>self)
        if self.c == NULL:
            raise MemoryError
        _askers[self.number] = self

    cdef int take(self, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace) except -1:
        cdef NativeInnerCall call
        cdef ModelSignature signature
        cdef InferRequest request
        if self.closed:
            raise Unavailable("the model that asks is being unloaded")
        request = request_of(c)
        signature = self.inference.signature(request.model_name, request.model_version)
        take_inputs(request, c, signature, NULL, self.inference.keeps_inputs or wants_tensors(trace))
        signature.validate(request)
        call = NativeInnerCall.__new__(NativeInnerCall)
        call.request = request
        call.c = c
        call.asker = self
        call.target_decoupled = signature.decoupled
        caller = self._caller()
        # Whether the execution waits is known of none. Beside the thread of a decoupled model it need not.
        call.held = False if caller is not None and ta_running == NULL and self.decoupled else None
        self.last += 1
        call.serial = c.serial = self.last
        self.calls[call.serial] = call
        try:
            if trace != NULL:
                take_trace(request, c, trace, signature, self._trace_over)
                if trace.owner != NULL:
                    call.trace = trace
                else:
                    self.traces += 1
            call.inner = self.inference.submit(request, call, caller)
        except BaseException:
            self.calls.pop(call.serial, None)
            call.c = NULL
            leave_trace(request)
            raise
        if call.cancelled:
            call.inner()
        if call.early:
            call.inner.taken(call.early)
        return 0

    # The instance in whose execution a request is made: that of the thread, or the only one that executes.
    def _caller(self):
        if ta_running != NULL:
            return <object>ta_running
        running = [instance for instance in self.instances if instance.executes]
        return running[0] if len(running) == 1 else None

    cdef int ended(self, uint64_t serial) except -1:
        self.calls.pop(serial, None)
        return self._look_if_quiet()

    def _trace_over(self):
        self.traces -= 1
        self._look_if_quiet()

    cdef int _look_if_quiet(self) except -1:
        if self.quiet is not None and not self.calls and not self.traces:
            quiet, self.quiet = self.quiet, None
            quiet.release()
        return 0

    def settle(self):
        """Takes nothing more, cancels all that was asked, and waits until the last of it is over, and told, or the
        server is over, whose engines may never give back what they have. Blocks; not for the loop's thread."""
        cdef NativeInnerCall call
        cdef bint told = False
        self.closed = True
        for call in list(self.calls.values()):
            call.cancelled = True
            if call.inner is not None:
                call.inner()
        # Traces end with what is told last.
        while self._wait_until_quiet() and not told:
            with nogil:
                told = self.side.settle(self.c, <unsigned int>(_LOOKS_S * 1000))
            if self.inference.over:
                return

    # False: the server is over instead.
    cdef bint _wait_until_quiet(self) except -1:
        if not self.calls and not self.traces:
            return True
        lock = allocate_lock()
        lock.acquire()
        self.quiet = lock
        while not lock.acquire(True, _LOOKS_S):
            if self.inference.over:
                self.quiet = None
                return False
        return True

    def close(self):
        """The backend has it no more: it is unknown from here on. Blocks."""
        cdef TRITONSERVER_Server *c = self.c
        if c == NULL:
            return
        with nogil:
            self.side.close(c)
        self.settle()
        self.c = NULL
        if self.calls or self.traces:  # which name it
            return
        _askers.pop(self.number, None)
        with nogil:
            self.side.free(c)


# -- what the C library calls: any thread, without the GIL -----------------------------------------

cdef TRITONSERVER_Error *_infer(void *desk, TRITONSERVER_InferenceRequest *request,
                                TRITONSERVER_InferenceTrace *trace) noexcept with gil:
    try:
        (<Asker>desk).take(request, trace)
    except Exception as error:
        return error_of(error)
    return NULL


cdef void _cancel(void *desk, uint64_t serial) noexcept with gil:
    cdef NativeInnerCall call = (<Asker>desk).calls.get(serial)
    if call is not None:
        call.cancelled = True
        if call.inner is not None:
            call.inner()


cdef TRITONSERVER_Error *_find(void *desk, const char *model, int64_t version) noexcept with gil:
    try:
        (<Asker>desk).inference.signature(model.decode(), version)
    except Exception as error:
        return error_of(error)
    return NULL


cdef char *_label(void *desk, const char *model, int64_t version, const char *output,
                  uint64_t index) noexcept with gil:
    try:
        return label_of((<Asker>desk).inference.signature(model.decode(), version), output, index)
    except Exception:  # the model has gone
        log.debug("no label", exc_info=True)
    return NULL


cdef void _drop(void **owners, uint64_t count) noexcept with gil:
    cdef _Told told
    cdef uint64_t i
    for i in range(count):
        told = <_Told>owners[i]
        if told.call is not None and told.call.inner is not None:
            told.call.inner.taken()
        elif told.call is not None:
            told.call.early += 1
        Py_DECREF(<object>owners[i])


cdef TRITONSERVER_Error *_control(uint64_t server, const char *what, const ta_text *texts, uint64_t count,
                                  TRITONSERVER_Message **answer) noexcept with gil:
    cdef Asker asker = <Asker>_askers.get(server)
    cdef bytes text
    try:
        if asker is None:
            raise Unavailable("the model that asks is being unloaded")
        given = [texts[i].data[:texts[i].nbytes] for i in range(count)]
        found = asker.inference.ask(what.decode(), given, asker.context)
        if found is None or answer == NULL:
            return NULL
        text = found if isinstance(found, bytes) else str(found).encode()
        return _new_message(answer, <const char *>text, len(text))
    except Exception as error:
        return error_of(error)
