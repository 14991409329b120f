/* JSON without objects: checks a document, cuts the values of tensors out of it, and turns these into memory.
 *
 * Two passes. `ta_json_cut` reads a whole document once, in rapidjson's order of decisions, and writes what is left of
 * it when every array of values has become `[n]`, its place in `spans`, and what nobody reads is left out: a short
 * text for an ordinary parser, however long the document is. `ta_json_fill` then turns one span into elements.
 *
 * No Python, no locale, no locks: any thread. Nothing is read at or past `size`. Recursion is bounded. */
#ifndef TRITON_ASYNC_JSON_H
#define TRITON_ASYNC_JSON_H

#include <stdint.h>

enum ta_json_status {
    TA_JSON_OK = 0,
    TA_JSON_NO_MEMORY,
    /* Of the document, at `error_at`: */
    TA_JSON_EMPTY,
    TA_JSON_ROOT,
    TA_JSON_VALUE,
    TA_JSON_NAME,
    TA_JSON_COLON,
    TA_JSON_OBJECT_END,
    TA_JSON_ARRAY_END,
    TA_JSON_QUOTE,
    TA_JSON_ENCODING,
    TA_JSON_ESCAPE,
    TA_JSON_SURROGATE,
    TA_JSON_HEX,
    TA_JSON_FRACTION,
    TA_JSON_EXPONENT,
    TA_JSON_BIG,
    TA_JSON_DEPTH,
    TA_JSON_LONG,     /* what is left has more than `max_left` bytes */
    /* Of an element, at `error_at`: */
    TA_JSON_NESTED,   /* arrays in arrays beyond TA_JSON_MAX_NESTED */
    TA_JSON_COUNT,    /* more elements than the shape has, or fewer */
    TA_JSON_SHAPE,    /* nested, and not like the shape */
    TA_JSON_NO_STRING,
    TA_JSON_NO_NUMBER,
    TA_JSON_NO_BOOL,
    TA_JSON_NO_UNSIGNED,
    TA_JSON_NO_SIGNED,
    TA_JSON_RANGE     /* a number that the element's type has not */
};

/* Levels of a document (orjson's bound), and of the arrays around elements (Triton's). */
enum { TA_JSON_MAX_DEPTH = 1024, TA_JSON_MAX_NESTED = 100 };

/* What kind of document. Of an inference request the members that the protocol knows are kept; the values of `data` are
 * cut. Of a generate request every member, and every one of its `parameters`, is a name with a value, which is cut. */
enum ta_json_form { TA_JSON_INFER, TA_JSON_GENERATE };

/* What is counted: entries beyond `most` are checked and left out. */
enum ta_json_count { TA_JSON_INPUTS, TA_JSON_OUTPUTS, TA_JSON_PARAMETERS, TA_JSON_COUNTS };

typedef struct {
    int64_t at;
    int64_t end;
} ta_json_span;

typedef struct {
    const char *text;
    int64_t size;
    int64_t at;
    int64_t error_at;
    int64_t most;      /* inputs, outputs and parameters each */
    int64_t max_left;
    int64_t counts[TA_JSON_COUNTS];
    char *left;        /* what is left of the document */
    int64_t n_left;
    int64_t left_room;
    ta_json_span *spans;
    int64_t n_spans;
    int64_t span_room;
    int lost;          /* what is written to `left` is dropped: an entry beyond `most` */
    enum ta_json_form form;
    int failed;        /* no memory, or `left` is too long */
} ta_json;

/* Whether the text has more than `most` values (TA_JSON_COUNT) or levels than `deepest` (TA_JSON_DEPTH), as its brackets
 * and commas say: it need not be well formed. Else TA_JSON_OK. */
int ta_json_bounds(const char *text, int64_t size, int64_t most, int deepest);

/* A ta_json_status. `text` and `size`, `most` and `max_left` are the caller's, all else is set here. `ta_json_free`
 * gives back what it has, whatever the outcome. */
int ta_json_cut(ta_json *json, enum ta_json_form form);
void ta_json_free(ta_json *json);

/* How the elements of a datatype are read and stored. */
enum ta_json_kind { TA_JSON_BOOLS, TA_JSON_SIGNED, TA_JSON_UNSIGNED, TA_JSON_FLOATS, TA_JSON_STRINGS };

typedef struct {
    enum ta_json_kind kind;
    int width;            /* bytes of an element; of strings 0 */
    int rank;
    const int64_t *dims;
    int64_t count;        /* elements that fit; of strings as many as there are */
    char *out;            /* strings: NULL in a first pass, which finds `nbytes` */
    int64_t done;         /* elements found */
    int64_t nbytes;       /* strings: bytes with their length prefixes */
    ta_json_span error;   /* the element that is wrong */
} ta_json_elements;

/* Elements of a span of a checked document: one that is no array is one. -1 for arrays in arrays, and for objects. */
int64_t ta_json_flat(const ta_json *json, ta_json_span span);

/* Stores the elements of a span of a checked document. A ta_json_status. */
int ta_json_fill(const ta_json *json, ta_json_span span, ta_json_elements *elements);

#endif
