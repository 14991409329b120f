# A client's connection: socket and clock for an ExpressSession. Loop thread.

from libc.stdint cimport int64_t, uint8_t

from triton_async.frontends.grpc.express.head cimport CallHead
from triton_async.frontends.grpc.express.session cimport ExpressSession
from triton_async.protocol.http2 cimport Http2Stream

#   OPEN --shut_down--> ANNOUNCED --its ping is answered, or not in time--> LEAVING --calls are done--> CLOSED
#    |                      |                                                                            ^
#    +---- lost or aborted -+----------------------------------------------------------------------------+
cdef enum ConnectionState:
    CONNECTION_OPEN = 0
    CONNECTION_ANNOUNCED = 1       # the client was asked to go; calls on their way are still taken
    CONNECTION_LEAVING = 2         # later calls are refused
    CONNECTION_CLOSED = 3

# An asyncio.BufferedProtocol by shape. Reads into the lane's one buffer, or straight into the message whose bytes come
# next: a read and its `buffer_updated` are never interrupted by anything else.
cdef class ExpressConnection(ExpressSession):
    cdef object transport
    cdef object room               # view into a message, while a read goes there and not into the lane's buffer
    cdef bint room_taken           # the last read went there
    cdef bytes waiting             # received, and left for the next turn of the loop; None: nothing. Reading is paused
    cdef int opened                # calls in this turn, see _CALLS_PER_TURN
    cdef bytes entered             # header block of the last call that the lane's entry has let in; or None
    cdef object entered_at         # and the generation of its keys then
    cdef dict forwarded            # of it: what becomes parameters of requests
    cdef object calls              # frontends.grpc.calls.Calls, made for the first call it is needed for
    cdef object keepalive          # keepalive.KeepAlive
    cdef object timer              # TimerHandle of the next look at `keepalive`
    cdef object closed             # future of who waits for the end, or None
    cdef readonly int state        # ConnectionState
    cdef bint exiting              # the server ends, not only this connection
    cdef bint paused               # the transport takes no more for now
    cdef bint leaving              # the transport is to close when it has sent the rest
    cdef int64_t armed_ns          # when the timer fires; 0: it does not
    cdef int64_t opened_ns
    cdef int64_t last_read_ns
    cdef int64_t header_block_ns   # since when a header block is incomplete; 0: none is
    cdef int64_t stalled_ns        # since when answers wait and nothing has left; 0: nothing waits
    cdef int64_t unsent_nbytes     # in the transport, when last looked at

    cdef int _take(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) except -1
    cdef Py_ssize_t _take_some(self, const uint8_t *data, Py_ssize_t nbytes, int64_t now_ns) except -1
    cdef int _wait_for_turn(self, const uint8_t *data, Py_ssize_t nbytes) except -1
    cdef Http2Stream _slow(self, CallHead *head)
    # Whether the lane's entry lets in the call of `head`.
    cdef bint _enter(self) except -1
    cdef int _pump(self) except -1
    cdef int _watch(self, int64_t now_ns, bint progress) except -1
    cdef int _arm(self, int64_t now_ns) except -1
