"""Typed tensor contents of gRPC requests, packed straight from the wire. Any thread with the GIL."""

from libc.stdint cimport INT64_MIN, UINT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport (
    DT_BOOL, DT_BYTES, DT_FP32, DT_FP64, DT_INT8, DT_INT16, DT_INT32, DT_INT64, DT_UINT8, DT_UINT16, DT_UINT32,
    DT_UINT64, itemsize, to_name,
)
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport transient
from triton_async.protocol.wire cimport (
    TA_KIND_BOOL, TA_KIND_INT8, TA_KIND_INT16, TA_KIND_INT32, TA_KIND_INT64, TA_KIND_UINT8, TA_KIND_UINT16,
    TA_KIND_UINT32, TA_KIND_UINT64, TA_WIRE_BYTES, TA_WIRE_FIXED32, TA_WIRE_FIXED64, TA_WIRE_INT, TA_WIRE_PACKED,
    TA_WIRE_END, check, ta_wire, ta_wire_bytes, ta_wire_count, ta_wire_fixed, ta_wire_left, ta_wire_next, ta_wire_skip,
    ta_wire_store, ta_wire_unpack, ta_wire_varint,
)

from triton_async.defines import NOGIL_NBYTES
from triton_async.errors import InvalidArg

cdef int64_t _LONG = NOGIL_NBYTES

# Fields of InferTensorContents, by number.
cdef enum:
    FIELD_BOOL = 1
    FIELD_INT = 2
    FIELD_INT64 = 3
    FIELD_UINT = 4
    FIELD_UINT64 = 5
    FIELD_FP32 = 6
    FIELD_FP64 = 7
    FIELD_BYTES = 8
    FIELD_COUNT = 9

# Number of `contents` in InferInputTensor.
cdef uint32_t CONTENTS = 5


# The datatype that elements of `field` have in a tensor of `datatype`: the narrow ones share a field.
cdef int _datatype_of(int field, int datatype) noexcept:
    if field == FIELD_BOOL:
        return DT_BOOL
    if field == FIELD_INT:
        return datatype if datatype == DT_INT8 or datatype == DT_INT16 else DT_INT32
    if field == FIELD_INT64:
        return DT_INT64
    if field == FIELD_UINT:
        return datatype if datatype == DT_UINT8 or datatype == DT_UINT16 else DT_UINT32
    if field == FIELD_UINT64:
        return DT_UINT64
    if field == FIELD_FP32:
        return DT_FP32
    if field == FIELD_FP64:
        return DT_FP64
    return DT_BYTES


cdef int _kind_of(int datatype) noexcept:
    if datatype == DT_BOOL:
        return TA_KIND_BOOL
    if datatype == DT_INT8:
        return TA_KIND_INT8
    if datatype == DT_INT16:
        return TA_KIND_INT16
    if datatype == DT_INT32:
        return TA_KIND_INT32
    if datatype == DT_INT64:
        return TA_KIND_INT64
    if datatype == DT_UINT8:
        return TA_KIND_UINT8
    if datatype == DT_UINT16:
        return TA_KIND_UINT16
    if datatype == DT_UINT32:
        return TA_KIND_UINT32
    return TA_KIND_UINT64


# Fixed-size elements: bytes of one on the wire; 0 for varints and BYTES.
cdef int _fixed_size(uint32_t field) noexcept nogil:
    return 4 if field == FIELD_FP32 else 8 if field == FIELD_FP64 else 0


# The wire type of one unpacked element.
cdef int _single_type(uint32_t field) noexcept nogil:
    if field == FIELD_FP32:
        return TA_WIRE_FIXED32
    return TA_WIRE_FIXED64 if field == FIELD_FP64 else TA_WIRE_INT


# What is wrong with contents, beside a ta_wire_status, which is negative.
cdef enum:
    CONTENTS_OK = 0
    CONTENTS_RANGE = 1   # an element is out of the range of its datatype
    CONTENTS_LONG = 2    # a string is longer than its length can say


# Adds the elements of one contents message to `counts`, and the bytes of its BYTES elements in wire form to `nbytes`.
cdef int _count(ta_wire contents, int64_t *counts, int64_t *nbytes) noexcept nogil:
    cdef int64_t count
    cdef uint32_t field
    cdef ta_wire value
    cdef int status
    cdef int type = ta_wire_next(&contents, &field)
    value.at = value.end = NULL
    while type >= 0:
        if field >= FIELD_COUNT:
            status = ta_wire_skip(&contents, type)
        elif type == TA_WIRE_BYTES:
            status = ta_wire_bytes(&contents, &value)
            if status < 0:
                return status
            if field == FIELD_BYTES:
                counts[field] += 1
                nbytes[0] += 4 + ta_wire_left(&value)
            elif _fixed_size(field):
                if ta_wire_left(&value) % _fixed_size(field):
                    return TA_WIRE_PACKED
                counts[field] += ta_wire_left(&value) // _fixed_size(field)
            else:
                count = ta_wire_count(value)
                if count < 0:
                    return <int>count
                counts[field] += count
        else:
            status = ta_wire_skip(&contents, type)
            if field != FIELD_BYTES and type == _single_type(field):
                counts[field] += 1
        if status < 0:
            return status
        type = ta_wire_next(&contents, &field)
    return type if type < TA_WIRE_END else CONTENTS_OK


# Writes the elements of field `wanted` of one contents message, and moves `out` behind them; `bad`: what does not fit.
cdef int _fill(ta_wire contents, uint32_t wanted, int kind, char **out, uint64_t *bad) noexcept nogil:
    cdef uint32_t length
    cdef uint32_t field
    cdef int64_t wrote
    cdef ta_wire value
    cdef int status = 0
    cdef int type = ta_wire_next(&contents, &field)
    value.at = value.end = NULL
    while type >= 0:
        if field != wanted or (type != TA_WIRE_BYTES and (field == FIELD_BYTES or type != _single_type(field))):
            status = ta_wire_skip(&contents, type)
        elif type == TA_WIRE_BYTES:
            status = ta_wire_bytes(&contents, &value)
            if status < 0:
                return status
            wrote = ta_wire_left(&value)
            if field == FIELD_BYTES:
                if wrote > UINT32_MAX:
                    return CONTENTS_LONG
                length = <uint32_t>wrote
                memcpy(out[0], &length, 4)
                out[0] += 4
            if field == FIELD_BYTES or _fixed_size(field):
                if wrote:
                    memcpy(out[0], value.at, wrote)
            else:
                wrote = ta_wire_unpack(value, kind, out[0], bad)
                if wrote == INT64_MIN:
                    return CONTENTS_RANGE
                if wrote < 0:
                    return <int>wrote
            out[0] += wrote
        elif _fixed_size(field):
            status = ta_wire_fixed(&contents, out[0], _fixed_size(field))
            out[0] += _fixed_size(field)
        else:
            status = ta_wire_varint(&contents, bad)
            if status < 0:
                return status
            wrote = ta_wire_store(bad[0], kind, out[0])
            if wrote == 0:
                return CONTENTS_RANGE
            out[0] += wrote
        if status < 0:
            return status
        type = ta_wire_next(&contents, &field)
    return type if type < TA_WIRE_END else CONTENTS_OK


# All `contents` of an InferInputTensor: counts their elements where `out` is NULL, else stores those of `field`.
cdef int _walk(ta_wire input, int64_t *counts, int64_t *nbytes, uint32_t field, int kind, char *out,
               uint64_t *bad) noexcept nogil:
    cdef ta_wire contents
    cdef uint32_t number
    cdef int status
    cdef int type = ta_wire_next(&input, &number)
    contents.at = contents.end = NULL
    while type >= 0:
        if number == CONTENTS and type == TA_WIRE_BYTES:
            status = ta_wire_bytes(&input, &contents)
            if status == 0:
                status = _count(contents, counts, nbytes) if out == NULL else _fill(contents, field, kind, &out, bad)
        else:
            status = ta_wire_skip(&input, type)
        if status != 0:
            return status
        type = ta_wire_next(&input, &number)
    return type if type < TA_WIRE_END else CONTENTS_OK


# The same, without the GIL where that is worth it.
cdef int _walk_all(ta_wire input, int64_t *counts, int64_t *nbytes, uint32_t field, int kind, char *out,
                   uint64_t *bad) noexcept:
    cdef int status
    if ta_wire_left(&input) < _LONG:
        return _walk(input, counts, nbytes, field, kind, out, bad)
    with nogil:
        status = _walk(input, counts, nbytes, field, kind, out, bad)
    return status


cdef int _out_of_range(uint64_t value, int datatype, str name) except -1:
    cdef int64_t shown = <int64_t><uint32_t>value
    if datatype == DT_INT8 or datatype == DT_INT16:
        shown = <int32_t><uint32_t>value
    raise InvalidArg(f"value {shown} of input tensor '{name}' is out of the range of datatype '{to_name(datatype)}'")


# The one field that has elements; 0 when none has.
cdef int _only_field(const int64_t *counts, int datatype, str name, str model_name) except -1:
    cdef int found = 0
    cdef int field
    for field in range(1, FIELD_COUNT):
        if counts[field] == 0:
            continue
        where = f"unexpected explicit tensor data for input tensor '{name}' for model '{model_name}'"
        if found:
            raise InvalidArg(f"{where}, binary data was already supplied.")
        if _datatype_of(field, datatype) != datatype:
            raise InvalidArg(f"{where} of type '{to_name(_datatype_of(field, datatype))}', expected datatype "
                             f"'{to_name(datatype)}'")
        found = field
    return found


cdef Buffer pack_contents(ta_wire input, int datatype, str name, str model_name):
    cdef int64_t[FIELD_COUNT] counts
    cdef int64_t nbytes = 0
    cdef uint64_t bad = 0
    cdef int field, status
    cdef Buffer packed
    for field in range(FIELD_COUNT):
        counts[field] = 0
    check(_walk_all(input, counts, &nbytes, 0, 0, NULL, &bad))
    field = _only_field(counts, datatype, name, model_name)
    if field == 0:
        return transient(0)
    if field != FIELD_BYTES:
        # At most eight bytes for a byte of the message, which is far below 2^60.
        nbytes = counts[field] * itemsize(datatype)
    packed = transient(nbytes)
    status = _walk_all(input, counts, &nbytes, field, _kind_of(datatype), packed.data, &bad)
    if status == CONTENTS_RANGE:
        _out_of_range(bad, datatype, name)
    if status == CONTENTS_LONG:
        raise InvalidArg(f"an element of input tensor '{name}' is longer than 4294967295 bytes")
    check(status)
    return packed
