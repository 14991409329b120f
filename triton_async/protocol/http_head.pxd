# HTTP/1.1 request heads (RFC 9112) as the front-end takes them. Sans-IO, no allocation, no Python object; any thread,
# no GIL.
#
# Strict: what the grammar does not know is refused, so the full parser only ever sees heads whose framing is beyond
# doubt. It answers everything but plain inference calls.

from libc.stdint cimport int64_t

cdef enum HeadKind:
    HEAD_INFER = 0      # plain inference call: all fields of Head but `problem` are set
    HEAD_LENGTH = 1     # another request; a body of content_length bytes follows, 0 when none was announced
    HEAD_CHUNKED = 2    # another request; a body in chunks follows (http_chunks)
    HEAD_EMPTY = 3      # no head: an empty line, which may stand in front of one (RFC 9112 2.2)
    HEAD_REFUSED = 4    # answer head_problem(Head.problem) and close

# Why a head is refused; head_problem() puts it into words.
cdef enum HeadProblem:
    PROBLEM_SYNTAX = 1
    PROBLEM_TARGET = 2
    PROBLEM_CONNECT = 3
    PROBLEM_VERSION = 4
    PROBLEM_LINE_SIZE = 5
    PROBLEM_FIELD_SIZE = 6
    PROBLEM_HEAD_SIZE = 7
    PROBLEM_FIELDS = 8
    PROBLEM_HOST = 9
    PROBLEM_LENGTH = 10
    PROBLEM_CODING = 11      # a transfer coding that nobody here knows
    PROBLEM_CODINGS = 12     # Transfer-Encoding is not the one word `chunked`
    PROBLEM_FRAMING = 13     # Content-Length and Transfer-Encoding
    PROBLEM_OLD_CODING = 14  # Transfer-Encoding in HTTP/1.0

# What a plain inference call asks for: the last word of its path.
cdef enum HeadCall:
    CALL_INFER = 0
    CALL_GENERATE = 1
    CALL_STREAM = 2      # generate_stream

# Offsets are into the bytes given to parse_head.
ctypedef struct Head:
    int problem                 # HeadProblem
    int call                    # HeadCall
    bint chunked                # the body comes in chunks
    bint old                    # HTTP/1.0
    bint closes                 # the client wants the connection closed behind the answer
    bint expects                # it waits for 100 Continue before it sends the body
    bint upgrades               # it offers another protocol (RFC 9110 7.8): nobody here has one
    int coding                  # that it asks for (http_coding), of CALL_INFER: no other call's answer is ever coded
    int64_t content_length      # 0 when chunked
    int64_t header_length       # Inference-Header-Content-Length; -1: absent, or without meaning for the call
    Py_ssize_t name_at          # model name: only letters, digits, `.`, `_`, `-`
    Py_ssize_t name_length
    int64_t version             # -1: none in the path

# Where the head in data[0:size] ends (offset behind its empty line); 0: not yet; -1: a byte that no head has. `seen`
# carries progress between calls on a growing head and starts at 0, so each byte is looked at once.
cdef Py_ssize_t find_head_end(const unsigned char *data, Py_ssize_t size, Py_ssize_t *seen) noexcept nogil

# Kind of the complete head data[0:size], as find_head_end delimited it.
cdef int parse_head(const unsigned char *data, Py_ssize_t size, Head *head) noexcept nogil

# (HTTP status, message) of a HeadProblem.
cdef tuple head_problem(int problem)

# The head without its Upgrade fields: a full parser takes what follows them for another protocol.
cdef bytes without_upgrade(bytes head)
