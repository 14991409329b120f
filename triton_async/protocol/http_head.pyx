"""The strict, plain subset of HTTP/1.1 heads (RFC 9112) that the express lane may act upon. No I/O, any thread."""

from libc.string cimport memchr, memcmp

# Fields of one head. Far fewer than the full parser takes; clients of an inference server send about six.
cdef int MAX_FIELDS = 64

# Bytes of chunk extensions in one body; nobody reads them.
cdef int MAX_EXTENSION_NBYTES = 16384


# Byte classes: 1 = tchar of a token (RFC 9110 5.6.2), 2 = may stand in a model name.
cdef unsigned char[256] CLASSES


cdef void _fill_classes() noexcept:
    cdef int i
    for i in range(256):
        CLASSES[i] = 0
    for i in range(c'0', c'9' + 1):
        CLASSES[i] = 3
    for i in range(c'a', c'z' + 1):
        CLASSES[i] = 3
        CLASSES[i - 32] = 3
    for i in b"!#$%&'*+^`|~":
        CLASSES[i] = 1
    for i in b"-._":
        CLASSES[i] = 3


_fill_classes()


# What the header fields said.
cdef struct Fields:
    bint plain            # nothing that only the full parser may answer
    bint certain          # framing is beyond doubt
    int hosts
    bint chunked
    int refusal           # HTTP status; 0: none
    int64_t length        # -1: no Content-Length
    int64_t header_length


cdef Py_ssize_t find_head_end(const unsigned char *data, Py_ssize_t size, Py_ssize_t *seen) noexcept nogil:
    cdef Py_ssize_t at = seen[0]
    cdef unsigned char byte
    while at < size:
        byte = data[at]
        if byte >= 0x20:
            if byte == 0x7f:
                return -1
            at += 1
            continue
        if byte == c'\t':
            at += 1
            continue
        if byte != c'\r':
            return -1
        if at + 1 == size:
            break
        if at == 0 or data[at + 1] != c'\n':
            return -1
        if data[at - 1] == c'\n':
            seen[0] = at + 2
            return at + 2
        at += 2
    seen[0] = at
    return 0


cdef int parse_head(const unsigned char *data, Py_ssize_t size, Head *head) noexcept nogil:
    cdef Fields fields
    cdef bint infer
    cdef bint old
    cdef Py_ssize_t at
    head.version = -1
    at = _infer_line(data, size, head)
    infer = at > 0
    if not infer:
        at = _request_line(data, size)
        if at < 0:
            head.status = <int>-at
            return HEAD_REFUSED
        if at == 0:
            return HEAD_OTHER
    old = data[at - 3] == c'0'
    if _fields(data, size, at, &fields) < 0:
        return HEAD_OTHER
    if fields.refusal or (old and fields.chunked):
        # HTTP/1.0 knows no chunks (RFC 9112 6.1): somebody in between may take the body for the next request.
        head.status = fields.refusal if fields.refusal else 400
        return HEAD_REFUSED
    if old or not fields.certain:
        return HEAD_OTHER
    if fields.chunked:
        return HEAD_CHUNKED if fields.length < 0 else HEAD_OTHER
    head.content_length = fields.length if fields.length >= 0 else 0
    head.header_length = fields.header_length
    if infer and fields.plain and fields.hosts == 1 and fields.length > 0:
        return HEAD_INFER
    return HEAD_LENGTH


# POST /v2/models/{name}[/versions/{digits}]/infer HTTP/1.1. Offset behind the line, 0 for any other line.
cdef Py_ssize_t _infer_line(const unsigned char *data, Py_ssize_t size, Head *head) noexcept nogil:
    cdef Py_ssize_t at = 16
    cdef Py_ssize_t digits = 0
    if size < 40 or memcmp(data, b"POST /v2/models/", 16) != 0:
        return 0
    while at < size and CLASSES[data[at]] & 2:
        at += 1
    head.name_at = 16
    head.name_length = at - 16
    if head.name_length == 0:
        return 0
    if size - at > 10 and memcmp(data + at, b"/versions/", 10) == 0:
        at += 10
        head.version = 0
        while at < size and c'0' <= data[at] <= c'9':
            if digits == 18:
                return 0
            head.version = head.version * 10 + (data[at] - c'0')
            digits += 1
            at += 1
        if digits == 0:
            return 0
    if size - at < 17 or memcmp(data + at, b"/infer HTTP/1.1\r\n", 17) != 0:
        return 0
    return at + 17


# Any other `METHOD /target HTTP/1.1`, or 1.0. Offset behind the line, 0 when it is not of that form, -status to
# refuse it.
cdef Py_ssize_t _request_line(const unsigned char *data, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = 0
    while at < size and c'A' <= data[at] <= c'Z':
        at += 1
    if at == 0 or at > 16:
        return 0
    if at == 7 and memcmp(data, b"CONNECT", 7) == 0:
        return -405
    if size - at > 1 and data[at] == c' ' and data[at + 1] == c' ':
        return -400
    if size - at < 2 or data[at] != c' ' or data[at + 1] != c'/':
        return 0
    at += 1
    while at < size and 0x21 <= data[at] <= 0x7e:
        at += 1
    # Nor is there an HTTP/0.9 here, whose requests have no version.
    if size - at > 1 and ((data[at] == c' ' and data[at + 1] == c' ') or data[at] == c'\r'):
        return -400
    if size - at < 11 or memcmp(data + at, b" HTTP/", 6) != 0 or memcmp(data + at + 9, b"\r\n", 2) != 0:
        return 0
    if not (c'0' <= data[at + 6] <= c'9' and data[at + 7] == c'.' and c'0' <= data[at + 8] <= c'9'):
        return 0
    return at + 11 if data[at + 6] == c'1' and data[at + 8] <= c'1' else -505


# Reads the lines from `at` to the empty one. -1 when a line has not the form `token: value`.
cdef int _fields(const unsigned char *data, Py_ssize_t size, Py_ssize_t at, Fields *fields) noexcept nogil:
    cdef const unsigned char *found
    cdef Py_ssize_t name_end, value, end
    cdef int count = 0
    fields.plain = True
    fields.certain = True
    fields.refusal = 0
    fields.hosts = 0
    fields.chunked = False
    fields.length = -1
    fields.header_length = -1
    while at < size and data[at] != c'\r':
        name_end = at
        while name_end < size and CLASSES[data[name_end]] & 1:
            name_end += 1
        if name_end == at or name_end >= size or data[name_end] != c':':
            return -1
        found = <const unsigned char *>memchr(data + name_end, c'\r', size - name_end)
        if found == NULL:
            return -1
        end = found - data
        value = name_end + 1
        _field(data + at, name_end - at, data + value, end - value, fields)
        at = end + 2
        count += 1
    if count > MAX_FIELDS:
        fields.plain = False
    return 0


cdef void _field(const unsigned char *name, Py_ssize_t name_length, const unsigned char *value, Py_ssize_t length,
                 Fields *fields) noexcept nogil:
    cdef int64_t number
    # Optional white space around the value is not part of it.
    while length > 0 and (value[0] == c' ' or value[0] == c'\t'):
        value += 1
        length -= 1
    while length > 0 and (value[length - 1] == c' ' or value[length - 1] == c'\t'):
        length -= 1
    if name_length == 4 and _same(name, b"host", 4):
        fields.hosts += 1
        if fields.hosts > 1 or not _host(value, length):
            fields.refusal = 400
    elif name_length == 6 and _same(name, b"expect", 6):
        fields.plain = False
    elif name_length == 7 and (_same(name, b"upgrade", 7) or _same(name, b"trailer", 7)):
        fields.certain = False
    elif name_length == 10 and _same(name, b"connection", 10):
        _connection(value, length, fields)
    elif name_length == 14 and _same(name, b"content-length", 14):
        number = _decimal(value, length)
        if number < 0 or fields.length >= 0:
            fields.certain = False
        if length > 1 and value[0] == c'0':
            fields.refusal = 400
        fields.length = number
    elif name_length == 15 and _same(name, b"accept-encoding", 15):
        if not (length == 8 and _same(value, b"identity", 8)):
            fields.plain = False
    elif name_length == 16 and _same(name, b"content-encoding", 16):
        fields.plain = False
    elif name_length == 17 and _same(name, b"transfer-encoding", 17):
        if fields.chunked:
            fields.certain = False
        if not (length == 7 and _same(value, b"chunked", 7)):
            # Another coding in front is one that nobody here can undo; all else is not a list of codings.
            fields.refusal = 501 if length and CLASSES[value[0]] & 1 and not _begins_chunked(value, length) else 400
        fields.chunked = True
    elif name_length == 31 and _same(name, b"inference-header-content-length", 31):
        number = _decimal(value, length)
        if number < 0 or fields.header_length >= 0:
            fields.plain = False
        fields.header_length = number


cdef void _connection(const unsigned char *value, Py_ssize_t length, Fields *fields) noexcept nogil:
    if length == 10 and _same(value, b"keep-alive", 10):
        return
    fields.plain = False
    if not (length == 5 and _same(value, b"close", 5)):
        fields.certain = False


# Whether `text` is `lower` without regard to case; `lower` has no upper-case letter.
cdef inline bint _same(const unsigned char *text, const char *lower, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i
    cdef unsigned char byte
    for i in range(length):
        byte = text[i]
        if c'A' <= byte <= c'Z':
            byte |= 0x20
        if byte != <unsigned char>lower[i]:
            return False
    return True


# Only digits, no sign, no leading zero, at most 18 of them; -1 otherwise.
cdef int64_t _decimal(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    cdef int64_t number = 0
    cdef Py_ssize_t i
    if length < 1 or length > 18 or (text[0] == c'0' and length > 1):
        return -1
    for i in range(length):
        if not c'0' <= text[i] <= c'9':
            return -1
        number = number * 10 + (text[i] - c'0')
    return number


# `chunked` as the first coding of several, or with parameters.
cdef bint _begins_chunked(const unsigned char *value, Py_ssize_t length) noexcept nogil:
    return length > 7 and _same(value, b"chunked", 7) and not CLASSES[value[7]] & 1


# A name or an address with an optional port: no list, path or user information.
cdef bint _host(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i
    if length == 0:
        return False
    for i in range(length):
        if text[i] <= 0x20 or text[i] == c',' or text[i] == c'/' or text[i] == c'@' or text[i] == c'\\':
            return False
    return True


cdef Py_ssize_t follow_chunks(ChunkTracker *tracker, const unsigned char *data, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = 0
    while at < size and tracker.state < CHUNK_DONE:
        if tracker.state == CHUNK_DATA:
            if size - at < tracker.left:
                tracker.left -= size - at
                return size
            at += <Py_ssize_t>tracker.left
            tracker.left = 0
            tracker.state = CHUNK_DATA_CR
        else:
            tracker.state = _chunk_byte(tracker, data[at])
            at += 1
    return at


# The state behind one byte outside of chunk data.
cdef int _chunk_byte(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    if tracker.state == CHUNK_SIZE:
        return _size_byte(tracker, byte)
    if tracker.state == CHUNK_SIZE_LF:
        tracker.digits = 0
        if byte != c'\n':
            return CHUNK_BAD
        return CHUNK_DATA if tracker.left else CHUNK_END_CR
    if tracker.state == CHUNK_DATA_CR:
        return CHUNK_DATA_LF if byte == c'\r' else CHUNK_BAD
    if tracker.state == CHUNK_DATA_LF:
        return CHUNK_SIZE if byte == c'\n' else CHUNK_BAD
    if tracker.state >= CHUNK_NAME:
        return _extension_byte(tracker, byte)
    if tracker.state == CHUNK_END_CR:
        if byte == c'\r':
            return CHUNK_END_LF
        return CHUNK_LOST if CLASSES[byte] & 1 else CHUNK_BAD
    return CHUNK_DONE if byte == c'\n' else CHUNK_BAD


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
    return CHUNK_SIZE if tracker.digits <= 12 else CHUNK_BAD


# chunk-ext of RFC 9112 7.1.1 without white space: names and values are not of interest, only where they end.
cdef int _extension_byte(ChunkTracker *tracker, unsigned char byte) noexcept nogil:
    cdef int state = tracker.state
    tracker.extra += 1
    if tracker.extra > MAX_EXTENSION_NBYTES:
        return CHUNK_BAD
    if state == CHUNK_QUOTED:
        if byte == c'"':
            return CHUNK_UNQUOTED
        if byte == c'\\':
            return CHUNK_LOST
        return CHUNK_QUOTED if byte >= 0x20 and byte != 0x7f or byte == c'\t' else CHUNK_BAD
    if state != CHUNK_UNQUOTED:
        if CLASSES[byte] & 1:
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


def classify(const unsigned char[::1] data):
    """For tests: (kind name, end of head, fields) of the head at the front of `data`; kind "more" while incomplete."""
    cdef Head head
    cdef Py_ssize_t seen = 0
    cdef Py_ssize_t end = find_head_end(&data[0], data.shape[0], &seen) if data.shape[0] else 0
    if end <= 0:
        return ("other" if end < 0 else "more"), 0, {}
    kind = parse_head(&data[0], end, &head)
    fields = {}
    if kind <= HEAD_LENGTH:
        fields["content_length"] = head.content_length
    if kind == HEAD_INFER:
        fields["model"] = bytes(data[head.name_at:head.name_at + head.name_length])
        fields["version"] = head.version
        fields["header_length"] = head.header_length
    if kind == HEAD_REFUSED:
        fields["status"] = head.status
    return ("infer", "length", "chunked", "other", "refused")[kind], end, fields


def head_end(pieces):
    """For tests: what find_head_end says of a head that arrives in these pieces."""
    cdef const unsigned char[::1] data
    cdef Py_ssize_t seen = 0
    cdef Py_ssize_t end = 0
    held = b""
    for piece in pieces:
        held += piece
        if end == 0 and held:
            data = held
            end = find_head_end(&data[0], data.shape[0], &seen)
    return end


def chunks_end(pieces):
    """For tests: (bytes taken, state) after a chunked body that arrives in these pieces."""
    cdef ChunkTracker tracker = ChunkTracker(0, 0, 0, 0)
    cdef const unsigned char[::1] piece
    cdef Py_ssize_t taken = 0
    for item in pieces:
        piece = item
        if piece.shape[0]:
            taken += follow_chunks(&tracker, &piece[0], piece.shape[0])
    if tracker.state == CHUNK_DONE:
        return taken, "done"
    return taken, {CHUNK_LOST: "lost", CHUNK_BAD: "bad"}.get(tracker.state, "more")
