"""Answers as bytes that a cache outside of this process keeps, and back, believing nothing. Loop thread."""

import struct
import zlib

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t

from triton_async.datatypes cimport DT_BYTES
from triton_async.datatypes cimport nbytes as size_of
from triton_async.infer.framing cimport ta_bytes_skip
from triton_async.infer.request cimport InferRequest
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, Tensor, view
from triton_async.memory.buffer cimport wrap

from triton_async.errors import InvalidArg

cdef bytes MAGIC = b"TAc1"
cdef object HEAD = struct.Struct("<4sI16sHH")
cdef object SHORT = struct.Struct("<H")
cdef object LONG = struct.Struct("<q")
cdef object REAL = struct.Struct("<d")

cdef enum:
    CHECKED_FROM = 8             # what the CRC is of begins there
    ALIGNMENT = 16
    NO_PARAMETERS = 0xFFFF
    MOST = 0xFFFE                # parameters, outputs, and bytes of a name
    KIND_TEXT = 0
    KIND_INT = 1
    KIND_REAL = 2
    KIND_BOOL = 3


class _Broken(Exception):
    """These bytes are no answer."""


cdef class _Reader:
    """Goes through bytes, and never beyond their end."""

    cdef bytes value
    cdef int64_t at

    cdef int64_t skip(self, int64_t count) except -1:
        cdef int64_t begin = self.at
        if count < 0 or count > len(self.value) - begin:
            raise _Broken
        self.at += count
        return begin

    cdef object unpack(self, object form):
        return form.unpack_from(self.value, self.skip(form.size))[0]

    cdef int byte(self) except -1:
        return <unsigned char>PyBytes_AS_STRING(self.value)[self.skip(1)]

    cdef str text(self, int64_t nbytes):
        cdef int64_t begin = self.skip(nbytes)
        return self.value[begin:begin + nbytes].decode("utf-8", "surrogatepass")


cpdef bytes encode_answer(bytes key, InferResponse response, int64_t most_nbytes):
    cdef list parts = []
    cdef Tensor tensor
    cdef int64_t nbytes = HEAD.size
    cdef int64_t i
    n_parameters = NO_PARAMETERS if response.parameters is None else len(response.parameters)
    if len(response.outputs) > MOST or (response.parameters is not None and n_parameters > MOST):
        return None
    try:
        for name, parameter in (response.parameters or {}).items():
            head = _named(name) + _parameter(parameter)
            nbytes += len(head)
            parts.append(head)
        for tensor in response.outputs:
            head = _named(tensor.name) + bytes([tensor.datatype, tensor.rank])
            for i in range(tensor.rank):
                head += LONG.pack(tensor.dims[i])
            head += LONG.pack(tensor.nbytes)
            head += bytes(_padding(nbytes + len(head)))
            nbytes += len(head) + tensor.nbytes
            if nbytes > most_nbytes:
                return None
            parts.append(head)
            if tensor.nbytes:
                parts.append(tensor)
    except (_Broken, struct.error):
        return None
    if nbytes > most_nbytes:
        return None
    value = bytearray(HEAD.pack(MAGIC, 0, key, n_parameters, len(response.outputs)))
    for part in parts:
        value += part
    value[4:CHECKED_FROM] = zlib.crc32(memoryview(value)[CHECKED_FROM:]).to_bytes(4, "little")
    return bytes(value)


cpdef InferResponse decode_answer(bytes value, bytes key, InferRequest request, ModelSignature signature):
    cdef _Reader reader = _Reader.__new__(_Reader)
    reader.value = value
    try:
        return _decode(reader, key, request, signature)
    except (_Broken, UnicodeDecodeError):
        return None


cdef InferResponse _decode(_Reader reader, bytes key, InferRequest request, ModelSignature signature):
    cdef dict parameters = None
    cdef list outputs = []
    cdef set seen = set()
    cdef set asked = {output.name for output in request.outputs}
    reader.skip(HEAD.size)
    magic, checksum, written, n_parameters, n_outputs = HEAD.unpack_from(reader.value)
    if magic != MAGIC or written != key or checksum != zlib.crc32(memoryview(reader.value)[CHECKED_FROM:]):
        return None
    if n_parameters != NO_PARAMETERS:
        parameters = {}
        for _ in range(n_parameters):
            name = reader.text(reader.unpack(SHORT))
            parameters[name] = _read_parameter(reader)
    source = wrap(reader.value)
    for _ in range(n_outputs):
        tensor = _read_output(reader, source, signature)
        if tensor.name in seen or (asked and tensor.name not in asked):
            return None
        seen.add(tensor.name)
        outputs.append(tensor)
    if reader.at != len(reader.value):
        return None
    return InferResponse(request, signature.model_name, signature.model_version, outputs, parameters)


cdef Tensor _read_output(_Reader reader, object source, ModelSignature signature):
    cdef str name = reader.text(reader.unpack(SHORT))
    cdef TensorSpec spec = <TensorSpec>signature.output_by_name.get(name)
    cdef int datatype = reader.byte()
    cdef int rank = reader.byte()
    cdef int64_t nbytes
    cdef Tensor tensor
    if spec is None or spec.injected or datatype != spec.datatype or rank > TA_MAX_RANK:
        raise _Broken
    shape = [reader.unpack(LONG) for _ in range(rank)]
    nbytes = reader.unpack(LONG)
    reader.skip(_padding(reader.at))
    try:
        tensor = view(spec.name, datatype, shape, source, reader.skip(nbytes), nbytes)
    except InvalidArg:
        raise _Broken from None
    if datatype == DT_BYTES:
        if ta_bytes_skip(tensor.data, nbytes, 0, tensor.element_count) != nbytes:
            raise _Broken
    elif size_of(tensor.element_count, datatype) != nbytes:
        raise _Broken
    return tensor


# From there to where a tensor may begin.
cdef int64_t _padding(int64_t at) noexcept:
    return (ALIGNMENT - at % ALIGNMENT) % ALIGNMENT


cdef bytes _named(str name):
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) > MOST:
        raise _Broken
    return SHORT.pack(len(encoded)) + encoded


cdef bytes _parameter(object value):
    if isinstance(value, bool):
        return bytes([KIND_BOOL, value])
    if isinstance(value, int):
        return bytes([KIND_INT]) + LONG.pack(value)
    if isinstance(value, float):
        return bytes([KIND_REAL]) + REAL.pack(value)
    if isinstance(value, str):
        encoded = (<str>value).encode("utf-8", "surrogatepass")
        return bytes([KIND_TEXT]) + LONG.pack(len(encoded)) + encoded
    raise _Broken


cdef object _read_parameter(_Reader reader):
    cdef int kind = reader.byte()
    if kind == KIND_BOOL:
        return bool(reader.byte())
    if kind == KIND_INT:
        return reader.unpack(LONG)
    if kind == KIND_REAL:
        return reader.unpack(REAL)
    if kind == KIND_TEXT:
        return reader.text(reader.unpack(LONG))
    raise _Broken
