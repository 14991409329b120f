"""Content codings of answers (RFC 9110 8.4.1): the choice between gzip, deflate and none. Any thread."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport log2
from libc.stdint cimport int64_t
from libc.string cimport memset

from triton_async.protocol.http_bytes cimport same, token_length

from triton_async.defines import HTTP_COMPRESS_MAX_ENTROPY, HTTP_COMPRESS_MIN_NBYTES

cdef int64_t MIN_NBYTES = HTTP_COMPRESS_MIN_NBYTES
cdef double MAX_ENTROPY = HTTP_COMPRESS_MAX_ENTROPY

# What they are called, by Coding.
NAMES = ("", "gzip", "deflate")

# The sample of a body: so many pieces of so many bytes.
cdef enum:
    PIECES = 4
    PIECE_NBYTES = 256

# Weights in thousandths (RFC 9110 12.4.2 has three decimals).
cdef enum:
    WEIGHT_ONE = 1000
    WEIGHT_BAD = -1


cdef int accepted_coding(const unsigned char *value, Py_ssize_t length) noexcept nogil:
    cdef int[3] weights
    cdef int other = WEIGHT_BAD
    cdef int best = CODING_IDENTITY
    cdef int best_weight = 0
    cdef int coding, weight
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t end, name_length
    weights[0] = weights[1] = weights[2] = WEIGHT_BAD
    while at < length:
        end = at
        while end < length and value[end] != c',':
            end += 1
        at += _blanks(value + at, end - at)
        name_length = token_length(value + at, end - at)
        weight = _weight(value + at + name_length, end - at - name_length)
        coding = _coding(value + at, name_length)
        if coding >= 0 and weight > best_weight:
            best, best_weight = coding, weight
        if coding >= 0 and weights[coding] == WEIGHT_BAD:
            weights[coding] = weight
        elif name_length == 1 and value[at] == c'*' and other == WEIGHT_BAD:
            other = weight
        at = end + 1
    if best and (weights[0] == 0 or (weights[0] == WEIGHT_BAD and other == 0)):
        return best | CODING_REQUIRED
    return best


cdef int _coding(const unsigned char *name, Py_ssize_t length) noexcept nogil:
    if length == 4 and same(name, b"gzip", 4):
        return CODING_GZIP
    if length == 7 and same(name, b"deflate", 7):
        return CODING_DEFLATE
    return CODING_IDENTITY if length == 8 and same(name, b"identity", 8) else -1


# Of what stands behind the name of a coding: nothing, or `;q=` and a number from 0 to 1.
cdef int _weight(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t at = _blanks(text, length)
    cdef int weight = WEIGHT_ONE
    cdef int scale = WEIGHT_ONE
    if at == length:
        return WEIGHT_ONE
    if text[at] != c';':
        return WEIGHT_BAD
    at += 1
    at += _blanks(text + at, length - at)
    if length - at < 3 or not same(text + at, b"q=", 2):
        return WEIGHT_BAD
    at += 2
    if not c'0' <= text[at] <= c'1':
        return WEIGHT_BAD
    weight = (text[at] - c'0') * WEIGHT_ONE
    at += 1
    if at < length and text[at] == c'.':
        at += 1
        while at < length and c'0' <= text[at] <= c'9':
            scale //= 10
            weight += (text[at] - c'0') * scale
            at += 1
    if at + _blanks(text + at, length - at) != length:
        return WEIGHT_BAD
    return min(weight, WEIGHT_ONE)


cdef Py_ssize_t _blanks(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t at = 0
    while at < length and (text[at] == c' ' or text[at] == c'\t'):
        at += 1
    return at


cdef bint may_code(int coding, int64_t nbytes) noexcept nogil:
    return coding & CODING_REQUIRED or (coding and nbytes >= MIN_NBYTES)


cdef bint worth_coding(int coding, list parts) except -1:
    cdef Py_buffer view
    cdef bint worth
    if coding & CODING_REQUIRED:
        return True
    PyObject_GetBuffer(max(parts, key=len), &view, PyBUF_SIMPLE)
    worth = _entropy(<const unsigned char *>view.buf, view.len) <= MAX_ENTROPY
    PyBuffer_Release(&view)
    return worth


# Bits per byte of a sample, by how often each byte stands in it.
cdef double _entropy(const unsigned char *data, Py_ssize_t size) noexcept nogil:
    cdef int[256] counts
    cdef const unsigned char *piece
    cdef Py_ssize_t length = min(size // PIECES, <Py_ssize_t>PIECE_NBYTES)
    cdef Py_ssize_t i, j
    cdef double bits = 0
    memset(&counts[0], 0, sizeof(counts))
    for i in range(PIECES):
        piece = data + (size - length) // (PIECES - 1) * i
        for j in range(length):
            counts[piece[j]] += 1
    for i in range(256):
        if counts[i]:
            bits -= counts[i] * log2(<double>counts[i] / (PIECES * length))
    return bits / (PIECES * length) if length else 0


def response_coding(str accept):
    """(name of the coding, whether it is required) for an Accept-Encoding value; the name is "" for none."""
    cdef bytes value = accept.encode("utf-8", "surrogateescape")
    cdef int coding = accepted_coding(value, len(value))
    return NAMES[coding & ~CODING_REQUIRED], bool(coding & CODING_REQUIRED)


def worth(bint required, parts):
    """Whether a body of these parts is compressed for a client that takes it so."""
    cdef int coding = CODING_REQUIRED if required else CODING_GZIP
    return may_code(coding, sum(map(len, parts))) and worth_coding(coding, list(parts))
