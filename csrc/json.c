#include "json.h"

#include "json_values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static inline void skip_space(ta_json *json) {
    while (json->at < json->size && is_space(json->text[json->at])) json->at++;
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
    if (whole + power > 300 && isinf(ta_json_double(json->text + start, json->at - start)))
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

/* Whether the name in text[0..size), quotes left out, is `known`. */
static int is_name(const char *text, int64_t size, const char *known) {
    char plain[6 * 16];
    int64_t length = (int64_t)strlen(known);
    if (size == length) return memcmp(text, known, (size_t)length) == 0;
    if (size > (int64_t)sizeof plain || memchr(text, '\\', (size_t)size) == NULL) return 0;
    return ta_json_unescape(text, size, plain) == length && memcmp(plain, known, (size_t)length) == 0;
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

int ta_json_bounds(const char *text, int64_t size, int64_t most, int deepest) {
    int64_t at = 0, values = 1;
    int depth = 0, inside = 0;
    while (at < size) {
        char byte = text[at++];
        if (inside) {
            if (byte == '\\') at++;
            else if (byte == '"') inside = 0;
            else at += plain_length(text + at, size - at);
        } else if (byte == '"') {
            inside = 1;
        } else if (byte == '[' || byte == '{') {
            if (++depth > deepest) return TA_JSON_DEPTH;
            if (++values > most) return TA_JSON_COUNT;
        } else if (byte == ']' || byte == '}') {
            depth--;
        } else if (byte == ',' && ++values > most) {
            return TA_JSON_COUNT;
        }
    }
    return TA_JSON_OK;
}
