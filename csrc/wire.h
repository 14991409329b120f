/* Bounds-checked cursor over protobuf wire bytes, and the few writers that responses need.
 *
 * A cursor never reads at or past `end`. Readers return 0 (or a wire type) on success and a negative
 * ta_wire_status on bytes that protobuf would refuse; the cursor is then of no further use. Groups are refused: no
 * message of ours ever had one. Any thread, no allocation. */
#ifndef TRITON_ASYNC_WIRE_H
#define TRITON_ASYNC_WIRE_H

#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} ta_wire;

enum ta_wire_status {
    TA_WIRE_END = -1,       /* no field follows */
    TA_WIRE_TRUNCATED = -2, /* a value reaches past the end */
    TA_WIRE_VARINT = -3,    /* a varint of more than 64 bits */
    TA_WIRE_TAG = -4,       /* field number 0 or too large, or an unknown wire type */
    TA_WIRE_GROUP = -5,     /* start or end of a group */
    TA_WIRE_PACKED = -6     /* a packed field that is no whole number of elements */
};

enum ta_wire_type { TA_WIRE_INT = 0, TA_WIRE_FIXED64 = 1, TA_WIRE_BYTES = 2, TA_WIRE_FIXED32 = 5 };

/* Elements of a packed varint field; the number names how they are stored. */
enum ta_wire_kind {
    TA_KIND_BOOL,
    TA_KIND_INT8,
    TA_KIND_INT16,
    TA_KIND_INT32,
    TA_KIND_INT64,
    TA_KIND_UINT8,
    TA_KIND_UINT16,
    TA_KIND_UINT32,
    TA_KIND_UINT64
};

static inline int64_t ta_wire_left(const ta_wire *wire) { return wire->end - wire->at; }

static inline int ta_wire_varint(ta_wire *wire, uint64_t *value) {
    uint64_t found = 0;
    int shift;
    for (shift = 0; shift < 64; shift += 7) {
        uint8_t byte;
        if (wire->at >= wire->end) return TA_WIRE_TRUNCATED;
        byte = *wire->at++;
        if (shift == 63 && byte > 1) return TA_WIRE_VARINT;
        found |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *value = found;
            return 0;
        }
    }
    return TA_WIRE_VARINT;
}

/* The wire type of the next field and its number, or TA_WIRE_END. */
static inline int ta_wire_next(ta_wire *wire, uint32_t *field) {
    const uint8_t *start = wire->at;
    uint64_t tag;
    int status, type;
    if (wire->at >= wire->end) return TA_WIRE_END;
    status = ta_wire_varint(wire, &tag);
    if (status < 0) return status;
    type = (int)(tag & 7);
    /* A tag of more than five bytes is none, however small: protobuf reads no further. */
    if (wire->at - start > 5 || tag > UINT32_MAX || (tag >> 3) == 0 || type > 5) return TA_WIRE_TAG;
    if (type == 3 || type == 4) return TA_WIRE_GROUP;
    *field = (uint32_t)(tag >> 3);
    return type;
}

/* A length-delimited value as a cursor of its own. */
static inline int ta_wire_bytes(ta_wire *wire, ta_wire *value) {
    uint64_t length;
    int status = ta_wire_varint(wire, &length);
    if (status < 0) return status;
    if (length > (uint64_t)ta_wire_left(wire)) return TA_WIRE_TRUNCATED;
    value->at = wire->at;
    wire->at += length;
    value->end = wire->at;
    return 0;
}

static inline int ta_wire_fixed(ta_wire *wire, void *value, int nbytes) {
    if (ta_wire_left(wire) < nbytes) return TA_WIRE_TRUNCATED;
    memcpy(value, wire->at, nbytes);
    wire->at += nbytes;
    return 0;
}

static inline int ta_wire_skip(ta_wire *wire, int type) {
    uint64_t ignored;
    ta_wire value;
    switch (type) {
    case TA_WIRE_INT: return ta_wire_varint(wire, &ignored);
    case TA_WIRE_FIXED64: return ta_wire_fixed(wire, &ignored, 8);
    case TA_WIRE_BYTES: return ta_wire_bytes(wire, &value);
    case TA_WIRE_FIXED32: return ta_wire_fixed(wire, &ignored, 4);
    default: return TA_WIRE_TAG;
    }
}

/* Number of varints of a packed field. Whether each of them is valid shows when they are unpacked. */
static inline int64_t ta_wire_count(ta_wire packed) {
    int64_t count = 0;
    const uint8_t *at;
    for (at = packed.at; at < packed.end; at++) count += *at < 0x80;
    if (packed.end > packed.at && packed.end[-1] >= 0x80) return TA_WIRE_PACKED;
    return count;
}

/* Stores one element at `out` and returns its size in bytes, 0 when the value does not fit the kind. The 32-bit kinds
 * take the low half of the varint, as protobuf does. */
static inline int ta_wire_store(uint64_t value, int kind, char *out) {
    int32_t low = (int32_t)(uint32_t)value;
    uint32_t ulow = (uint32_t)value;
    switch (kind) {
    case TA_KIND_BOOL: *out = value != 0; return 1;
    case TA_KIND_INT8: *out = (char)low; return low >= INT8_MIN && low <= INT8_MAX;
    case TA_KIND_UINT8: *out = (char)ulow; return ulow <= UINT8_MAX;
    case TA_KIND_INT16: {
        int16_t narrow = (int16_t)low;
        memcpy(out, &narrow, 2);
        return narrow == low ? 2 : 0;
    }
    case TA_KIND_UINT16: {
        uint16_t narrow = (uint16_t)ulow;
        memcpy(out, &narrow, 2);
        return narrow == ulow ? 2 : 0;
    }
    case TA_KIND_INT32:
    case TA_KIND_UINT32: memcpy(out, &ulow, 4); return 4;
    default: memcpy(out, &value, 8); return 8;
    }
}

/* Unpacks the varints of `packed` to `out`, which has room for the elements that ta_wire_count found. Returns the
 * bytes written, a status, or INT64_MIN with the value in *bad when an element does not fit the kind. */
static inline int64_t ta_wire_unpack(ta_wire packed, int kind, char *out, uint64_t *bad) {
    char *to = out;
    while (packed.at < packed.end) {
        int size;
        int status = ta_wire_varint(&packed, bad);
        if (status < 0) return status;
        size = ta_wire_store(*bad, kind, to);
        if (size == 0) return INT64_MIN;
        to += size;
    }
    return to - out;
}

static inline int ta_wire_varint_size(uint64_t value) {
    int size = 1;
    while (value >= 0x80) {
        value >>= 7;
        size++;
    }
    return size;
}

static inline char *ta_wire_put_varint(char *out, uint64_t value) {
    while (value >= 0x80) {
        *out++ = (char)(value | 0x80);
        value >>= 7;
    }
    *out++ = (char)value;
    return out;
}

/* Size and bytes of a length-delimited field with a number below 16. */
static inline int64_t ta_wire_field_size(int64_t nbytes) {
    return 1 + ta_wire_varint_size((uint64_t)nbytes) + nbytes;
}

static inline char *ta_wire_put_head(char *out, int field, int64_t nbytes) {
    *out++ = (char)(field << 3 | TA_WIRE_BYTES);
    return ta_wire_put_varint(out, (uint64_t)nbytes);
}

static inline char *ta_wire_put_bytes(char *out, int field, const char *data, int64_t nbytes) {
    out = ta_wire_put_head(out, field, nbytes);
    if (nbytes) memcpy(out, data, (size_t)nbytes);
    return out + nbytes;
}

#endif
