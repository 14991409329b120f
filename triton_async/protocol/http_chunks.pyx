"""Follows chunked bodies byte by byte, and takes the data out of them. No I/O, any thread."""

from libc.string cimport memcpy

from triton_async.protocol.http_bytes cimport BYTE_TOKEN, CLASSES, same

from triton_async.defines import HTTP_MAX_CHUNKS, HTTP_MAX_EXTENSION_NBYTES, HTTP_MAX_HEADERS_NBYTES

cdef int MAX_CHUNKS = HTTP_MAX_CHUNKS
cdef int MAX_EXTENSION_NBYTES = HTTP_MAX_EXTENSION_NBYTES
cdef int MAX_TRAILER_NBYTES = HTTP_MAX_HEADERS_NBYTES

# Digits of a size: far more than a body may have, far less than a number has.
cdef enum:
    MAX_DIGITS = 12

# What ChunkTracker.framing counts.
cdef enum:
    FRAMING_LENGTH = 1
    FRAMING_CODING = 2

cdef const char *LENGTH_NAME = b"content-length"
cdef const char *CODING_NAME = b"transfer-encoding"
cdef enum:
    LENGTH_NBYTES = 14
    CODING_NBYTES = 17


cdef Py_ssize_t decode_chunks(ChunkTracker *tracker, const unsigned char *data, Py_ssize_t size, char *out,
                              Py_ssize_t *written) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t count
    written[0] = 0
    while at < size and tracker.state < CHUNK_DONE:
        if tracker.state == CHUNK_DATA:
            count = <Py_ssize_t>min(<int64_t>(size - at), tracker.left)
            memcpy(out + written[0], data + at, count)
            written[0] += count
            at += count
            tracker.left -= count
            if tracker.left == 0:
                tracker.state = CHUNK_DATA_CR
        else:
            tracker.state = _next(tracker, data[at])
            at += 1
    return at


# The state behind one byte outside of chunk data.
cdef int _next(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    if tracker.state == CHUNK_SIZE:
        return _size_byte(tracker, byte)
    if tracker.state == CHUNK_SIZE_LF:
        return _chunk_begins(tracker) if byte == c'\n' else CHUNK_BAD
    if tracker.state == CHUNK_DATA_CR:
        return CHUNK_DATA_LF if byte == c'\r' else CHUNK_BAD
    if tracker.state == CHUNK_DATA_LF:
        return CHUNK_SIZE if byte == c'\n' else CHUNK_BAD
    if tracker.state <= CHUNK_UNQUOTED:
        return _extension_byte(tracker, byte)
    return _trailer_byte(tracker, byte)


cdef int _chunk_begins(ChunkTracker *tracker) noexcept nogil:
    tracker.digits = 0
    if tracker.left == 0:
        return CHUNK_TRAILER
    tracker.count += 1
    return CHUNK_DATA if tracker.count <= MAX_CHUNKS else CHUNK_MANY


cdef int _size_byte(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    if tracker.digits > 0:
        if byte == c'\r':
            return CHUNK_SIZE_LF
        if byte == c';':
            tracker.digits = 0
            return CHUNK_NAME
    if c'A' <= byte <= c'F' or c'a' <= byte <= c'f':
        byte = (byte | 0x20) - c'a' + 10
    elif c'0' <= byte <= c'9':
        byte -= c'0'
    else:
        return CHUNK_BAD
    tracker.digits += 1
    tracker.left = tracker.left * 16 + byte
    return CHUNK_SIZE if tracker.digits <= MAX_DIGITS else CHUNK_BAD


# Any byte that may stand in a quoted string or a field value.
cdef inline bint _is_text(unsigned char byte) noexcept nogil:
    return byte >= 0x20 and byte != 0x7f or byte == c'\t'


# chunk-ext of RFC 9112 7.1.1 without white space: names and values are not of interest, only where they end.
cdef int _extension_byte(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    cdef int state = tracker.state
    tracker.extra += 1
    if tracker.extra > MAX_EXTENSION_NBYTES:
        return CHUNK_BAD
    if state == CHUNK_ESCAPED:
        return CHUNK_QUOTED if _is_text(byte) else CHUNK_BAD
    if state == CHUNK_QUOTED:
        if byte == c'"':
            return CHUNK_UNQUOTED
        if byte == c'\\':
            return CHUNK_ESCAPED
        return CHUNK_QUOTED if _is_text(byte) else CHUNK_BAD
    if state != CHUNK_UNQUOTED:
        if CLASSES[byte] & BYTE_TOKEN:
            tracker.digits += 1
            return state
        if state == CHUNK_VALUE and byte == c'"' and tracker.digits == 0:
            return CHUNK_QUOTED
        if tracker.digits == 0:
            return CHUNK_BAD
    tracker.digits = 0
    if byte == c'\r':
        return CHUNK_SIZE_LF
    if byte == c'=' and state == CHUNK_NAME:
        return CHUNK_VALUE
    return CHUNK_NAME if byte == c';' else CHUNK_BAD


# trailer-section of RFC 9112 7.1.2, by the rules of header fields.
cdef int _trailer_byte(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    cdef int state = tracker.state
    if state == CHUNK_END_LF:
        return CHUNK_DONE if byte == c'\n' else CHUNK_BAD
    if state == CHUNK_FIELD_LF:
        return CHUNK_TRAILER if byte == c'\n' else CHUNK_BAD
    if state == CHUNK_TRAILER:
        if byte == c'\r':
            return CHUNK_END_LF
        tracker.digits = 0
        tracker.framing = FRAMING_LENGTH | FRAMING_CODING
    tracker.trailing += 1
    if tracker.trailing > MAX_TRAILER_NBYTES:
        return CHUNK_BAD
    if state == CHUNK_CONTENT:
        if byte == c'\r':
            return CHUNK_FIELD_LF
        return CHUNK_CONTENT if _is_text(byte) else CHUNK_BAD
    if byte == c':' and tracker.digits:
        return CHUNK_CONTENT if not _frames(tracker) else CHUNK_BAD
    if not CLASSES[byte] & BYTE_TOKEN:
        return CHUNK_BAD
    _narrow(tracker, byte)
    return CHUNK_FIELD


# Another byte of the name of a trailer.
cdef void _narrow(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    cdef int at = tracker.digits
    tracker.digits += 1
    if at >= LENGTH_NBYTES or not same(&byte, LENGTH_NAME + at, 1):
        tracker.framing &= ~FRAMING_LENGTH
    if at >= CODING_NBYTES or not same(&byte, CODING_NAME + at, 1):
        tracker.framing &= ~FRAMING_CODING


# Whether the trailer whose name is complete would frame the message.
cdef bint _frames(ChunkTracker *tracker) noexcept nogil:
    return (tracker.framing & FRAMING_LENGTH and tracker.digits == LENGTH_NBYTES) or (
        tracker.framing & FRAMING_CODING and tracker.digits == CODING_NBYTES
    )


def chunked_body(pieces):
    """For tests: (bytes taken, state, data) of a chunked body that arrives in these pieces; "more" until its end."""
    cdef ChunkTracker tracker = ChunkTracker(0, 0, 0, 0, 0, 0, 0)
    cdef const unsigned char[::1] piece
    cdef Py_ssize_t taken = 0
    cdef Py_ssize_t written
    cdef bytearray room
    cdef bytearray found = bytearray()
    for item in pieces:
        piece = item
        if piece.shape[0]:
            room = bytearray(piece.shape[0])
            taken += decode_chunks(&tracker, &piece[0], piece.shape[0], room, &written)
            found += room[:written]
    names = {CHUNK_DONE: "done", CHUNK_BAD: "bad", CHUNK_MANY: "many"}
    return taken, names.get(tracker.state, "more"), bytes(found)
