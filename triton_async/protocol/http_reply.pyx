"""Responses of the infer call: head and JSON written from templates straight into one bytes object."""

from http import HTTPStatus

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from triton_async.datatypes cimport to_name
from triton_async.infer.request cimport RequestedOutput, asked_output
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport MEMORY_GPU
from triton_async.protocol.http_codec cimport encode_infer, grouped, is_long_answer
from triton_async.protocol.http_coding cimport CODING_REQUIRED, may_code, worth_coding
from triton_async.protocol.json_text cimport error_body

from triton_async.defines import HTTP_JOIN_NBYTES, RETRY_AFTER_S
from triton_async.errors import InternalError
from triton_async.protocol.http_coding import NAMES

cdef int64_t JOIN_NBYTES = HTTP_JOIN_NBYTES

cdef bytes BINARY_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: triton-async\r\nContent-Type: application/octet-stream\r\n"
    b"Inference-Header-Content-Length: "
)
cdef bytes JSON_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: triton-async\r\nContent-Type: application/json\r\nContent-Length: "
)
cdef bytes LENGTH = b"\r\nContent-Length: "

cdef bytes CHUNKED = b"\r\nTransfer-Encoding: chunked"
# Of a body in chunks.
cdef bytes END_OF_BODY = b"0\r\n\r\n"

cdef dict EVENTS_HEADS = {
    status.value: (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: triton-async\r\n"
        "Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache"
    ).encode()
    for status in HTTPStatus
    if status == 200 or status >= 400
}

RETRY_AFTER = f"Retry-After: {RETRY_AFTER_S}\r\n"

cdef dict ERROR_HEADS = {
    status.value: (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: triton-async\r\n"
        f"Content-Type: application/json\r\n{RETRY_AFTER if status == 503 else ''}Content-Length: "
    ).encode()
    for status in HTTPStatus
    if status >= 400
}

# Room for the JSON of a response of ordinary size; longer ones take the general way.
cdef enum:
    JSON_ROOM = 4096


# Where the next byte goes. Appending past the end sets `full` and writes nothing.
cdef struct Writer:
    char *at
    char *end
    bint full


cdef inline void _put(Writer *to, const char *data, Py_ssize_t length) noexcept:
    if length > to.end - to.at:
        to.full = True
        return
    memcpy(to.at, data, length)
    to.at += length


cdef void _put_number(Writer *to, int64_t number) noexcept:
    cdef char[20] digits
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = c'0' + <char>(number % 10)
        number //= 10
        if number == 0:
            break
    _put(to, &digits[0] + at, 20 - at)


# A JSON string; one that needs an escape, or is not ASCII, counts as not fitting.
cdef int _put_string(Writer *to, str text) except -1:
    cdef Py_ssize_t length
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &length)
    cdef Py_ssize_t i
    cdef unsigned char byte
    if length + 2 > to.end - to.at:
        to.full = True
        return 0
    to.at[0] = c'"'
    for i in range(length):
        byte = data[i]
        if byte < 0x20 or byte >= 0x7f or byte == c'"' or byte == c'\\':
            to.full = True
            return 0
        to.at[i + 1] = byte
    to.at[length + 1] = c'"'
    to.at += length + 2
    return 0


# One entry of `outputs`: in binary form, or what is said of one in a shared memory region.
cdef int _put_output(Writer *to, Tensor tensor, bint in_region) except -1:
    cdef int i
    _put(to, b'{"name":', 8)
    _put_string(to, tensor.name)
    _put(to, b',"datatype":', 12)
    _put_string(to, to_name(tensor.datatype))
    _put(to, b',"shape":[', 10)
    for i in range(tensor.rank):
        if i:
            _put(to, b",", 1)
        _put_number(to, tensor.dims[i])
    if in_region:
        _put(to, b"]}", 2)
        return 0
    _put(to, b'],"parameters":{"binary_data_size":', 35)
    _put_number(to, tensor.nbytes)
    _put(to, b"}}", 2)
    return 0


# Writes the JSON of a response whose outputs are all plain tensors, in binary form or in regions, and adds up the bytes
# to send; sets `full` when it is not such a response or has no room.
cdef int _put_json(Writer *to, InferRequest request, InferResponse response, int64_t *nbytes) except -1:
    cdef RequestedOutput asked
    cdef Tensor tensor
    cdef bint in_region
    cdef bint first = True
    if response.parameters:
        to.full = True
        return 0
    _put(to, b"{", 1)
    if request.id:
        _put(to, b'"id":', 5)
        _put_string(to, request.id)
        _put(to, b",", 1)
    _put(to, b'"model_name":', 13)
    _put_string(to, response.model_name)
    _put(to, b',"model_version":"', 18)
    _put_number(to, response.model_version)
    _put(to, b'","outputs":[', 13)
    for tensor in response.outputs:
        asked = asked_output(request, tensor.name)
        in_region = asked is not None and asked.region is not None
        if not in_region and not (
            request.binary_default if asked is None else (asked.binary and asked.classification == 0)
        ):
            to.full = True
            return 0
        if not first:
            _put(to, b",", 1)
        first = False
        _put_output(to, tensor, in_region)
        nbytes[0] += tensor.nbytes
        if to.full:
            return 0
    _put(to, b"]}", 2)
    return 0


# The head of a 200 response up to its length; the tail and the body follow.
cdef void _put_head(Writer *to, int64_t json_nbytes, int64_t nbytes) noexcept:
    if nbytes > 0:
        _put(to, PyBytes_AS_STRING(BINARY_HEAD), len(BINARY_HEAD))
        _put_number(to, json_nbytes)
        _put(to, PyBytes_AS_STRING(LENGTH), len(LENGTH))
    else:
        _put(to, PyBytes_AS_STRING(JSON_HEAD), len(JSON_HEAD))
    _put_number(to, json_nbytes + nbytes)


cdef object infer_reply(InferRequest request, InferResponse response, ModelSignature signature, int coding, bytes tail,
                        KnownReply known):
    cdef char[JSON_ROOM] json
    cdef char[512] head
    cdef Writer writer
    cdef int64_t nbytes = 0
    cdef Py_ssize_t json_nbytes
    if known is not None and coding == 0 and known.fits(request, response):
        return _assemble(PyBytes_AS_STRING(known.head), len(known.head), tail, PyBytes_AS_STRING(known.json),
                         len(known.json), response.outputs, known.outputs.nbytes)
    writer.at = &json[0]
    writer.end = &json[0] + JSON_ROOM
    writer.full = False
    _put_json(&writer, request, response, &nbytes)
    if writer.full:
        if is_long_answer(request, response):
            return None
        return general_reply(encode_infer(request, response, signature), coding, tail)
    json_nbytes = writer.at - &json[0]
    if may_code(coding, json_nbytes + nbytes) and worth_coding(coding, [json[:json_nbytes], *response.outputs]):
        return encode_infer(request, response, signature)
    writer.at = &head[0]
    writer.end = &head[0] + 512
    _put_head(&writer, json_nbytes, nbytes)
    assert not writer.full
    if known is not None and coding == 0 and nbytes == _nbytes(response.outputs):
        known.learn(request, response, head[:writer.at - &head[0]], json[:json_nbytes])
    return _assemble(&head[0], writer.at - &head[0], tail, &json[0], json_nbytes, response.outputs, nbytes)


cdef int64_t _nbytes(list tensors) noexcept:
    cdef int64_t nbytes = 0
    cdef Tensor tensor
    for tensor in tensors:
        nbytes += tensor.nbytes
    return nbytes


# Head, its tail and JSON in one object, with the tensors when they are small, else in front of them.
cdef object _assemble(const char *head, Py_ssize_t head_nbytes, bytes tail, const char *json, Py_ssize_t json_nbytes,
                      list tensors, int64_t nbytes):
    cdef bint join = json_nbytes + nbytes <= JOIN_NBYTES
    cdef Py_ssize_t tail_nbytes = len(tail)
    cdef bytes text = PyBytes_FromStringAndSize(NULL, head_nbytes + tail_nbytes + json_nbytes + (nbytes if join else 0))
    cdef char *at = PyBytes_AS_STRING(text)
    cdef Tensor tensor
    cdef list parts
    memcpy(at, head, head_nbytes)
    at += head_nbytes
    memcpy(at, PyBytes_AS_STRING(tail), tail_nbytes)
    at += tail_nbytes
    memcpy(at, json, json_nbytes)
    if join:
        at += json_nbytes
        for tensor in tensors:
            if tensor.nbytes:
                if tensor.buffer.memory_type == MEMORY_GPU:
                    raise InternalError(f"output '{tensor.name}' is still in device memory")
                memcpy(at, tensor.data, tensor.nbytes)
                at += tensor.nbytes
        return text
    parts = [text]
    for tensor in tensors:
        if tensor.nbytes:
            parts.append(tensor)
    return parts


cdef object general_reply(tuple encoded, int coding, bytes tail):
    cdef bytes json = encoded[0]
    cdef list parts = encoded[1]
    cdef char[512] head
    cdef Writer writer
    cdef int64_t total = len(json)
    cdef int64_t json_nbytes
    for part in parts:
        total += len(part)
    if may_code(coding, total) and worth_coding(coding, [json, *parts]):
        return encoded
    json_nbytes = encoded[2] if encoded[2] is not None else total
    writer.at = &head[0]
    writer.end = &head[0] + 512
    writer.full = False
    _put_head(&writer, json_nbytes, total - json_nbytes)
    assert not writer.full
    if len(json) > JOIN_NBYTES or json_nbytes > len(json):
        return [head[:writer.at - &head[0]] + tail, json, *parts]
    return _assemble(&head[0], writer.at - &head[0], tail, PyBytes_AS_STRING(json), len(json), parts,
                     total - json_nbytes)


cdef list packed_reply(tuple encoded, int coding, bytes body, bytes tail):
    cdef object header_length = encoded[2]
    head = f"HTTP/1.1 200 OK\r\nServer: triton-async\r\nContent-Type: {encoded[3]}\r\n"
    head += f"Content-Encoding: {NAMES[coding & ~CODING_REQUIRED]}\r\n"
    if header_length is not None:
        head += f"Inference-Header-Content-Length: {header_length}\r\n"
    return [b"%bContent-Length: %d%b" % (head.encode(), len(body), tail), body]


cdef object json_reply(list pieces, bytes tail):
    cdef int64_t nbytes = 0
    cdef bytes head
    for piece in pieces:
        nbytes += len(<bytes>piece)
    head = b"%b%d%b" % (JSON_HEAD, nbytes, tail)
    if nbytes > JOIN_NBYTES:
        return [head, *pieces]
    return head + (<bytes>pieces[0] if len(pieces) == 1 else b"".join(pieces))


cdef bytes events_head(int status, bint chunked, bytes tail):
    return b"%b%b%b" % (EVENTS_HEADS[status], CHUNKED if chunked else b"", tail)


cdef list event_parts(bytes head, list pieces, bint chunked, bint last, int64_t *nbytes):
    cdef list parts = [head] if head else []
    cdef int64_t total = 0
    for piece in pieces:
        total += len(<bytes>piece)
    nbytes[0] += total
    if total <= JOIN_NBYTES:
        if total and chunked:
            parts.append(b"%x\r\n" % total)
        parts += pieces
        if chunked:
            parts.append((b"\r\n" if total else b"") + (END_OF_BODY if last else b""))
        return [b"".join(parts)] if parts else parts
    for piece in grouped(pieces):
        parts += [b"%x\r\n" % len(<bytes>piece), piece, b"\r\n"] if chunked else [piece]
    if last and chunked:
        parts.append(END_OF_BODY)
    return parts


cdef bytes error_reply(int status, str message, bytes tail):
    cdef bytes body = error_body(message)
    return b"%b%d%b%b" % (ERROR_HEADS[status], len(body), tail, body)


cpdef bytes reply_tail(str date, str connection):
    field = f"Connection: {connection}\r\n" if connection else ""
    return f"\r\nDate: {date}\r\n{field}\r\n".encode()


cdef void set_old(object reply) noexcept:
    cdef bytes head = reply if type(reply) is bytes else reply[0]
    PyBytes_AS_STRING(head)[7] = c'0'
