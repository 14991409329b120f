# The part of a connection that has the full parser answer a request. Event-loop thread.

from triton_async.frontends.http.handover cimport Handover
from triton_async.frontends.http.streams cimport Streams
from triton_async.protocol.http_head cimport Head

# Invariant: in RELAY no answer is owed, so the full parser's answers are in order too. A Relay calls the public
# methods.
cdef class SlowLane(Streams):
    cdef Head head                   # of the last request that began
    cdef Handover handover           # the request that the full parser has
    cdef bint relay_paused           # the full parser wants no bytes now

    # Gives the request of `head`, data[0:end], to the full parser; returns how many of the bytes belong to it.
    cdef Py_ssize_t _hand_over(self, const unsigned char *data, Py_ssize_t end, Py_ssize_t size) except -1
    # The same with the bytes that follow; `head`: what of it is not handed over yet.
    cdef Py_ssize_t _relay_bytes(self, bytes head, const unsigned char *data, Py_ssize_t size) except -1
    cdef int _break_relay(self, tuple problem) except -1
    cdef int _return_from_relay(self) except -1
    # Reads, or does not, as `relay_paused` and the like say.
    cdef int _update_reading(self) except -1
    # Bytes received behind the request.
    cdef Py_ssize_t _behind(self) noexcept
