"""JSON bodies of inference: checked and cut in C, so that length costs neither objects nor the GIL. Any thread."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from triton_async.memory.buffer cimport Buffer, wrap
from triton_async.protocol.json_text cimport loads

import orjson

from triton_async.defines import (
    JSON_MAX_CONTROL_VALUES, JSON_MAX_DEPTH, JSON_MAX_LEFT_NBYTES, MAX_TENSORS_PER_REQUEST, NOGIL_NBYTES,
)
from triton_async.errors import InvalidArg

cdef int64_t MOST = MAX_TENSORS_PER_REQUEST
cdef int64_t MAX_LEFT = JSON_MAX_LEFT_NBYTES
cdef int64_t MOST_VALUES = JSON_MAX_CONTROL_VALUES

# Room for the levels around a value, as json_text has it.
cdef int DEEPEST = JSON_MAX_DEPTH + 3

cdef int64_t LONG = NOGIL_NBYTES

# rapidjson's words, by ta_json_status from TA_JSON_EMPTY on.
cdef tuple REASONS = (
    "The document is empty.",
    "The document root must not be followed by other values.",
    "Invalid value.",
    "Missing a name for object member.",
    "Missing a colon after a name of object member.",
    "Missing a comma or '}' after an object member.",
    "Missing a comma or ']' after an array element.",
    "Missing a closing quotation mark in string.",
    "Invalid encoding in string.",
    "Invalid escape character in string.",
    "The surrogate pair in string is invalid.",
    "Incorrect hex digit after \\u escape in string.",
    "Miss fraction part in number.",
    "Miss exponent in number.",
    "Number too big to be stored in double.",
)


@cython.final
cdef class CutJson:
    """See json_cut.pxd."""

    def __dealloc__(self):
        ta_json_free(&self.c)

    cdef int64_t place(self, object value) noexcept:
        if type(value) is not list or len(<list>value) != 1:
            return -1
        return (<list>value)[0]

    cdef bytes text(self, int64_t place):
        cdef ta_json_span span = self.c.spans[place]
        return PyBytes_FromStringAndSize(self.c.text + span.at, span.end - span.at)

    cdef int64_t count(self, int64_t place) noexcept:
        cdef ta_json_span span = self.c.spans[place]
        cdef int64_t found
        if span.end - span.at < LONG:
            return ta_json_flat(&self.c, span)
        with nogil:
            found = ta_json_flat(&self.c, span)
        return found

    cdef int fill(self, int64_t place, ta_json_elements *elements) except -1:
        cdef ta_json_span span = self.c.spans[place]
        cdef int status
        if span.end - span.at < LONG:
            return ta_json_fill(&self.c, span, elements)
        with nogil:
            status = ta_json_fill(&self.c, span, elements)
        return status


cdef CutJson cut_json(const char *text, int64_t size, ta_json_form form, str what):
    cdef CutJson found = CutJson.__new__(CutJson)
    cdef int status
    found.c.text = text
    found.c.size = size
    found.c.most = MOST
    found.c.max_left = MAX_LEFT
    if size < LONG:
        status = ta_json_cut(&found.c, form)
    else:
        with nogil:
            status = ta_json_cut(&found.c, form)
    if status != TA_JSON_OK:
        _refuse(&found.c, status, what)
    found.document = loads(PyBytes_FromStringAndSize(found.c.left, found.c.n_left), what)
    return found


def cut_parameters(body):
    """The members of `parameters` of a JSON object as views of their JSON text in `body`; None where there is none. Any
    thread, and the GIL is not held for long. InvalidArg."""
    cdef ta_json_span span
    cdef dict members = {}
    cdef Buffer buffer = wrap(body)
    cdef CutJson found = cut_json(buffer.data, buffer.nbytes, TA_JSON_GENERATE, "")
    if found.c.counts[TA_JSON_PARAMETERS] > MOST:
        raise InvalidArg(f"request has {found.c.counts[TA_JSON_PARAMETERS]} parameters, at most {MOST} are supported")
    parameters = found.document.get("parameters") if type(found.document) is dict else None
    if parameters is None:
        return None
    if type(parameters) is not dict:
        raise InvalidArg("attempt to get members for non-object")
    for key, value in parameters.items():
        span = found.c.spans[found.place(value)]
        members[key] = memoryview(body)[span.at:span.end]
    return members


def load_control(body):
    """The document of a control call, of so few values that it takes no time, however long it is. InvalidArg."""
    cdef Buffer buffer = wrap(body)
    cdef int status = ta_json_bounds(buffer.data, buffer.nbytes, MOST_VALUES, DEEPEST)
    if status == TA_JSON_DEPTH:
        raise InvalidArg(f"JSON nesting depth exceeds maximum allowed limit ({JSON_MAX_DEPTH})")
    if status == TA_JSON_COUNT:
        raise InvalidArg(f"the request JSON has more than {MOST_VALUES} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        cut_json(buffer.data, buffer.nbytes, TA_JSON_GENERATE, "")  # which says what is wrong, and is quick
    return loads(body)


cdef int _refuse(const ta_json *json, int status, str what) except -1:
    if status == TA_JSON_NO_MEMORY:
        raise MemoryError
    if status == TA_JSON_DEPTH:
        raise InvalidArg(f"{what}JSON nesting depth exceeds maximum allowed limit ({JSON_MAX_DEPTH})")
    if status == TA_JSON_LONG:
        raise InvalidArg(f"the request JSON has more than {MAX_LEFT} bytes beside the data of its inputs")
    reason = REASONS[status - TA_JSON_NO_MEMORY - 1]
    raise InvalidArg(f"failed to parse the request JSON buffer: {reason} at {json.error_at}")
