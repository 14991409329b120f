"""Tensor values as JSON, both ways. Every element is checked: type, range, and the nesting against the shape."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy
from posix.unistd cimport usleep

from triton_async.datatypes cimport (
    DT_BF16, DT_BOOL, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INVALID, DT_UINT8, DT_UINT64, itemsize, nbytes, to_name,
)
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport MEMORY_GPU, Buffer
from triton_async.memory.slab cimport transient
from triton_async.protocol.json_cut cimport (
    TA_JSON_BOOLS, TA_JSON_COUNT, TA_JSON_FLOATS, TA_JSON_NESTED, TA_JSON_NO_BOOL, TA_JSON_NO_NUMBER,
    TA_JSON_NO_SIGNED, TA_JSON_NO_STRING, TA_JSON_NO_UNSIGNED, TA_JSON_OK, TA_JSON_SHAPE, TA_JSON_SIGNED,
    TA_JSON_STRINGS, TA_JSON_UNSIGNED, CutJson, ta_json_elements, ta_json_kind,
)

import json

import numpy as np
import orjson

from triton_async.defines import JSON_MAX_DEPTH, NOGIL_NBYTES
from triton_async.errors import InternalError, InvalidArg

cdef str PARSE = "Unable to parse 'data'"
cdef str NOT_THE_SHAPE = f"{PARSE}: Shape does not match true shape of 'data' field"
cdef int DEEPEST = JSON_MAX_DEPTH
cdef int SMALL = 256
cdef int64_t LONG = NOGIL_NBYTES

# Elements that become text in one go while others wait for the GIL, bytes of strings among them, and the pause behind
# it: 0.1 ms and a little more.
cdef int PIECE = 4096
cdef int64_t PIECE_NBYTES = 1 << 17
cdef unsigned int PAUSE_US = 20


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


cdef Tensor from_json(str name, int datatype, const int64_t *dims, int rank, int64_t count, CutJson cut, object data,
                      int64_t max_nbytes):
    cdef int64_t place = cut.place(data)
    cdef ta_json_elements elements
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
        status = cut.fill(place, &elements)
        if status != TA_JSON_OK and status != TA_JSON_SHAPE:
            _refuse_data(name, datatype, &elements, status, cut)
        _check_limit(name, elements.nbytes, max_nbytes)
    buffer = transient(elements.nbytes)
    elements.out = buffer.data
    status = cut.fill(place, &elements)
    if status != TA_JSON_OK:
        _refuse_data(name, datatype, &elements, status, cut)
    if buffer.nbytes == 0:
        return view_dims(name, datatype, dims, rank, count, None, NULL, 0)
    return view_dims(name, datatype, dims, rank, count, buffer, buffer.data, buffer.nbytes)


cdef int refuse_object(int datatype) except -1:
    cdef ta_json_kind kind = _kind(datatype)
    return _refuse_data("", datatype, NULL, TA_JSON_NO_STRING if kind == TA_JSON_STRINGS else
                        TA_JSON_NO_NUMBER if kind == TA_JSON_FLOATS else TA_JSON_NO_BOOL if kind == TA_JSON_BOOLS else
                        TA_JSON_NO_UNSIGNED if kind == TA_JSON_UNSIGNED else TA_JSON_NO_SIGNED, None)


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


cdef int _refuse_data(str name, int datatype, ta_json_elements *elements, int status, CutJson cut) except -1:
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
    text = PyBytes_FromStringAndSize(cut.c.text + elements.error.at, elements.error.end - elements.error.at)
    number = orjson.loads(text)
    shown = number if datatype == DT_FP32 else int(number)
    raise InvalidArg(f"{PARSE}: value {shown} of input '{name}' is out of range for {to_name(datatype)}")


cdef int _check_output(Tensor tensor) except -1:
    if tensor.datatype == DT_FP16 or tensor.datatype == DT_BF16:
        raise InvalidArg(f"sending {to_name(tensor.datatype)} data via JSON is not supported. Please use the binary "
                         "data format for output")
    if tensor.datatype == DT_INVALID:
        raise InvalidArg("Invalid data type for output tensor")
    if nbytes(tensor.element_count, tensor.datatype) != tensor.nbytes:
        raise InternalError(f"output tensor shape does not match size of output for '{tensor.name}'")
    return 0


cdef object to_json(Tensor tensor):
    if tensor.datatype == DT_BYTES:
        return _strings(tensor)
    _check_output(tensor)
    if tensor.nbytes == 0:
        return []
    if tensor.datatype == DT_BOOL:
        return np.frombuffer(tensor, dtype=np.uint8) != 0
    if tensor.datatype == DT_FP32 and tensor.element_count <= SMALL:
        return _few_floats(tensor)
    return _printable(tensor.numpy().reshape(-1), tensor.datatype)


cdef list to_json_pieces(Tensor tensor):
    cdef list pieces = [b"["]
    cdef Py_ssize_t first
    cdef int64_t at = 0
    if tensor.datatype == DT_BYTES:
        _check_framing(tensor)
        while at < tensor.nbytes:
            _put_piece(pieces, _next_strings(tensor, &at))
    else:
        _check_output(tensor)
        array = tensor.numpy().reshape(-1)
        for first in range(0, tensor.element_count, PIECE):
            _put_piece(pieces, _printable(array[first:first + PIECE], tensor.datatype))
    pieces.append(b"]")
    return pieces


# The text of some elements, behind which another thread gets its turn: the GIL is not given away inside of compiled
# code unless one does so, and not for good to who waits for it unless one waits a moment, too.
cdef int _put_piece(list pieces, object values) except -1:
    if len(pieces) > 1:
        pieces.append(b",")
    cdef bytes text = orjson.dumps(values, None, orjson.OPT_SERIALIZE_NUMPY)
    pieces.append(text[1 : len(text) - 1])
    with nogil:
        usleep(PAUSE_US)
    return 0


# What orjson takes of a flat array of numbers or truth values.
cdef object _printable(object array, int datatype):
    if datatype == DT_FP32:
        # Triton prints the float's exact value as a double, not the shortest text for a float.
        array = array.astype(np.float64)
    elif datatype != DT_FP64:
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


# Short ones with the GIL: given away, it comes back only after a while where another thread runs Python.
cdef int _check_framing(Tensor tensor) except -1:
    cdef int64_t found
    if tensor.nbytes < LONG:
        found = _count_strings(tensor.data, tensor.nbytes)
    else:
        with nogil:
            found = _count_strings(tensor.data, tensor.nbytes)
    if found != tensor.element_count:
        raise InternalError(f"output tensor shape does not match size of output for '{tensor.name}'")
    return 0


# Strings with their lengths in front; -1 when they do not fill the bytes.
cdef int64_t _count_strings(const char *data, int64_t size) noexcept nogil:
    cdef int64_t at = 0
    cdef int64_t found = 0
    cdef uint32_t length
    while size - at >= 4:
        memcpy(&length, data + at, 4)
        at += 4
        if size - at < length:
            return -1
        at += length
        found += 1
    return found if at == size else -1


cdef list _strings(Tensor tensor):
    cdef list found = []
    cdef int64_t at = 0
    if tensor.buffer is not None and tensor.buffer.memory_type == MEMORY_GPU:
        raise InternalError(f"output '{tensor.name}' is still in device memory")
    _check_framing(tensor)
    while at < tensor.nbytes:
        found += _next_strings(tensor, &at)
    return found


# Some of them, from `at` on, which is moved behind them.
cdef list _next_strings(Tensor tensor, int64_t *at):
    cdef list found = []
    cdef int64_t end = at[0] + PIECE_NBYTES
    cdef uint32_t length
    while at[0] < tensor.nbytes and at[0] < end and len(found) < PIECE:
        memcpy(&length, tensor.data + at[0], 4)
        at[0] += 4
        try:
            found.append(tensor.data[at[0]:at[0] + length].decode())
        except UnicodeDecodeError:
            raise InvalidArg(f"output '{tensor.name}' has elements that are not valid UTF-8 and can not be sent as "
                             "JSON. Please use the binary data format for this output") from None
        at[0] += length
    return found
