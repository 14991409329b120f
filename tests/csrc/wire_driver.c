/* The protobuf cursor over random and broken bytes, each allocated to its exact size, for the address and undefined
 * behaviour sanitizers. */
#include "check.h"
#include "wire.h"

#include <stdbool.h>

static bool in_range(const ta_wire *wire, const uint8_t *from, const uint8_t *to) {
    return wire->at >= from && wire->at <= to && wire->end >= wire->at && wire->end <= to;
}

/* Reads every field, and what is length-delimited as a message, a packed field and a string as well. */
static void read_all(ta_wire wire, int depth) {
    const uint8_t *from = wire.at;
    const uint8_t *to = wire.end;
    uint32_t field;
    int type;
    while ((type = ta_wire_next(&wire, &field)) >= 0) {
        CHECK(in_range(&wire, from, to) && field > 0 && field < 1u << 29);
        if (type != TA_WIRE_BYTES) {
            if (ta_wire_skip(&wire, type) < 0) return;
            continue;
        }
        ta_wire value;
        if (ta_wire_bytes(&wire, &value) < 0) return;
        CHECK(in_range(&value, from, to) && in_range(&wire, from, to));
        int64_t count = ta_wire_count(value);
        CHECK(count == TA_WIRE_PACKED || (count >= 0 && count <= ta_wire_left(&value)));
        for (int kind = TA_KIND_BOOL; count >= 0 && kind <= TA_KIND_UINT64; kind++) {
            char *out = malloc(count > 0 ? (size_t)count * 8 : 1); /* exactly what the elements may take */
            uint64_t bad = 0;
            CHECK(ta_wire_unpack(value, kind, out, &bad) <= count * 8);
            free(out);
        }
        if (depth < 8) read_all(value, depth + 1);
    }
    CHECK(in_range(&wire, from, to));
}

static void random_bytes_are_read_within_their_bounds(void) {
    unsigned long long state = 2463534242ULL;
    for (int round = 0; round < 100000; round++) {
        size_t nbytes = next_random(&state) % 64;
        uint8_t *bytes = malloc(nbytes > 0 ? nbytes : 1);
        for (size_t i = 0; i < nbytes; i++) {
            /* tags and lengths of small messages, and what breaks them */
            unsigned long long choice = next_random(&state);
            bytes[i] = choice % 4 == 0 ? (uint8_t)(choice >> 8) : (uint8_t)((choice >> 8) % 48);
            if (choice % 31 == 0) bytes[i] = 0xFF;
        }
        ta_wire wire = {bytes, bytes + nbytes};
        read_all(wire, 0);
        free(bytes);
    }
}

static void varints_go_there_and_back(void) {
    for (int shift = 0; shift < 64; shift++) {
        for (int change = -1; change <= 1; change++) {
            uint64_t value = (1ULL << shift) + (uint64_t)change;
            uint64_t found = ~value;
            int size = ta_wire_varint_size(value);
            char *bytes = malloc((size_t)size);
            CHECK(ta_wire_put_varint(bytes, value) == bytes + size);
            ta_wire wire = {(uint8_t *)bytes, (uint8_t *)bytes + size};
            CHECK(ta_wire_varint(&wire, &found) == 0 && found == value && ta_wire_left(&wire) == 0);
            ta_wire cut = {(uint8_t *)bytes, (uint8_t *)bytes + size - 1};
            CHECK(ta_wire_varint(&cut, &found) == TA_WIRE_TRUNCATED);
            free(bytes);
        }
    }
}

static void fields_are_as_long_as_announced(void) {
    for (int64_t nbytes = 0; nbytes < 300; nbytes++) {
        char *data = malloc(nbytes > 0 ? (size_t)nbytes : 1);
        memset(data, 7, (size_t)nbytes);
        int64_t size = ta_wire_field_size(nbytes);
        char *out = malloc((size_t)size);
        CHECK(ta_wire_put_bytes(out, 5, nbytes > 0 ? data : NULL, nbytes) == out + size);
        ta_wire wire = {(uint8_t *)out, (uint8_t *)out + size};
        ta_wire value;
        uint32_t field = 0;
        CHECK(ta_wire_next(&wire, &field) == TA_WIRE_BYTES && field == 5);
        CHECK(ta_wire_bytes(&wire, &value) == 0 && ta_wire_left(&value) == nbytes);
        CHECK(ta_wire_next(&wire, &field) == TA_WIRE_END);
        free(out);
        free(data);
    }
}

static void a_tag_has_at_most_five_bytes(void) {
    uint8_t bytes[] = {0x8d, 0x80, 0x80, 0x80, 0x80, 0x00};
    ta_wire six = {bytes, bytes + 6};
    uint32_t field = 0;
    CHECK(ta_wire_next(&six, &field) == TA_WIRE_TAG);
    bytes[4] = 0x00;
    ta_wire five = {bytes, bytes + 5};
    CHECK(ta_wire_next(&five, &field) == TA_WIRE_FIXED32 && field == 1);
}

static void empty_cursors_are_at_their_end(void) {
    ta_wire nothing = {NULL, NULL};
    uint64_t value;
    uint32_t field;
    CHECK(ta_wire_next(&nothing, &field) == TA_WIRE_END);
    CHECK(ta_wire_varint(&nothing, &value) == TA_WIRE_TRUNCATED);
    CHECK(ta_wire_fixed(&nothing, &value, 8) == TA_WIRE_TRUNCATED);
    CHECK(ta_wire_count(nothing) == 0);
}

int main(void) {
    random_bytes_are_read_within_their_bounds();
    varints_go_there_and_back();
    fields_are_as_long_as_announced();
    a_tag_has_at_most_five_bytes();
    empty_cursors_are_at_their_end();
    return 0;
}
