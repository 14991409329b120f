#define _GNU_SOURCE
#include "json.h"

#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* -- the document ------------------------------------------------------------------------------ */

static int fail(ta_json *json, int status, int64_t at) {
    json->error_at = at;
    return status;
}

/* The byte at the cursor; 0, which no JSON text has outside of an error, at the end. */
static inline unsigned char peek(const ta_json *json) {
    return json->at < json->size ? (unsigned char)json->text[json->at] : 0;
}

static inline int take(ta_json *json, char wanted) {
    if (json->at >= json->size || json->text[json->at] != wanted) return 0;
    json->at++;
    return 1;
}

static inline int is_space(char byte) { return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r'; }

static inline void skip_space(ta_json *json) {
    while (json->at < json->size && is_space(json->text[json->at])) json->at++;
}

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

/* Bytes of the UTF-8 sequence at the front; 0 when it is none. */
static int utf8_length(const unsigned char *text, int64_t size) {
    unsigned char first = text[0];
    int length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    int i;
    if (length == 0 || length > size) return 0;
    for (i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    if ((first == 0xE0 && text[1] < 0xA0) || (first == 0xED && text[1] > 0x9F) || (first == 0xF0 && text[1] < 0x90) ||
        (first == 0xF4 && text[1] > 0x8F))
        return 0;
    return length;
}

static int hex_digit(unsigned char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static int skip_hex(ta_json *json, int64_t start, int *unit) {
    int i;
    *unit = 0;
    for (i = 0; i < 4; i++) {
        int digit = hex_digit(peek(json));
        if (digit < 0) return fail(json, TA_JSON_HEX, start);
        *unit = *unit * 16 + digit;
        json->at++;
    }
    return 0;
}

static int skip_escape(ta_json *json) {
    int64_t start = json->at++;
    int unit, status;
    if (peek(json) != 'u') {
        if (peek(json) == 0 || strchr("\"\\/bfnrt", peek(json)) == NULL) return fail(json, TA_JSON_ESCAPE, start);
        json->at++;
        return 0;
    }
    json->at++;
    if ((status = skip_hex(json, start, &unit))) return status;
    if (unit < 0xD800 || unit > 0xDFFF) return 0;
    if (unit > 0xDBFF || !(take(json, '\\') && take(json, 'u'))) return fail(json, TA_JSON_SURROGATE, start);
    if ((status = skip_hex(json, start, &unit))) return status;
    return unit < 0xDC00 || unit > 0xDFFF ? fail(json, TA_JSON_SURROGATE, start) : 0;
}

static int skip_string(ta_json *json) {
    int64_t start = json->at++;
    int64_t bad = -1; /* what is no UTF-8 is told behind what comes later in the string, as rapidjson does */
    int status, length;
    for (;;) {
        unsigned char byte;
        json->at += plain_length(json->text + json->at, json->size - json->at);
        byte = peek(json);
        if (byte == '"') {
            json->at++;
            return bad < 0 ? 0 : fail(json, TA_JSON_ENCODING, start);
        }
        if (byte == '\\') {
            if ((status = skip_escape(json))) return status;
        } else if (byte == 0) {
            return fail(json, TA_JSON_QUOTE, json->at);
        } else if (byte < 0x20) {
            return fail(json, TA_JSON_ENCODING, json->at);
        } else {
            length = utf8_length((const unsigned char *)json->text + json->at, json->size - json->at);
            if (length == 0) bad = json->at;
            json->at += length ? length : 1;
        }
    }
}

static int64_t skip_digits(ta_json *json) {
    int64_t start = json->at;
    while (json->at < json->size && json->text[json->at] >= '0' && json->text[json->at] <= '9') json->at++;
    return json->at - start;
}

static int skip_letters(ta_json *json, const char *letters) {
    for (; *letters; letters++)
        if (!take(json, *letters)) return fail(json, TA_JSON_VALUE, json->at);
    return 0;
}

static int skip_not_finite(ta_json *json) {
    if (take(json, 'N')) return skip_letters(json, "aN");
    if (take(json, 'I') && take(json, 'n') && take(json, 'f')) return peek(json) == 'i' ? skip_letters(json, "inity") : 0;
    return fail(json, TA_JSON_VALUE, json->at);
}

static double to_double(const char *text, int64_t size);

static int skip_number(ta_json *json) {
    int64_t start = json->at, whole, exponent;
    int64_t power = 0;
    take(json, '-');
    if (peek(json) == 'I' || peek(json) == 'N') return skip_not_finite(json);
    whole = take(json, '0') ? 1 : skip_digits(json);
    if (whole == 0) return fail(json, TA_JSON_VALUE, json->at);
    if (take(json, '.') && skip_digits(json) == 0) return fail(json, TA_JSON_FRACTION, json->at);
    if (take(json, 'e') || take(json, 'E')) {
        int64_t i;
        int less = !take(json, '+') && take(json, '-');
        exponent = json->at;
        if (skip_digits(json) == 0) return fail(json, TA_JSON_EXPONENT, json->at);
        for (i = exponent; i < json->at && power < 100000; i++) power = 10 * power + (json->text[i] - '0');
        if (less) power = 0;
    }
    /* Only such a number may be too large, and is worth a look. */
    if (whole + power > 300 && isinf(to_double(json->text + start, json->at - start)))
        return fail(json, TA_JSON_BIG, start);
    return 0;
}

static int skip_value(ta_json *json, int depth);

static int skip_array(ta_json *json, int depth) {
    int status;
    json->at++;
    skip_space(json);
    if (take(json, ']')) return 0;
    for (;;) {
        if ((status = skip_value(json, depth))) return status;
        skip_space(json);
        if (take(json, ',')) skip_space(json);
        else if (take(json, ']')) return 0;
        else return fail(json, TA_JSON_ARRAY_END, json->at);
    }
}

/* A name and its colon. */
static int skip_name(ta_json *json) {
    int status;
    if (peek(json) != '"') return fail(json, TA_JSON_NAME, json->at);
    if ((status = skip_string(json))) return status;
    skip_space(json);
    if (!take(json, ':')) return fail(json, TA_JSON_COLON, json->at);
    skip_space(json);
    return 0;
}

static int skip_object(ta_json *json, int depth) {
    int status;
    json->at++;
    skip_space(json);
    if (take(json, '}')) return 0;
    for (;;) {
        if ((status = skip_name(json)) || (status = skip_value(json, depth))) return status;
        skip_space(json);
        if (take(json, ',')) skip_space(json);
        else if (take(json, '}')) return 0;
        else return fail(json, TA_JSON_OBJECT_END, json->at);
    }
}

static int skip_value(ta_json *json, int depth) {
    switch (peek(json)) {
    case '"': return skip_string(json);
    case '{':
    case '[':
        if (depth >= TA_JSON_MAX_DEPTH) return fail(json, TA_JSON_DEPTH, json->at);
        return peek(json) == '{' ? skip_object(json, depth + 1) : skip_array(json, depth + 1);
    case 't': return skip_letters(json, "true");
    case 'f': return skip_letters(json, "false");
    case 'n': return skip_letters(json, "null");
    default: return skip_number(json);
    }
}

/* -- what is left of it ------------------------------------------------------------------------ */

static void put(ta_json *json, const char *data, int64_t size) {
    if (json->lost || json->failed) return;
    if (size > json->max_left - json->n_left) {
        json->failed = TA_JSON_LONG;
        return;
    }
    if (size > json->left_room - json->n_left) {
        int64_t room = 2 * (json->n_left + size) + 512;
        char *left = realloc(json->left, (size_t)room);
        if (left == NULL) {
            json->failed = TA_JSON_NO_MEMORY;
            return;
        }
        json->left = left;
        json->left_room = room;
    }
    memcpy(json->left + json->n_left, data, (size_t)size);
    json->n_left += size;
}

static void put_number(ta_json *json, int64_t number) {
    char digits[20];
    int at = 20;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    put(json, digits + at, 20 - at);
}

/* A value as it is; of an array or object only that it is one. */
static int keep_scalar(ta_json *json, int depth) {
    int64_t start = json->at;
    unsigned char first = peek(json);
    int status = skip_value(json, depth);
    if (status) return status;
    if (first == '[') put(json, "[]", 2);
    else if (first == '{') put(json, "{}", 2);
    else put(json, json->text + start, json->at - start);
    return json->failed;
}

static int cut_value(ta_json *json, int depth) {
    int64_t start = json->at;
    int status = skip_value(json, depth);
    if (status || json->lost) return status;
    if (json->n_spans == json->span_room) {
        int64_t room = 2 * json->span_room + 8;
        ta_json_span *spans = realloc(json->spans, (size_t)room * sizeof *spans);
        if (spans == NULL) return TA_JSON_NO_MEMORY;
        json->spans = spans;
        json->span_room = room;
    }
    json->spans[json->n_spans].at = start;
    json->spans[json->n_spans].end = json->at;
    put(json, "[", 1);
    put_number(json, json->n_spans++);
    put(json, "]", 1);
    return json->failed;
}

/* Where a value stands, which says what becomes of it. */
enum place { NOWHERE, DOCUMENT, SCALAR, SHAPE, VALUES, LIST, INPUTS, INPUT, OUTPUTS, OUTPUT, PARAMETERS, OPTIONS, NAMED };

static int64_t unescape(const char *text, int64_t size, char *out);

/* Whether the name in text[0..size), quotes left out, is `known`. */
static int is_name(const char *text, int64_t size, const char *known) {
    char plain[6 * 16];
    int64_t length = (int64_t)strlen(known);
    if (size == length) return memcmp(text, known, (size_t)length) == 0;
    if (size > (int64_t)sizeof plain || memchr(text, '\\', (size_t)size) == NULL) return 0;
    return unescape(text, size, plain) == length && memcmp(plain, known, (size_t)length) == 0;
}

static enum place place_of(enum place holder, const char *name, int64_t size) {
    switch (holder) {
    case DOCUMENT:
        if (is_name(name, size, "inputs")) return INPUTS;
        if (is_name(name, size, "outputs")) return OUTPUTS;
        if (is_name(name, size, "id")) return SCALAR;
        return is_name(name, size, "parameters") ? PARAMETERS : NOWHERE;
    case INPUT:
        if (is_name(name, size, "data")) return VALUES;
        if (is_name(name, size, "shape")) return SHAPE;
        if (is_name(name, size, "datatype")) return SCALAR;
        /* fall through */
    case OUTPUT:
        if (is_name(name, size, "name")) return SCALAR;
        return is_name(name, size, "parameters") ? OPTIONS : NOWHERE;
    default: return SCALAR;
    }
}

static int keep(ta_json *json, enum place place, int depth);

/* Counts an entry of `what`; those beyond the bound are lost until `lost` is put back. */
static void count(ta_json *json, enum ta_json_count what) {
    if (++json->counts[what] > json->most) json->lost = 1;
}

static int keep_object(ta_json *json, enum place place, int depth) {
    int64_t name, name_end;
    int was_lost = json->lost, first = 1, status;
    put(json, "{", 1);
    json->at++;
    skip_space(json);
    if (take(json, '}')) {
        put(json, "}", 1);
        return json->failed;
    }
    for (;;) {
        enum place member;
        name = json->at;
        if ((status = skip_name(json))) return status;
        name_end = json->at - 1; /* back to the quote */
        while (json->text[name_end] != '"') name_end--;
        if (place == NAMED)
            member = depth == 1 && peek(json) == '{' && is_name(json->text + name + 1, name_end - name - 1, "parameters")
                         ? NAMED
                         : VALUES;
        else
            member = place_of(place, json->text + name + 1, name_end - name - 1);
        if (place == PARAMETERS || (place == NAMED && member == VALUES)) count(json, TA_JSON_PARAMETERS);
        if (member == NOWHERE) {
            if ((status = skip_value(json, depth))) return status;
        } else {
            if (!first) put(json, ",", 1);
            first = first && json->lost;
            put(json, json->text + name, name_end + 1 - name);
            put(json, ":", 1);
            if ((status = keep(json, member, depth))) return status;
        }
        json->lost = was_lost;
        skip_space(json);
        if (take(json, ',')) skip_space(json);
        else if (take(json, '}')) break;
        else return fail(json, TA_JSON_OBJECT_END, json->at);
    }
    put(json, "}", 1);
    return json->failed;
}

static int keep_array(ta_json *json, enum place element, enum ta_json_count what, int depth) {
    int was_lost = json->lost, first = 1, status;
    put(json, "[", 1);
    json->at++;
    skip_space(json);
    if (take(json, ']')) {
        put(json, "]", 1);
        return json->failed;
    }
    for (;;) {
        if (what != TA_JSON_COUNTS) count(json, what);
        if (!first) put(json, ",", 1);
        first = 0;
        if ((status = keep(json, element, depth))) return status;
        json->lost = was_lost;
        skip_space(json);
        if (take(json, ',')) skip_space(json);
        else if (take(json, ']')) break;
        else return fail(json, TA_JSON_ARRAY_END, json->at);
    }
    put(json, "]", 1);
    return json->failed;
}

static int keep(ta_json *json, enum place place, int depth) {
    unsigned char first = peek(json);
    if (place == VALUES && (json->form == TA_JSON_GENERATE || first == '[')) return cut_value(json, depth);
    if (first == '[' && place == INPUTS) return keep_array(json, INPUT, TA_JSON_INPUTS, depth + 1);
    if (first == '[' && place == OUTPUTS) return keep_array(json, OUTPUT, TA_JSON_OUTPUTS, depth + 1);
    if (first == '[' && place == SHAPE) return keep_array(json, SCALAR, TA_JSON_COUNTS, depth + 1);
    if (first == '{' && place != SCALAR && place != SHAPE && place != INPUTS && place != OUTPUTS && place != VALUES)
        return keep_object(json, place, depth + 1);
    return keep_scalar(json, depth);
}

int ta_json_cut(ta_json *json, enum ta_json_form form) {
    int status;
    json->at = json->error_at = json->n_left = json->left_room = json->n_spans = json->span_room = 0;
    json->left = NULL;
    json->spans = NULL;
    json->lost = json->failed = 0;
    json->form = form;
    memset(json->counts, 0, sizeof json->counts);
    if (json->size >= 3 && memcmp(json->text, "\xef\xbb\xbf", 3) == 0) json->at = 3;
    skip_space(json);
    if (json->at >= json->size) return fail(json, TA_JSON_EMPTY, json->at);
    status = keep(json, form == TA_JSON_INFER ? DOCUMENT : NAMED, 0);
    if (status) return status;
    skip_space(json);
    return json->at < json->size ? fail(json, TA_JSON_ROOT, json->at) : 0;
}

void ta_json_free(ta_json *json) {
    free(json->left);
    free(json->spans);
    json->left = NULL;
    json->spans = NULL;
}

/* -- numbers ----------------------------------------------------------------------------------- */

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* The slow and always right way. The number is a checked one, which may end where the text does. */
static double to_double(const char *text, int64_t size) {
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
    found.real = to_double(text, size);
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

/* The checked string text[0..size), quotes left out, as UTF-8; never more bytes than it has. How many. */
static int64_t unescape(const char *text, int64_t size, char *out) {
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
        length = unescape(text, size, to->out + to->nbytes + 4);
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
