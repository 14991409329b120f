"""Requests and responses as messages: writing them, and reading them without trust."""

import json

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from triton_async.backends.python.isolated.fields cimport json_object
from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.datatypes cimport DT_BYTES, DT_COUNT, DT_INVALID, elements
from triton_async.datatypes cimport nbytes as size_of
from triton_async.infer.request cimport InferRequest, RequestedOutput, asked_output
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, Buffer, foreign
from triton_async.memory.regions cimport Region, RegionRegistry
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport REQUEST, RESPONSE, Held, Lane, put_text, take_text

from triton_async import errors
from triton_async.backends.python.isolated.wire import WireError
from triton_async.errors import InternalError, Unavailable
from triton_async.processes.defines import INLINE_ALL_NBYTES, INLINE_NBYTES, MAX_TENSORS
from triton_async.processes.lane import NO_ROOM

from cpython.ref cimport Py_DECREF, Py_INCREF

cdef int64_t _INLINE = INLINE_NBYTES
cdef int64_t _INLINE_ALL = INLINE_ALL_NBYTES
cdef int64_t LARGE_NBYTES = 1 << 16
cdef int _MAX_TENSORS = MAX_TENSORS

cdef enum:
    INLINE = 0
    OURS = 1
    YOURS = 2
    REGION = 3

cdef enum:
    NAMED = 0xFFFF

cdef enum:
    OUTPUT_BINARY = 1
    OUTPUT_REGION = 2
    OUTPUT_ANYWHERE = 4

# The classes of errors by number; front-ends tell some apart that have the same code.
_ERRORS = (
    errors.UnknownError, errors.InternalError, errors.NotFound, errors.InvalidArg, errors.Unavailable,
    errors.Unsupported, errors.AlreadyExists, errors.Cancelled, errors.Overloaded, errors.DeadlineExceeded,
    errors.DecoupledModel,
)
_NUMBERS = {kind: number for number, kind in enumerate(_ERRORS)}


def error_number(error):
    """The number of its class."""
    return _NUMBERS.get(type(error), int(error.code))


def numbered_error(number, message):
    """The error again. WireError for a number that is none."""
    if not 0 <= number < len(_ERRORS):
        raise WireError("an error of no known kind")
    return _ERRORS[number](message)


# -- tensors ---------------------------------------------------------------------------------------


cdef int _put_parameters(Writer to, dict parameters) except -1:
    if not parameters:
        return to.u32(0)
    return to.long_text(json.dumps(parameters).encode())


# As many as front-ends let through, and what they add themselves.
cdef dict _take_parameters(Cursor cursor):
    cdef bytes text = cursor.long_bytes()
    cdef dict found
    if not text:
        return None
    found = json_object(text)
    for value in found.values():
        if type(value) not in (bool, str, int, float):
            raise WireError("a parameter that is neither text nor a number")
    return found


cdef int _put_u16(Writer to, int value) except -1:
    cdef uint16_t number = <uint16_t>value
    return to.raw(<char *>&number, 2)


cdef int _take_u16(Cursor cursor) except -1:
    cdef uint16_t number
    memcpy(&number, cursor._take(2), 2)
    return number


cdef bint _is_inside(SharedMemory memory, const char *data, int64_t nbytes) noexcept:
    return data >= memory.base and data + nbytes <= memory.base + memory.nbytes


# Of memory that no process of the server but its model process can read: a region that a request names.
cdef int _put_region(Writer to, Buffer buffer, const char *data, int64_t nbytes) except -1:
    cdef Region region = <Region>buffer.owner
    put_text(to, region.name)
    to.u64(<uint64_t>(data - region.data))
    return to.u64(<uint64_t>nbytes)


cdef int _put_tensor(Writer to, Lane lane, Tensor tensor, dict known, int64_t *inlined, list lends,
                     list received) except -1:
    cdef TensorSpec spec = known.get(tensor.name)
    cdef Buffer copy
    cdef const char *data = tensor.data
    _put_u16(to, NAMED if spec is None else spec.index)
    if spec is None:
        put_text(to, tensor.name)
    to.u8(<uint8_t>tensor.datatype)
    to.u8(<uint8_t>tensor.rank)
    if tensor.nbytes and tensor.buffer.memory_type == MEMORY_GPU:
        to.u8(REGION)
        _put_shape(to, tensor)
        return _put_region(to, tensor.buffer, data, tensor.nbytes)
    if tensor.nbytes <= _INLINE and inlined[0] + tensor.nbytes <= _INLINE_ALL:
        inlined[0] += tensor.nbytes
        to.u8(INLINE)
        _put_shape(to, tensor)
        return to.raw(data, tensor.nbytes)
    if received is not None and _is_inside(lane.theirs, data, tensor.nbytes) and _is_of(received, tensor):
        to.u8(YOURS)
        _put_shape(to, tensor)
        return to.u64(<uint64_t>(data - lane.theirs.base))
    if _is_inside(lane.mine, data, tensor.nbytes):
        lends.append(tensor.buffer)
    else:
        copy = lane.lease(tensor.nbytes)
        if copy is None:
            raise Unavailable(NO_ROOM)
        if tensor.nbytes < LARGE_NBYTES:
            memcpy(copy.data, data, tensor.nbytes)
        else:
            with nogil:
                memcpy(copy.data, data, tensor.nbytes)
        data = copy.data
        lends.append(copy)
    to.u8(OURS)
    _put_shape(to, tensor)
    return to.u64(<uint64_t>(data - lane.mine.base))


cdef int _put_shape(Writer to, Tensor tensor) except -1:
    to.raw(<char *>tensor.dims, 8 * tensor.rank)
    return to.u64(<uint64_t>tensor.nbytes)


# Whether its bytes are those of an input that has come from the other side.
cdef bint _is_of(list received, Tensor tensor):
    cdef Tensor one
    for one in received:
        if one.nbytes and tensor.data >= one.data and tensor.data + tensor.nbytes <= one.data + one.nbytes:
            return True
    return False


# What is in front of a tensor's bytes.
cdef struct Shape:
    int datatype
    int rank
    int place
    int64_t count
    int64_t nbytes
    int64_t[16] dims


cdef str _take_shape(Cursor cursor, Shape *shape, tuple specs):
    cdef int index = _take_u16(cursor)
    cdef str name
    cdef int i
    cdef uint64_t nbytes
    if index == NAMED:
        name = take_text(cursor)
    elif specs is not None and index < len(specs):
        name = (<TensorSpec>specs[index]).name
    else:
        raise WireError("a tensor that its model has not")
    shape.datatype = cursor.u8()
    shape.rank = cursor.u8()
    shape.place = cursor.u8()
    if not DT_INVALID < shape.datatype < DT_COUNT:
        raise WireError("a tensor of no known data type")
    if shape.rank > TA_MAX_RANK:
        raise WireError("a tensor of too many dimensions")
    memcpy(shape.dims, cursor._take(8 * shape.rank), 8 * shape.rank)
    for i in range(shape.rank):
        if shape.dims[i] < 0:
            raise WireError("a tensor with a negative dimension")
    shape.count = elements(shape.dims, shape.rank)
    nbytes = cursor.u64()
    if shape.count < 0 or nbytes > <uint64_t>1 << 62:
        raise WireError("a tensor that is too large")
    shape.nbytes = <int64_t>nbytes
    return name


cdef Tensor _view(str name, Shape *shape, Buffer buffer, char *data):
    return view_dims(name, shape.datatype, shape.dims, shape.rank, shape.count, buffer, data, shape.nbytes)


cdef Tensor _copied(str name, Shape *shape, const char *source, SlabPool pool):
    cdef Buffer buffer
    if shape.nbytes == 0:
        return _view(name, shape, None, NULL)
    buffer = pool.lease(shape.nbytes)
    if shape.nbytes < LARGE_NBYTES:
        memcpy(buffer.data, source, shape.nbytes)
    else:
        with nogil:
            memcpy(buffer.data, source, shape.nbytes)
    return _view(name, shape, buffer, buffer.data)


cdef void _drop(void *owner) noexcept nogil:
    with gil:
        Py_DECREF(<object>owner)


cdef Tensor _lent(str name, Shape *shape, uint64_t offset, Lane lane, Held held, SlabPool pool, bint writable):
    cdef char *data = lane.theirs.inside(offset, <uint64_t>shape.nbytes)
    cdef Buffer buffer
    if data == NULL or held is None or shape.nbytes == 0:
        raise WireError("a tensor outside of the shared memory")
    if shape.datatype == DT_BYTES:
        return _copied(name, shape, data, pool)
    buffer = foreign(data, shape.nbytes, <void *>held, _drop, MEMORY_CPU, 0)
    Py_INCREF(held)
    buffer.readonly = not writable
    return _view(name, shape, buffer, data)


# -- requests --------------------------------------------------------------------------------------


cdef int write_request(Writer to, Lane lane, InferRequest request, uint64_t number, uint64_t model, uint64_t origin,
                       ModelSignature signature, list lends) except -1:
    cdef Asked asked
    cdef Tensor tensor
    cdef int64_t inlined = 0
    asked.kind = REQUEST
    asked.number = number
    asked.model = model
    asked.version = request.model_version
    asked.priority = request.priority
    asked.timeout_us = request.timeout_us
    asked.received_ns = request.received_ns
    asked.end_by_ns = request.end_by_ns
    asked.origin = origin
    asked.flags = request.flags
    asked.how = ASKED_BINARY if request.binary_default else 0
    asked.sequence_id = 0
    if type(request.sequence_id) is str:
        asked.how |= ASKED_TEXT
    else:
        asked.sequence_id = request.sequence_id or 0
    fields = request.trace_parent
    if type(fields) is list:
        asked.how |= ASKED_FIELDS
    to.raw(<char *>&asked, sizeof(Asked))
    if asked.how & ASKED_TEXT:
        put_text(to, request.sequence_id)
    put_text(to, request.id)
    _put_parameters(to, request.parameters)
    _put_outputs(to, request.outputs)
    if len(request.inputs) >= NAMED:
        raise Unavailable(NO_ROOM)
    _put_u16(to, <int>len(request.inputs))
    for tensor in request.inputs:
        _put_tensor(to, lane, tensor, signature.input_by_name, &inlined, lends, None)
    if asked.how & ASKED_FIELDS:
        _put_u16(to, <int>min(len(fields), 1000))
        for name, value in fields[:1000]:
            put_text(to, name)
            put_text(to, value)
    return 0


cdef int _put_outputs(Writer to, list outputs) except -1:
    cdef RequestedOutput output
    cdef int count = <int>min(len(outputs), 0xFFFF)
    _put_u16(to, count)
    for output in outputs[:count]:
        put_text(to, output.name)
        to.u8((OUTPUT_BINARY if output.binary else 0) | (OUTPUT_REGION if output.region is not None else 0)
              | (OUTPUT_ANYWHERE if output.anywhere else 0))
        to.u64(<uint64_t>output.classification)
        _put_parameters(to, output.parameters)
        if output.region is not None:
            _put_region(to, output.region, output.region.data, output.region.nbytes)
    return 0


cdef int read_head(Cursor cursor, Asked *asked) except -1:
    # The kind is read already.
    asked.kind = REQUEST
    memcpy(<char *>asked + 1, cursor._take(sizeof(Asked) - 1), sizeof(Asked) - 1)
    return 0


cdef InferRequest read_request(Cursor cursor, Lane lane, const Asked *asked, str model_name, ModelSignature signature,
                               RegionRegistry regions, SlabPool pool):
    cdef InferRequest request = InferRequest(model_name, asked.version)
    cdef object problem = None
    cdef int count
    request.priority = asked.priority
    request.timeout_us = asked.timeout_us
    request.received_ns = asked.received_ns
    request.end_by_ns = asked.end_by_ns
    request.flags = asked.flags
    request.binary_default = asked.how & ASKED_BINARY != 0
    request.sequence_id = take_text(cursor) if asked.how & ASKED_TEXT else asked.sequence_id
    request.id = take_text(cursor)
    request.parameters = _take_parameters(cursor)
    count = _take_u16(cursor)
    for _ in range(count):
        problem = _take_output(cursor, request, regions) or problem
    problem = _take_inputs(cursor, lane, asked.number, request, signature, regions, pool) or problem
    if asked.how & ASKED_FIELDS:
        count = _take_u16(cursor)
        request.trace_parent = [(take_text(cursor), take_text(cursor)) for _ in range(count)]
    if problem is not None:
        raise problem
    return request


# A region may be gone by now: that is told behind the rest of the message.
cdef object _take_output(Cursor cursor, InferRequest request, RegionRegistry regions):
    cdef str name = take_text(cursor)
    cdef int flags = cursor.u8()
    cdef int64_t classes = <int64_t>cursor.u64()
    cdef dict parameters = _take_parameters(cursor)
    cdef Buffer region = None
    cdef str place
    cdef uint64_t offset, nbytes
    problem = None
    if flags & OUTPUT_REGION:
        place = take_text(cursor)
        offset = cursor.u64()
        nbytes = cursor.u64()
        try:
            region = regions.lease(place, offset, nbytes, True, False)
        except errors.ServerError as error:
            problem = error
    request.outputs.append(
        RequestedOutput(name, flags & OUTPUT_BINARY != 0, classes, parameters, region, flags & OUTPUT_ANYWHERE != 0)
    )
    return problem


cdef object _take_inputs(Cursor cursor, Lane lane, uint64_t number, InferRequest request, ModelSignature signature,
                         RegionRegistry regions, SlabPool pool):
    cdef int count = _take_u16(cursor)
    cdef tuple specs = None if signature is None else signature.inputs
    cdef Held held = None
    cdef Buffer buffer
    cdef Shape shape
    cdef str place
    cdef uint64_t offset
    problem = None
    memset(&shape, 0, sizeof(Shape))
    for _ in range(count):
        name = _take_shape(cursor, &shape, specs)
        if shape.place == INLINE:
            request.inputs.append(_copied(name, &shape, cursor._take(<uint64_t>shape.nbytes), pool))
        elif shape.place == OURS:
            if held is None:
                held = lane.held(number)
            request.inputs.append(_lent(name, &shape, cursor.u64(), lane, held, pool, True))
        elif shape.place == REGION:
            place = take_text(cursor)
            offset = cursor.u64()
            if cursor.u64() != <uint64_t>shape.nbytes:
                raise WireError("a part of a region of another length")
            try:
                buffer = regions.lease(place, offset, <uint64_t>shape.nbytes, False, shape.datatype == DT_BYTES)
                request.inputs.append(_view(name, &shape, buffer, buffer.data))
            except errors.ServerError as error:
                problem = error
        else:
            raise WireError("a tensor that is nowhere")
    return problem


# -- responses -------------------------------------------------------------------------------------


cdef int write_error(Writer to, uint64_t number, uint8_t flags, str model_name, int64_t model_version,
                     object error) except -1:
    to.u8(RESPONSE)
    to.u64(number)
    to.u8(flags | HAS_ERROR)
    to.u64(0)
    to.u64(<uint64_t>model_version)
    put_text(to, model_name)
    to.u8(<uint8_t>error_number(error))
    return put_text(to, error.message)


cdef int write_response(Writer to, Lane lane, InferResponse response, uint64_t number, ModelSignature signature,
                        list lends) except -1:
    cdef InferRequest request = <InferRequest>response.request
    cdef RequestedOutput asked
    cdef Tensor tensor
    cdef int64_t inlined = 0
    cdef int flags = FINAL if response.final else 0
    cdef str name = "" if response.model_name == request.model_name else response.model_name
    if response.error is not None:
        return write_error(to, number, <uint8_t>flags, name, response.model_version, response.error)
    to.u8(RESPONSE)
    to.u64(number)
    to.u8(<uint8_t>flags)
    to.u64(0)
    to.u64(<uint64_t>response.model_version)
    put_text(to, name)
    _put_parameters(to, response.parameters)
    _put_u16(to, <int>len(response.outputs))
    for tensor in response.outputs:
        asked = asked_output(request, tensor.name) if request.outputs else None
        if asked is not None and asked.region is not None:
            _put_placed(to, tensor, signature.output_by_name)
        elif tensor.nbytes and tensor.buffer.memory_type == MEMORY_GPU:
            raise InternalError(f"output '{tensor.name}' is still in device memory")
        else:
            _put_tensor(to, lane, tensor, signature.output_by_name, &inlined, lends, request.inputs)
    return 0


# What is in a region: of that the client is told its size alone.
cdef int _put_placed(Writer to, Tensor tensor, dict known) except -1:
    cdef TensorSpec spec = known.get(tensor.name)
    _put_u16(to, NAMED if spec is None else spec.index)
    if spec is None:
        put_text(to, tensor.name)
    to.u8(<uint8_t>tensor.datatype)
    to.u8(<uint8_t>tensor.rank)
    to.u8(REGION)
    return _put_shape(to, tensor)


cdef InferResponse read_response(Cursor cursor, Lane lane, uint8_t flags, InferRequest request,
                                 ModelSignature signature, SlabPool pool):
    cdef uint64_t number = cursor.u64()
    cdef Held held = lane.held(number) if number else None
    cdef int64_t version = <int64_t>cursor.u64()
    cdef str name = take_text(cursor)
    cdef bint final = flags & FINAL != 0
    cdef dict parameters
    cdef list outputs = []
    cdef int count
    if request is None:  # it was cancelled, and what is lent goes back at once
        return None
    if not name:
        name = request.model_name
    if flags & HAS_ERROR:
        kind = cursor.u8()
        error = numbered_error(kind, take_text(cursor))
        return InferResponse(request, name, version, outputs, None, error, final, flags & REFUSED != 0)
    parameters = _take_parameters(cursor)
    count = _take_u16(cursor)
    if count > _MAX_TENSORS:
        raise WireError("too many tensors")
    for _ in range(count):
        outputs.append(_take_tensor(cursor, lane, request, signature, held, pool))
    return InferResponse(request, name, version, outputs, parameters, None, final)


cdef Tensor _take_tensor(Cursor cursor, Lane lane, InferRequest request, ModelSignature signature, Held held,
                         SlabPool pool):
    cdef Shape shape
    cdef RequestedOutput asked
    cdef str name
    memset(&shape, 0, sizeof(Shape))
    name = _take_shape(cursor, &shape, signature.outputs)
    if shape.place != REGION and shape.datatype != DT_BYTES and size_of(shape.count, shape.datatype) != shape.nbytes:
        raise WireError("a tensor whose bytes do not fill its shape")
    if shape.place == INLINE:
        return _copied(name, &shape, cursor._take(<uint64_t>shape.nbytes), pool)
    if shape.place == OURS:
        return _lent(name, &shape, cursor.u64(), lane, held, pool, False)
    if shape.place == YOURS:
        return _own(name, &shape, cursor.u64(), lane, request)
    asked = asked_output(request, name)
    if shape.place != REGION or asked is None or asked.region is None:
        raise WireError("a tensor that is nowhere")
    if shape.nbytes > asked.region.nbytes:
        raise WireError("a tensor that is larger than its part of a region")
    return _view(name, &shape, asked.region, asked.region.data)


# Part of an input of the request, in memory of this side.
cdef Tensor _own(str name, Shape *shape, uint64_t offset, Lane lane, InferRequest request):
    cdef const char *data = lane.mine.inside(offset, <uint64_t>shape.nbytes)
    cdef Tensor one
    if data != NULL and shape.nbytes:
        for one in request.inputs:
            if one.nbytes and data >= one.data and data + shape.nbytes <= one.data + one.nbytes:
                return _view(name, shape, one.buffer, <char *>data)
    raise WireError("a tensor outside of the inputs of its request")
