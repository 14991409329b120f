"""JSON text in and out. orjson does the work; what it refuses is read again by a reader of our own.

That second reader takes what Triton takes beside plain JSON (NaN, Inf, Infinity, a byte order mark) and, for text
that Triton refuses too, names rapidjson's reason and offset. It is bounded in depth and never runs for good JSON.
"""

cimport cython
from cpython.conversion cimport PyOS_string_to_double
from libc.math cimport isinf

import re

import orjson

from triton_async.defines import ERROR_MAX_LENGTH, ERROR_NAME_LENGTH, JSON_MAX_DEPTH
from triton_async.errors import InvalidArg

# Room for the levels around a tensor's `data`: document, `inputs`, one input.
cdef int DEEPEST = JSON_MAX_DEPTH + 3

# Characters of an error's text, and of a word in it, that clients see.
cdef Py_ssize_t LONGEST = ERROR_MAX_LENGTH
cdef Py_ssize_t NAME_LENGTH = ERROR_NAME_LENGTH
NAME = re.compile(rf"\S{{{ERROR_NAME_LENGTH + 5},}}")

cdef object INFINITY = float("inf")
cdef object NAN = float("nan")


cpdef object loads(object source, str what=""):
    try:
        return orjson.loads(source)
    except orjson.JSONDecodeError:
        pass
    return Reader(bytes(source), what).document()


cpdef bytes dumps(object value):
    return orjson.dumps(value)


# A name that a client has sent comes back in part: enough to find it again, and no more than that.
cdef str _cut(str message):
    if len(message) > LONGEST:
        message = f"{message[:LONGEST // 2]}...{message[-LONGEST // 4:]}"
    return NAME.sub(lambda found: f"{found[0][:NAME_LENGTH]}...{found[0][len(found[0]) - 1]}", message)


cpdef bytes error_body(str message):
    if len(message) > NAME_LENGTH:
        message = _cut(message)
    try:
        text = orjson.dumps(message)
    except orjson.JSONEncodeError:
        text = orjson.dumps(message.encode("utf-8", "replace").decode())
    return b'{"error":' + text + b"}"


@cython.final
cdef class Reader:
    """One pass over a document, in rapidjson's order of decisions, so that errors have its text and offset."""

    cdef bytes text
    cdef str what
    cdef const unsigned char *data
    cdef Py_ssize_t size
    cdef Py_ssize_t at
    cdef int depth

    def __init__(self, bytes text, str what):
        self.text = text
        self.what = what
        self.data = text
        self.size = len(text)
        if text.startswith(b"\xef\xbb\xbf"):
            self.at = 3

    # The byte at the cursor; 0, which no JSON text has outside of an error, at the end.
    cdef unsigned char peek(self) noexcept:
        return self.data[self.at] if self.at < self.size else 0

    cdef bint take(self, unsigned char wanted) noexcept:
        if self.at < self.size and self.data[self.at] == wanted:
            self.at += 1
            return True
        return False

    cdef void skip_space(self) noexcept:
        while self.at < self.size and self.data[self.at] in (0x20, 0x09, 0x0A, 0x0D):
            self.at += 1

    cdef object fail(self, str reason, Py_ssize_t at):
        raise InvalidArg(f"failed to parse the request JSON buffer: {reason} at {at}")

    def document(self):
        self.skip_space()
        if self.at == self.size:
            self.fail("The document is empty.", self.at)
        value = self.value()
        self.skip_space()
        if self.at < self.size:
            self.fail("The document root must not be followed by other values.", self.at)
        return value

    cdef object value(self):
        cdef unsigned char first = self.peek()
        if first == 0x22:
            return self.string()
        if first == 0x7B or first == 0x5B:
            if self.depth >= DEEPEST:
                raise InvalidArg(
                    f"{self.what}JSON nesting depth exceeds maximum allowed limit ({JSON_MAX_DEPTH})"
                )
            self.depth += 1
            found = self.object() if first == 0x7B else self.array()
            self.depth -= 1
            return found
        if first == 0x74:
            return self.word(b"true", True)
        if first == 0x66:
            return self.word(b"false", False)
        if first == 0x6E:
            return self.word(b"null", None)
        return self.number()

    cdef object word(self, bytes letters, object value):
        cdef unsigned char letter
        for letter in letters:
            if not self.take(letter):
                self.fail("Invalid value.", self.at)
        return value

    cdef dict object(self):
        cdef dict found = {}
        self.at += 1
        self.skip_space()
        if self.take(0x7D):
            return found
        while True:
            if self.peek() != 0x22:
                self.fail("Missing a name for object member.", self.at)
            key = self.string()
            self.skip_space()
            if not self.take(0x3A):
                self.fail("Missing a colon after a name of object member.", self.at)
            self.skip_space()
            found[key] = self.value()
            self.skip_space()
            if self.take(0x2C):
                self.skip_space()
            elif self.take(0x7D):
                return found
            else:
                self.fail("Missing a comma or '}' after an object member.", self.at)

    cdef list array(self):
        cdef list found = []
        self.at += 1
        self.skip_space()
        if self.take(0x5D):
            return found
        while True:
            found.append(self.value())
            self.skip_space()
            if self.take(0x2C):
                self.skip_space()
            elif self.take(0x5D):
                return found
            else:
                self.fail("Missing a comma or ']' after an array element.", self.at)

    cdef object string(self):
        cdef Py_ssize_t start = self.at
        cdef bint plain = True
        cdef unsigned char byte
        self.at += 1
        while True:
            byte = self.peek()
            if byte == 0x22:
                self.at += 1
                break
            if byte == 0x5C:
                plain = False
                self.escape()
            elif byte < 0x20:
                if byte == 0:
                    self.fail("Missing a closing quotation mark in string.", self.at)
                self.fail("Invalid encoding in string.", self.at)
            else:
                self.at += 1
        try:
            if plain:
                return self.text[start + 1:self.at - 1].decode()
            return orjson.loads(self.text[start:self.at])
        except (UnicodeDecodeError, orjson.JSONDecodeError):
            return self.fail("Invalid encoding in string.", start)

    cdef int escape(self) except -1:
        cdef Py_ssize_t start = self.at
        cdef int unit
        self.at += 1
        if self.peek() != 0x75:
            if self.peek() == 0 or self.peek() not in b'"\\/bfnrt':
                self.fail("Invalid escape character in string.", start)
            self.at += 1
            return 0
        self.at += 1
        unit = self.hex4(start)
        if 0xD800 <= unit <= 0xDFFF:
            if unit > 0xDBFF or not (self.take(0x5C) and self.take(0x75)):
                self.fail("The surrogate pair in string is invalid.", start)
            if not 0xDC00 <= self.hex4(start) <= 0xDFFF:
                self.fail("The surrogate pair in string is invalid.", start)
        return 0

    cdef int hex4(self, Py_ssize_t start) except -1:
        cdef int unit = 0
        cdef int digit = 0
        cdef unsigned char byte
        for _ in range(4):
            byte = self.peek()
            if 0x30 <= byte <= 0x39:
                digit = byte - 0x30
            elif 0x41 <= byte <= 0x46 or 0x61 <= byte <= 0x66:
                digit = (byte | 0x20) - 0x57
            else:
                self.fail("Incorrect hex digit after \\u escape in string.", start)
            unit = unit * 16 + digit
            self.at += 1
        return unit

    cdef Py_ssize_t digits(self) noexcept:
        cdef Py_ssize_t start = self.at
        while self.at < self.size and 0x30 <= self.data[self.at] <= 0x39:
            self.at += 1
        return self.at - start

    cdef object number(self):
        cdef Py_ssize_t start = self.at
        cdef bint negative = self.take(0x2D)
        cdef bint whole = True
        cdef char *end = NULL
        cdef double real
        cdef object value
        if self.peek() in (0x49, 0x4E):
            return self.not_finite(negative)
        if not self.take(0x30) and not self.digits():
            self.fail("Invalid value.", self.at)
        if self.take(0x2E):
            whole = False
            if not self.digits():
                self.fail("Miss fraction part in number.", self.at)
        if self.take(0x65) or self.take(0x45):
            whole = False
            if not self.take(0x2B):
                self.take(0x2D)
            if not self.digits():
                self.fail("Miss exponent in number.", self.at)
        # 2^64 has 20 digits; a longer run is never handed to int(), whose cost grows with its square.
        if whole and self.at - start <= 20:
            value = int(self.text[start:self.at])
            if -0x8000000000000000 <= value <= 0xFFFFFFFFFFFFFFFF:
                return value
        # The digits have been checked and `bytes` end with a zero, so this stops where the number does.
        real = PyOS_string_to_double(<const char *>self.data + start, &end, NULL)
        if isinf(real):
            self.fail("Number too big to be stored in double.", start)
        return real

    cdef object not_finite(self, bint negative):
        if self.take(0x4E):
            if self.take(0x61) and self.take(0x4E):
                return NAN
        elif self.take(0x49) and self.take(0x6E) and self.take(0x66):
            if self.take(0x69):
                for letter in b"nity":
                    if not self.take(letter):
                        self.fail("Invalid value.", self.at)
            return -INFINITY if negative else INFINITY
        return self.fail("Invalid value.", self.at)
