"""Messages between a front-end process and the model process: rings, wake-ups, memory lent and given back."""

import logging
import os
import threading
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport Cursor, Writer, cursor_over
from triton_async.core.turn cimport Turn
from triton_async.memory.arena cimport ta_lease, ta_lease_return
from triton_async.memory.buffer cimport MEMORY_CPU, Buffer, foreign

from triton_async.backends.python.isolated.wire import WireError
from triton_async.errors import Unavailable
from triton_async.processes import defines

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *data, size_t nbytes)
    ssize_t c_write "write"(int fd, const void *data, size_t nbytes)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *nbytes) except NULL
    unsigned long PyThread_get_thread_ident()

log = logging.getLogger("triton_async.processes")

cdef int64_t RING_NBYTES = defines.RING_NBYTES
cdef Py_ssize_t MESSAGE_NBYTES = defines.MESSAGE_NBYTES
cdef int64_t INBOX_NBYTES = defines.INBOX_NBYTES
cdef uint64_t SPILL_NBYTES = defines.SPILL_NBYTES
# Inboxes that a ring fills.
cdef int MOST_LEFT = <int>(RING_NBYTES // INBOX_NBYTES + 1)
# Numbers in one message of memory that is free again.
cdef int MOST_FREED = 1024
# In front of the bytes of a ring, and both rings with what is in front of them.
cdef int64_t HEADER_NBYTES = 128
cdef int64_t RINGS_NBYTES = 2 * (RING_NBYTES + HEADER_NBYTES)

NO_ROOM = "no room for a request in the memory that front-end processes share with the model process"


cdef class Held:
    """Memory of the other side that something here still reads."""

    def __dealloc__(self):
        if self.lane is not None:
            self.lane._give_back(self.number)


cdef class Lane:
    """`rings`: SharedMemory with both rings at its beginning, the same on both sides. `front_end`: which side this is.
    `mine`, `theirs`: what each side lends. `own_fd`, `other_fd`: eventfds, and `socket`, whose end is that of the other
    side; all three are taken over.
    """

    def __init__(self, loop, sock, SharedMemory rings, SharedMemory mine, SharedMemory theirs, int own_fd, int other_fd,
                 *, bint front_end):
        cdef char *first
        cdef char *second
        self.loop = loop
        self.turn = Turn(loop)
        self.socket = sock
        self.rings = rings
        self.mine = mine
        self.theirs = theirs
        self.own_fd = own_fd
        self.other_fd = other_fd
        first = rings.inside(0, RING_NBYTES + HEADER_NBYTES)
        second = rings.inside(RING_NBYTES + HEADER_NBYTES, RING_NBYTES + HEADER_NBYTES)
        if first == NULL or second == NULL:
            raise ValueError("the shared memory is too small for its rings")
        ta_lane_open(&self.outgoing, first if front_end else second, RING_NBYTES + HEADER_NBYTES)
        ta_lane_open(&self.incoming, second if front_end else first, RING_NBYTES + HEADER_NBYTES)
        self.backlog = deque()
        self.lent = {}
        self.freed = []
        self.writer = Writer.__new__(Writer)
        self.spare = Writer.__new__(Writer)
        self.cursor = Cursor.__new__(Cursor)
        self.inbox = PyBytes_FromStringAndSize(NULL, INBOX_NBYTES)
        self.flush_method = self._flush
        self.thread = threading.get_ident()

    def share(self, Turn turn):
        """Speaks at the ends of these turns, instead of some of its own; what was said before leaves in those."""
        self.turn = turn

    def open(self):
        """Begins to listen."""
        self.loop.add_reader(self.own_fd, self._on_doorbell)
        self.loop.add_reader(self.socket.fileno(), self._on_socket)
        self._listen()

    def close(self):
        """Ends it on this side, and with it the other, which may still read what it has on loan (`take_back`). A second
        time nothing."""
        if self.closed:
            return
        self.closed = True
        self.loop.remove_reader(self.own_fd)
        self.loop.remove_reader(self.socket.fileno())
        self.socket.close()
        os.close(self.own_fd)
        os.close(self.other_fd)
        self.backlog.clear()
        self.flush_method = None

    def take_back(self):
        """The other side is no more: nobody reads what it had on loan."""
        self.lent.clear()

    def hear_out(self):
        """Takes what the other side said before it ended."""
        for _ in range(MOST_LEFT):
            self._listen()

    @property
    def waiting(self):
        """Messages that have no room on the ring."""
        return len(self.backlog)

    @property
    def n_lent(self):
        """What the other side has on loan."""
        return len(self.lent)

    # -- for subclasses ----------------------------------------------------------------------------

    cdef int receive(self, int kind, Cursor cursor) except -1:
        raise WireError("a message of no known kind")

    cdef int receive_no_more(self, const char *first, Py_ssize_t nbytes) except -1:
        raise MemoryError

    cdef int before_flush(self) except -1:
        return 0

    def on_end(self, problem):
        """The other side has ended (None), or said what none of ours says."""
        self.close()

    # -- sending -----------------------------------------------------------------------------------

    cdef Writer fresh(self):
        self.writer.size = 0
        return self.writer

    cdef int give_up(self) except -1:
        # Not here: whoever has something to say is in the middle of it.
        self.loop.call_soon(self._nonsense, "can not be answered for want of memory")
        return 0

    cdef int64_t send(self, Writer message) except? -9:
        cdef int64_t position = -1
        cdef bint spills = message.size > MESSAGE_NBYTES
        if self.closed:
            message.size = 0
            return -1
        if spills:
            self._spill(message)
        self.n_sent += 1
        if not self.backlog:
            position = ta_lane_put(&self.outgoing, message.data, <uint32_t>message.size)
        if position < 0:
            self.backlog.append(PyBytes_FromStringAndSize(message.data, message.size))
        message.size = 0
        self.flush_soon()
        return -1 if spills or position < 0 else position

    # Puts the message into shared memory, and in its place one that says where it is.
    cdef int _spill(self, Writer message) except -1:
        cdef Buffer spilled = self.lease(message.size)
        cdef uint64_t number
        if spilled is None:
            message.size = 0
            raise Unavailable(NO_ROOM)
        memcpy(spilled.data, message.data, message.size)
        number = self.lend(spilled)
        message.size = 0
        message.u8(SPILLED)
        message.u64(number)
        message.u64(<uint64_t>(spilled.data - self.mine.base))
        return message.u64(<uint64_t>spilled.nbytes)

    cdef bint patch(self, int64_t position, uint32_t at, unsigned char bits) noexcept:
        return position >= 0 and not self.closed and ta_lane_patch(&self.outgoing, position, at, bits)

    cdef int send_json(self, int kind, uint64_t number, bytes text) except -1:
        cdef Writer message = Writer.__new__(Writer)
        message.u8(<uint8_t>kind)
        if kind != TELL:
            message.u64(number)
        message.raw(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self.send(message)
        return 0

    def tell(self, bytes text):
        """Tells the other side something, as JSON."""
        self.send_json(TELL, 0, text)

    def call(self, uint64_t number, bytes text):
        """Asks the other side something, as JSON."""
        self.send_json(CALL, number, text)

    def answer(self, uint64_t number, bytes text):
        """Answers what the other side has asked."""
        self.send_json(ANSWER, number, text)

    cdef int flush_soon(self) except -1:
        if not self.scheduled:
            self.scheduled = True
            ta_lane_stay_awake(&self.incoming)
            self.turn.call_late(self.flush_method)
        return 0

    def _flush(self):
        self.scheduled = True
        self.calling = False
        try:
            if not self.closed:
                if self.freed:
                    self._send_freed()
                self.before_flush()
                if self.backlog:
                    self._send_backlog()
        finally:
            self.scheduled = False
            self._ring()
            self._listen()

    cdef int _ring(self) except -1:
        cdef uint64_t one = 1
        if not self.closed and ta_lane_publish(&self.outgoing):
            self.n_rings += 1
            c_write(self.other_fd, &one, 8)
        return 0

    cdef int _send_backlog(self) except -1:
        cdef bytes message
        cdef int64_t position
        while self.backlog:
            message = self.backlog[0]
            position = ta_lane_put(&self.outgoing, PyBytes_AS_STRING(message), <uint32_t>PyBytes_GET_SIZE(message))
            if position == TA_LANE_FULL:
                if ta_lane_wait_for_room(&self.outgoing, <uint32_t>PyBytes_GET_SIZE(message)):
                    continue
                return 0
            if position < 0:
                self._nonsense("says that it has read what was never sent")
                return 0
            self.backlog.popleft()
        return 0

    # -- memory ------------------------------------------------------------------------------------

    cdef Buffer lease(self, int64_t nbytes):
        cdef ta_lease *lease = self.mine.lease(nbytes)
        if lease == NULL:
            return None
        return foreign(<char *><uintptr_t>lease.address, nbytes, lease, ta_lease_return, MEMORY_CPU, 0)

    cdef uint64_t lend(self, object holder) except 0:
        self.last_number += 1
        self.lent[self.last_number] = holder
        return self.last_number

    cdef Held held(self, uint64_t number):
        cdef Held held
        try:
            held = Held.__new__(Held)
        except MemoryError:
            self._give_back(number)
            raise
        held.lane = self
        held.number = number
        held.memory = self.theirs
        return held

    # Any thread, with the GIL.
    cdef int _give_back(self, uint64_t number) except -1:
        if self.closed:
            return 0
        self.freed.append(number)
        if PyThread_get_thread_ident() == <unsigned long>self.thread:
            return self.flush_soon()
        if not self.calling:
            self.calling = True
            try:
                self.loop.call_soon_threadsafe(self.flush_method)
            except RuntimeError:  # the loop is over
                pass
        return 0

    cdef int _send_freed(self) except -1:
        cdef list freed = self.freed
        cdef list part
        cdef Writer message
        cdef int64_t at = 0
        self.freed = []
        try:
            while at < len(freed):
                part = freed[at:at + MOST_FREED]
                message = self.fresh()
                message.u8(FREE)
                message.u32(<uint32_t>len(part))
                for number in part:
                    message.u64(number)
                self.send(message)
                at += len(part)
        except BaseException:  # no memory: later, then
            self.freed = freed[at:] + self.freed
            raise
        return 0

    # -- receiving ---------------------------------------------------------------------------------

    def _on_doorbell(self):
        cdef uint64_t count
        cdef Turn turn = self.turn  # what is heard may have it share others
        cdef bint own = turn.begin()
        try:
            c_read(self.own_fd, &count, 8)
            self._listen()
        finally:
            if own:
                turn.end()

    def _on_socket(self):
        try:
            data = self.socket.recv(1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._nonsense("speaks where it should be silent")
            return
        self.hear_out()
        if not self.closed:
            self._ended(None)

    # Takes what has come, at most an inbox of it: the sockets have their turn in between.
    cdef int _listen(self) except -1:
        cdef uint64_t one = 1
        cdef int64_t nbytes
        while not self.closed:
            nbytes = ta_lane_take(&self.incoming, PyBytes_AS_STRING(self.inbox), INBOX_NBYTES, <uint32_t>MESSAGE_NBYTES)
            if nbytes < 0:
                self._nonsense("has written to its ring what is no message")
                return 0
            if nbytes:
                if ta_lane_is_awaited(&self.incoming):
                    c_write(self.other_fd, &one, 8)
                self._deal(nbytes)
            if self.backlog and not self.closed:
                self._send_backlog()
                self._ring()
            if self.closed:
                return 0
            if nbytes:
                # Behind the turns that this makes models due for, whose answers are so published in the same one.
                return self.flush_soon()
            if self.scheduled or not ta_lane_may_sleep(&self.incoming):
                return 0
            ta_lane_stay_awake(&self.incoming)
        return 0

    cdef int _deal(self, int64_t nbytes) except -1:
        cdef const char *data = PyBytes_AS_STRING(self.inbox)
        cdef Cursor cursor = self.cursor
        cdef int64_t at = 0
        cdef uint32_t length
        try:
            while at < nbytes and not self.closed:
                memcpy(&length, data + at, 4)
                cursor.at = data + at + 4
                cursor.end = cursor.at + length
                at += (length + 4 + 7) // 8 * 8
                self._message(cursor)
        except WireError as error:
            self._nonsense(f"sent {error}")
        except Exception as error:
            log.exception("a message of another process of this server could not be dealt with")
            self._nonsense(f"sent what could not be dealt with ({type(error).__name__})")
        return 0

    cdef int _message(self, Cursor cursor) except -1:
        cdef int kind = cursor.u8()
        cdef uint32_t count
        cdef uint64_t number
        self.n_received += 1
        if kind == FREE:
            count = cursor.u32()
            for _ in range(count):
                number = cursor.u64()
                if self.lent.pop(number, None) is None:
                    raise WireError("that memory is free which was not lent")
            return 0
        if kind == SPILLED:
            return self._spilled(cursor)
        return self.receive(kind, cursor)

    # Copied at once, so that it can not change while it is read.
    cdef int _spilled(self, Cursor cursor) except -1:
        cdef uint64_t number = cursor.u64()
        cdef uint64_t offset = cursor.u64()
        cdef uint64_t nbytes = cursor.u64()
        cdef const char *data = self.theirs.inside(offset, nbytes)
        cdef char[64] first
        cdef bytes message
        cdef Cursor inner
        if data == NULL or nbytes > SPILL_NBYTES or nbytes == 0:
            raise WireError("a message outside of the shared memory")
        try:
            message = PyBytes_FromStringAndSize(data, <Py_ssize_t>nbytes)
        except MemoryError:
            nbytes = min(nbytes, sizeof(first))
            memcpy(first, data, nbytes)
            self._give_back(number)
            return self.receive_no_more(first, <Py_ssize_t>nbytes)
        self._give_back(number)
        inner = cursor_over(PyBytes_AS_STRING(message), <Py_ssize_t>nbytes, message)
        if PyBytes_AS_STRING(message)[0] == SPILLED:
            raise WireError("a message inside of a message")
        return self._message(inner)

    def _nonsense(self, problem):
        if not self.closed:
            self._ended(problem)

    def _ended(self, problem):
        self.on_end(problem)
        self.close()


cdef int put_text(Writer to, str value) except -1:
    cdef Py_ssize_t nbytes
    cdef const char *data
    cdef bytes encoded
    try:
        data = PyUnicode_AsUTF8AndSize(value, &nbytes)
    except UnicodeEncodeError:
        encoded = value.encode("utf-8", "surrogatepass")
        return to.long_text(encoded)
    return to.counted(data, <uint32_t>nbytes)


cdef str take_text(Cursor cursor):
    cdef uint32_t nbytes = cursor.u32()
    cdef const char *data = cursor._take(nbytes)
    try:
        return PyUnicode_DecodeUTF8(data, nbytes, "surrogatepass")
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None


def rings_nbytes():
    """Bytes at the beginning of the memory that both rings are in."""
    return RINGS_NBYTES


def lease_rings(SharedMemory memory):
    """Takes the room of the rings, once, from memory that lends the rest. OSError when it is not at the beginning."""
    cdef ta_lease *lease = memory.lease(RINGS_NBYTES)
    if lease == NULL or memory.offset_of(lease) != 0:
        raise OSError("the shared memory has no room for its rings")
