"""The sockets of clients: reading, writing, and both once for all that are ready. Loop thread."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_GET_BUFFER
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset
from posix.unistd cimport close

from triton_async.core.turn cimport Sender, Turn
from triton_async.epoll cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
)
from triton_async.protocol.receiver cimport Receiver

import logging
import os
import socket

from triton_async.frontends import defines

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)

log = logging.getLogger("triton_async.frontends")

cdef Py_ssize_t RECEIVE_NBYTES = defines.RECEIVE_NBYTES
cdef Py_ssize_t TURN_NBYTES = defines.TURN_NBYTES
cdef Py_ssize_t WRITE_NBYTES = defines.WRITE_NBYTES
# From so many bytes on, others may have the GIL while the kernel copies.
cdef Py_ssize_t LONG_NBYTES = 1 << 16

# Turns in a row, of those in which many clients are ready, before the loop looks at all else.
cdef int ROUNDS = 4

# A client is tried before all are asked about when it alone was ready this often, and so often in a row.
cdef int LONE_TIMES = 2
cdef int LONE_TRIES = 8

cdef enum:
    READY_AT_ONCE = 128    # sockets of one turn
    PARTS_AT_ONCE = 64     # buffers of one write


@cython.final
cdef class Clients:
    """The clients of one listener, as the turns of `turn`'s loop serve them. Close it behind the listener: it ends with
    the last client, and then calls `on_end`."""

    def __cinit__(self, Turn turn, on_end):
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.turn = turn
        self.on_end = on_end
        self.transports = []
        self.scratch = bytearray(RECEIVE_NBYTES)
        self.scratch_view = memoryview(self.scratch)
        turn.loop.add_reader(self.epoll_fd, self._on_ready)

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    def adopt(self, sock, peer, protocol):
        """Serves an accepted socket, which is non-blocking, with this protocol; `peer`: its address. The socket is
        closed here, also where this raises."""
        cdef Transport transport = Transport.__new__(Transport)
        transport.clients = self
        transport.sock = sock
        transport.fd = sock.fileno()
        transport.peer = peer
        transport.protocol = protocol
        transport.receiver = protocol if isinstance(protocol, Receiver) else None
        transport.buffered = hasattr(protocol, "get_buffer")
        transport.reading = True
        while len(self.transports) <= transport.fd:
            self.transports.append(None)
        self.n_open += 1
        try:
            protocol.connection_made(transport)
            if transport.reading and transport.state == TRANSPORT_OPEN:
                self.watch(transport, transport.events | EPOLLIN)
        except Exception as error:
            log.exception("a connection could not begin")
            transport._fail(error)

    def close(self):
        """No client comes any more."""
        self.closing = True
        self._end()

    cdef int _end(self) except -1:
        if self.closing and self.n_open == 0 and self.epoll_fd >= 0:
            self.turn.loop.remove_reader(self.epoll_fd)
            close(self.epoll_fd)
            self.epoll_fd = -1
            self.lone = None
            self.on_end()
        return 0

    cdef int watch(self, Transport transport, uint32_t events) except -1:
        cdef epoll_event event
        cdef int operation = EPOLL_CTL_MOD
        if events == transport.events:
            return 0
        if transport.events == 0:
            operation = EPOLL_CTL_ADD
        elif events == 0:
            operation = EPOLL_CTL_DEL
        event.events = events
        event.data.fd = transport.fd
        if epoll_ctl(self.epoll_fd, operation, transport.fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        transport.events = events
        self.transports[transport.fd] = transport if events else None
        return 0

    def _on_ready(self):
        cdef int rounds = 0
        cdef int served = 2
        cdef bint own
        # While several clients ask at once, there are others by the time when these are answered.
        self.moved_nbytes = 0
        while served > 1 and rounds < ROUNDS and self.moved_nbytes < TURN_NBYTES:
            rounds += 1
            own = self.turn.begin()
            try:
                served = self._serve()
            finally:
                if own:
                    self.turn.end()

    cdef int _serve(self) except -1:
        cdef epoll_event[READY_AT_ONCE] ready
        cdef int count, i
        cdef Transport transport = self.lone
        # Where one client asks one thing after the other, it is the one that is ready; others wait a few turns at most.
        if transport is not None and self.n_lone >= LONE_TIMES and self.n_tried < LONE_TRIES:
            self.n_tried += 1
            self.share = TURN_NBYTES
            if transport.events & EPOLLIN and transport.reading and self._read(transport):
                return 1
        self.n_tried = 0
        count = epoll_wait(self.epoll_fd, ready, READY_AT_ONCE, 0)
        self.share = max(TURN_NBYTES // max(count, 1), RECEIVE_NBYTES)
        for i in range(count):
            transport = self.transports[ready[i].data.fd]
            if transport is not None:  # or it was closed for what came before it in this turn
                self._serve_one(transport, ready[i].events)
        if count != 1:
            self.n_lone = 0
            self.lone = None
        elif self.lone is not None and self.lone.fd == ready[0].data.fd:
            self.n_lone += 1
        else:
            self.lone = self.transports[ready[0].data.fd]
            self.n_lone = 1
        return max(count, 0)

    cdef int _serve_one(self, Transport transport, uint32_t events) except -1:
        if events & EPOLLOUT or not transport.events & EPOLLIN:
            transport.send()
        if events & ~<uint32_t>EPOLLOUT and transport.events & EPOLLIN:
            if transport.reading:
                self._read(transport)
            else:
                self.watch(transport, transport.events & ~<uint32_t>EPOLLIN)
        return 0

    # Whether there was anything.
    cdef bint _read(self, Transport transport) except -1:
        try:
            return transport.read()
        except Exception as error:
            log.exception("a connection failed")
            transport._fail(error)
            return True


@cython.final
cdef class Transport(Sender):
    """The transport of one client's socket; made by `Clients.adopt`."""

    def __cinit__(self):
        self.fd = -1
        self.waiting = []
        self.high = WRITE_NBYTES
        self.low = WRITE_NBYTES // 4

    # -- reading -----------------------------------------------------------------------------------

    cdef bint read(self) except -1:
        cdef Py_ssize_t left = self.clients.share
        cdef Py_ssize_t count = self._receive(left)
        # What fills the room that was made for it goes on in the socket.
        while self.filled and left > count and self.reading and self.state == TRANSPORT_OPEN:
            left -= count
            count = self._receive(left)
        if self.filled:
            self.clients.n_lone = 0  # others are asked about before it goes on
        if left < self.clients.share and (count == -EAGAIN or count == -EINTR):
            return True
        if count == -EAGAIN or count == -EINTR:
            return False
        if count == 0:
            self._end_input()
        elif count < 0:
            self._fail(OSError(-count, os.strerror(-count)))
        return True

    # Bytes that are with the protocol now, 0 at the end, or an error's number with a minus.
    cdef Py_ssize_t _receive(self, Py_ssize_t most) except -100000:
        cdef unsigned char *at
        cdef Py_ssize_t size, count
        cdef int problem
        cdef object view = None
        if self.receiver is not None:
            size = self.receiver.make_room(&at)
        else:
            view = self.protocol.get_buffer(-1) if self.buffered else self.clients.scratch_view
            if not isinstance(view, memoryview):
                view = memoryview(view)
            size = PyMemoryView_GET_BUFFER(view).len
            at = <unsigned char *>PyMemoryView_GET_BUFFER(view).buf
        size = min(size, most)
        if size > LONG_NBYTES:
            with nogil:
                count = recv(self.fd, at, size, MSG_DONTWAIT)
                problem = errno
        else:
            count = recv(self.fd, at, size, MSG_DONTWAIT)
            problem = errno
        self.filled = count == size
        if count <= 0:
            return -problem if count else 0
        self.clients.moved_nbytes += count
        if self.receiver is not None:
            self.receiver.take_bytes(count)
        elif self.buffered:
            self.protocol.buffer_updated(count)
        else:
            self.protocol.data_received(bytes(view[:count]))
        return count

    cdef int _end_input(self) except -1:
        self.ended = True
        self.clients.watch(self, self.events & ~<uint32_t>EPOLLIN)
        if not self.protocol.eof_received():
            self.close()
        return 0

    def is_reading(self):
        return self.reading and self.state == TRANSPORT_OPEN

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        if not self.reading and self.state == TRANSPORT_OPEN:
            self.reading = True
            if not self.ended:
                self.clients.watch(self, self.events | EPOLLIN)

    # -- writing -----------------------------------------------------------------------------------

    cpdef write(self, data):
        """Sends `data`, any contiguous buffer that does not change until it has left."""
        if self.state == TRANSPORT_OPEN and not self.ends:
            self._put(data)
            self._send_soon()

    cpdef writelines(self, parts):
        """The same for several."""
        if self.state == TRANSPORT_OPEN and not self.ends:
            for data in parts:
                self._put(data)
            self._send_soon()

    cdef int _put(self, object data) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t size
        if type(data) is bytes:
            size = PyBytes_GET_SIZE(data)
        else:
            if isinstance(data, bytearray):
                data = bytes(data)  # its owner may go on writing into it
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            size = view.len
            PyBuffer_Release(&view)
        if size:
            self.waiting.append(data)
            self.waiting_nbytes += size
        return 0

    cdef int _send_soon(self) except -1:
        if not self.events & EPOLLOUT:
            if self.clients.turn.running and self.waiting_nbytes <= self.high:
                self.clients.turn.gather(self)
            else:
                self.send()
        if self.waiting_nbytes > self.high:
            self._pause()
        return 0

    cdef int send(self) except -1:
        cdef Py_ssize_t count
        cdef Py_ssize_t room = self._room()
        try:
            while self.waiting_nbytes:
                count = self._send_some(room) if room > 0 else -EAGAIN
                if count >= 0:
                    self.sent_nbytes += count
                    self.clients.sent_nbytes += count
                    self.clients.moved_nbytes += count
                    room = self._room()
                    self._drop_sent(count)
                elif count == -EAGAIN:
                    self.clients.watch(self, self.events | EPOLLOUT)
                    break
                elif count != -EINTR:
                    return self._fail(OSError(-count, os.strerror(-count)))
            if self.waiting_nbytes == 0 and self.state != TRANSPORT_LOST:
                self._sent()
            if self.paused and self.waiting_nbytes <= self.low:
                self._resume()
        except Exception as error:
            log.exception("a connection failed")
            self._fail(error)
        return 0

    cdef Py_ssize_t _room(self) noexcept:
        cdef Clients clients = self.clients
        cdef uint64_t number = clients.turn.number
        if clients.turn_number != number:
            clients.turn_number = number
            clients.sent_nbytes = 0
        if self.turn_number != number:
            self.turn_number = number
            self.sent_nbytes = 0
        return max(TURN_NBYTES - clients.sent_nbytes, RECEIVE_NBYTES - self.sent_nbytes)

    # Bytes that have left, or an error's number with a minus.
    cdef Py_ssize_t _send_some(self, Py_ssize_t most) except -100000:
        cdef iovec[PARTS_AT_ONCE] parts
        cdef Py_buffer[PARTS_AT_ONCE] views
        cdef msghdr message
        cdef Py_ssize_t nbytes = 0
        cdef Py_ssize_t count
        cdef int problem
        cdef int n = 0
        cdef object data = self.waiting[self.first]
        if self.waiting_nbytes < LONG_NBYTES and type(data) is bytes and len(self.waiting) == self.first + 1:
            count = send(self.fd, PyBytes_AS_STRING(data) + self.start, PyBytes_GET_SIZE(data) - self.start,
                         MSG_DONTWAIT | MSG_NOSIGNAL)
            return count if count >= 0 else -errno
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        try:
            nbytes = -self.start
            while n < PARTS_AT_ONCE and self.first + n < len(self.waiting) and nbytes < most:
                PyObject_GetBuffer(self.waiting[self.first + n], &views[n], PyBUF_SIMPLE)
                parts[n].iov_base = views[n].buf
                parts[n].iov_len = views[n].len
                nbytes += views[n].len
                n += 1
            parts[0].iov_base = <char *>parts[0].iov_base + self.start
            parts[0].iov_len -= self.start
            if nbytes > most:
                parts[n - 1].iov_len -= nbytes - most
                nbytes = most
            message.msg_iovlen = n
            if nbytes >= LONG_NBYTES:
                with nogil:
                    count = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                    problem = errno
            else:
                count = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
                problem = errno
        finally:
            while n:
                n -= 1
                PyBuffer_Release(&views[n])
        return count if count >= 0 else -problem

    cdef int _drop_sent(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t size
        self.waiting_nbytes -= count
        count += self.start
        if self.waiting_nbytes == 0:
            return self._drop_all()
        while count:
            data = self.waiting[self.first]
            size = PyBytes_GET_SIZE(data) if type(data) is bytes else memoryview(data).nbytes
            if count < size:
                break
            self.waiting[self.first] = None
            self.first += 1
            count -= size
        self.start = count
        if self.first >= PARTS_AT_ONCE and 2 * self.first >= len(self.waiting):
            del self.waiting[:self.first]
            self.first = 0
        return 0

    cdef int _drop_all(self) except -1:
        while self.waiting:
            self.waiting.pop()
        self.waiting_nbytes = self.first = self.start = 0
        return 0

    cdef int _sent(self) except -1:
        self.clients.watch(self, self.events & ~<uint32_t>EPOLLOUT)
        if self.state == TRANSPORT_CLOSING:
            self._lose(None)
        elif self.ends:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._fail(error)
        return 0

    cdef int _pause(self) except -1:
        if not self.paused:
            self.paused = True
            self.protocol.pause_writing()
        return 0

    cdef int _resume(self) except -1:
        self.paused = False
        if self.state != TRANSPORT_LOST:
            self.protocol.resume_writing()
        return 0

    def can_write_eof(self):
        return True

    def write_eof(self):
        """Nothing is written any more; the client learns of it behind what was."""
        if self.state == TRANSPORT_OPEN and not self.ends:
            self.ends = True
            if self.waiting_nbytes == 0:
                self._sent()

    def get_write_buffer_size(self):
        return self.waiting_nbytes

    def get_write_buffer_limits(self):
        return (self.low, self.high)

    def set_write_buffer_limits(self, high=None, low=None):
        """As asyncio's; what waits already is looked at with the next write."""
        if high is None:
            high = WRITE_NBYTES if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high, self.low = high, low

    # -- end ---------------------------------------------------------------------------------------

    def is_closing(self):
        return self.state != TRANSPORT_OPEN

    def close(self):
        """Sends what was written, then ends."""
        if self.state != TRANSPORT_OPEN:
            return
        self.state = TRANSPORT_CLOSING
        self.clients.watch(self, self.events & ~<uint32_t>EPOLLIN)
        if self.waiting_nbytes == 0:
            self._lose(None)

    def abort(self):
        """Ends now."""
        self._lose(None)

    cdef int _fail(self, object error) except -1:
        log.debug("a connection to %s failed: %s", self.peer, error)
        self._lose(error)
        return 0

    def _lose(self, error):
        if self.state == TRANSPORT_LOST:
            return
        self.state = TRANSPORT_LOST
        self.clients.watch(self, 0)
        self._drop_all()
        if self.clients.lone is self:
            self.clients.lone = None
        # Not from inside a call, which may be the protocol's own.
        self.clients.turn.loop.call_soon(self._be_lost, error)

    def _be_lost(self, error):
        protocol, self.protocol = self.protocol, None
        self.receiver = None
        try:
            protocol.connection_lost(error)
        except Exception:
            log.exception("a connection did not end well")
        finally:
            self.sock.close()
            self.clients.n_open -= 1
            self.clients._end()

    def get_extra_info(self, name, default=None):
        if name == "peername":
            return self.peer
        if name == "socket":
            return self.sock
        if name == "sockname":
            return self.sock.getsockname() if self.sock.fileno() >= 0 else default
        return default

    def get_protocol(self):
        return self.protocol
