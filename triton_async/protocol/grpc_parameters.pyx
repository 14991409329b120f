"""Parameters of gRPC requests: wire entries to request fields and Python values. Any thread with the GIL."""

from libc.stdint cimport int64_t, uint32_t

from triton_async.infer.request cimport FLAG_SEQUENCE_END, FLAG_SEQUENCE_START, InferRequest
from triton_async.protocol.wire cimport (
    TA_WIRE_BYTES, TA_WIRE_FIXED64, TA_WIRE_INT, check, next_field, ta_wire, ta_wire_bytes, ta_wire_fixed,
    ta_wire_skip, ta_wire_varint, text,
)

from triton_async.defines import MAX_PARAMETERS_PER_REQUEST
from triton_async.errors import InvalidArg

cdef int64_t _PARAMETERS_MAX = MAX_PARAMETERS_PER_REQUEST

# The one key with Triton's prefix that clients may use.
cdef str _EMPTY_FINAL = "triton_enable_empty_final_response"


cdef str read_entry(ta_wire entry, Parameter *value):
    cdef ta_wire key
    cdef ta_wire body
    cdef uint32_t field
    cdef int type
    key.at = key.end = NULL
    value.kind = PARAMETER_NONE
    value.bits = 0
    type = next_field(&entry, &field)
    while type >= 0:
        if type == TA_WIRE_BYTES and field == 1:
            check(ta_wire_bytes(&entry, &key))
        elif type == TA_WIRE_BYTES and field == 2:
            check(ta_wire_bytes(&entry, &body))
            _read_value(body, value)
        else:
            check(ta_wire_skip(&entry, type))
        type = next_field(&entry, &field)
    return text(key)


# The last alternative on the wire counts; a value given twice is merged, so an empty second one changes nothing.
cdef int _read_value(ta_wire body, Parameter *value) except -1:
    cdef uint32_t field
    cdef int type = next_field(&body, &field)
    while type >= 0:
        if type == TA_WIRE_INT and (field == PARAMETER_BOOL or field == PARAMETER_INT64 or field == PARAMETER_UINT64):
            check(ta_wire_varint(&body, &value.bits))
            value.kind = field
        elif type == TA_WIRE_BYTES and field == PARAMETER_STRING:
            check(ta_wire_bytes(&body, &value.string))
            text(value.string)
            value.kind = PARAMETER_STRING
        elif type == TA_WIRE_FIXED64 and field == PARAMETER_DOUBLE:
            check(ta_wire_fixed(&body, &value.number, 8))
            value.kind = PARAMETER_DOUBLE
        else:
            check(ta_wire_skip(&body, type))
        type = next_field(&body, &field)
    return 0


cdef int _wrong_type(str key, str expected) except -1:
    raise InvalidArg(f"invalid value type for '{key}' parameter, expected {expected}.")


cdef int apply(InferRequest request, str key, Parameter *value) except -1:
    if key == "sequence_id":
        if value.kind == PARAMETER_STRING:
            request.sequence_id = text(value.string)
        elif value.kind == PARAMETER_INT64:
            # Sequence ids are unsigned; clients send those from 2^63 on as negative int64.
            request.sequence_id = value.bits
        else:
            _wrong_type(key, "int64_param or string_param")
    elif key == "sequence_start":
        _flag(request, FLAG_SEQUENCE_START, key, value)
    elif key == "sequence_end":
        _flag(request, FLAG_SEQUENCE_END, key, value)
    elif key == "priority":
        if value.kind != PARAMETER_INT64 and value.kind != PARAMETER_UINT64:
            _wrong_type(key, "int64_param or uint64_param")
        if value.kind == PARAMETER_INT64 and <int64_t>value.bits < 0:
            raise InvalidArg("invalid value for 'priority', expected value >= 0.")
        request.priority = value.bits
    elif key == "timeout":
        if value.kind != PARAMETER_INT64:
            _wrong_type(key, "int64_param")
        if <int64_t>value.bits < 0:
            raise InvalidArg("invalid value for 'timeout', expected value >= 0.")
        request.timeout_us = value.bits
    elif key.startswith("triton_"):
        if key != _EMPTY_FINAL:
            raise InvalidArg("parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
                             f"following keys starting with 'triton_' are allowed: {_EMPTY_FINAL}")
        if value.kind != PARAMETER_BOOL:
            _wrong_type(key, "bool_param")
        request.context = value.bits != 0
    else:
        _other(request, key, value)
    return 0


cdef int _flag(InferRequest request, int flag, str key, Parameter *value) except -1:
    if value.kind != PARAMETER_BOOL:
        _wrong_type(key, "bool_param")
    if value.bits:
        request.flags |= flag
    else:
        request.flags &= ~flag
    return 0


cdef int _other(InferRequest request, str key, Parameter *value) except -1:
    if request.parameters is None:
        request.parameters = {}
    elif len(request.parameters) >= _PARAMETERS_MAX:
        raise InvalidArg(f"request has more than {_PARAMETERS_MAX} parameters")
    if value.kind == PARAMETER_BOOL:
        request.parameters[key] = value.bits != 0
    elif value.kind == PARAMETER_INT64:
        request.parameters[key] = <int64_t>value.bits
    elif value.kind == PARAMETER_STRING:
        request.parameters[key] = text(value.string)
    elif value.kind == PARAMETER_DOUBLE:
        request.parameters[key] = value.number
    else:
        # uint64_param belongs to `priority` alone, in Triton too.
        _wrong_type(key, "int64_param, bool_param, or string_param")
    return 0


cdef int64_t classification(Parameter *value) except -1:
    cdef int64_t count = <int64_t>value.bits
    if value.kind != PARAMETER_INT64:
        raise InvalidArg("invalid value type for 'classification' parameter, expected int64_param")
    if count <= 0:
        raise InvalidArg("invalid value for 'classification' parameter, expected >= 0")
    return count
