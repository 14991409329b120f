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


def check_field_count(data, int64_t most, int nested=0):
    """InvalidArg for a message of more than `most` fields, those of the messages in it counted down to `nested` levels;
    Malformed. Any thread, without the GIL."""
    cdef const uint8_t[::1] view = data
    cdef ta_wire wire
    cdef int64_t found = 0
    cdef int status
    wire.at = wire.end = NULL
    if view.shape[0]:
        wire.at = &view[0]
        wire.end = wire.at + view.shape[0]
    with nogil:
        status = _count_fields(wire, most, nested, &found)
    if found > most:
        raise InvalidArg(f"the request has more than {most} fields")
    if status < TA_WIRE_END:
        raise Malformed


# Adds up to one more than `most` fields to `found`. Strings count as messages where they could be.
cdef int _count_fields(ta_wire wire, int64_t most, int nested, int64_t *found) noexcept nogil:
    cdef ta_wire value
    cdef uint32_t field
    cdef int type = 0
    value.at = value.end = NULL
    while found[0] <= most:
        type = ta_wire_next(&wire, &field)
        if type < 0:
            break
        found[0] += 1
        if type != TA_WIRE_BYTES:
            type = ta_wire_skip(&wire, type)
        else:
            type = ta_wire_bytes(&wire, &value)
            if type == 0 and nested:
                _count_fields(value, most, nested - 1, found)
        if type < 0:
            break
    return type
