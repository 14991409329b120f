"""Tensor values as JSON, both ways. Every element is checked: type, range, and the nesting against the shape."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport (
    DT_BF16, DT_BOOL, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INVALID, DT_UINT8, DT_UINT64, itemsize, nbytes, to_name,
)
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport Buffer, wrap
from triton_async.protocol.json_cut cimport (
    TA_JSON_BOOLS, TA_JSON_COUNT, TA_JSON_FLOATS, TA_JSON_NESTED, TA_JSON_NO_BOOL, TA_JSON_NO_NUMBER,
    TA_JSON_NO_SIGNED, TA_JSON_NO_STRING, TA_JSON_NO_UNSIGNED, TA_JSON_OK, TA_JSON_SHAPE, TA_JSON_SIGNED,
    TA_JSON_STRINGS, TA_JSON_UNSIGNED, CutJson, ta_json_elements, ta_json_kind,
)

import json

import numpy as np
import orjson

from triton_async.defines import JSON_MAX_DEPTH
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import decode_bytes

cdef str PARSE = "Unable to parse 'data'"
cdef str NOT_THE_SHAPE = f"{PARSE}: Shape does not match true shape of 'data' field"
cdef int DEEPEST = JSON_MAX_DEPTH
cdef int SMALL = 256


cdef int64_t _byte_size(str name, int datatype, int64_t count, int64_t max_nbytes) except -1:
    cdef int64_t size = nbytes(count, datatype)
    if size < 0:
        raise InvalidArg(f"byte size overflow for input '{name}': element count ({count}) * data type size "
                         f"({itemsize(datatype)}) exceeds maximum allowed size (9223372036854775807)")
    _check_limit(name, size, max_nbytes)
    return size


cdef int _check_limit(str name, int64_t size, int64_t max_nbytes) except -1:
    if size > max_nbytes:
        raise InvalidArg(f"JSON input '{name}' has a byte_size ({size} bytes) that exceeds the maximum allowed value "
                         f"of {max_nbytes} bytes. Use --http-max-input-size to increase the limit.")
    return 0


cdef Tensor from_json(str name, int datatype, const int64_t *dims, int rank, int64_t count, CutJson json, object data,
                      int64_t max_nbytes):
    cdef int64_t place = json.place(data)
    cdef ta_json_elements elements
    cdef bytes values
    cdef Buffer buffer
    cdef int status
    if place < 0:
        raise InvalidArg(f"{PARSE}: attempt to access JSON non-array as array")
    _check_datatype(name, datatype)
    elements.kind = _kind(datatype)
    elements.width = 0 if datatype == DT_BYTES else itemsize(datatype)
    elements.rank = rank
    elements.dims = dims
    elements.count = count
    elements.out = NULL
    elements.nbytes = 0
    if datatype != DT_BYTES:
        elements.nbytes = _byte_size(name, datatype, count, max_nbytes)
    else:
        # A first pass for the size.
        status = json.fill(place, &elements)
        if status != TA_JSON_OK and status != TA_JSON_SHAPE:
            _refuse_data(name, datatype, &elements, status, json)
        _check_limit(name, elements.nbytes, max_nbytes)
    values = PyBytes_FromStringAndSize(NULL, elements.nbytes)
    elements.out = PyBytes_AS_STRING(values)
    status = json.fill(place, &elements)
    if status != TA_JSON_OK:
        _refuse_data(name, datatype, &elements, status, json)
    if len(values) == 0:
        return view_dims(name, datatype, dims, rank, count, None, NULL, 0)
    buffer = wrap(values)
    return view_dims(name, datatype, dims, rank, count, buffer, buffer.data, len(values))


cdef int _check_datatype(str name, int datatype) except -1:
    if datatype == DT_FP16 or datatype == DT_BF16:
        raise InvalidArg(f"receiving {to_name(datatype)} data via JSON is not supported. Please use the binary data "
                         f"format for input {name}")
    if datatype == DT_INVALID:
        raise InvalidArg(f"invalid datatype for input {name}")
    return 0


cdef ta_json_kind _kind(int datatype) noexcept:
    if datatype == DT_BYTES:
        return TA_JSON_STRINGS
    if datatype == DT_BOOL:
        return TA_JSON_BOOLS
    if datatype == DT_FP32 or datatype == DT_FP64:
        return TA_JSON_FLOATS
    return TA_JSON_UNSIGNED if DT_UINT8 <= datatype <= DT_UINT64 else TA_JSON_SIGNED


cdef int _refuse_data(str name, int datatype, ta_json_elements *elements, int status, CutJson json) except -1:
    if status == TA_JSON_NESTED:
        raise InvalidArg(f"{PARSE}: JSON nesting depth exceeds maximum allowed limit ({DEEPEST})")
    if status == TA_JSON_COUNT:
        raise InvalidArg(NOT_THE_SHAPE)
    if status == TA_JSON_SHAPE:
        # Triton does not look at the nesting at all.
        dims = ",".join([str(elements.dims[i]) for i in range(elements.rank)])
        raise InvalidArg(f"{PARSE}: the nesting of 'data' of input '{name}' is neither flat nor that of its shape "
                         f"[{dims}]")
    if status == TA_JSON_NO_STRING:
        raise InvalidArg("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
    if status == TA_JSON_NO_NUMBER:
        raise InvalidArg(f"{PARSE}: attempt to access JSON non-number as double")
    if status == TA_JSON_NO_BOOL:
        raise InvalidArg(f"{PARSE}: attempt to access JSON non-boolean as boolean")
    if status == TA_JSON_NO_UNSIGNED:
        raise InvalidArg(f"{PARSE}: attempt to access JSON non-unsigned-integer as unsigned-integer")
    if status == TA_JSON_NO_SIGNED:
        raise InvalidArg(f"{PARSE}: attempt to access JSON non-signed-integer as signed-integer")
    # Triton stores such a value modulo the type's width, or as infinity.
    text = PyBytes_FromStringAndSize(json.c.text + elements.error.at, elements.error.end - elements.error.at)
    number = orjson.loads(text)
    shown = number if datatype == DT_FP32 else int(number)
    raise InvalidArg(f"{PARSE}: value {shown} of input '{name}' is out of range for {to_name(datatype)}")


cdef object to_json(Tensor tensor):
    cdef int64_t size = nbytes(tensor.element_count, tensor.datatype)
    if tensor.datatype == DT_BYTES:
        return _strings(tensor)
    if tensor.datatype == DT_FP16 or tensor.datatype == DT_BF16:
        raise InvalidArg(f"sending {to_name(tensor.datatype)} data via JSON is not supported. Please use the binary "
                         "data format for output")
    if tensor.datatype == DT_INVALID:
        raise InvalidArg("Invalid data type for output tensor")
    if size != tensor.nbytes:
        raise InternalError(f"output tensor shape does not match size of output for '{tensor.name}'")
    if size == 0:
        return []
    if tensor.datatype == DT_BOOL:
        return np.frombuffer(tensor, dtype=np.uint8) != 0
    if tensor.datatype == DT_FP32 and tensor.element_count <= SMALL:
        return _few_floats(tensor)
    array = tensor.numpy().reshape(-1)
    if tensor.datatype == DT_FP32:
        # Triton prints the float's exact value as a double, not the shortest text for a float.
        array = array.astype(np.float64)
    elif tensor.datatype != DT_FP64:
        return array
    if np.isfinite(array).all():
        return array
    return _with_tokens(array.tolist())


# A list: for a handful of values NumPy's calls cost more than the values.
cdef object _few_floats(Tensor tensor):
    cdef list found = []
    cdef bint finite = True
    cdef float value
    cdef int64_t i
    for i in range(tensor.element_count):
        memcpy(&value, tensor.data + 4 * i, 4)
        finite = finite and isfinite(value)
        found.append(<double>value)
    return found if finite else _with_tokens(found)


# orjson writes null for what is not finite; the standard library writes NaN and Infinity like rapidjson.
cdef object _with_tokens(list values):
    return orjson.Fragment(json.dumps(values, separators=(",", ":")).encode())


cdef list _strings(Tensor tensor):
    cdef list found = []
    try:
        elements = decode_bytes(tensor)
    except ValueError:
        elements = None
    if elements is None or len(elements) != tensor.element_count:
        raise InternalError(f"output tensor shape does not match size of output for '{tensor.name}'")
    for element in elements:
        try:
            found.append((<bytes>element).decode())
        except UnicodeDecodeError:
            raise InvalidArg(f"output '{tensor.name}' has elements that are not valid UTF-8 and can not be sent as "
                             "JSON. Please use the binary data format for this output") from None
    return found
