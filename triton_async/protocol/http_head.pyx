"""Request heads of HTTP/1.1 (RFC 9112): where they end, what they ask for, and why some are refused. No I/O."""

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

from triton_async.protocol.http_bytes cimport BYTE_NAME, CLASSES, same, token_length
from triton_async.protocol.http_coding cimport accepted_coding

from triton_async.defines import HTTP_MAX_FIELDS, HTTP_MAX_HEADERS_NBYTES, HTTP_MAX_LINE_NBYTES

cdef int MAX_FIELDS = HTTP_MAX_FIELDS
cdef Py_ssize_t MAX_LINE_NBYTES = HTTP_MAX_LINE_NBYTES

cdef enum:
    MAX_METHOD_NBYTES = 32
    # Beyond it the full parser has a message of its own.
    MAX_HEADER_LENGTH = 0x7fffffff

cdef dict PROBLEMS = {
    PROBLEM_SYNTAX: (400, "malformed request head"),
    PROBLEM_TARGET: (400, "malformed request target"),
    PROBLEM_CONNECT: (405, "Method Not Allowed"),
    PROBLEM_VERSION: (505, "unsupported HTTP version: this is HTTP/1.1"),
    PROBLEM_LINE_SIZE: (414, f"request line of more than {HTTP_MAX_LINE_NBYTES} bytes"),
    PROBLEM_FIELD_SIZE: (431, f"header field of more than {HTTP_MAX_LINE_NBYTES} bytes"),
    PROBLEM_HEAD_SIZE: (431, f"request head of more than {HTTP_MAX_HEADERS_NBYTES} bytes"),
    PROBLEM_FIELDS: (431, f"more than {HTTP_MAX_FIELDS} header fields"),
    PROBLEM_HOST: (400, "a request has one Host field with the name or address of the server"),
    PROBLEM_LENGTH: (400, "Content-Length is one decimal number without sign and leading zeros"),
    PROBLEM_CODING: (501, "unsupported transfer coding: only chunked is known"),
    PROBLEM_CODINGS: (400, "Transfer-Encoding is the one word chunked"),
    PROBLEM_FRAMING: (
        400, "a request has Content-Length or Transfer-Encoding, not both: leave out Content-Length when the body is "
        "sent in chunks, else Transfer-Encoding"
    ),
    PROBLEM_OLD_CODING: (400, "HTTP/1.0 has no Transfer-Encoding"),
}  # fmt: skip


# What the header fields said.
cdef struct Fields:
    Head *head
    bint plain            # nothing that only the full parser may answer
    int hosts
    const unsigned char *host
    Py_ssize_t host_length
    int lengths
    bint expected         # `Expect`, `Accept-Encoding`, `Content-Encoding` were there
    bint accepted
    bint coded
    bint keeps            # Connection: keep-alive


# Whether eight bytes at once are neither control characters nor DEL; what it is not certain of it denies.
cdef inline bint _are_text(const unsigned char *data) noexcept nogil:
    cdef uint64_t eight, other
    memcpy(&eight, data, 8)
    other = eight ^ 0x7f7f7f7f7f7f7f7fU
    return (
        ((eight - 0x2020202020202020U) & ~eight) | ((other - 0x0101010101010101U) & ~other)
    ) & 0x8080808080808080U == 0


cdef Py_ssize_t find_head_end(const unsigned char *data, Py_ssize_t size, Py_ssize_t *seen) noexcept nogil:
    cdef Py_ssize_t at = seen[0]
    cdef unsigned char byte
    while True:
        while size - at >= 8 and _are_text(data + at):
            at += 8
        while at < size and data[at] >= 0x20 and data[at] != 0x7f:
            at += 1
        if at == size:
            break
        byte = data[at]
        if byte == c'\t':
            at += 1
            continue
        if byte != c'\r':
            return -1
        if at + 1 == size:
            break
        if data[at + 1] != c'\n':
            return -1
        if at == 0 or data[at - 1] == c'\n':
            seen[0] = at + 2
            return at + 2
        at += 2
    seen[0] = at
    return 0


cdef int parse_head(const unsigned char *data, Py_ssize_t size, Head *head) noexcept nogil:
    cdef Fields fields
    cdef const unsigned char *host = NULL
    cdef Py_ssize_t host_length = 0
    cdef Py_ssize_t at
    cdef bint infer
    if size == 2:
        return HEAD_EMPTY
    head.problem = 0
    head.version = -1
    head.call = CALL_INFER
    at = _inference_line(data, size, head)
    infer = at > 0
    if not infer:
        at = _request_line(data, size, head, &host, &host_length)
        if at == 0:
            return HEAD_REFUSED
    if at - 2 > MAX_LINE_NBYTES:
        head.problem = PROBLEM_LINE_SIZE
        return HEAD_REFUSED
    head.old = data[at - 3] == c'0'
    fields.head = head
    _fields(data, size, at, &fields)
    if head.problem == 0:
        _check(head, &fields, host, host_length)
    if head.problem:
        return HEAD_REFUSED
    if infer and fields.plain and (head.chunked or head.content_length > 0):
        if head.call != CALL_INFER:
            head.header_length = -1
            head.coding = 0
        return HEAD_INFER
    return HEAD_CHUNKED if head.chunked else HEAD_LENGTH


# POST /v2/models/{name}[/versions/{digits}]/{call} HTTP/1.1, or 1.0. Offset behind the line, 0 for any other line.
cdef Py_ssize_t _inference_line(const unsigned char *data, Py_ssize_t size, Head *head) noexcept nogil:
    cdef Py_ssize_t at = 16
    cdef Py_ssize_t digits = 0
    cdef Py_ssize_t length
    if size < 40 or memcmp(data, b"POST /v2/models/", 16) != 0:
        return 0
    while at < size and CLASSES[data[at]] & BYTE_NAME:
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
    length = _call(data + at, size - at, head)
    at += length
    if length == 0 or size - at < 11 or memcmp(data + at, b" HTTP/1.", 8) != 0 or not c'0' <= data[at + 8] <= c'1':
        return 0
    return at + 11 if data[at + 9] == c'\r' else 0


# Bytes of the call at the end of a path; 0 for what is none.
cdef Py_ssize_t _call(const unsigned char *text, Py_ssize_t size, Head *head) noexcept nogil:
    if size > 6 and memcmp(text, b"/infer", 6) == 0:
        head.call = CALL_INFER
        return 6
    if size < 16 or memcmp(text, b"/generate", 9) != 0:
        return 0
    if memcmp(text + 9, b"_stream", 7) == 0:
        head.call = CALL_STREAM
        return 16
    head.call = CALL_GENERATE
    return 9


# Any other `METHOD target HTTP/1.1`, or 1.0. Offset behind the line; 0 with a problem. `host`: authority of a target
# in absolute form.
cdef Py_ssize_t _request_line(const unsigned char *data, Py_ssize_t size, Head *head, const unsigned char **host,
                              Py_ssize_t *host_length) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t start
    while at < size and (c'A' <= data[at] <= c'Z' or data[at] == c'-'):
        at += 1
    head.problem = PROBLEM_SYNTAX
    if at == 0 or at > MAX_METHOD_NBYTES or at == size or data[at] != c' ':
        return 0
    if at == 7 and memcmp(data, b"CONNECT", 7) == 0:
        head.problem = PROBLEM_CONNECT
        return 0
    at += 1
    start = at
    while at < size and 0x21 <= data[at] <= 0x7e:
        at += 1
    # Nor is there an HTTP/0.9 here, whose requests have no version.
    if at == start or size - at < 11 or memcmp(data + at, b" HTTP/", 6) != 0 or memcmp(data + at + 9, b"\r\n", 2) != 0:
        return 0
    if not (c'0' <= data[at + 6] <= c'9' and data[at + 7] == c'.' and c'0' <= data[at + 8] <= c'9'):
        return 0
    if not _target(data + start, at - start, start == 8 and memcmp(data, b"OPTIONS", 7) == 0, host, host_length):
        head.problem = PROBLEM_TARGET
        return 0
    if data[at + 6] != c'1' or data[at + 8] > c'1':
        head.problem = PROBLEM_VERSION
        return 0
    head.problem = 0
    return at + 11


# A path with a query, the same behind `http://authority`, or `*` for OPTIONS (RFC 9112 3.2). A fragment is never sent.
cdef bint _target(const unsigned char *text, Py_ssize_t length, bint options, const unsigned char **host,
                  Py_ssize_t *host_length) noexcept nogil:
    cdef Py_ssize_t at, start
    if memchr(text, c'#', length) != NULL or memchr(text, c'\\', length) != NULL:
        return False
    if text[0] == c'/' or (length == 1 and text[0] == c'*' and options):
        return True
    if length > 7 and same(text, b"http://", 7):
        start = 7
    elif length > 8 and same(text, b"https://", 8):
        start = 8
    else:
        return False
    at = start
    while at < length and text[at] != c'/' and text[at] != c'?':
        at += 1
    host[0] = text + start
    host_length[0] = at - start
    return _is_host(text + start, at - start)


# Reads the lines from `at` to the empty one, up to the first problem.
cdef void _fields(const unsigned char *data, Py_ssize_t size, Py_ssize_t at, Fields *fields) noexcept nogil:
    cdef Head *head = fields.head
    cdef const unsigned char *found
    cdef Py_ssize_t name_length, value, end
    cdef int count = 0
    fields.plain = True
    fields.hosts = fields.lengths = 0
    fields.host = NULL
    fields.host_length = 0
    fields.expected = fields.accepted = fields.coded = fields.keeps = False
    head.chunked = head.closes = head.expects = head.upgrades = False
    head.coding = 0
    head.content_length = 0
    head.header_length = -1
    while at < size and data[at] != c'\r' and head.problem == 0:
        found = <const unsigned char *>memchr(data + at, c'\r', size - at)
        end = found - data if found != NULL else size
        name_length = token_length(data + at, end - at)
        count += 1
        if name_length == 0 or at + name_length == end or data[at + name_length] != c':':
            head.problem = PROBLEM_SYNTAX
        elif end - at > MAX_LINE_NBYTES:
            head.problem = PROBLEM_FIELD_SIZE
        elif count > MAX_FIELDS:
            head.problem = PROBLEM_FIELDS
        else:
            value = at + name_length + 1
            _field(data + at, name_length, data + value, end - value, fields)
        at = end + 2


# What only shows when all fields are read.
cdef void _check(Head *head, Fields *fields, const unsigned char *host, Py_ssize_t host_length) noexcept nogil:
    if head.chunked and head.old:
        # Somebody in between may take the body for the next request (RFC 9112 6.1).
        head.problem = PROBLEM_OLD_CODING
    elif head.chunked and fields.lengths:
        head.problem = PROBLEM_FRAMING
    elif fields.hosts == 0 and not head.old:
        head.problem = PROBLEM_HOST
    elif host != NULL and fields.hosts and not _equal(host, host_length, fields.host, fields.host_length):
        head.problem = PROBLEM_HOST
    elif head.old:
        # Either of the two may have been meant for another hop; nobody waits for 100 Continue.
        fields.plain = fields.plain and not (head.closes and fields.keeps) and not head.expects
        head.closes = not fields.keeps


cdef void _field(const unsigned char *name, Py_ssize_t name_length, const unsigned char *value, Py_ssize_t length,
                 Fields *fields) noexcept nogil:
    cdef Head *head = fields.head
    # Optional white space around the value is not part of it.
    while length > 0 and (value[0] == c' ' or value[0] == c'\t'):
        value += 1
        length -= 1
    while length > 0 and (value[length - 1] == c' ' or value[length - 1] == c'\t'):
        length -= 1
    if name_length == 4 and same(name, b"host", 4):
        fields.hosts += 1
        fields.host = value
        fields.host_length = length
        if fields.hosts > 1 or not _is_host(value, length):
            head.problem = PROBLEM_HOST
    elif name_length == 6 and same(name, b"expect", 6):
        head.expects = not fields.expected and length == 12 and same(value, b"100-continue", 12)
        fields.plain = fields.plain and head.expects
        fields.expected = True
    elif name_length == 7 and same(name, b"upgrade", 7):
        head.upgrades = True
    elif name_length == 10 and same(name, b"connection", 10):
        _connection(value, length, fields)
    elif name_length == 14 and same(name, b"content-length", 14):
        head.content_length = _decimal(value, length)
        fields.lengths += 1
        if fields.lengths > 1 or head.content_length < 0:
            head.problem = PROBLEM_LENGTH
    elif name_length == 15 and same(name, b"accept-encoding", 15):
        head.coding = accepted_coding(value, length)
        fields.plain = fields.plain and not fields.accepted
        fields.accepted = True
    elif name_length == 16 and same(name, b"content-encoding", 16):
        fields.plain = fields.plain and not fields.coded and (
            length == 0 or (length == 8 and memcmp(value, b"identity", 8) == 0)
        )
        fields.coded = True
    elif name_length == 17 and same(name, b"transfer-encoding", 17):
        _transfer_coding(value, length, head)
    elif name_length == 28 and same(name, b"endpoint-load-metrics-format", 28):
        # The answers of the two generate calls to it have a header of their own; those of no other.
        fields.plain = fields.plain and fields.head.call == CALL_INFER
    elif name_length == 31 and same(name, b"inference-header-content-length", 31):
        fields.plain = fields.plain and head.header_length < 0
        head.header_length = _decimal(value, length)
        fields.plain = fields.plain and 0 <= head.header_length <= MAX_HEADER_LENGTH


# A list of tokens (RFC 9110 7.6.1), of which two matter. What is no such list is for the full parser.
cdef void _connection(const unsigned char *value, Py_ssize_t length, Fields *fields) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t count
    while at < length:
        if value[at] == c',' or value[at] == c' ' or value[at] == c'\t':
            at += 1
            continue
        count = token_length(value + at, length - at)
        if count == 5 and same(value + at, b"close", 5):
            fields.head.closes = True
        elif count == 10 and same(value + at, b"keep-alive", 10):
            fields.keeps = True
        at += count
        while at < length and (value[at] == c' ' or value[at] == c'\t'):
            at += 1
        if count == 0 or (at < length and value[at] != c','):
            fields.plain = False
            return


# Another coding than `chunked` in front is one that nobody here can undo; all else is not a list of codings.
cdef void _transfer_coding(const unsigned char *value, Py_ssize_t length, Head *head) noexcept nogil:
    cdef Py_ssize_t count = token_length(value, length)
    if head.chunked or count == 0:
        head.problem = PROBLEM_CODINGS
    elif count != 7 or not same(value, b"chunked", 7):
        head.problem = PROBLEM_CODING
    elif length != 7:
        head.problem = PROBLEM_CODINGS
    head.chunked = True


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


# A name or an address with an optional port: no list, path or user information.
cdef bint _is_host(const unsigned char *text, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(length):
        if text[i] <= 0x20 or text[i] == c',' or text[i] == c'/' or text[i] == c'@' or text[i] == c'\\':
            return False
    return length > 0


# Whether the texts are the same without regard to case.
cdef bint _equal(const unsigned char *a, Py_ssize_t length, const unsigned char *b, Py_ssize_t b_length) noexcept nogil:
    cdef Py_ssize_t i
    if length != b_length:
        return False
    for i in range(length):
        if a[i] != b[i] and not ((a[i] ^ b[i]) == 0x20 and c'a' <= (a[i] | 0x20) <= c'z'):
            return False
    return True


cdef tuple head_problem(int problem):
    return PROBLEMS[problem]


cdef bytes without_upgrade(bytes head):
    return b"\r\n".join([line for line in head.split(b"\r\n") if line[:8].lower() != b"upgrade:"])


def classify(const unsigned char[::1] data):
    """For tests: (kind name, end of head, fields) of the head at the front of `data`; kind "more" while incomplete."""
    cdef Head head
    cdef Py_ssize_t seen = 0
    cdef Py_ssize_t end = find_head_end(&data[0], data.shape[0], &seen) if data.shape[0] else 0
    if end <= 0:
        return ("bad" if end < 0 else "more"), 0, {}
    kind = parse_head(&data[0], end, &head)
    fields = {}
    if kind <= HEAD_CHUNKED:
        flags = {"chunked": head.chunked, "old": head.old, "upgrades": head.upgrades}
        if kind == HEAD_INFER:
            flags.update(closes=head.closes, expects=head.expects)
        fields = {name: True for name, value in flags.items() if value}
        if not head.chunked:
            fields["content_length"] = head.content_length
    if kind == HEAD_INFER:
        fields["model"] = bytes(data[head.name_at:head.name_at + head.name_length])
        fields["version"] = head.version
        fields["header_length"] = head.header_length
        fields["coding"] = head.coding
        if head.call != CALL_INFER:
            fields["call"] = "generate" if head.call == CALL_GENERATE else "generate_stream"
    if kind == HEAD_REFUSED:
        fields["status"], fields["message"] = head_problem(head.problem)
    return ("infer", "length", "chunked", "empty", "refused")[kind], end, fields


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
