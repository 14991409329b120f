"""Shared memory parameters of gRPC tensors, with Triton's rules for them. Any thread with the GIL, but for `lease`."""

from triton_async.memory.regions cimport lease_region
from triton_async.protocol.grpc_parameters cimport PARAMETER_INT64, PARAMETER_STRING
from triton_async.protocol.wire cimport text

from triton_async.errors import InvalidArg


cdef void clear(RegionParameters *found) noexcept:
    found.named = found.has_offset = found.has_size = False
    found.offset = found.nbytes = 0


cdef bint note(RegionParameters *found, str key, const Parameter *value) except -1:
    if key == "shared_memory_region":
        found.named = True
        found.region_kind = value.kind
        found.region = value.string
    elif key == "shared_memory_offset":
        found.has_offset = True
        found.offset_kind = value.kind
        found.offset = value.bits
    elif key == "shared_memory_byte_size":
        found.has_size = True
        found.size_kind = value.kind
        found.nbytes = value.bits
    else:
        return False
    return True


cdef bint names_region(const RegionParameters *found, ta_wire tensor) except -1:
    if found.named and found.region_kind != PARAMETER_STRING:
        _wrong_type("shared_memory_region", tensor, "string_param")
    if found.has_offset:
        if not found.named:
            _stray("shared_memory_offset", tensor)
        if found.offset_kind != PARAMETER_INT64:
            _wrong_type("shared_memory_offset", tensor, "int64_param")
    if found.has_size:
        if not found.named:
            _stray("shared_memory_byte_size", tensor)
        if found.size_kind != PARAMETER_INT64:
            _wrong_type("shared_memory_byte_size", tensor, "int64_param")
    elif found.named:
        raise InvalidArg("'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for "
                         f"tensor '{text(tensor)}'")
    return found.named


cdef int _wrong_type(str key, ta_wire tensor, str expected) except -1:
    raise InvalidArg(f"invalid value type for '{key}' parameter for tensor '{text(tensor)}', expected {expected}.")


cdef int _stray(str key, ta_wire tensor) except -1:
    raise InvalidArg(f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor "
                     f"'{text(tensor)}'")


# Negative numbers count as the large unsigned ones that they are to Triton, and fit nowhere.
cdef Buffer lease(const RegionParameters *found, RegionRegistry regions, bint writable, bint private):
    return lease_region(regions, text(found.region), found.offset, found.nbytes, writable, private)
