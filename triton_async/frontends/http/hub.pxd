# What the connections of one listener share. Event-loop thread.

from libc.stdint cimport int64_t

from triton_async.core.server cimport InferenceServer
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.slab cimport SlabPool

cdef class Hub:
    cdef InferenceServer server
    cdef SlabPool pool
    cdef int64_t max_input_nbytes
    cdef readonly object loop
    cdef object make_relay           # (connection, transport) -> Relay, connected to a fresh full parser
    cdef readonly set connections    # open Connections
    cdef object check                # called with each of them every second
    cdef object on_empty             # called when the last one is gone
    cdef object receiving            # body.Receiving, of both lanes
    cdef readonly int64_t unsent_nbytes  # of all connections
    cdef public int64_t max_unsent_nbytes
    cdef bint infers                 # plain infer requests are answered in the express lane
    cdef object entry                # asked before an infer request is taken here; None: nothing is asked
    cdef Py_ssize_t max_connections  # further ones are closed at once
    cdef bytes tail                  # end of the head of every response (http_reply.reply_tail)
    cdef bytes closing_tail          # of one behind which the connection closes
    cdef bytes keeping_tail          # of one behind which it stays open for an HTTP/1.0 client
    cdef readonly bint leaving       # every answer says that its connection closes; requests are taken
    cdef readonly bint stopping      # none are taken any more
    cdef int64_t now_s               # coarse clock: seconds since start, advanced by `tick`
    cdef char *scratch               # HTTP_RECEIVE_NBYTES that every connection receives into; used up at once

    # Room for a body of `nbytes` whose first tensor, behind `header_nbytes` of JSON, starts at an aligned address.
    # `liked`: the pool of its model, None for the host's. MemoryError.
    cdef Buffer lease_body(self, SlabPool liked, int64_t nbytes, int64_t header_nbytes)
    # Bytes of answers wait, or wait no more. At the bound the connection with the most of them is closed.
    cdef int note_unsent(self, int64_t change) except -1
