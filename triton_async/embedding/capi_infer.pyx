"""Requests of C programs into the server's core, and responses out of it. Requests come on any thread, which takes the
GIL for them; responses leave on the loop for the callback thread of the C library, which runs without it.
"""

import logging

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strdup

from triton_async.core.servable cimport Servable
from triton_async.datatypes cimport DT_COUNT, elements
from triton_async.embedding.desk cimport Call, Desk
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view, view_dims
from triton_async.infer.trace cimport TRACE_TIMESTAMPS, Trace
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, Buffer, foreign
from triton_async.protocol.http_codec cimport take_raw

from triton_async.errors import Cancelled, InternalError, InvalidArg, ServerError, Unavailable

log = logging.getLogger("triton_async.native")

cdef enum:
    FINAL = 1                # TRITONSERVER_RESPONSE_COMPLETE_FINAL
    PARAMETER_STRING = 0     # TRITONSERVER_ParameterType
    PARAMETER_INT = 1
    PARAMETER_BOOL = 2
    PARAMETER_DOUBLE = 3

cdef const ta_library *library = NULL
cdef ta_infer_calls calls

# TRITONSERVER_InferenceTraceActivity of our events.
cdef dict ACTIVITIES = {
    "REQUEST_START": 0, "QUEUE_START": 1, "COMPUTE_START": 2, "COMPUTE_INPUT_END": 3, "COMPUTE_OUTPUT_START": 4,
    "COMPUTE_END": 5, "REQUEST_END": 6,
}


cdef class TraceEnd:
    """Tells of a trace when nobody holds it any more. Any thread with the GIL."""

    cdef TRITONSERVER_InferenceTrace *c
    cdef TRITONSERVER_Server *server

    def __call__(self, record):
        for name, at_ns in sorted(record[5], key=_when):
            if name in ACTIVITIES:
                library.note(self.c, ACTIVITIES[name], at_ns)
        library.put(self.server, &self.c.answer)


def _when(event):
    return event[1]


@cython.final
cdef class NativeCall(Call):
    """See capi_infer.pxd. Loop thread."""

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
        cdef TRITONSERVER_Error *problem = NULL
        cdef bytes model
        cdef int64_t version = self.c.model_version
        if error is not None:
            problem = _error_of(error)
        if response is not None:
            version = response.model_version
        model = self.request.model_name.encode()
        made = library.response(self.c, model, version, self.request.id.encode(), FINAL if final else 0, problem)
        if made == NULL:
            raise MemoryError
        if problem == NULL:
            self._fill(made, response)
            made.empty = final and self.decoupled and not response.outputs
        library.put(self.c.server, &made.answer)
        if final:
            self.final = True
            self._give_back()
        return 0

    cdef int _fill(self, TRITONSERVER_InferenceResponse *made, InferResponse response) except -1:
        cdef Tensor tensor
        cdef int status = 0
        for tensor in response.outputs:
            status |= library.add_output(
                made, tensor.name.encode(), tensor.datatype, tensor.dims, tensor.rank, tensor.data, tensor.nbytes
            )
        for name, value in (response.parameters or {}).items():
            status |= _add_parameter(made, name.encode(), value)
        if status != 0:
            raise MemoryError
        Py_INCREF(response)
        made.owner = <void *>response
        return 0

    # The request is the program's again: it may be gone in the next moment.
    cdef int _give_back(self) except -1:
        cdef TRITONSERVER_InferenceRequest *c = self.c
        if c == NULL or not self.final or not self.free:
            return 0
        self.c = NULL
        self.request = None  # which has this as its sink
        del self.desk.calls[self.serial]
        library.put(c.server, &c.released)
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
        request = InferRequest(c.model_name.decode(), c.model_version, c.id.decode())
        model = self.server.find(request.model_name, request.model_version)
        _take_fields(request, c)
        _take_inputs(request, c, model.signature)
        model.signature.validate(request)
        if trace != NULL:
            _take_trace(request, c, trace, model.signature)
        call = NativeCall.__new__(NativeCall)
        call.request = request
        call.c = c
        call.desk = self
        call.decoupled = model.signature.decoupled
        self.last += 1
        call.serial = c.serial = self.last
        self.calls[call.serial] = call
        return self.submit(call)

    def close(self):
        """See Desk. Requests that engines still hold are answered, and stay theirs."""
        cdef NativeCall call
        super().close()
        for call in list(self.calls.values()):
            if not call.final:
                call._answer(None, Unavailable("Server exiting"), True)


cdef int _take_fields(InferRequest request, TRITONSERVER_InferenceRequest *c) except -1:
    cdef TRITONSERVER_Parameter *parameter
    cdef dict parameters
    cdef size_t i
    request.flags = c.flags
    request.priority = c.priority
    request.timeout_us = c.timeout_us
    request.sequence_id = c.correlation_number if c.correlation == NULL else c.correlation.decode()
    for i in range(c.n_outputs):
        request.outputs.append(RequestedOutput(c.outputs[i].decode()))
    if c.n_parameters:
        parameters = {}
        for i in range(c.n_parameters):
            parameter = c.parameters[i]
            name = parameter.name.decode()
            if parameter.type == PARAMETER_STRING:
                parameters[name] = parameter.value.string.decode()
            elif parameter.type == PARAMETER_INT:
                parameters[name] = parameter.value.integer
            elif parameter.type == PARAMETER_BOOL:
                parameters[name] = bool(parameter.value.boolean)
            else:
                parameters[name] = parameter.value.real
        request.parameters = parameters
    return 0


cdef int _take_inputs(InferRequest request, TRITONSERVER_InferenceRequest *c, ModelSignature signature) except -1:
    cdef ta_input *given
    cdef Buffer data
    cdef int64_t count
    cdef size_t i
    for i in range(c.n_inputs):
        given = &c.inputs[i]
        data = _bytes_of(given)
        if given.raw:
            take_raw(request, signature, data, 0x7FFFFFFFFFFFFFFF)
            continue
        name = given.name.decode()
        if not 0 < <int>given.datatype < <int>DT_COUNT:
            raise InvalidArg(f"invalid datatype {given.datatype} for input '{name}'")
        count = -1
        if given.dim_count <= <uint64_t>TA_MAX_RANK:
            count = elements(given.shape, <int>given.dim_count)
        if count < 0:  # says what is wrong
            view(name, given.datatype, [given.shape[place] for place in range(<int>given.dim_count)], data, 0,
                 data.nbytes)
        request.inputs.append(view_dims(name, given.datatype, given.shape, <int>given.dim_count, count, data, data.data,
                                        data.nbytes))
    return 0


# The bytes of an input: where they lie, if they lie in one piece; else a copy.
cdef Buffer _bytes_of(ta_input *given):
    cdef Buffer data
    cdef char *copy
    cdef size_t nbytes = 0
    cdef size_t at = 0
    cdef size_t i
    if given.n_parts == 0:
        return foreign(NULL, 0, NULL, NULL, MEMORY_CPU, 0)
    if given.n_parts == 1:
        data = foreign(<char *>given.parts[0].base, given.parts[0].nbytes, NULL, NULL, given.parts[0].memory_type,
                       <int>given.parts[0].memory_type_id)
        data.readonly = True
        return data
    for i in range(given.n_parts):
        if <int>given.parts[i].memory_type == <int>MEMORY_GPU:
            raise InvalidArg(f"input '{given.name.decode()}' lies in several pieces, one of them in GPU memory: "
                             "give it in one piece")
        nbytes += given.parts[i].nbytes
    copy = <char *>malloc(nbytes)
    if copy == NULL:
        raise MemoryError
    with nogil:
        for i in range(given.n_parts):
            memcpy(copy + at, given.parts[i].base, given.parts[i].nbytes)
            at += given.parts[i].nbytes
    return foreign(copy, nbytes, copy, _free, MEMORY_CPU, 0)


cdef void _free(void *owner) noexcept nogil:
    free(owner)


cdef int _take_trace(InferRequest request, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace,
                     ModelSignature signature) except -1:
    cdef TraceEnd end = TraceEnd.__new__(TraceEnd)
    end.c = trace
    end.server = c.server
    library.name_trace(trace, signature.model_name.encode(), signature.model_version, c.id)
    request.trace = Trace(<int64_t>trace.id, signature.model_name, signature.model_version, request.id,
                          TRACE_TIMESTAMPS if trace.level else 0, end, <int64_t>trace.parent_id)
    return 0


cdef int _add_parameter(TRITONSERVER_InferenceResponse *made, bytes name, object value) except? -1:
    cdef int64_t integer
    cdef double real
    cdef char truth  # as large as a C bool
    if isinstance(value, bool):
        truth = value
        return library.add_parameter(made, name, PARAMETER_BOOL, &truth)
    if isinstance(value, int):
        integer = value
        return library.add_parameter(made, name, PARAMETER_INT, &integer)
    if isinstance(value, float):
        real = value
        return library.add_parameter(made, name, PARAMETER_DOUBLE, &real)
    text = str(value).encode()
    return library.add_parameter(made, name, PARAMETER_STRING, <const char *>text)


cdef TRITONSERVER_Error *_error_of(object error):
    if isinstance(error, UnicodeDecodeError):
        error = InvalidArg("a text of the request is not UTF-8")
    elif not isinstance(error, ServerError):
        log.error("a call of the C API failed", exc_info=error)
        error = InternalError(type(error).__name__)
    text = error.message.encode(errors="backslashreplace")
    return library.error(error.code, text)


# -- what the C library calls: any thread, without the GIL or with it ----------------------------------

cdef TRITONSERVER_Error *_infer(void *desk, TRITONSERVER_InferenceRequest *request,
                                TRITONSERVER_InferenceTrace *trace) noexcept with gil:
    try:
        (<NativeDesk>desk).take(request, trace)
    except Exception as error:
        return _error_of(error)
    return NULL


cdef void _cancel(void *desk, uint64_t serial) noexcept with gil:
    call = (<NativeDesk>desk).calls.get(serial)
    if call is not None:
        (<NativeDesk>desk).cancel(call)


cdef TRITONSERVER_Error *_find(void *desk, const char *model, int64_t version) noexcept with gil:
    try:
        (<NativeDesk>desk).server.find(model.decode(), version)
    except Exception as error:
        return _error_of(error)
    return NULL


cdef char *_label(void *desk, const char *model, int64_t version, const char *output,
                  uint64_t index) noexcept with gil:
    cdef ModelSignature signature
    try:
        signature = (<NativeDesk>desk).server.find(model.decode(), version).signature
        name = output.decode()
        for spec in signature.client_outputs:
            if spec.name == name and index < <uint64_t>len(spec.labels):
                text = spec.labels[index].encode()
                return strdup(text)
    except Exception:  # the model has gone
        log.debug("no label", exc_info=True)
    return NULL


cdef void _drop(void **owners, uint64_t count) noexcept with gil:
    cdef uint64_t i
    for i in range(count):
        Py_DECREF(<object>owners[i])


def register(uintptr_t library_calls, uintptr_t register_calls):
    """Once a process. `library_calls`, `register_calls`: addresses of the library's functions ta_library_calls and
    ta_register_infer."""
    global library
    library = (<const ta_library *(*)() noexcept nogil>library_calls)()
    calls.infer = _infer
    calls.cancel = _cancel
    calls.find = _find
    calls.label = _label
    calls.drop = _drop
    (<void (*)(const ta_infer_calls *) noexcept nogil>register_calls)(&calls)
