# The body of an infer request while it is received: its memory, its account with the hub, its pace. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.http.hub cimport Hub
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool
from triton_async.protocol.http_chunks cimport ChunkTracker

# Between two bodies `body` is None. A body of known length may also be received straight into `body` from `at` on.
cdef class Intake:
    cdef Hub hub
    cdef Buffer body                 # of the announced size; for chunks, room for more than has come
    cdef int64_t at                  # bytes of it received
    cdef bint chunked
    cdef ChunkTracker chunks
    cdef SlabPool liked              # where room for chunks comes from (Hub.lease_body)
    cdef int64_t header_nbytes       # of JSON in front, as announced
    cdef int64_t limit               # of a body in chunks
    cdef tuple problem               # (HTTP status, message): why it cannot go on; None
    cdef int64_t noted_nbytes        # of `at`, in the hub's account
    cdef int64_t pace_s              # when the look at the body's rate began
    cdef int64_t pace_at             # where the body stood then

    # A body of `nbytes` begins, behind whose `header_nbytes` of JSON tensors are to be aligned, or one in chunks.
    cdef int begin(self, SlabPool liked, int64_t nbytes, int64_t header_nbytes) except -1
    cdef int begin_chunks(self, SlabPool liked, int64_t header_nbytes, int64_t limit) except -1
    cdef int _start(self, bint chunked) except -1
    # Copies what belongs to the body; returns how many of the bytes do.
    cdef Py_ssize_t take(self, const unsigned char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t _take_chunks(self, const unsigned char *data, Py_ssize_t size) except -1
    # Room for so many bytes more. MemoryError.
    cdef int _make_room(self, Py_ssize_t size) except -1
    cdef bint complete(self) noexcept
    # To be called behind all that came of a body that is not complete: sets `problem` when too much of such waits.
    cdef int note(self) except -1
    # Gives the body over to its request, or up; None when there was none.
    cdef Buffer end(self)
    # Whether too little of the body has come since the last look.
    cdef bint too_slow(self) noexcept
