# Byte classes of HTTP/1.1 (RFC 9110 5.6.2), and words compared without regard to case. Any thread, no GIL.

cdef extern from * nogil:
    """
    static const unsigned char ta_http_bytes[256] = {
        ['0' ... '9'] = 3, ['A' ... 'Z'] = 3, ['a' ... 'z'] = 3, ['-'] = 3, ['.'] = 3, ['_'] = 3,
        ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\\''] = 1, ['*'] = 1, ['+'] = 1, ['^'] = 1,
        ['`'] = 1, ['|'] = 1, ['~'] = 1,
    };
    """
    const unsigned char[256] CLASSES "ta_http_bytes"

cdef enum ByteClass:
    BYTE_TOKEN = 1      # tchar of a token
    BYTE_NAME = 2       # may stand undecoded in the model name of a plain infer request


# Whether `text` is `lower` without regard to case; `lower` has no upper-case letter. Both have `length` bytes.
cdef inline bint same(const unsigned char *text, const char *lower, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i
    cdef unsigned char byte
    for i in range(length):
        byte = text[i]
        if c'A' <= byte <= c'Z':
            byte |= 0x20
        if byte != <unsigned char>lower[i]:
            return False
    return True


# Bytes of the token at the front; 0 when there is none.
cdef inline Py_ssize_t token_length(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t at = 0
    while at < length and CLASSES[text[at]] & BYTE_TOKEN:
        at += 1
    return at
