"""Protobuf wire bytes: status of the C cursor to exceptions. Any thread with the GIL."""

from cpython.unicode cimport PyUnicode_DecodeUTF8

from triton_async.errors import InternalError, InvalidArg


class Malformed(InternalError):
    """The bytes are no message of the expected type. gRPC servers answer INTERNAL, in these words."""

    def __init__(self) -> None:
        super().__init__("Unable to parse request")


cdef int check(int status) except -1:
    if status < 0:
        raise Malformed
    return status


cdef int next_field(ta_wire *wire, uint32_t *field) except -2:
    cdef int type = ta_wire_next(wire, field)
    if type < TA_WIRE_END:
        raise Malformed
    return type


cdef str text(ta_wire value):
    try:
        return PyUnicode_DecodeUTF8(<const char *>value.at, ta_wire_left(&value), NULL)
    except UnicodeDecodeError:
        raise Malformed from None


def check_field_count(bytes data, int64_t most):
    """InvalidArg for a message of more than `most` fields, those of the messages in it not counted; Malformed."""
    cdef ta_wire wire
    cdef uint32_t field
    cdef int64_t found = 0
    cdef int type = 0
    wire.at = <const uint8_t *><const char *>data
    wire.end = wire.at + len(data)
    with nogil:
        while found <= most:
            type = ta_wire_next(&wire, &field)
            if type >= 0:
                type = ta_wire_skip(&wire, type)
            if type < 0:
                break
            found += 1
    if type < TA_WIRE_END:
        raise Malformed
    if found > most:
        raise InvalidArg(f"the request has more than {most} fields")
