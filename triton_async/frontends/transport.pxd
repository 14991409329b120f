# The sockets of a listener's clients: read and written here, all that are ready in one turn. uvloop's transports do the
# same with two calls into Python and three takings of the GIL for each request. Loop thread.

from libc.stdint cimport uint32_t, uint64_t

from triton_async.core.turn cimport Sender, Turn
from triton_async.protocol.receiver cimport Receiver

# The clients of one listener: an epoll inside the loop's.
#
# Invariant: `transports[fd]` is the one that is registered with that descriptor
cdef class Clients:
    cdef readonly Turn turn
    cdef int epoll_fd
    cdef list transports             # by descriptor; None
    cdef Transport lone              # the only one that was ready the last times, so tried before all are asked about
    cdef int n_lone                  # how often it was the only one
    cdef int n_tried                 # how often it was tried since all were asked about
    cdef object scratch              # memory that is received into, used up at once
    cdef object scratch_view
    cdef Py_ssize_t share            # bytes that each of those who are ready may send in this turn
    cdef Py_ssize_t moved_nbytes     # bytes that came and left since the loop looked at all else
    cdef uint64_t turn_number        # the last turn in which bytes left
    cdef Py_ssize_t sent_nbytes      # how many left in that turn
    cdef bint closing                # ends behind the last of them
    cdef object on_end               # is called then
    cdef Py_ssize_t n_open

    cdef int watch(self, Transport transport, uint32_t events) except -1
    # How many were ready.
    cdef int _serve(self) except -1
    cdef int _serve_one(self, Transport transport, uint32_t events) except -1
    cdef bint _read(self, Transport transport) except -1
    cdef int _end(self) except -1

#   OPEN --close()--> CLOSING --all is sent--> LOST;  OPEN, CLOSING --abort(), the socket fails--> LOST
cdef enum TransportState:
    TRANSPORT_OPEN = 0
    TRANSPORT_CLOSING = 1    # sends what was written; nothing is read or taken any more
    TRANSPORT_LOST = 2       # nothing is sent any more; the protocol hears of it in the next turn, or has

# One connection. An asyncio.Transport but for the type.
#
# Invariants
#   - `events` is what the epoll watches the descriptor for, nothing when it does not; a pause of reading is only told
#     to it when bytes come meanwhile
#   - the protocol is paused exactly while more than `high` bytes wait, and until no more than `low` do
cdef class Transport(Sender):
    cdef Clients clients
    cdef object sock                 # socket.socket
    cdef int fd
    cdef object peer
    cdef object protocol             # None when lost
    cdef Receiver receiver           # the protocol, when it is one
    cdef bint buffered               # it is a BufferedProtocol
    cdef int state                   # TransportState
    cdef uint32_t events
    cdef bint reading                # the protocol wants bytes
    cdef bint ended                  # the client sends no more
    cdef bint ends                   # close the sending half behind what waits
    cdef bint filled                 # the last read brought as much as there was room for
    cdef uint64_t turn_number        # the last turn in which bytes left
    cdef Py_ssize_t sent_nbytes      # how many left in that turn
    cdef bint paused                 # the protocol is asked to write no more
    cdef list waiting                # bytes and other buffers to be sent
    cdef Py_ssize_t first            # of them that has not left; those before it are None
    cdef Py_ssize_t start            # its unsent bytes begin here
    cdef Py_ssize_t waiting_nbytes
    cdef Py_ssize_t high
    cdef Py_ssize_t low

    # Reads what there is, or enough for one turn. Whether there was anything.
    cdef bint read(self) except -1
    # At most `most` bytes.
    cdef Py_ssize_t _receive(self, Py_ssize_t most) except -100000
    cdef int _end_input(self) except -1
    cpdef write(self, data)
    cpdef writelines(self, parts)
    cdef int _put(self, object data) except -1
    # Sends now, or with all others of the turn.
    cdef int _send_soon(self) except -1
    # Bytes that may leave in this turn.
    cdef Py_ssize_t _room(self) noexcept
    # At most `most` bytes.
    cdef Py_ssize_t _send_some(self, Py_ssize_t most) except -100000
    cdef int _drop_sent(self, Py_ssize_t count) except -1
    cdef int _drop_all(self) except -1
    # Nothing waits any more.
    cdef int _sent(self) except -1
    cdef int _fail(self, object error) except -1
    cdef int _pause(self) except -1
    cdef int _resume(self) except -1
