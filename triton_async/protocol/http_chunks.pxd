# Bodies in chunks (RFC 9112 7.1). Sans-IO, no allocation; any thread, no GIL.
#
# Extensions and trailers have to be well-formed and are dropped; trailers that would frame the message are malformed.

from libc.stdint cimport int64_t

#   SIZE -> SIZE_LF -> DATA -> DATA_CR -> DATA_LF -> SIZE          a chunk
#   SIZE -> NAME [-> VALUE | -> QUOTED <-> ESCAPED, -> UNQUOTED] -> SIZE_LF   with an extension
#   SIZE_LF (of size 0) -> TRAILER [-> FIELD -> CONTENT -> FIELD_LF -> TRAILER] -> END_LF -> DONE
#   any --> BAD, MANY
cdef enum ChunkState:
    CHUNK_SIZE = 0      # in the size line
    CHUNK_SIZE_LF = 1
    CHUNK_DATA = 2      # `left` bytes of data to come
    CHUNK_DATA_CR = 3
    CHUNK_DATA_LF = 4
    CHUNK_NAME = 5      # in the name of an extension
    CHUNK_VALUE = 6     # in its value
    CHUNK_QUOTED = 7    # in a quoted value
    CHUNK_ESCAPED = 8   # behind a backslash in one
    CHUNK_UNQUOTED = 9  # behind one
    CHUNK_TRAILER = 10  # at the beginning of a line behind the last chunk
    CHUNK_FIELD = 11    # in the name of a trailer
    CHUNK_CONTENT = 12  # in its value
    CHUNK_FIELD_LF = 13
    CHUNK_END_LF = 14
    CHUNK_DONE = 15     # the body is complete
    CHUNK_BAD = 16      # malformed, or with too many bytes of extensions or trailers
    CHUNK_MANY = 17     # more than HTTP_MAX_CHUNKS chunks

# Follows the chunks of one body. Starts zeroed.
ctypedef struct ChunkTracker:
    int state
    int digits          # of the size; then bytes of the part of an extension, or of the name of a trailer
    int extra           # bytes of extensions
    int trailing        # bytes of trailers
    int framing         # bits of the framing fields that the name of the trailer may still become
    int count           # chunks with data
    int64_t left

# Takes the next bytes of a chunked body; returns how many belong to it. Their data, `written` bytes, goes to `out`,
# which has room for `size`. Check `state` afterwards: once it is DONE or beyond, nothing more is taken.
cdef Py_ssize_t decode_chunks(ChunkTracker *tracker, const unsigned char *data, Py_ssize_t size, char *out,
                              Py_ssize_t *written) noexcept nogil
