"""Typed tensor contents of gRPC requests, packed straight from the wire. Any thread with the GIL."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport (
    DT_BOOL, DT_BYTES, DT_FP32, DT_FP64, DT_INT8, DT_INT16, DT_INT32, DT_INT64, DT_UINT8, DT_UINT16, DT_UINT32,
    DT_UINT64, itemsize, to_name,
)
from triton_async.protocol.wire cimport (
    TA_KIND_BOOL, TA_KIND_INT8, TA_KIND_INT16, TA_KIND_INT32, TA_KIND_INT64, TA_KIND_UINT8, TA_KIND_UINT16,
    TA_KIND_UINT32, TA_KIND_UINT64, TA_WIRE_BYTES, TA_WIRE_FIXED32, TA_WIRE_FIXED64, TA_WIRE_INT, TA_WIRE_PACKED,
    check, next_field, ta_wire, ta_wire_bytes, ta_wire_count, ta_wire_fixed, ta_wire_left, ta_wire_skip, ta_wire_store,
    ta_wire_unpack, ta_wire_varint,
)

from triton_async.errors import InvalidArg

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
cdef int _fixed_size(uint32_t field) noexcept:
    return 4 if field == FIELD_FP32 else 8 if field == FIELD_FP64 else 0


# The wire type of one unpacked element.
cdef int _single_type(uint32_t field) noexcept:
    if field == FIELD_FP32:
        return TA_WIRE_FIXED32
    return TA_WIRE_FIXED64 if field == FIELD_FP64 else TA_WIRE_INT


# Adds the elements of one contents message to `counts`; returns the bytes of its BYTES elements in wire form.
cdef int64_t _count(ta_wire contents, int64_t *counts) except -1:
    cdef int64_t nbytes = 0
    cdef int64_t count
    cdef uint32_t field
    cdef ta_wire value
    cdef int type = next_field(&contents, &field)
    value.at = value.end = NULL
    while type >= 0:
        if field >= FIELD_COUNT:
            check(ta_wire_skip(&contents, type))
        elif type == TA_WIRE_BYTES:
            check(ta_wire_bytes(&contents, &value))
            if field == FIELD_BYTES:
                counts[field] += 1
                nbytes += 4 + ta_wire_left(&value)
            elif _fixed_size(field):
                if ta_wire_left(&value) % _fixed_size(field):
                    check(TA_WIRE_PACKED)
                counts[field] += ta_wire_left(&value) // _fixed_size(field)
            else:
                count = ta_wire_count(value)
                if count < 0:
                    check(<int>count)
                counts[field] += count
        else:
            check(ta_wire_skip(&contents, type))
            if field != FIELD_BYTES and type == _single_type(field):
                counts[field] += 1
        type = next_field(&contents, &field)
    return nbytes


# Writes the elements of field `wanted` of one contents message; returns the place behind them.
cdef char *_fill(ta_wire contents, uint32_t wanted, int datatype, char *out, str name) except NULL:
    cdef int kind = _kind_of(datatype)
    cdef uint32_t length
    cdef uint32_t field
    cdef uint64_t bad = 0
    cdef int64_t wrote
    cdef ta_wire value
    cdef int type = next_field(&contents, &field)
    value.at = value.end = NULL
    while type >= 0:
        if field != wanted or (type != TA_WIRE_BYTES and (field == FIELD_BYTES or type != _single_type(field))):
            check(ta_wire_skip(&contents, type))
        elif type == TA_WIRE_BYTES:
            check(ta_wire_bytes(&contents, &value))
            wrote = ta_wire_left(&value)
            if field == FIELD_BYTES:
                if wrote > 0xFFFFFFFF:
                    raise InvalidArg(f"an element of input tensor '{name}' is longer than 4294967295 bytes")
                length = <uint32_t>wrote
                memcpy(out, &length, 4)
                out += 4
            if field == FIELD_BYTES or _fixed_size(field):
                if wrote:
                    memcpy(out, value.at, wrote)
            else:
                wrote = ta_wire_unpack(value, kind, out, &bad)
                if wrote == INT64_MIN:
                    _out_of_range(bad, datatype, name)
                if wrote < 0:
                    check(<int>wrote)
            out += wrote
        elif _fixed_size(field):
            check(ta_wire_fixed(&contents, out, _fixed_size(field)))
            out += _fixed_size(field)
        else:
            check(ta_wire_varint(&contents, &bad))
            wrote = ta_wire_store(bad, kind, out)
            if wrote == 0:
                _out_of_range(bad, datatype, name)
            out += wrote
        type = next_field(&contents, &field)
    return out


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


cdef bytes pack_contents(ta_wire input, int datatype, str name, str model_name):
    cdef int64_t[FIELD_COUNT] counts
    cdef int64_t nbytes = 0
    cdef ta_wire scan = input
    cdef ta_wire contents
    cdef uint32_t number
    cdef int type
    cdef int field
    cdef bytes packed
    cdef char *out
    for field in range(FIELD_COUNT):
        counts[field] = 0
    type = next_field(&scan, &number)
    while type >= 0:
        if number == CONTENTS and type == TA_WIRE_BYTES:
            check(ta_wire_bytes(&scan, &contents))
            nbytes += _count(contents, counts)
        else:
            check(ta_wire_skip(&scan, type))
        type = next_field(&scan, &number)
    field = _only_field(counts, datatype, name, model_name)
    if field == 0:
        return b""
    if field != FIELD_BYTES:
        # At most eight bytes for a byte of the message, which is far below 2^60.
        nbytes = counts[field] * itemsize(datatype)
    packed = PyBytes_FromStringAndSize(NULL, nbytes)
    out = PyBytes_AS_STRING(packed)
    type = next_field(&input, &number)
    while type >= 0:
        if number == CONTENTS and type == TA_WIRE_BYTES:
            check(ta_wire_bytes(&input, &contents))
            out = _fill(contents, field, datatype, out, name)
        else:
            check(ta_wire_skip(&input, type))
        type = next_field(&input, &number)
    return packed
