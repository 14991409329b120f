#define _GNU_SOURCE
#include "json.h"
#include "json_values.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* -- numbers ----------------------------------------------------------------------------------- */

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

double ta_json_double(const char *text, int64_t size) {
    char few[64];
    char *copy = size < (int64_t)sizeof few ? few : malloc((size_t)size + 1);
    double value;
    if (copy == NULL) return NAN;
    memcpy(copy, text, (size_t)size);
    copy[size] = 0;
    pthread_once(&c_locale_once, make_locale);
    value = c_locale ? strtod_l(copy, NULL, c_locale) : strtod(copy, NULL);
    if (copy != few) free(copy);
    return value;
}

typedef struct {
    int whole;          /* digits alone, and of no more than 64 bits with the sign */
    int negative;
    uint64_t magnitude; /* of a whole one */
    double real;
} number;

#if LDBL_MANT_DIG == 64
static const long double POWERS[] = {1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,  1e7L,  1e8L,  1e9L,
                                     1e10L, 1e11L, 1e12L, 1e13L, 1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L,
                                     1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};

/* digits * 10^power, rounded once: both factors are exact in 64 bits, so the product is off by less than one of its
 * last bits. 0 where these lie so close to the middle between two doubles that it may matter, or on a subnormal. */
static int from_digits(uint64_t digits, int64_t power, double *value) {
    long double wide;
    uint64_t bits;
    if (power < -27 || power > 27) return 0;
    wide = power < 0 ? (long double)digits / POWERS[-power] : (long double)digits * POWERS[power];
    memcpy(&bits, &wide, 8);
    bits &= 0x7FF;
    if (bits >= 0x3FF && bits <= 0x401) return 0;
    *value = (double)wide;
    return 1;
}
#else
static int from_digits(uint64_t digits, int64_t power, double *value) {
    if (digits >> 53 || power < -22 || power > 22) return 0;
    *value = (double)digits;
    while (power > 0) *value *= 10, power--;
    return power == 0;
}
#endif

/* The checked number at text[0..size). */
static number to_number(const char *text, int64_t size) {
    number found = {0, 0, 0, 0.0};
    int64_t at = 0, power = 0, exponent = 0, n_digits = 0;
    uint64_t digits = 0;
    int exact = 1, less;
    if (text[at] == '-') {
        found.negative = 1;
        at++;
    }
    if (text[at] == 'N' || text[at] == 'I') {
        found.real = text[at] == 'N' ? NAN : found.negative ? -INFINITY : INFINITY;
        return found;
    }
    for (; at < size && text[at] >= '0' && text[at] <= '9'; at++) {
        unsigned digit = (unsigned)(text[at] - '0');
        if (digits > (UINT64_MAX - digit) / 10) exact = 0;
        digits = 10 * digits + digit;
    }
    if (at == size && exact && (!found.negative || digits <= (uint64_t)1 << 63)) {
        found.whole = 1;
        found.magnitude = digits;
        found.real = found.negative ? -(double)digits : (double)digits;
        return found;
    }
    if (at < size && text[at] == '.') {
        for (at++; at < size && text[at] >= '0' && text[at] <= '9'; at++, power--) {
            unsigned digit = (unsigned)(text[at] - '0');
            if (digits > (UINT64_MAX - digit) / 10) exact = 0;
            digits = 10 * digits + digit;
            if (++n_digits > 64) exact = 0;
        }
    }
    if (at < size) { /* e or E */
        at++;
        less = text[at] == '-';
        if (text[at] == '-' || text[at] == '+') at++;
        for (; at < size; at++)
            if (exponent < 100000) exponent = 10 * exponent + (text[at] - '0');
        power += less ? -exponent : exponent;
    }
    if (exact && digits == 0) {
        found.real = found.negative ? -0.0 : 0.0;
        return found;
    }
    if (exact && from_digits(digits, power, &found.real)) {
        if (found.negative) found.real = -found.real;
        return found;
    }
    found.real = ta_json_double(text, size);
    return found;
}

/* -- strings ----------------------------------------------------------------------------------- */

static char *put_utf8(char *out, unsigned unit) {
    if (unit < 0x80) {
        *out++ = (char)unit;
    } else if (unit < 0x800) {
        *out++ = (char)(0xC0 | unit >> 6);
        *out++ = (char)(0x80 | (unit & 0x3F));
    } else if (unit < 0x10000) {
        *out++ = (char)(0xE0 | unit >> 12);
        *out++ = (char)(0x80 | (unit >> 6 & 0x3F));
        *out++ = (char)(0x80 | (unit & 0x3F));
    } else {
        *out++ = (char)(0xF0 | unit >> 18);
        *out++ = (char)(0x80 | (unit >> 12 & 0x3F));
        *out++ = (char)(0x80 | (unit >> 6 & 0x3F));
        *out++ = (char)(0x80 | (unit & 0x3F));
    }
    return out;
}

static unsigned hex4(const char *text) {
    unsigned unit = 0;
    int i;
    for (i = 0; i < 4; i++) unit = unit * 16 + (unsigned)hex_digit((unsigned char)text[i]);
    return unit;
}

int64_t ta_json_unescape(const char *text, int64_t size, char *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char *start = out;
    int64_t at = 0;
    while (at < size) {
        const char *slash = memchr(text + at, '\\', (size_t)(size - at));
        int64_t plain = (slash ? slash - text : size) - at;
        memmove(out, text + at, (size_t)plain);
        out += plain;
        at += plain;
        if (at >= size) break;
        if (text[at + 1] != 'u') {
            *out++ = to[strchr(from, text[at + 1]) - from];
            at += 2;
        } else {
            unsigned unit = hex4(text + at + 2);
            at += 6;
            if (unit >= 0xD800 && unit <= 0xDBFF) {
                unit = 0x10000 + ((unit - 0xD800) << 10) + (hex4(text + at + 2) - 0xDC00);
                at += 6;
            }
            out = put_utf8(out, unit);
        }
    }
    return out - start;
}

/* Bytes of the same. */
static int64_t unescaped_length(const char *text, int64_t size) {
    int64_t length = size, at = 0;
    while (at < size) {
        const char *slash = memchr(text + at, '\\', (size_t)(size - at));
        if (slash == NULL) break;
        at = slash - text;
        if (text[at + 1] != 'u') {
            length -= 1;
            at += 2;
        } else {
            unsigned unit = hex4(text + at + 2);
            int pair = unit >= 0xD800 && unit <= 0xDBFF;
            length -= pair ? 12 - 4 : 6 - (unit < 0x80 ? 1 : unit < 0x800 ? 2 : 3);
            at += pair ? 12 : 6;
        }
    }
    return length;
}

/* -- elements ---------------------------------------------------------------------------------- */

typedef struct {
    const char *text;
    int64_t at;
    int64_t end;
    ta_json_elements *to;
    int regular;   /* nested like the shape, as far as seen */
    int nested;    /* an array in the outermost one */
} filler;

static inline void pass_space(filler *from) {
    while (is_space(from->text[from->at])) from->at++;
}

/* Behind the scalar at the cursor, which is a checked one inside an array, or ends where the span does. */
static int64_t scalar_end(const filler *from) {
    int64_t at = from->at;
    if (from->text[at] == '"') {
        for (at++;;) {
            at += plain_length(from->text + at, from->end - at);
            if (from->text[at] == '"') return at + 1;
            at += from->text[at] == '\\' ? 2 : 1;
        }
    }
    while (at < from->end && from->text[at] != ',' && from->text[at] != ']' && !is_space(from->text[at])) at++;
    return at;
}

static void store(char *out, int width, uint64_t bits) { memcpy(out, &bits, (size_t)width); } /* little endian */

/* 1.0 for 1: there are clients that write every number so. Beyond 2^53 such a number may be another one than was
 * meant. */
static int is_whole(number *found) {
    if (found->whole) return 1;
    if (!(found->real >= -9007199254740992.0 && found->real <= 9007199254740992.0) || found->real != trunc(found->real))
        return 0;
    found->negative = found->real < 0;
    found->magnitude = (uint64_t)fabs(found->real);
    return 1;
}

static int store_number(ta_json_elements *to, number found) {
    char *out = to->out + to->done * to->width;
    int bits = 8 * to->width;
    if (to->kind == TA_JSON_FLOATS) {
        if (to->width == 8) memcpy(out, &found.real, 8);
        else {
            float narrow = (float)found.real;
            if (isfinite(found.real) && !isfinite(narrow)) return TA_JSON_RANGE;
            memcpy(out, &narrow, 4);
        }
        return 0;
    }
    if (to->kind == TA_JSON_UNSIGNED) {
        if (!is_whole(&found) || (found.negative && found.magnitude)) return TA_JSON_NO_UNSIGNED;
        if (bits < 64 && found.magnitude >> bits) return TA_JSON_RANGE;
        store(out, to->width, found.magnitude);
        return 0;
    }
    if (!is_whole(&found) || (!found.negative && found.magnitude > INT64_MAX)) return TA_JSON_NO_SIGNED;
    if (found.magnitude > ((uint64_t)1 << (bits - 1)) - !found.negative) return TA_JSON_RANGE;
    store(out, to->width, found.negative ? -found.magnitude : found.magnitude);
    return 0;
}

static int store_string(filler *from, const char *text, int64_t size) {
    ta_json_elements *to = from->to;
    int64_t length;
    uint32_t prefix;
    if (to->out == NULL) {
        length = unescaped_length(text, size);
    } else {
        length = ta_json_unescape(text, size, to->out + to->nbytes + 4);
        prefix = (uint32_t)length;
        memcpy(to->out + to->nbytes, &prefix, 4);
    }
    to->nbytes += 4 + length;
    to->done++;
    return 0;
}

static int store_scalar(filler *from) {
    ta_json_elements *to = from->to;
    const char *text = from->text + from->at;
    int64_t end = scalar_end(from);
    int64_t size = end - from->at;
    int is_number = *text == '-' || *text == 'N' || *text == 'I' || (*text >= '0' && *text <= '9');
    int status = 0;
    to->error.at = from->at;
    to->error.end = end;
    from->at = end;
    if (to->kind == TA_JSON_STRINGS) return *text == '"' ? store_string(from, text + 1, size - 2) : TA_JSON_NO_STRING;
    if (to->done >= to->count) return TA_JSON_COUNT;
    if (to->kind == TA_JSON_BOOLS) {
        number found;
        if (*text == 't' || *text == 'f') {
            to->out[to->done] = *text == 't';
        } else {
            if (!is_number) return TA_JSON_NO_BOOL;
            found = to_number(text, size);
            if (found.real != 0.0 && found.real != 1.0) return TA_JSON_NO_BOOL;
            to->out[to->done] = found.real != 0.0;
        }
    } else if (is_number) {
        status = store_number(to, to_number(text, size));
    } else {
        status = to->kind == TA_JSON_FLOATS     ? TA_JSON_NO_NUMBER
                 : to->kind == TA_JSON_UNSIGNED ? TA_JSON_NO_UNSIGNED
                                                : TA_JSON_NO_SIGNED;
    }
    to->done++;
    return status;
}

/* An object has no place among elements: its kind of error. */
static int refuse_object(filler *from) {
    ta_json_elements *to = from->to;
    if (to->kind == TA_JSON_STRINGS) return TA_JSON_NO_STRING;
    if (to->done >= to->count) return TA_JSON_COUNT;
    return to->kind == TA_JSON_BOOLS      ? TA_JSON_NO_BOOL
           : to->kind == TA_JSON_FLOATS   ? TA_JSON_NO_NUMBER
           : to->kind == TA_JSON_UNSIGNED ? TA_JSON_NO_UNSIGNED
                                          : TA_JSON_NO_SIGNED;
}

static int fill_array(filler *from, int depth) {
    ta_json_elements *to = from->to;
    int64_t n = 0, wanted = depth > to->rank ? 1 : to->dims[depth - 1];
    int status;
    if (depth > TA_JSON_MAX_NESTED) return TA_JSON_NESTED;
    from->at++;
    pass_space(from);
    if (from->text[from->at] != ']') {
        for (;; from->at++) {
            pass_space(from);
            if (from->text[from->at] == '[') {
                if (depth == 1) from->nested = 1;
                status = fill_array(from, depth + 1);
            } else if (from->text[from->at] == '{') {
                status = refuse_object(from);
            } else {
                if (depth < to->rank) from->regular = 0;
                status = store_scalar(from);
            }
            if (status) return status;
            n++;
            pass_space(from);
            if (from->text[from->at] != ',') break;
        }
    }
    from->at++;
    /* Behind the last dimension a list around one element says nothing else than the element. */
    if (n != wanted) from->regular = 0;
    return 0;
}

int64_t ta_json_flat(const ta_json *json, ta_json_span span) {
    filler from = {json->text, span.at, span.end, NULL, 1, 0};
    int64_t n = 0;
    if (json->text[span.at] == '{') return -1;
    if (json->text[span.at] != '[') return 1;
    from.at++;
    pass_space(&from);
    if (json->text[from.at] == ']') return 0;
    for (;; from.at++) {
        pass_space(&from);
        if (json->text[from.at] == '[' || json->text[from.at] == '{') return -1;
        from.at = scalar_end(&from);
        n++;
        pass_space(&from);
        if (json->text[from.at] != ',') return n;
    }
}

int ta_json_fill(const ta_json *json, ta_json_span span, ta_json_elements *elements) {
    filler from = {json->text, span.at, span.end, elements, 1, 0};
    int status;
    elements->done = elements->nbytes = 0;
    if (json->text[span.at] == '{') return refuse_object(&from);
    status = json->text[span.at] == '[' ? fill_array(&from, 1) : store_scalar(&from);
    if (status) return status;
    if (elements->kind != TA_JSON_STRINGS && elements->done != elements->count) return TA_JSON_COUNT;
    return from.nested && !from.regular ? TA_JSON_SHAPE : 0;
}
