# Protobuf wire bytes: the C cursor of csrc/wire.h, and the one place where its status becomes an exception.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "wire.h" nogil:
    ctypedef struct ta_wire:
        const uint8_t *at
        const uint8_t *end
    enum:
        TA_WIRE_END
        TA_WIRE_INT
        TA_WIRE_FIXED64
        TA_WIRE_BYTES
        TA_WIRE_FIXED32
        TA_WIRE_PACKED
        TA_KIND_BOOL
        TA_KIND_INT8
        TA_KIND_INT16
        TA_KIND_INT32
        TA_KIND_INT64
        TA_KIND_UINT8
        TA_KIND_UINT16
        TA_KIND_UINT32
        TA_KIND_UINT64
    int64_t ta_wire_left(const ta_wire *wire) noexcept
    int ta_wire_varint(ta_wire *wire, uint64_t *value) noexcept
    int ta_wire_next(ta_wire *wire, uint32_t *field) noexcept
    int ta_wire_bytes(ta_wire *wire, ta_wire *value) noexcept
    int ta_wire_fixed(ta_wire *wire, void *value, int nbytes) noexcept
    int ta_wire_skip(ta_wire *wire, int type) noexcept
    int64_t ta_wire_count(ta_wire packed) noexcept
    int ta_wire_store(uint64_t value, int kind, char *out) noexcept
    int64_t ta_wire_unpack(ta_wire packed, int kind, char *out, uint64_t *bad) noexcept
    int ta_wire_varint_size(uint64_t value) noexcept
    char *ta_wire_put_varint(char *out, uint64_t value) noexcept
    int64_t ta_wire_field_size(int64_t nbytes) noexcept
    char *ta_wire_put_head(char *out, int field, int64_t nbytes) noexcept
    char *ta_wire_put_bytes(char *out, int field, const char *data, int64_t nbytes) noexcept

# The status itself when it is not negative; else raises Malformed.
cdef int check(int status) except -1

# The wire type of the next field, or -1 (TA_WIRE_END) when none follows. Raises Malformed.
cdef int next_field(ta_wire *wire, uint32_t *field) except -2

# A string field. Raises Malformed when it is not UTF-8, as protobuf does.
cdef str text(ta_wire value)
