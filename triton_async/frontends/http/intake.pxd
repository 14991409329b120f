# The body of an infer request while it is received: its memory, its account with the hub, its pace. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.frontends.http.hub cimport Hub
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

# Between two bodies `body` is None. Whoever sets `at` forward calls `note` behind it unless the body is complete.
cdef class Intake:
    cdef Hub hub
    cdef Buffer body                 # of the announced size
    cdef int64_t at                  # bytes of it received
    cdef int64_t noted_nbytes        # of them in the hub's account
    cdef int64_t pace_s              # when the look at the body's rate began
    cdef int64_t pace_at             # where the body stood then

    # Makes room for a body of `nbytes` (Hub.lease_body) and takes what is there of it; returns how much. MemoryError;
    # there is no body then.
    cdef Py_ssize_t begin(self, SlabPool liked, int64_t nbytes, int64_t header_nbytes,
                          const unsigned char *data, Py_ssize_t size) except -1
    # Copies what belongs to the body; returns how much that is.
    cdef Py_ssize_t take(self, const unsigned char *data, Py_ssize_t size) noexcept
    cdef bint complete(self) noexcept
    # The body has grown. False when there are too many bytes of incomplete ones to go on with it.
    cdef bint note(self) except -1
    # Gives the body over to its request, or up; None when there was none.
    cdef Buffer end(self)
    # Whether too little of the body has come since the last look.
    cdef bint too_slow(self) noexcept
