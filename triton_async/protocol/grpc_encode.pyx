"""InferResponse to gRPC messages as parts of bytes. Sans-IO; any thread with the GIL."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport to_name
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.response cimport InferResponse
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor
from triton_async.protocol.classification cimport classify
from triton_async.protocol.wire cimport (
    ta_wire_field_size, ta_wire_put_bytes, ta_wire_put_head, ta_wire_put_varint, ta_wire_varint_size,
)

from triton_async.defines import GRPC_INLINE_OUTPUT_NBYTES, GRPC_MAX_MESSAGE_NBYTES, JSON_OFFLOAD_ELEMENTS
from triton_async.errors import InvalidArg

# gRPC: one byte of compressed flag, four of big-endian length.
cdef enum:
    PREFIX = 5

PREFIX_NBYTES = PREFIX

cdef int64_t _MESSAGE_MAX = GRPC_MAX_MESSAGE_NBYTES

cdef int64_t _INLINE_NBYTES = GRPC_INLINE_OUTPUT_NBYTES
cdef int64_t _OFFLOAD_ELEMENTS = JSON_OFFLOAD_ELEMENTS

# A finished map entry {"triton_final_response": bool_param}, as value of field 4; the last byte is the value.
cdef bytes _FINAL_KEY = b"triton_final_response"
cdef bytes _FINAL_ENTRY = (
    b"\x0a" + bytes([len(_FINAL_KEY)]) + _FINAL_KEY + b"\x12\x02\x08"
)

# Fields of ModelInferResponse and of InferOutputTensor.
cdef enum Field:
    FIELD_MODEL_NAME = 1
    FIELD_MODEL_VERSION = 2
    FIELD_ID = 3
    FIELD_PARAMETERS = 4
    FIELD_OUTPUTS = 5
    FIELD_RAW = 6
    OUTPUT_NAME = 1
    OUTPUT_DATATYPE = 2
    OUTPUT_SHAPE = 3
    STREAM_ERROR = 1
    STREAM_RESPONSE = 2


def encode_response(response, outputs=None):
    """Parts of a framed ModelInferResponse: bytes and tensors, to be sent one after another."""
    return encode(response, response.outputs if outputs is None else outputs, ENVELOPE_UNARY)


def encode_stream_response(response, outputs=None):
    """The same as ModelStreamInferResponse, with `triton_final_response`."""
    return encode(response, response.outputs if outputs is None else outputs, ENVELOPE_STREAM)


def encode_stream_refusal(str message, str id=""):
    """A framed ModelStreamInferResponse for a request that no model took: the error and the request's id."""
    return _stream_error(message, _strings("", "", id))


def encode_stream_failure(str message, InferResponse response):
    """The same for a response that could not be made: with model, version and `triton_final_response`."""
    names = _strings(response.model_name, _version(response.model_version), response.request.id)
    return _stream_error(message, names + _field(FIELD_PARAMETERS, _FINAL_ENTRY + bytes([response.final])))


cdef bytes _stream_error(str message, bytes inner):
    body = _field(STREAM_ERROR, message.encode(errors="replace")) + _field(STREAM_RESPONSE, inner)
    return b"\0" + len(body).to_bytes(4, "big") + body


def chosen_outputs(InferResponse response, ModelSignature signature):
    """The tensors to send: the response's own, or the best classes of those that the request wants classified."""
    return choose_outputs(response, signature)


cpdef bint is_long_choice(InferResponse response):
    cdef RequestedOutput asked
    cdef Tensor tensor
    cdef int64_t count = 0
    for asked in (<InferRequest>response.request).outputs:
        if asked.classification:
            for tensor in response.outputs:
                if tensor.name == asked.name:
                    count += tensor.element_count
    return count > _OFFLOAD_ELEMENTS


cdef list choose_outputs(InferResponse response, ModelSignature signature):
    cdef RequestedOutput asked
    cdef Tensor tensor
    cdef dict wanted = None
    for asked in (<InferRequest>response.request).outputs:
        if asked.classification:
            if wanted is None:
                wanted = {}
            wanted[asked.name] = asked.classification
    if wanted is None:
        return response.outputs
    return [
        classify(tensor, wanted[tensor.name], signature.max_batch_size > 0, signature.labels(tensor.name))
        if tensor.name in wanted else tensor
        for tensor in response.outputs
    ]


# One length-delimited field.
cdef bytes _field(int number, bytes value):
    cdef bytes field = PyBytes_FromStringAndSize(NULL, ta_wire_field_size(len(value)))
    ta_wire_put_bytes(PyBytes_AS_STRING(field), number, PyBytes_AS_STRING(value), len(value))
    return field


# The three strings that every response begins with; empty ones are left out, as protobuf does.
cdef bytes _strings(str model_name, str model_version, str id):
    cdef list fields = []
    if model_name:
        fields.append(_field(FIELD_MODEL_NAME, model_name.encode()))
    if model_version:
        fields.append(_field(FIELD_MODEL_VERSION, model_version.encode()))
    if id:
        fields.append(_field(FIELD_ID, id.encode()))
    return b"".join(fields)


# Response parameters that a backend set, and the stream's own, as fields 4.
cdef bytes _parameters(InferResponse response, int envelope):
    cdef list fields = []
    if response.parameters is not None:
        for key, value in response.parameters.items():
            entry = _field(1, str(key).encode()) + _field(2, _parameter(value))
            fields.append(_field(FIELD_PARAMETERS, entry))
    if envelope == ENVELOPE_STREAM:
        fields.append(_field(FIELD_PARAMETERS, _FINAL_ENTRY + (b"\1" if response.final else b"\0")))
    return b"".join(fields)


# An InferParameter. bool comes before int: it is one in Python.
cdef bytes _parameter(value):
    cdef char[11] varint
    cdef double number
    cdef char *end
    if isinstance(value, bool):
        return b"\x08\x01" if value else b"\x08\x00"
    if isinstance(value, int):
        varint[0] = 0x10 if value < 1 << 63 else 0x28
        end = ta_wire_put_varint(varint + 1, value & 0xFFFFFFFFFFFFFFFF)
        return varint[:end - varint]
    if isinstance(value, float):
        number = value
        return b"\x21" + (<char *>&number)[:8]
    return _field(3, str(value).encode())


cdef int64_t _shape_size(Tensor tensor) noexcept:
    cdef int64_t size = 0
    cdef int i
    for i in range(tensor.rank):
        size += ta_wire_varint_size(<uint64_t>tensor.dims[i])
    return size


# Bytes of an InferOutputTensor.
cdef int64_t _output_size(Tensor tensor) except -1:
    cdef Py_ssize_t name
    cdef int64_t shape = _shape_size(tensor)
    PyUnicode_AsUTF8AndSize(tensor.name, &name)
    return (
        (ta_wire_field_size(name) if name else 0)
        + ta_wire_field_size(len(to_name(tensor.datatype)))
        + (ta_wire_field_size(shape) if shape else 0)
    )


cdef char *_put_output(char *out, Tensor tensor, int64_t size) except NULL:
    cdef Py_ssize_t nbytes
    cdef const char *data
    cdef int64_t shape = _shape_size(tensor)
    cdef int i
    out = ta_wire_put_head(out, FIELD_OUTPUTS, size)
    data = PyUnicode_AsUTF8AndSize(tensor.name, &nbytes)
    if nbytes:
        out = ta_wire_put_bytes(out, OUTPUT_NAME, data, nbytes)
    data = PyUnicode_AsUTF8AndSize(to_name(tensor.datatype), &nbytes)
    out = ta_wire_put_bytes(out, OUTPUT_DATATYPE, data, nbytes)
    if shape:
        out = ta_wire_put_head(out, OUTPUT_SHAPE, shape)
        for i in range(tensor.rank):
            out = ta_wire_put_varint(out, <uint64_t>tensor.dims[i])
    return out


cdef list encode(InferResponse response, list outputs, int envelope):
    cdef bytes strings = _strings(response.model_name, _version(response.model_version),
                                  response.request.id if response.request is not None else "")
    cdef bytes parameters = _parameters(response, envelope)
    cdef int64_t heads = 0
    cdef int64_t raw = 0
    cdef int64_t inner
    cdef int64_t total
    cdef Tensor tensor
    for tensor in outputs:
        heads += ta_wire_field_size(_output_size(tensor))
        raw += ta_wire_field_size(tensor.nbytes)
    inner = len(strings) + len(parameters) + heads + raw
    total = ta_wire_field_size(inner) if envelope == ENVELOPE_STREAM else inner
    if total > _MESSAGE_MAX:
        raise InvalidArg(f"Response has byte size {total} which exceeds gRPC's byte size limit {_MESSAGE_MAX}.")
    return _write(outputs, strings, parameters, envelope, inner, total, raw)


cdef str _version(int64_t version):
    return str(version) if version >= 0 else ""


cdef list _write(list outputs, bytes strings, bytes parameters, int envelope, int64_t inner, int64_t total,
                 int64_t raw):
    cdef bint inline = raw <= _INLINE_NBYTES
    cdef bytes head = PyBytes_FromStringAndSize(NULL, PREFIX + total - (0 if inline else raw))
    cdef char *out = PyBytes_AS_STRING(head)
    cdef list parts = [head]
    cdef Tensor tensor
    cdef int i
    out[0] = 0
    for i in range(4):
        out[1 + i] = <char>(total >> (24 - 8 * i))
    out += PREFIX
    if envelope == ENVELOPE_STREAM:
        out = ta_wire_put_head(out, STREAM_RESPONSE, inner)
    memcpy(out, PyBytes_AS_STRING(strings), len(strings))
    out += len(strings)
    memcpy(out, PyBytes_AS_STRING(parameters), len(parameters))
    out += len(parameters)
    for tensor in outputs:
        out = _put_output(out, tensor, _output_size(tensor))
    for tensor in outputs:
        if inline:
            out = ta_wire_put_bytes(out, FIELD_RAW, tensor.data, tensor.nbytes)
        else:
            parts.append(_raw_head(tensor.nbytes))
            if tensor.nbytes:
                parts.append(tensor)
    return parts


cdef bytes _raw_head(int64_t nbytes):
    cdef char[11] head
    cdef char *end = ta_wire_put_head(head, FIELD_RAW, nbytes)
    return head[:end - head]
