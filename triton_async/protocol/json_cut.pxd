# JSON bodies of inference without a Python object for each value: the C reader of csrc/json.h.

from libc.stdint cimport int64_t

cdef extern from "json.h" nogil:
    enum:
        TA_JSON_OK
        TA_JSON_NO_MEMORY
        TA_JSON_DEPTH
        TA_JSON_LONG
        TA_JSON_NESTED
        TA_JSON_COUNT
        TA_JSON_SHAPE
        TA_JSON_NO_STRING
        TA_JSON_NO_NUMBER
        TA_JSON_NO_BOOL
        TA_JSON_NO_UNSIGNED
        TA_JSON_NO_SIGNED
        TA_JSON_RANGE
    enum ta_json_form:
        TA_JSON_INFER
        TA_JSON_GENERATE
    enum:
        TA_JSON_INPUTS
        TA_JSON_OUTPUTS
        TA_JSON_PARAMETERS
    enum ta_json_kind:
        TA_JSON_BOOLS
        TA_JSON_SIGNED
        TA_JSON_UNSIGNED
        TA_JSON_FLOATS
        TA_JSON_STRINGS
    ctypedef struct ta_json_span:
        int64_t at
        int64_t end
    ctypedef struct ta_json:
        const char *text
        int64_t size
        int64_t error_at
        int64_t most
        int64_t max_left
        int64_t[3] counts
        char *left
        int64_t n_left
        ta_json_span *spans
        int64_t n_spans
    ctypedef struct ta_json_elements:
        ta_json_kind kind
        int width
        int rank
        const int64_t *dims
        int64_t count
        char *out
        int64_t done
        int64_t nbytes
        ta_json_span error
    int ta_json_bounds(const char *text, int64_t size, int64_t most, int deepest) noexcept
    int ta_json_cut(ta_json *json, ta_json_form form) noexcept
    void ta_json_free(ta_json *json) noexcept
    int64_t ta_json_flat(const ta_json *json, ta_json_span span) noexcept
    int ta_json_fill(const ta_json *json, ta_json_span span, ta_json_elements *elements) noexcept

# A body that was read. Any thread; whoever holds it keeps the body alive and unchanged.
cdef class CutJson:
    cdef ta_json c
    cdef object document             # what is left: every array of values is [n], its number among the spans

    # The number that stands for the values; -1 when `value` is no such thing.
    cdef int64_t place(self, object value) noexcept
    # The text of them.
    cdef bytes text(self, int64_t place)
    # How many elements they are: one that is no array is one. -1 for arrays in arrays, and for objects.
    cdef int64_t count(self, int64_t place) noexcept
    # Stores them, or says what is wrong: a ta_json_status. Without the GIL where that is worth it.
    cdef int fill(self, int64_t place, ta_json_elements *elements) except -1

# Reads text[0..size). InvalidArg with rapidjson's texts; `what` comes before the one about depth.
cdef CutJson cut_json(const char *text, int64_t size, ta_json_form form, str what)
