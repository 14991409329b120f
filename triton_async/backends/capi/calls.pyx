"""What backends say through the C API of requests, as events for core. Called on any thread, without the GIL."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from triton_async.backends.base cimport BatchRule, RequestInstance
from triton_async.backends.capi.objects cimport (
    TRITONBACKEND_Backend,
    TRITONBACKEND_Model,
    TRITONBACKEND_ModelInstance,
    TRITONBACKEND_Output,
    TRITONBACKEND_Request,
    TRITONBACKEND_Response,
    TRITONBACKEND_State,
    TRITONSERVER_BufferAttributes,
    TRITONSERVER_Error,
    TRITONSERVER_PARAMETER_BOOL,
    TRITONSERVER_PARAMETER_DOUBLE,
    TRITONSERVER_PARAMETER_INT,
    TRITONSERVER_PARAMETER_STRING,
    TRITONSERVER_Parameter,
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    ta_backend_calls,
    ta_backend_side,
    ta_details,
    ta_execution,
)
from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.datatypes cimport DT_BYTES, elements, nbytes
from triton_async.infer.batch cimport Batch, asks_for
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.infer.trace cimport Trace
from triton_async.memory.buffer cimport MEMORY_CPU, Buffer, foreign
from triton_async.memory.slab cimport ta_slab, ta_slab_data, ta_slab_lease, ta_slab_pool, ta_slab_return

import logging

from triton_async.datatypes import to_name
from triton_async.errors import InternalError, ServerError, Unsupported, from_code
from triton_async.native import address

log = logging.getLogger("triton_async.native")

cdef const ta_backend_side *_side = NULL
cdef ta_backend_calls _calls

_calls.lease = _lease
_calls.give_back = ta_slab_return
_calls.describe = _describe
_calls.is_cancelled = _is_cancelled
_calls.asks_for = _asks_for
_calls.send = _send
_calls.send_flags = _send_flags
_calls.released = _released
_calls.drop = _drop
_calls.keep = _keep
_calls.trace = _trace
_calls.note_trace = _note_trace
_calls.go_live = go_live
_calls.set_config = _set_config
_calls.allocate = _allocate
_calls.free = _free
_calls.memory_usage = _memory_usage

ctypedef const ta_backend_side *(*get_table_t)() noexcept nogil


cdef const ta_backend_side *side_table() except NULL:
    global _side
    cdef get_table_t get_table
    if _side == NULL:
        get_table = <get_table_t><uintptr_t>address("ta_backend_side_table")
        _side = get_table()
        _side.register_calls(&_calls)
    return _side


cdef object taken_error(TRITONSERVER_Error *error, str what=""):
    if error == NULL:
        return None
    made = from_code(error.code, what + _text(error.message))
    _side.error_delete(error)
    return made


cdef str _text(const char *text):
    return "" if text == NULL else (<bytes>text).decode("utf-8", "replace")


# For the library: what was raised, as an error of its own.
cdef TRITONSERVER_Error *_error(object error) noexcept:
    if not isinstance(error, ServerError):
        log.error("%s in a call of native code", type(error).__name__, exc_info=error)
        error = InternalError(f"{type(error).__name__} in the server")
    text = error.message.encode("utf-8", "replace")
    return _side.error_new(error.code, <const char *>text)


# What a handle stands for. A batching strategy beside an engine of this server has handles that stand for nothing.
cdef object _object(void *owner):
    if owner == NULL:
        raise Unsupported("a batching strategy of a model whose backend is no library can not ask for this")
    return <object>owner


# -- memory ----------------------------------------------------------------------------------------

cdef void *_lease(void *pool, int64_t size, char **data) noexcept nogil:
    cdef ta_slab *slab = ta_slab_lease(<ta_slab_pool *>pool, size)
    if slab == NULL:
        return NULL
    data[0] = ta_slab_data(slab)
    return slab


cdef TRITONSERVER_Error *_allocate(TRITONBACKEND_Backend *backend, void **buffer, int32_t memory_type,
                                   int64_t device_id, uint64_t size) noexcept nogil:
    with gil:
        try:
            buffer[0] = <void *><uintptr_t>_object(backend.owner).allocate(memory_type, device_id, size)
        except BaseException as error:
            return _error(error)
    return NULL


cdef TRITONSERVER_Error *_free(TRITONBACKEND_Backend *backend, void *buffer, int32_t memory_type) noexcept nogil:
    with gil:
        try:
            _object(backend.owner).free(<uintptr_t>buffer)
        except BaseException as error:
            return _error(error)
    return NULL


cdef void _memory_usage(TRITONBACKEND_Model *model, TRITONBACKEND_ModelInstance *instance,
                        TRITONSERVER_BufferAttributes **usage, unsigned int count) noexcept nogil:
    with gil:
        try:
            places = [(usage[i].memory_type, usage[i].memory_type_id, usage[i].nbytes) for i in range(count)]
            _object(model.owner).note_memory(<uintptr_t>instance, places)
        except BaseException:
            log.exception("a report of memory could not be noted")


cdef TRITONSERVER_Error *_set_config(TRITONBACKEND_Model *model, const char *json, size_t size) noexcept nogil:
    with gil:
        try:
            _object(model.owner).take_config(json[:size])
        except BaseException as error:
            return _error(error)
    return NULL


# -- what a backend asks of a request --------------------------------------------------------------

cdef int _describe(TRITONBACKEND_Request *request) noexcept nogil:
    with gil:
        try:
            if request.details == NULL:  # another thread may have been here
                request.details = _details(<InferRequest>request.inferred)
        except BaseException:
            return -1
    return 0


cdef ta_details *_details(InferRequest request) except NULL:
    cdef ta_details *details = <ta_details *>calloc(1, sizeof(ta_details))
    cdef dict parameters = request.parameters or {}
    cdef TRITONSERVER_Parameter *parameter
    if details == NULL:
        raise MemoryError
    details.id = _copied(request.id)
    if isinstance(request.sequence_id, str) and request.sequence_id:
        details.correlation_string = _copied(request.sequence_id)
    else:
        details.correlation = request.sequence_id or 0
    details.timeout_us = request.timeout_us
    details.flags = request.flags
    details.parameters = <TRITONSERVER_Parameter **>calloc(len(parameters) + 1, sizeof(void *))
    if details.parameters == NULL:
        raise MemoryError
    for name, value in parameters.items():
        parameter = _parameter(name, value)
        if parameter != NULL:
            details.parameters[details.n_parameters] = parameter
            details.n_parameters += 1
    return details


cdef char *_copied(str text) except NULL:
    cdef bytes encoded = text.encode("utf-8", "replace")
    cdef size_t size = len(encoded) + 1
    cdef char *copy = <char *>calloc(size, 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char *>encoded, size)
    return copy


cdef TRITONSERVER_Parameter *_parameter(str name, value) except? NULL:
    cdef bytes key = name.encode("utf-8", "replace")
    cdef bytes text
    cdef bint truth
    cdef int64_t integer
    cdef double real
    if isinstance(value, bool):
        truth = value
        return _side.parameter_new(key, TRITONSERVER_PARAMETER_BOOL, &truth)
    if isinstance(value, int):
        # As C has unsigned ones, too.
        integer = <int64_t><uint64_t>(value & 0xFFFFFFFFFFFFFFFF)
        return _side.parameter_new(key, TRITONSERVER_PARAMETER_INT, &integer)
    if isinstance(value, float):
        real = value
        return _side.parameter_new(key, TRITONSERVER_PARAMETER_DOUBLE, &real)
    text = str(value).encode("utf-8", "replace")
    return _side.parameter_new(key, TRITONSERVER_PARAMETER_STRING, <const char *>text)


cdef int _is_cancelled(TRITONBACKEND_Request *request) noexcept nogil:
    return (<InferRequest>request.inferred).cancelled


cdef int _asks_for(TRITONBACKEND_Request *request, int32_t output) noexcept with gil:
    cdef ModelSignature signature
    if request.factory != NULL:
        signature = (<ResponseFactory>request.factory).signature
    elif request.execution.batch != NULL:
        signature = (<Batch>request.execution.batch.owner).signature
    else:  # it stands in a queue
        signature = (<BatchRule>request.execution.instance.owner).signature
    return asks_for(<InferRequest>request.inferred, <TensorSpec>signature.outputs[output])


# -- what it answers -------------------------------------------------------------------------------

cdef void go_live(ta_execution *execution) noexcept nogil:
    with gil:
        _hand_over(execution)
    _side.flush(execution)


# Without memory the batch has failed, and what the backend says of its requests is for nobody.
cdef int _hand_over(ta_execution *execution) noexcept:
    cdef RequestInstance instance = <RequestInstance>execution.instance.owner
    cdef list factories = instance._factories(execution.batch)
    cdef ResponseFactory factory
    cdef int i
    if factories is None:
        # For good: the backend may look at its requests whenever it likes.
        Py_INCREF(<object>execution.batch.owner)
        return 0
    for i in range(execution.n_requests):
        factory = <ResponseFactory>factories[i]
        if factory.last_ns == 0:
            factory.last_ns = execution.batch.compute_start_ns
        Py_INCREF(factory)
        execution.requests[i].factory = <void *>factory
        execution.requests[i].inferred = <void *>factory.request
    return 0


cdef TRITONSERVER_Error *_send(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response) noexcept nogil:
    cdef TRITONSERVER_Error *error = NULL
    with gil:
        if request.factory == NULL:
            error = _error(InternalError("the request is answered already"))
        else:
            error = _answer(request, <ResponseFactory>request.factory, response)
    _side.response_free(response)
    return error


cdef TRITONSERVER_Error *_answer(TRITONBACKEND_Request *request, ResponseFactory factory,
                                 TRITONBACKEND_Response *response) noexcept:
    cdef bint final = response.flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL
    cdef TRITONSERVER_Error *failure = NULL
    try:
        if response.error != NULL:
            factory.send([], None, from_code(response.error.code, _text(response.error.message)), final)
        else:
            outputs = _outputs(factory.signature, response)
            if final:
                outputs += _states(factory.signature, request)
            factory.send(outputs, _parameters(response), None, final)
    except BaseException as error:
        failure = _error(error)
        _refuse(factory, final, error)
    _end(request, factory)
    return failure


# The client hears of what could not be sent, too.
cdef int _refuse(ResponseFactory factory, bint final, error) noexcept:
    if factory.finished:
        return 0
    if not isinstance(error, ServerError):
        error = InternalError("a response could not be sent")
    try:
        factory.send([], None, error, final)
    except BaseException:
        log.exception("a request could not be answered")
    return 0


# Of a model that is not decoupled a request is released behind its answer.
cdef int _end(TRITONBACKEND_Request *request, ResponseFactory factory) noexcept:
    try:
        if factory.finished and request.released:
            factory.release()
    except BaseException:
        log.exception("a request could not be released")
    return 0


cdef TRITONSERVER_Error *_send_flags(TRITONBACKEND_Request *request) noexcept with gil:
    cdef ResponseFactory factory
    if request.factory == NULL:
        return _error(InternalError("the request is answered already"))
    factory = <ResponseFactory>request.factory
    try:
        factory.send_taken([], None, True)
    except BaseException as error:
        return _error(error)
    _end(request, factory)
    return NULL


cdef void _released(TRITONBACKEND_Request *request) noexcept with gil:
    cdef ResponseFactory factory
    if request.factory == NULL:
        return
    factory = <ResponseFactory>request.factory
    try:
        if request.release_flags & TRITONSERVER_REQUEST_RELEASE_RESCHEDULE:
            factory.reschedule()
        elif factory.finished or factory.signature.decoupled:
            factory.release()
    except BaseException:
        log.exception("a request could not be released")


cdef void _drop(void *object_) noexcept nogil:
    with gil:
        Py_DECREF(<object>object_)


cdef void _keep(void *object_) noexcept with gil:
    Py_INCREF(<object>object_)


cdef int _trace(TRITONBACKEND_Request *request) noexcept with gil:
    cdef Trace trace = (<InferRequest>request.inferred).trace
    cdef bytes context
    if trace is None or request.trace != NULL:
        return 0
    try:
        text = trace.context()
        context = b"" if text is None else text.encode()
        request.trace = _side.trace_of(
            <void *>trace, <uint64_t>trace.id, <uint64_t>trace.parent_id, trace.levels, trace.model_name.encode(),
            trace.model_version, trace.request_id.encode("utf-8", "replace"), NULL if text is None else <char *>context,
        )
    except BaseException:
        log.exception("a trace could not be handed to a backend")
    return 0 if request.trace != NULL else -1


cdef void _note_trace(void *trace, const char *name, uint64_t ns) noexcept with gil:
    try:
        (<Trace>trace).note(_text(name), <int64_t>ns)
    except BaseException:
        log.exception("an activity could not be noted")


cdef dict _parameters(TRITONBACKEND_Response *response):
    cdef dict found = {}
    cdef TRITONSERVER_Parameter *parameter
    cdef unsigned int i
    for i in range(response.n_parameters):
        parameter = response.parameters[i]
        name = _text(parameter.name)
        if parameter.type == TRITONSERVER_PARAMETER_STRING:
            found[name] = _text(parameter.value.string)
        elif parameter.type == TRITONSERVER_PARAMETER_INT:
            found[name] = parameter.value.integer
        elif parameter.type == TRITONSERVER_PARAMETER_BOOL:
            found[name] = bool(parameter.value.boolean)
        elif parameter.type == TRITONSERVER_PARAMETER_DOUBLE:
            found[name] = parameter.value.real
    return found or None


# In the model's order.
cdef list _outputs(ModelSignature signature, TRITONBACKEND_Response *response):
    cdef list found = []
    cdef int32_t index
    cdef unsigned int i
    for index in range(len(signature.outputs)):
        for i in range(response.n_outputs):
            if response.outputs[i].index == index:
                found.append(_tensor(signature, &response.outputs[i]))
    return found


cdef list _states(ModelSignature signature, TRITONBACKEND_Request *request):
    cdef list found = []
    cdef TRITONBACKEND_State *state = request.states
    while state != NULL:
        if state.updated:
            found.append(_tensor(signature, &state.output))
        state = state.next
    return found


# Takes over the bytes of an output. The dims that clients see are those of `reshape` undone.
cdef Tensor _tensor(ModelSignature signature, TRITONBACKEND_Output *output):
    cdef TensorSpec spec = <TensorSpec>signature.outputs[output.index]
    cdef int64_t[16] dims
    cdef int64_t count = elements(output.dims, output.rank)
    cdef int64_t expected
    cdef int rank
    cdef Buffer buffer
    of = f"output '{spec.name}' of model '{signature.model_name}'"
    if output.memory == NULL:
        raise InternalError(f"{of} has no buffer")
    if count < 0:
        raise InternalError(f"{of} has more elements than can be counted")
    if output.datatype == DT_BYTES:
        expected = ta_bytes_skip(output.data, output.nbytes, 0, count)
    else:
        expected = nbytes(count, output.datatype)
    if expected != output.nbytes:
        shape = ",".join([str(output.dims[i]) for i in range(output.rank)])
        raise InternalError(f"{of} has {output.nbytes} bytes, which are not {count} elements of type "
                            f"{to_name(output.datatype)} for its shape [{shape}]")
    rank = spec.client_dims(output.dims, output.rank, signature.max_batch_size > 0, dims)
    if rank < 0:
        raise InternalError(f"{of} cannot be given the shape of the configuration")
    buffer = foreign(output.data, output.nbytes, output.memory, _side.lease_drop, MEMORY_CPU, 0)
    output.memory = NULL
    return view_dims(spec.name, output.datatype, dims, rank, count, buffer, output.data, output.nbytes)


assert TA_CODE_INTERNAL == InternalError("").code
