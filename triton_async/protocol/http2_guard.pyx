"""Token buckets over the frames of one HTTP/2 connection. Sans-IO; any thread with the GIL.

Debian's nghttp2 1.52 has no limits of its own for most floods, so the frame headers are read here first; framing is
nine fixed bytes, so that two readers cannot disagree about it.
"""

from libc.stdint cimport int32_t
from libc.string cimport memcpy

from triton_async.protocol.nghttp2 cimport (
    NGHTTP2_CONTINUATION, NGHTTP2_DATA, NGHTTP2_FLAG_END_HEADERS, NGHTTP2_FLAG_END_STREAM, NGHTTP2_FLAG_PADDED,
    NGHTTP2_GOAWAY, NGHTTP2_HEADERS, NGHTTP2_RST_STREAM, NGHTTP2_WINDOW_UPDATE,
)

from triton_async.defines import (
    GRPC_CONTROL_BURST, GRPC_CONTROLS_PER_S, GRPC_MAX_CONTINUATIONS, GRPC_MAX_FRAME_NBYTES,
    GRPC_MAX_HEADER_BLOCK_NBYTES, GRPC_RESET_BURST, GRPC_RESETS_PER_S,
)

cdef enum:
    FRAME_HEAD = 9
    PREFACE = 24

cdef int _CONTINUATIONS_MAX = GRPC_MAX_CONTINUATIONS
cdef int64_t _BLOCK_MAX = GRPC_MAX_HEADER_BLOCK_NBYTES
cdef int64_t _FRAME_MAX = GRPC_MAX_FRAME_NBYTES


cdef void _fill(Bucket *bucket, double burst, double rate) noexcept:
    bucket.level = bucket.burst = burst
    bucket.rate = rate
    bucket.at_ns = 0


# Whether there was a token.
cdef bint _take(Bucket *bucket, int64_t now_ns) noexcept:
    if now_ns > bucket.at_ns:
        bucket.level = min(bucket.burst, bucket.level + (now_ns - bucket.at_ns) * 1e-9 * bucket.rate)
        bucket.at_ns = now_ns
    if bucket.level < 1:
        return False
    bucket.level -= 1
    return True


cdef class FrameGuard:
    """One for a connection."""

    def __cinit__(self):
        _fill(&self.resets, GRPC_RESET_BURST, GRPC_RESETS_PER_S)
        _fill(&self.controls, GRPC_CONTROL_BURST, GRPC_CONTROLS_PER_S)
        self.skip_nbytes = PREFACE

    cdef int scan(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) noexcept:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t part
        cdef int violation
        while at < nbytes:
            if self.skip_nbytes:
                part = min(self.skip_nbytes, nbytes - at)
                self.skip_nbytes -= part
                at += part
                continue
            part = min(<Py_ssize_t>(FRAME_HEAD - self.head_nbytes), nbytes - at)
            memcpy(&self.head[self.head_nbytes], data + at, part)
            self.head_nbytes += <int>part
            at += part
            if self.head_nbytes == FRAME_HEAD:
                self.head_nbytes = 0
                self.greeted = True
                violation = self._frame(now_ns)
                if violation:
                    return violation
        return VIOLATION_NONE

    cdef int64_t payload_ahead(self, int32_t *stream_id) noexcept:
        if not self.greeted or self.head_nbytes or self.head[3] != NGHTTP2_DATA or self.head[4] & NGHTTP2_FLAG_PADDED:
            return 0
        stream_id[0] = (self.head[5] & 0x7F) << 24 | self.head[6] << 16 | self.head[7] << 8 | self.head[8]
        return self.skip_nbytes

    cdef int count_reset(self, int64_t now_ns) noexcept:
        return VIOLATION_NONE if _take(&self.resets, now_ns) else VIOLATION_RESETS

    cdef int count_control(self, int64_t now_ns) noexcept:
        return VIOLATION_NONE if _take(&self.controls, now_ns) else VIOLATION_CONTROLS

    cdef int _frame(self, int64_t now_ns) noexcept:
        cdef int64_t length = self.head[0] << 16 | self.head[1] << 8 | self.head[2]
        cdef int type = self.head[3]
        cdef int flags = self.head[4]
        self.skip_nbytes = length
        if type == NGHTTP2_HEADERS or type == NGHTTP2_CONTINUATION:
            if type == NGHTTP2_HEADERS:
                self.continuations = 0
                self.block_nbytes = 0
            else:
                self.continuations += 1
            self.block_nbytes += length
            self.in_block = (flags & NGHTTP2_FLAG_END_HEADERS) == 0
            if self.continuations > _CONTINUATIONS_MAX:
                return VIOLATION_CONTINUATIONS
            return VIOLATION_HEADER_BLOCK if self.block_nbytes > _BLOCK_MAX else VIOLATION_NONE
        if _BLOCK_MAX < length <= _FRAME_MAX and type != NGHTTP2_DATA:
            # Only payload has a reason to come in frames as large as we take them.
            return VIOLATION_CONTROLS
        if type == NGHTTP2_RST_STREAM:
            return VIOLATION_NONE  # counted by the session, which knows the stream
        if type == NGHTTP2_DATA:
            if length or flags & NGHTTP2_FLAG_END_STREAM:
                return VIOLATION_NONE
            return self.count_control(now_ns)
        if type == NGHTTP2_WINDOW_UPDATE or type == NGHTTP2_GOAWAY:
            return VIOLATION_NONE
        return self.count_control(now_ns)
