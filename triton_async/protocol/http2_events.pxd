# An Http2Session for Python, as tests, fuzzing and benchmarks drive it.

from triton_async.protocol.http2 cimport Http2Session, Http2Stream

# Records what happens to a stream in its session's `events`.
cdef class EventStream(Http2Stream):
    cdef public bint auto_consume  # give windows back at once

cdef class EventSession(Http2Session):
    cdef readonly list events      # tuples, in order
    cdef readonly dict opened      # stream id -> EventStream, also of closed ones
    cdef public bint auto_consume
    cdef public bint refuse        # refuse new streams
