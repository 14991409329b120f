# One end of what two processes say to each other: messages on two rings, and memory that they lend each other.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.core.turn cimport Turn
from triton_async.memory.buffer cimport Buffer

cdef extern from "lane.h" nogil:
    enum: TA_LANE_FULL
    enum: TA_LANE_BROKEN
    struct ta_lane_header:
        pass
    ctypedef struct ta_lane:
        ta_lane_header *header
        char *data
        uint64_t capacity
        uint64_t at
        uint64_t published
    void ta_lane_open(ta_lane *lane, char *memory, int64_t nbytes)
    int64_t ta_lane_put(ta_lane *lane, const char *data, uint32_t nbytes)
    int ta_lane_patch(ta_lane *lane, int64_t position, uint32_t at, unsigned char bits)
    int ta_lane_publish(ta_lane *lane)
    int ta_lane_wait_for_room(ta_lane *lane, uint32_t nbytes)
    int64_t ta_lane_take(ta_lane *lane, char *to, int64_t most, uint32_t longest)
    int ta_lane_is_awaited(ta_lane *lane)
    void ta_lane_stay_awake(ta_lane *lane)
    int ta_lane_may_sleep(ta_lane *lane)

# The first byte of a message says what it is. Numbers are little-endian, nothing is aligned; see requests.pxd,
# responses.pxd for the first two and calls.py for what JSON says.
cdef enum:
    REQUEST = 1      # front-end -> model process
    RESPONSE = 2     # model process -> front-end
    RELEASED = 3     # u64 request: its inputs are free, and nothing more comes of it
    CANCEL = 4       # u64 request
    TAKEN = 5        # u64 request, u32 n: responses that were passed on
    LEFT = 6         # u64 origin, u8 whether its client went before its end
    CALL = 7         # u64 call, json
    ANSWER = 8       # u64 call, json
    TELL = 9         # json
    FREE = 10        # u32 n, n times u64: what was lent under these numbers is read no more
    SPILLED = 11     # u64 number, u64 offset, u64 nbytes: a message that is too long for the ring

# What this side has lent to the other is in `lent` under a number until the other says FREE. What the other has lent
# is held by a Held; when that is gone, the other hears of it.
cdef class Held:
    cdef Lane lane
    cdef uint64_t number
    cdef object memory               # SharedMemory, or its mapping would go

# Loop thread, but for the end of a Held. The sockets of both sides tell of each other's end.
#
# Invariants
#   - messages arrive in the order in which they were sent; what has no room on the ring waits in `backlog`, with all
#     that is sent behind it
#   - nothing that the other side writes makes this one raise, or read outside of the shared memory: what does not fit
#     ends the other (`on_end` with what is wrong), once
#   - the other side need not wake this one while `scheduled`: `_flush` looks for what has come, before it may sleep
#   - what is lent stays until the other side has given it back, or is known to be no more: also when it is closed
cdef class Lane:
    cdef ta_lane outgoing
    cdef ta_lane incoming
    cdef readonly SharedMemory rings     # both rings; the front-end's own memory lies behind them
    cdef readonly SharedMemory mine      # what this side lends
    cdef readonly SharedMemory theirs    # what the other side lends
    cdef readonly bint closed
    cdef readonly int64_t n_sent         # messages, ever
    cdef readonly int64_t n_received
    cdef readonly int64_t n_rings        # times that the other side had to be woken
    cdef object loop
    cdef Turn turn                       # at the end of which it speaks
    cdef object socket
    cdef int own_fd                      # eventfd that the other side writes to
    cdef int other_fd
    cdef object backlog                  # deque of bytes
    cdef dict lent                       # number -> what holds the memory
    cdef uint64_t last_number
    cdef list freed                      # numbers of Helds that are gone
    cdef bint scheduled                  # `_flush` is due in a turn
    cdef bint calling                    # another thread has called for it
    cdef object flush_method
    cdef object thread                   # identity of the loop's
    cdef Writer writer                   # for a message in the making: see `fresh`; emptied by `send`
    cdef Writer spare                    # another one
    cdef Cursor cursor
    cdef bytes inbox

    # The writer, empty: of a message that could not be finished nothing is left in the next one.
    cdef Writer fresh(self)
    # Sends the message and empties it; its position on the ring, -1 when it waits or goes through shared memory.
    # Unavailable when that has no room, MemoryError: it is not sent, then.
    cdef int64_t send(self, Writer message) except? -9
    # What the other side waits for can not be said: ends it, soon, as it would wait for ever.
    cdef int give_up(self) except -1
    cdef int _spill(self, Writer message) except -1
    # Whether it was still possible to set bits in a message that was sent.
    cdef bint patch(self, int64_t position, uint32_t at, unsigned char bits) noexcept
    # Bytes of `mine`, for good until the Buffer is gone; None when there is no room.
    cdef Buffer lease(self, int64_t nbytes)
    cdef uint64_t lend(self, object holder) except 0
    # MemoryError: it is given back.
    cdef Held held(self, uint64_t number)
    # Publishes what was sent, and looks for what has come, later in this turn of the loop.
    cdef int flush_soon(self) except -1
    cdef int send_json(self, int kind, uint64_t number, bytes text) except -1

    # -- for subclasses
    # A message; WireError for nonsense.
    cdef int receive(self, int kind, Cursor cursor) except -1
    # A long message that there is no memory for, of which there are the first `nbytes` bytes. MemoryError where nobody
    # can be told.
    cdef int receive_no_more(self, const char *first, Py_ssize_t nbytes) except -1
    # Before what was sent is published: further messages may be sent.
    cdef int before_flush(self) except -1

    cdef int _listen(self) except -1
    cdef int _deal(self, int64_t nbytes) except -1
    cdef int _message(self, Cursor cursor) except -1
    cdef int _spilled(self, Cursor cursor) except -1
    cdef int _send_backlog(self) except -1
    cdef int _send_freed(self) except -1
    cdef int _ring(self) except -1
    cdef int _give_back(self, uint64_t number) except -1

# Text that may hold surrogates, as JSON of clients can bring them; u32 n, n bytes.
cdef int put_text(Writer to, str value) except -1
cdef str take_text(Cursor cursor)
