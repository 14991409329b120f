"""Responses as messages: writing them, and reading them without trust."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.datatypes cimport DT_BYTES
from triton_async.datatypes cimport nbytes as size_of
from triton_async.infer.request cimport InferRequest, RequestedOutput, asked_output
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport MEMORY_GPU
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport RESPONSE, Held, Lane, put_text, take_text
from triton_async.processes.parts cimport (
    INLINE,
    OURS,
    REGION,
    YOURS,
    Shape,
    copied,
    lent,
    put_parameters,
    put_placed,
    put_tensor,
    take_parameters,
    take_shape,
    view_of,
)

from triton_async.backends.python.isolated.wire import WireError
from triton_async.errors import InternalError
from triton_async.processes.defines import MAX_TENSORS
from triton_async.processes.parts import error_number, numbered_error

cdef int _MAX_TENSORS = MAX_TENSORS


cdef int _put_head(Writer to, uint64_t number, int flags, str model_name, int64_t model_version,
                   int n_tensors) except -1:
    cdef Answered answered
    answered.kind = RESPONSE
    answered.request = number
    answered.flags = <uint8_t>(flags | (NAMES if model_name is not None else 0))
    answered.lent = 0
    answered.version = model_version
    answered.n_tensors = <uint16_t>n_tensors
    to.raw(<char *>&answered, sizeof(Answered))
    return 0 if model_name is None else put_text(to, model_name)


cdef int write_error(Writer to, uint64_t number, uint8_t flags, str model_name, int64_t model_version,
                     object error) except -1:
    _put_head(to, number, flags | HAS_ERROR, model_name, model_version, 0)
    to.u8(<uint8_t>error_number(error))
    return put_text(to, error.message)


cdef int write_response(Writer to, Lane lane, InferResponse response, uint64_t number, ModelSignature signature,
                        list lends) except -1:
    cdef InferRequest request = <InferRequest>response.request
    cdef RequestedOutput asked
    cdef Tensor tensor
    cdef int64_t inlined = 0
    cdef int flags = FINAL if response.final else 0
    cdef str name = None
    if response.model_name is not request.model_name and response.model_name != request.model_name:
        name = response.model_name
    if response.error is not None:
        return write_error(to, number, <uint8_t>flags, name, response.model_version, response.error)
    if len(response.outputs) > _MAX_TENSORS:
        raise InternalError(f"{len(response.outputs)} outputs are more than a response has, {_MAX_TENSORS}")
    if response.parameters:
        flags |= HAS_PARAMETERS
    _put_head(to, number, flags, name, response.model_version, <int>len(response.outputs))
    if flags & HAS_PARAMETERS:
        put_parameters(to, response.parameters)
    for tensor in response.outputs:
        asked = asked_output(request, tensor.name) if request.outputs else None
        if asked is not None and asked.region is not None:
            put_placed(to, tensor, signature.output_by_name)
        elif tensor.nbytes and tensor.buffer.memory_type == MEMORY_GPU:
            raise InternalError(f"output '{tensor.name}' is still in device memory")
        else:
            put_tensor(to, to, lane, tensor, signature.output_by_name, &inlined, lends, request.inputs)
    return 0


cdef int read_answered(Cursor cursor, Answered *answered) except -1:
    answered.kind = RESPONSE
    memcpy(<char *>answered + 1, cursor._take(sizeof(Answered) - 1), sizeof(Answered) - 1)
    return 0


cdef InferResponse read_response(Cursor cursor, Lane lane, const Answered *answered, InferRequest request,
                                 ModelSignature signature, SlabPool pool):
    cdef Held held = lane.held(answered.lent) if answered.lent else None
    cdef int flags = answered.flags
    cdef InferResponse response
    cdef list outputs = []
    if request is None:  # it was cancelled, and what is lent goes back at once
        return None
    response = InferResponse.__new__(InferResponse)
    response.request = request
    response.model_version = answered.version
    response.model_name = take_text(cursor) if flags & NAMES else request.model_name
    response.outputs = outputs
    response.final = flags & FINAL != 0
    response.refused = flags & REFUSED != 0
    if flags & HAS_ERROR:
        kind = cursor.u8()
        response.error = numbered_error(kind, take_text(cursor))
        return response
    if flags & HAS_PARAMETERS:
        response.parameters = take_parameters(cursor)
    if answered.n_tensors > _MAX_TENSORS:
        raise WireError("too many tensors")
    for _ in range(answered.n_tensors):
        outputs.append(_take_tensor(cursor, lane, request, signature, held, pool))
    return response


cdef Tensor _take_tensor(Cursor cursor, Lane lane, InferRequest request, ModelSignature signature, Held held,
                         SlabPool pool):
    cdef Shape shape
    cdef RequestedOutput asked
    cdef str name
    shape.slot = 0
    name = take_shape(cursor, &shape, signature.outputs)
    if shape.place != REGION and shape.datatype != DT_BYTES and size_of(shape.count, shape.datatype) != shape.nbytes:
        raise WireError("a tensor whose bytes do not fill its shape")
    if shape.place == INLINE:
        return copied(name, &shape, cursor._take(<uint64_t>shape.nbytes), pool)
    if shape.place == OURS:
        return lent(name, &shape, cursor.u64(), lane, held, pool, False)
    if shape.place == YOURS:
        return _own(name, &shape, cursor.u64(), lane, request)
    asked = asked_output(request, name)
    if shape.place != REGION or asked is None or asked.region is None:
        raise WireError("a tensor that is nowhere")
    if shape.nbytes > asked.region.nbytes:
        raise WireError("a tensor that is larger than its part of a region")
    return view_of(name, &shape, asked.region, asked.region.data)


# Part of an input of the request, in memory of this side.
cdef Tensor _own(str name, const Shape *shape, uint64_t offset, Lane lane, InferRequest request):
    cdef const char *data = lane.mine.inside(offset, <uint64_t>shape.nbytes)
    cdef Tensor one
    if data != NULL and shape.nbytes:
        for one in request.inputs:
            if one.nbytes and data >= one.data and data + shape.nbytes <= one.data + one.nbytes:
                return view_of(name, shape, one.buffer, <char *>data)
    raise WireError("a tensor outside of the inputs of its request")
