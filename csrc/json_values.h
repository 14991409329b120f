/* What the two halves of the JSON reader share, of text that one of them has checked. Not for others. */
#ifndef TRITON_ASYNC_JSON_VALUES_H
#define TRITON_ASYNC_JSON_VALUES_H

#include <stdint.h>
#include <string.h>

/* The slow and always right way. The number is a checked one, which may end where the text does. */
double ta_json_double(const char *text, int64_t size);

/* The checked string text[0..size), quotes left out, as UTF-8; never more bytes than it has. How many. */
int64_t ta_json_unescape(const char *text, int64_t size, char *out);

static inline int is_space(char byte) { return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r'; }


/* Bytes from the front of which none ends a string or needs a closer look. */
static inline int64_t plain_length(const char *text, int64_t size) {
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    int64_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word, quote, slash;
        memcpy(&word, text + at, 8);
        quote = word ^ (ones * '"');
        slash = word ^ (ones * '\\');
        /* A high bit for every byte that is no ASCII, below 0x20, a quote or a backslash. */
        if (((word | (word - ones * 0x20) | (quote - ones) | (slash - ones)) & highs) != 0) break;
    }
    while (at < size && (unsigned char)text[at] >= 0x20 && (unsigned char)text[at] < 0x80 && text[at] != '"' &&
           text[at] != '\\')
        at++;
    return at;
}

static inline int hex_digit(unsigned char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

#endif
