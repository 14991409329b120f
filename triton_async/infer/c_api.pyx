"""Requests of C programs and libraries as InferRequests, and responses for them. See c_api.pxd."""

import logging

from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strdup

from triton_async.datatypes cimport DT_COUNT, elements
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view, view_dims
from triton_async.infer.trace cimport TRACE_TENSORS, TRACE_TIMESTAMPS, Trace
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, Buffer, foreign

from triton_async.errors import InternalError, InvalidArg, ServerError
from triton_async.native import address

log = logging.getLogger("triton_async.native")

cdef enum:
    FINAL = 1                # TRITONSERVER_RESPONSE_COMPLETE_FINAL
    PARAMETER_STRING = 0     # TRITONSERVER_ParameterType
    PARAMETER_INT = 1
    PARAMETER_BOOL = 2
    PARAMETER_DOUBLE = 3
    LEVEL_TIMESTAMPS = 4     # TRITONSERVER_InferenceTraceLevel
    LEVEL_TENSORS = 8

cdef object NO_MEMORY = InternalError("no memory for a response")

cdef const ta_library *_library = NULL

# TRITONSERVER_InferenceTraceActivity of our events.
cdef dict ACTIVITIES = {
    "REQUEST_START": 0, "QUEUE_START": 1, "COMPUTE_START": 2, "COMPUTE_INPUT_END": 3, "COMPUTE_OUTPUT_START": 4,
    "COMPUTE_END": 5, "REQUEST_END": 6, "TENSOR_QUEUE_INPUT": 7, "TENSOR_BACKEND_INPUT": 8, "TENSOR_BACKEND_OUTPUT": 9,
}

ctypedef const ta_library *(*get_library_t)() noexcept nogil


cdef const ta_library *c_library() except NULL:
    global _library
    if _library == NULL:
        _library = (<get_library_t><uintptr_t>address("ta_library_calls"))()
    return _library


# -- requests --------------------------------------------------------------------------------------

cdef InferRequest request_of(TRITONSERVER_InferenceRequest *c):
    cdef InferRequest request = InferRequest(c.model_name.decode(), c.model_version, c.id.decode())
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
    return request


cdef int take_inputs(InferRequest request, TRITONSERVER_InferenceRequest *c, ModelSignature signature, take_raw_t raw,
                     bint copies) except -1:
    cdef ta_input *given
    cdef Buffer data
    cdef int64_t count
    cdef size_t i
    for i in range(c.n_inputs):
        given = &c.inputs[i]
        name = given.name.decode()
        if given.raw and raw == NULL:
            raise InvalidArg(f"raw input '{name}' is not taken here: say its type and shape")
        data = _bytes_of(given, copies)
        if given.raw:
            raw(request, signature, data, 0x7FFFFFFFFFFFFFFF)
            continue
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
cdef Buffer _bytes_of(ta_input *given, bint copies):
    cdef Buffer data
    cdef char *copy
    cdef size_t nbytes = 0
    cdef size_t at = 0
    cdef size_t i
    if given.n_parts == 0:
        return foreign(NULL, 0, NULL, NULL, MEMORY_CPU, 0)
    if given.n_parts == 1 and (not copies or <int>given.parts[0].memory_type == <int>MEMORY_GPU):
        data = foreign(<char *>given.parts[0].base, given.parts[0].nbytes, NULL, NULL, given.parts[0].memory_type,
                       <int>given.parts[0].memory_type_id)
        data.readonly = True
        return data
    for i in range(given.n_parts):
        if <int>given.parts[i].memory_type == <int>MEMORY_GPU:
            raise InvalidArg(f"input '{given.name.decode()}' lies in several pieces, one of them in GPU memory: "
                             "give it in one piece")
        if given.parts[i].nbytes > <size_t>0x7FFFFFFFFFFFFFFF - nbytes:
            raise InvalidArg(f"input '{given.name.decode()}' has more bytes than can be counted")
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


# -- traces ----------------------------------------------------------------------------------------

cdef class TraceEnd:
    """Tells of a trace when nobody holds it any more. Any thread with the GIL."""

    cdef TRITONSERVER_InferenceTrace *c      # NULL: it is not told
    cdef TRITONSERVER_Server *server
    cdef object over

    def __call__(self, record):
        if self.c != NULL:
            for name, at_ns in sorted(record[5], key=_when):
                if name in ACTIVITIES:
                    _library.note(self.c, ACTIVITIES[name], at_ns)
            if record[6]:
                Py_INCREF(record)
                self.c.keeper = <void *>record
                for name, tensor in record[6]:
                    # The program's GPU memory may be gone by now; its host memory was copied.
                    if name == "TENSOR_BACKEND_OUTPUT" or not _on_gpu(tensor):
                        _note_tensor(self.c, ACTIVITIES[name], tensor)
            _library.put(self.server, &self.c.answer)
        if self.over is not None:
            self.over()


def _when(event):
    return event[1]


cdef bint _on_gpu(Tensor tensor):
    return tensor.buffer is not None and tensor.buffer.memory_type == <int>MEMORY_GPU


cdef int _note_tensor(TRITONSERVER_InferenceTrace *c, int activity, Tensor tensor) except -1:
    cdef ta_traced_tensor noted
    noted.activity = activity
    noted.datatype = tensor.datatype
    noted.dim_count = <uint64_t>tensor.rank
    noted.base = tensor.data
    noted.nbytes = <size_t>tensor.nbytes
    noted.memory_type = <int>MEMORY_CPU if tensor.buffer is None else tensor.buffer.memory_type
    noted.memory_type_id = 0 if tensor.buffer is None else tensor.buffer.device_id
    name = tensor.name.encode()
    _library.note_tensor(c, &noted, name, tensor.dims)
    return 0


cdef bint wants_tensors(TRITONSERVER_InferenceTrace *trace) noexcept:
    return trace != NULL and trace.owner == NULL and trace.level & LEVEL_TENSORS != 0


cdef int take_trace(InferRequest request, TRITONSERVER_InferenceRequest *c, TRITONSERVER_InferenceTrace *trace,
                    ModelSignature signature, object over) except -1:
    cdef TraceEnd end
    cdef int levels = 0
    c_library().name_trace(trace, signature.model_name.encode(), signature.model_version, c.id)
    if trace.owner != NULL:  # of the server's own
        request.trace_parent = <object>trace.owner
        return 0
    end = TraceEnd.__new__(TraceEnd)
    end.c = trace
    end.server = c.server
    end.over = over
    if trace.level & LEVEL_TIMESTAMPS:
        levels |= TRACE_TIMESTAMPS
    if trace.level & LEVEL_TENSORS:
        levels |= TRACE_TENSORS
    request.trace = Trace(<int64_t>trace.id, signature.model_name, signature.model_version, request.id, levels, end,
                          <int64_t>trace.parent_id)
    return 0


cdef int leave_trace(InferRequest request) except -1:
    if request.trace is not None and isinstance(request.trace.done, TraceEnd):
        (<TraceEnd>request.trace.done).c = NULL
    return 0


# -- responses -------------------------------------------------------------------------------------

cdef TRITONSERVER_InferenceResponse *response_to(TRITONSERVER_InferenceRequest *c, InferRequest request,
                                                 InferResponse response, object error, bint final, bint decoupled,
                                                 object keeper) except NULL:
    cdef const ta_library *library = c_library()
    cdef TRITONSERVER_InferenceResponse *made
    cdef TRITONSERVER_Error *problem = NULL
    cdef int refers = 0
    cdef bytes model = request.model_name.encode()
    cdef bytes id = request.id.encode()
    cdef int64_t version = c.model_version
    if response is not None:
        version = response.model_version
    if error is not None:
        problem = error_of(error)
        if problem == NULL:
            raise MemoryError
    made = library.response(c, model, version, id, FINAL if final else 0, problem)
    if made == NULL:
        raise MemoryError
    if problem == NULL:
        try:
            refers = _fill(made, response)
        except MemoryError:
            library.drop_response(made)
            return response_to(c, request, None, NO_MEMORY, final, decoupled, keeper)
        made.empty = final and decoupled and not response.outputs
    if refers or keeper is not response:
        Py_INCREF(keeper)
        made.owner = <void *>keeper
    return made


# Whether it refers to the response's bytes.
cdef int _fill(TRITONSERVER_InferenceResponse *made, InferResponse response) except -1:
    cdef Tensor tensor
    cdef int status = 0
    for tensor in response.outputs:
        status |= _library.add_output(
            made, tensor.name.encode(), tensor.datatype, tensor.dims, tensor.rank, tensor.data, tensor.nbytes
        )
    for name, value in (response.parameters or {}).items():
        status |= _add_parameter(made, name.encode(errors="backslashreplace"), value)
    if status < 0:
        raise MemoryError
    return status


cdef int _add_parameter(TRITONSERVER_InferenceResponse *made, bytes name, object value) except? -1:
    cdef int64_t integer
    cdef double real
    cdef char truth  # as large as a C bool
    if isinstance(value, bool):
        truth = value
        return _library.add_parameter(made, name, PARAMETER_BOOL, &truth)
    if isinstance(value, int) and -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        integer = value
        return _library.add_parameter(made, name, PARAMETER_INT, &integer)
    if isinstance(value, float):
        real = value
        return _library.add_parameter(made, name, PARAMETER_DOUBLE, &real)
    # An integer that C's are too short for, too.
    text = str(value).encode(errors="backslashreplace")
    return _library.add_parameter(made, name, PARAMETER_STRING, <const char *>text)


cdef TRITONSERVER_Error *error_of(object error):
    if isinstance(error, UnicodeDecodeError):
        error = InvalidArg("a text of the request is not UTF-8")
    elif not isinstance(error, ServerError):
        log.error("a call of the C API failed", exc_info=error)
        error = InternalError(type(error).__name__)
    text = error.message.encode(errors="backslashreplace")
    return c_library().error(error.code, text)


cdef char *label_of(ModelSignature signature, const char *output, uint64_t index):
    name = output.decode()
    for spec in signature.client_outputs:
        if spec.name == name and index < <uint64_t>len(spec.labels):
            text = spec.labels[index].encode()
            return strdup(text)
    return NULL
