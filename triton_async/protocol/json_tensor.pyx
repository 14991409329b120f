"""Tensor values as JSON, both ways. Every element is checked: type, range, and the nesting against the shape."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.math cimport isfinite
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport (
    DT_BF16, DT_BOOL, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, DT_INT8, DT_INT16, DT_INT32, DT_INT64, DT_INVALID,
    DT_UINT8, DT_UINT16, DT_UINT32, DT_UINT64, itemsize, nbytes, to_name,
)
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport Buffer, wrap

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
cdef double EXACT = 9007199254740992.0

# Smallest and largest value of every integer type, by DataType.
cdef int64_t[15] LOWEST
cdef uint64_t[15] HIGHEST
for _type, _bits in ((DT_INT8, 8), (DT_INT16, 16), (DT_INT32, 32), (DT_INT64, 64)):
    LOWEST[_type] = -(1 << (_bits - 1))
    HIGHEST[_type] = (1 << (_bits - 1)) - 1
for _type, _bits in ((DT_UINT8, 8), (DT_UINT16, 16), (DT_UINT32, 32), (DT_UINT64, 64)):
    LOWEST[_type] = 0
    HIGHEST[_type] = (1 << _bits) - 1


@cython.final
cdef class Filler:
    """Walks one `data` array in order and stores what it finds. Errors come in the order Triton finds them."""

    cdef str name
    cdef int datatype
    cdef int rank
    cdef const int64_t *dims
    cdef int64_t count            # elements that fit
    cdef int64_t done
    cdef char *out
    cdef list strings             # BYTES: the elements, stored once their total is known
    cdef bint regular             # nested like the shape, as far as seen

    cdef int walk(self, list data, int depth) except -1:
        cdef object item
        cdef bint leaves = depth >= self.rank
        if depth > DEEPEST:
            raise InvalidArg(f"{PARSE}: JSON nesting depth exceeds maximum allowed limit ({DEEPEST})")
        # Behind the last dimension a list around one element says nothing else than the element.
        if len(data) != (1 if depth > self.rank else self.dims[depth - 1]):
            self.regular = False
        for item in data:
            if type(item) is list:
                self.walk(<list>item, depth + 1)
            else:
                self.regular &= leaves
                self.store(item)
        return 0

    cdef int store(self, object item) except -1:
        if self.strings is not None:
            if type(item) is not str:
                raise InvalidArg("Unable to parse JSON bytes array: attempt to access JSON non-string as string")
            self.strings.append(item)
            return 0
        if self.done >= self.count:
            raise InvalidArg(NOT_THE_SHAPE)
        if self.datatype == DT_FP32 or self.datatype == DT_FP64:
            self.store_float(item)
        elif self.datatype == DT_BOOL:
            # Zero and one are all that some clients have for it.
            if type(item) is not bool and not ((type(item) is float or type(item) is int) and item in (0, 1)):
                raise InvalidArg(f"{PARSE}: attempt to access JSON non-boolean as boolean")
            (<uint8_t *>self.out)[self.done] = item != 0
        elif DT_UINT8 <= self.datatype <= DT_UINT64:
            self.store_unsigned(item)
        else:
            self.store_signed(item)
        self.done += 1
        return 0

    cdef int store_float(self, object item) except -1:
        cdef double value
        if type(item) is not float and type(item) is not int:
            raise InvalidArg(f"{PARSE}: attempt to access JSON non-number as double")
        value = item
        if self.datatype == DT_FP64:
            (<double *>self.out)[self.done] = value
            return 0
        if isfinite(value) and not isfinite(<float>value):
            self.refuse(item)
        (<float *>self.out)[self.done] = <float>value
        return 0

    cdef int store_unsigned(self, object item) except -1:
        cdef uint64_t value
        cdef int over = 1
        cdef long long small = 0
        item = _whole(item)
        if type(item) is int:
            small = PyLong_AsLongLongAndOverflow(item, &over)
        if over < 0 or (over == 0 and small < 0) or (
            over > 0 and (type(item) is not int or item > 0xFFFFFFFFFFFFFFFF)
        ):
            raise InvalidArg(f"{PARSE}: attempt to access JSON non-unsigned-integer as unsigned-integer")
        value = <uint64_t>small if over == 0 else item
        if value > HIGHEST[self.datatype]:
            self.refuse(item)
        if self.datatype == DT_UINT8:
            (<uint8_t *>self.out)[self.done] = <uint8_t>value
        elif self.datatype == DT_UINT16:
            (<uint16_t *>self.out)[self.done] = <uint16_t>value
        elif self.datatype == DT_UINT32:
            (<uint32_t *>self.out)[self.done] = <uint32_t>value
        else:
            (<uint64_t *>self.out)[self.done] = value
        return 0

    cdef int store_signed(self, object item) except -1:
        cdef int over = 1
        cdef int64_t value = 0
        item = _whole(item)
        if type(item) is int:
            value = PyLong_AsLongLongAndOverflow(item, &over)
        if over:
            raise InvalidArg(f"{PARSE}: attempt to access JSON non-signed-integer as signed-integer")
        if value < LOWEST[self.datatype] or value > <int64_t>HIGHEST[self.datatype]:
            self.refuse(item)
        if self.datatype == DT_INT8:
            (<int8_t *>self.out)[self.done] = <int8_t>value
        elif self.datatype == DT_INT16:
            (<int16_t *>self.out)[self.done] = <int16_t>value
        elif self.datatype == DT_INT32:
            (<int32_t *>self.out)[self.done] = <int32_t>value
        else:
            (<int64_t *>self.out)[self.done] = value
        return 0

    # Triton stores such a value modulo the type's width, or as infinity.
    cdef int refuse(self, object item) except -1:
        raise InvalidArg(f"{PARSE}: value {item} of input '{self.name}' is out of range for {to_name(self.datatype)}")

    # A flat array is taken for any shape. Triton does not look at the nesting at all.
    cdef int check_nesting(self, list data) except -1:
        if self.regular:
            return 0
        for item in data:
            if type(item) is list:
                dims = ",".join([str(self.dims[i]) for i in range(self.rank)])
                raise InvalidArg(f"{PARSE}: the nesting of 'data' of input '{self.name}' is neither flat nor that "
                                 f"of its shape [{dims}]")
        return 0


# 1.0 for 1: there are clients that write every number so. Beyond 2^53 such a number may be another one than was meant.
cdef object _whole(object item):
    if type(item) is float and -EXACT <= item <= EXACT and item == <int64_t>(<double>item):
        return int(item)
    return item


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


cdef Tensor from_json(str name, int datatype, const int64_t *dims, int rank, int64_t count, object data,
                      int64_t max_nbytes):
    cdef Filler filler = Filler.__new__(Filler)
    cdef bytes values = b""
    cdef int64_t size = 0
    cdef Buffer buffer
    if type(data) is not list:
        raise InvalidArg(f"{PARSE}: attempt to access JSON non-array as array")
    if datatype == DT_FP16 or datatype == DT_BF16:
        raise InvalidArg(f"receiving {to_name(datatype)} data via JSON is not supported. Please use the binary data "
                         f"format for input {name}")
    if datatype == DT_INVALID:
        raise InvalidArg(f"invalid datatype for input {name}")
    filler.name = name
    filler.datatype = datatype
    filler.rank = rank
    filler.dims = dims
    filler.count = count
    filler.regular = True
    if datatype == DT_BYTES:
        filler.strings = []
    else:
        size = _byte_size(name, datatype, count, max_nbytes)
        values = PyBytes_FromStringAndSize(NULL, size)
        filler.out = PyBytes_AS_STRING(values)
    filler.walk(<list>data, 1)
    if datatype == DT_BYTES:
        values = _frame(name, filler.strings, max_nbytes)
        size = len(values)
    elif filler.done != count:
        raise InvalidArg(NOT_THE_SHAPE)
    filler.check_nesting(<list>data)
    if size == 0:
        return view_dims(name, datatype, dims, rank, count, None, NULL, 0)
    buffer = wrap(values)
    return view_dims(name, datatype, dims, rank, count, buffer, buffer.data, size)


cdef bytes _frame(str name, list strings, int64_t max_nbytes):
    cdef int64_t size = 0
    cdef Py_ssize_t length = 0
    cdef const char *text
    cdef uint32_t prefix
    cdef bytes framed
    cdef char *out
    for item in strings:
        PyUnicode_AsUTF8AndSize(item, &length)
        size += 4 + length
    _check_limit(name, size, max_nbytes)
    framed = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(framed)
    for item in strings:
        text = PyUnicode_AsUTF8AndSize(item, &length)
        prefix = <uint32_t>length
        memcpy(out, &prefix, 4)
        memcpy(out + 4, text, length)
        out += 4 + length
    return framed


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
