# HTTP/1.1 request heads as the express lane takes them, and the length of every other request whose framing is
# beyond doubt. Sans-IO, no allocation, no Python object; any thread, no GIL.
#
# Not a full parser. What it does not know for certain it calls HEAD_OTHER; the full parser answers that and owns
# the rest of the connection. So the two never have to agree on anything but plain framing.

from libc.stdint cimport int64_t

cdef enum HeadKind:
    HEAD_INFER = 0      # plain infer request: all fields of Head are set, a body of content_length bytes follows
    HEAD_LENGTH = 1     # another request; a body of content_length bytes follows, 0 when none was announced
    HEAD_CHUNKED = 2    # another request; a body in chunks follows (ChunkTracker)
    HEAD_OTHER = 3      # malformed, or where it ends is not certain
    HEAD_REFUSED = 4    # against RFC 9112 in a way that the full parser lets pass; answer Head.status and close

# Offsets are into the bytes given to parse_head.
ctypedef struct Head:
    Py_ssize_t name_at          # model name: only letters, digits, `.`, `_`, `-`
    Py_ssize_t name_length
    int64_t version             # -1: none in the path
    int64_t content_length
    int64_t header_length       # Inference-Header-Content-Length; -1: absent
    int status                  # HTTP status of a refusal

cdef enum ChunkState:
    CHUNK_SIZE = 0      # in the size line
    CHUNK_SIZE_LF = 1
    CHUNK_DATA = 2      # `left` bytes of data to come
    CHUNK_DATA_CR = 3
    CHUNK_DATA_LF = 4
    CHUNK_END_CR = 5    # behind the size line of the last chunk; trailers are not followed
    CHUNK_END_LF = 6
    CHUNK_NAME = 7      # in the name of an extension
    CHUNK_VALUE = 8     # in its value
    CHUNK_QUOTED = 9    # in a quoted value
    CHUNK_UNQUOTED = 10  # behind one
    CHUNK_DONE = 11     # the body is complete
    CHUNK_LOST = 12     # a trailer or an escape: the boundary is for the full parser to find
    CHUNK_BAD = 13      # malformed, or with too many bytes of extensions

# Follows the chunks of one body. Starts zeroed.
ctypedef struct ChunkTracker:
    int state
    int digits          # of the size; then bytes of the part of an extension
    int extra           # bytes of extensions
    int64_t left

# Where the head in data[0:size] ends (offset behind its empty line); 0: not yet; -1: a byte that no plain head has.
# `seen` carries progress between calls on a growing head and starts at 0, so each byte is looked at once.
cdef Py_ssize_t find_head_end(const unsigned char *data, Py_ssize_t size, Py_ssize_t *seen) noexcept nogil

# Kind of the complete head data[0:size], as find_head_end delimited it. `head` is valid for kinds 0 and 1.
cdef int parse_head(const unsigned char *data, Py_ssize_t size, Head *head) noexcept nogil

# Takes the next bytes of a chunked body; returns how many belong to it. Check `state` afterwards.
cdef Py_ssize_t follow_chunks(ChunkTracker *tracker, const unsigned char *data, Py_ssize_t size) noexcept nogil
