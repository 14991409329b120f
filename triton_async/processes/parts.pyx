"""Parts of messages about requests: writing them, and reading them without trust."""

import json

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.fields cimport json_object
from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.datatypes cimport DT_BYTES, DT_COUNT, DT_INVALID, elements
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_CPU, MEMORY_GPU, Buffer, foreign
from triton_async.memory.regions cimport Region
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport Held, Lane, put_text, take_text

from triton_async import errors
from triton_async.backends.python.isolated.wire import WireError
from triton_async.errors import Unavailable
from triton_async.processes.defines import INLINE_ALL_NBYTES, INLINE_NBYTES
from triton_async.processes.lane import NO_ROOM

cdef int64_t _INLINE = INLINE_NBYTES
cdef int64_t _INLINE_ALL = INLINE_ALL_NBYTES
cdef int64_t LARGE_NBYTES = 1 << 16

cdef enum:
    NAMED = 0xFFFF

# In front of a tensor's bytes.
cdef packed struct Told:
    uint16_t index
    uint8_t datatype
    uint8_t rank
    uint8_t place
    uint64_t nbytes
    int64_t[16] dims         # `rank` of them

# Without `dims`.
cdef Py_ssize_t TOLD_NBYTES = sizeof(Told) - 128

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


cdef int put_parameters(Writer to, dict parameters) except -1:
    return to.long_text(json.dumps(parameters).encode())


# As many as front-ends let through, and what they add themselves.
cdef dict take_parameters(Cursor cursor):
    cdef dict found = json_object(cursor.long_bytes())
    for value in found.values():
        if type(value) not in (bool, str, int, float):
            raise WireError("a parameter that is neither text nor a number")
    return found


cdef int put_region(Writer to, Buffer buffer, const char *data, int64_t nbytes) except -1:
    cdef Region region = <Region>buffer.owner
    put_text(to, region.name)
    to.u64(<uint64_t>(data - region.data))
    return to.u64(<uint64_t>nbytes)


# -- writing tensors -------------------------------------------------------------------------------


cdef bint _is_inside(SharedMemory memory, const char *data, int64_t nbytes) noexcept:
    return data >= memory.base and data + nbytes <= memory.base + memory.nbytes


# Whether its bytes are those of an input that has come from the other side.
cdef bint _is_of(list received, Tensor tensor):
    cdef Tensor one
    for one in received:
        if one.nbytes and tensor.data >= one.data and tensor.data + tensor.nbytes <= one.data + one.nbytes:
            return True
    return False


cdef int _put_shape(Writer to, Tensor tensor, dict known, int place) except -1:
    cdef TensorSpec spec = <TensorSpec>known.get(tensor.name)
    cdef Told told
    told.index = <uint16_t>(NAMED if spec is None else spec.index)
    told.datatype = <uint8_t>tensor.datatype
    told.rank = <uint8_t>tensor.rank
    told.place = <uint8_t>place
    told.nbytes = <uint64_t>tensor.nbytes
    memcpy(told.dims, tensor.dims, 8 * tensor.rank)
    to.raw(<char *>&told, TOLD_NBYTES + 8 * tensor.rank)
    return put_text(to, tensor.name) if spec is None else 0


cdef int put_placed(Writer to, Tensor tensor, dict known) except -1:
    return _put_shape(to, tensor, known, REGION)


cdef int put_tensor(Writer to, Writer data, Lane lane, Tensor tensor, dict known, int64_t *inlined, list lends,
                    list received) except -1:
    cdef const char *source = tensor.data
    if tensor.nbytes and tensor.buffer.memory_type == MEMORY_GPU:
        _put_shape(to, tensor, known, REGION)
        return put_region(to, tensor.buffer, source, tensor.nbytes)
    if tensor.nbytes <= _INLINE and inlined[0] + tensor.nbytes <= _INLINE_ALL:
        inlined[0] += tensor.nbytes
        _put_shape(to, tensor, known, INLINE)
        return data.raw(source, tensor.nbytes)
    if received is not None and _is_inside(lane.theirs, source, tensor.nbytes) and _is_of(received, tensor):
        _put_shape(to, tensor, known, YOURS)
        return data.u64(<uint64_t>(source - lane.theirs.base))
    _put_shape(to, tensor, known, OURS)
    if _is_inside(lane.mine, source, tensor.nbytes):
        lends.append(tensor.buffer)
        return data.u64(<uint64_t>(source - lane.mine.base))
    return data.u64(_copy(lane, tensor, lends))


# To memory that the other side sees: the offset there.
cdef uint64_t _copy(Lane lane, Tensor tensor, list lends) except? 0:
    cdef Buffer copy = lane.lease(tensor.nbytes)
    if copy is None:
        raise Unavailable(NO_ROOM)
    if tensor.nbytes < LARGE_NBYTES:
        memcpy(copy.data, tensor.data, tensor.nbytes)
    else:
        with nogil:
            memcpy(copy.data, tensor.data, tensor.nbytes)
    lends.append(copy)
    return <uint64_t>(copy.data - lane.mine.base)


# -- reading tensors -------------------------------------------------------------------------------


cdef str take_shape(Cursor cursor, Shape *shape, tuple specs):
    cdef Told told
    cdef int i
    memcpy(&told, cursor._take(TOLD_NBYTES), TOLD_NBYTES)
    shape.datatype = told.datatype
    shape.rank = told.rank
    shape.place = told.place
    if not DT_INVALID < shape.datatype < DT_COUNT:
        raise WireError("a tensor of no known data type")
    if shape.rank > TA_MAX_RANK:
        raise WireError("a tensor of too many dimensions")
    memcpy(shape.dims, cursor._take(8 * shape.rank), 8 * shape.rank)
    for i in range(shape.rank):
        if shape.dims[i] < 0:
            raise WireError("a tensor with a negative dimension")
    shape.count = elements(shape.dims, shape.rank)
    if shape.count < 0 or told.nbytes > <uint64_t>1 << 62:
        raise WireError("a tensor that is too large")
    shape.nbytes = <int64_t>told.nbytes
    if told.index == NAMED:
        return take_text(cursor)
    if specs is None or told.index >= len(specs):
        raise WireError("a tensor that its model has not")
    return (<TensorSpec>specs[told.index]).name


cdef Tensor view_of(str name, const Shape *shape, Buffer buffer, char *data):
    return view_dims(name, shape.datatype, shape.dims, shape.rank, shape.count, buffer, data, shape.nbytes)


cdef Tensor copied(str name, const Shape *shape, const char *source, SlabPool pool):
    cdef Buffer buffer
    if shape.nbytes == 0:
        return view_of(name, shape, None, NULL)
    buffer = pool.lease(shape.nbytes)
    if shape.nbytes < LARGE_NBYTES:
        memcpy(buffer.data, source, shape.nbytes)
    else:
        with nogil:
            memcpy(buffer.data, source, shape.nbytes)
    return view_of(name, shape, buffer, buffer.data)


cdef void _drop(void *owner) noexcept nogil:
    with gil:
        Py_DECREF(<object>owner)


cdef Tensor lent(str name, const Shape *shape, uint64_t offset, Lane lane, Held held, SlabPool pool, bint writable):
    cdef char *data = lane.theirs.inside(offset, <uint64_t>shape.nbytes)
    cdef Buffer buffer
    if data == NULL or held is None or shape.nbytes == 0:
        raise WireError("a tensor outside of the shared memory")
    if shape.datatype == DT_BYTES:
        return copied(name, shape, data, pool)
    buffer = foreign(data, shape.nbytes, <void *>held, _drop, MEMORY_CPU, 0)
    Py_INCREF(held)
    buffer.readonly = not writable
    return view_of(name, shape, buffer, data)
