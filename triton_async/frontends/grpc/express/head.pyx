"""Request heads of the two inference RPCs, without an object per header. Hostile bytes: every read is bounded."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memcpy

from triton_async.protocol.http2_headers cimport HeaderList

from triton_async.defines import (
    GRPC_DEADLINE_SLACK_S, GRPC_MAX_TIMEOUT_S, GRPC_WAY_BACK_S, GRPC_WAY_BACK_SHARE,
)

cdef double _LONGEST_S = GRPC_MAX_TIMEOUT_S
cdef double _SLACK_S = GRPC_DEADLINE_SLACK_S
cdef double _WAY_S = GRPC_WAY_BACK_S
cdef double _WAY_SHARE = GRPC_WAY_BACK_SHARE

cdef enum:
    TIMEOUT_DIGITS = 8


# Whether the `size` bytes at `data` are those of the literal.
cdef bint _is(const char *data, size_t size, const char *literal, size_t length) noexcept:
    return size == length and memcmp(data, literal, length) == 0


cdef int read_head(HeaderList fields, int64_t now_ns, CallHead *head) except -1:
    cdef size_t at = 0
    cdef uint32_t[2] sizes
    cdef const char *name
    cdef const char *value
    cdef bint post = False
    cdef bint grpc = False
    cdef bint plain = True
    cdef double timeout_s = 0
    head.rpc = RPC_OTHER
    head.end_by_ns = head.answer_by_ns = head.late_ns = 0
    head.ends_on_error = False
    while at < fields.block_nbytes:
        memcpy(sizes, fields.block + at, sizeof(sizes))
        name = fields.block + at + sizeof(sizes)
        value = name + sizes[0]
        at += sizeof(sizes) + sizes[0] + sizes[1]
        if sizes[0] == 5:
            if _is(name, 5, b":path", 5):
                head.rpc = _rpc(value, sizes[1])
        elif sizes[0] == 7:
            if _is(name, 7, b":method", 7):
                post = _is(value, sizes[1], b"POST", 4)
        elif sizes[0] == 12:
            if _is(name, 12, b"content-type", 12):
                grpc = sizes[1] >= 16 and memcmp(value, b"application/grpc", 16) == 0
            elif _is(name, 12, b"grpc-timeout", 12):
                timeout_s = _timeout(value, sizes[1])
                plain = plain and timeout_s >= 0
        elif sizes[0] == 13:
            if _is(name, 13, b"grpc-encoding", 13):
                plain = plain and _is(value, sizes[1], b"identity", 8)
        elif sizes[0] == 17:
            if _is(name, 17, b"triton_grpc_error", 17):
                head.ends_on_error = _is(value, sizes[1], b"true", 4)
    if not (post and grpc and plain):
        head.rpc = RPC_OTHER
    if 0 < timeout_s < _LONGEST_S:
        head.end_by_ns = now_ns + <int64_t>(1e9 * timeout_s)
        head.answer_by_ns = head.end_by_ns - <int64_t>(1e9 * min(_WAY_S, timeout_s / _WAY_SHARE))
        # Never as soon as the call is opened, however short its time.
        head.late_ns = head.end_by_ns - <int64_t>(1e9 * min(_SLACK_S, timeout_s / 2))
    return 0


cdef int _rpc(const char *path, size_t size) noexcept:
    if _is(path, size, b"/inference.GRPCInferenceService/ModelInfer", 42):
        return RPC_INFER
    if _is(path, size, b"/inference.GRPCInferenceService/ModelStreamInfer", 48):
        return RPC_STREAM_INFER
    return RPC_OTHER


# Seconds of a grpc-timeout; -1 when it is malformed or zero.
cdef double _timeout(const char *text, size_t size) noexcept:
    cdef double value = 0
    cdef size_t i
    if size < 2 or size > TIMEOUT_DIGITS + 1:
        return -1
    for i in range(size - 1):
        if not 48 <= text[i] <= 57:
            return -1
        value = 10 * value + (text[i] - 48)
    if value == 0:
        return -1
    if text[size - 1] == b'H':
        return 3600 * value
    if text[size - 1] == b'M':
        return 60 * value
    if text[size - 1] == b'S':
        return value
    if text[size - 1] == b'm':
        return 1e-3 * value
    if text[size - 1] == b'u':
        return 1e-6 * value
    return 1e-9 * value if text[size - 1] == b'n' else -1
