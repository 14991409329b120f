"""Protobuf wire bytes: status of the C cursor to exceptions. Any thread with the GIL."""

from cpython.unicode cimport PyUnicode_DecodeUTF8

from triton_async.errors import InvalidArg


cdef int _malformed(int status) except -1:
    reason = (<bytes>ta_wire_reason(status)).decode()
    raise InvalidArg(f"failed to parse the request message: {reason}")


cdef int check(int status) except -1:
    if status < 0:
        return _malformed(status)
    return status


cdef int next_field(ta_wire *wire, uint32_t *field) except -2:
    cdef int type = ta_wire_next(wire, field)
    if type < TA_WIRE_END:
        _malformed(type)
    return type


cdef str text(ta_wire value):
    try:
        return PyUnicode_DecodeUTF8(<const char *>value.at, ta_wire_left(&value), NULL)
    except UnicodeDecodeError:
        raise InvalidArg("failed to parse the request message: a string is not valid UTF-8") from None
