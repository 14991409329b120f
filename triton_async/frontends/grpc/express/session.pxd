# What the connections of the express lane share, and the part of a connection that calls see. Loop thread.

from libc.stdint cimport int64_t

from triton_async.core.server cimport InferenceServer
from triton_async.frontends.grpc.abandoned cimport Abandoned
from triton_async.infer.request cimport InferRequest
from triton_async.protocol.http2 cimport Http2Session
from triton_async.protocol.http2_output cimport OutBuffer

# One for a front-end.
cdef class Lane:
    cdef InferenceServer server
    cdef object loop
    cdef readonly object mapping   # path -> Handler, of every RPC
    cdef readonly object ping_options  # keepalive.PingOptions
    cdef readonly set connections  # the open ones
    cdef bint infers               # False: answers are to be compressed, which the other lane does
    cdef object entry              # asked before one of the inference RPCs is taken here; None: nothing is asked
    cdef OutBuffer out
    cdef object receive_buffer     # bytearray, lent to one connection at a time
    cdef char *receive_data
    cdef list dirty                # connections with output, once each
    cdef bint scheduled            # flush_all is due in a turn
    cdef object flush_all_method   # the bound method, made once
    cdef readonly int64_t receiving_nbytes  # sum of the connections'
    cdef readonly int64_t held_nbytes  # sum of the connections' noted_nbytes
    cdef public int64_t max_receiving_nbytes
    cdef public int64_t max_held_nbytes
    cdef public int64_t max_waiting  # see grpc.server.start
    cdef public double message_timeout_s  # in which a message must grow by so many bytes, where a call has no deadline:
    cdef public int64_t message_pace_nbytes

    # Has `session.flush` called once, later in this turn of the loop.
    cdef int schedule(self, ExpressSession session) except -1
    # Closes connections until not more than max_held_nbytes are held.
    cdef int relieve(self) except -1

# A connection as its calls see it.
#
# Invariant: a request that runs for a call that is gone counts in `abandoned`, and as a call, until it is over
cdef class ExpressSession(Http2Session):
    cdef readonly Lane lane
    cdef bint dirty                # in lane.dirty
    cdef bint in_turn              # the connection itself will flush
    cdef readonly Abandoned abandoned
    cdef int64_t receiving_nbytes  # of messages that are not handed to the server yet
    cdef int64_t noted_nbytes      # of answers that wait, as the lane knows them
    cdef bint given_up             # closed by the lane; its answers count no more

    # Tells the lane how many bytes of answers wait. May close any connection.
    cdef int note_held(self, int64_t nbytes) except -1
    # Writes what is queued. Must not raise.
    cdef int flush(self) except -1
    # The call of `request` is gone.
    cdef int abandon(self, InferRequest request) except -1
    # Whether one more call may be opened.
    cdef bint has_room(self) except -1
