"""What the server says to one worker: messages put together and sent, memory lent and given back."""

import json
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ENOBUFS
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.fields cimport write_inner_response
from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport (
    ANSWER,
    ASK_READY,
    FINALIZE,
    FREED,
    RELIEVED,
    SPILLED,
    START,
    Writer,
)
from triton_async.memory.arena cimport ta_lease, ta_lease_return

from triton_async.backends.python.defines import WORKER_FREED_NBYTES, WORKER_MESSAGE_NBYTES, WORKER_OUTBOX_NBYTES
from triton_async.errors import ServerError, Unavailable

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void *data, size_t nbytes, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef Py_ssize_t MESSAGE_NBYTES = WORKER_MESSAGE_NBYTES
cdef int64_t FREED_NBYTES = WORKER_FREED_NBYTES
cdef int64_t OUTBOX_NBYTES = WORKER_OUTBOX_NBYTES
NO_ROOM = Unavailable("no room in the memory that is shared with the worker process")

# What is no longer is sent in any case.
cdef Py_ssize_t SHORT_NBYTES = 1024
# Bytes in a message that a spilled event is worth.
cdef int ROOM_FOR_SPILLED = 64
# Places in the worker's memory that it hears of with the next message for it, at most.
cdef int MOST_FREED = 64


cdef class Outbound:
    """`own`: our end of the socket, taken over. See link.Link."""

    def __init__(self, own, SharedMemory requests, reader, owner):
        own.setblocking(False)
        self.socket = own
        self.fd = own.fileno()
        self.requests = requests
        self.reader = reader
        self.owner = owner
        self.blocks = {}
        self.outbox = deque()
        self.freed = []

    cdef int _watch(self) except -1:
        return 0

    def _rewatch(self):
        self._watch()

    # -- messages ----------------------------------------------------------------------------------

    cdef bint flows(self) noexcept:
        return not self.outbox

    cdef uint64_t _keep(self, ta_lease *lease) except 0:
        self.last_number += 1
        self.blocks[self.last_number] = <uintptr_t>lease
        return self.last_number

    def _give_back(self, number):
        lease = self.blocks.pop(number, None)
        if lease is not None:
            ta_lease_return(<void *><uintptr_t>lease)

    cdef int _add(self, Writer message, Writer event) except -1:
        cdef ta_lease *lease
        cdef uint64_t block
        cdef Writer spilled
        if event.size > MESSAGE_NBYTES - ROOM_FOR_SPILLED:
            lease = self.requests.lease(event.size)
            if lease == NULL:
                raise Unavailable("no room for a request in the memory that is shared with its worker process")
            block = self._keep(lease)
            memcpy(self.requests.base + self.requests.offset_of(lease), event.data, event.size)
            spilled = Writer.__new__(Writer)
            spilled.u8(SPILLED)
            spilled.u64(block)
            spilled.u64(<uint64_t>self.requests.offset_of(lease))
            spilled.u64(<uint64_t>event.size)
            event = spilled
        if message.size + event.size > MESSAGE_NBYTES:
            self._send(message)
        message.raw(event.data, event.size)
        return 0

    # Sends a message, now or when the socket takes it, and empties it.
    cdef int _send(self, Writer message) except -1:
        cdef ssize_t sent
        if self.socket is None:
            message.size = 0
            return 0
        if not self.outbox:
            sent = c_send(self.fd, message.data, message.size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0 or c_errno not in (EAGAIN, ENOBUFS):  # other errors: its end, which is read as well
                message.size = 0
                return 0
        self.outbox.append(bytes(message))
        self.outbox_nbytes += message.size
        message.size = 0
        if len(self.outbox) == 1:
            self.reader.call(self._rewatch)
        if self.outbox_nbytes > OUTBOX_NBYTES:
            self.reader.call(self._on_deaf)
        return 0

    def _on_deaf(self):
        if self.owner is not None:
            self.owner.ended("does not read what the server sends to it")

    def _on_writable(self):
        cdef bytes message
        while self.outbox:
            message = self.outbox[0]
            if c_send(self.fd, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message),
                      MSG_DONTWAIT | MSG_NOSIGNAL) < 0 and c_errno in (EAGAIN, ENOBUFS):
                return
            self.outbox.popleft()
            self.outbox_nbytes -= PyBytes_GET_SIZE(message)
        self._watch()

    cdef int _send_freed(self, Writer message) except -1:
        cdef Writer event
        cdef list part
        freed, self.freed = self.freed, []
        self.freed_nbytes = 0
        for at in range(0, len(freed), 1024):
            part = freed[at:at + 1024]
            event = Writer.__new__(Writer)
            event.u8(FREED)
            event.u32(<uint32_t>len(part))
            for offset in part:
                event.u64(offset)
            self._add(message, event)
        return 0

    # At once where the worker may wait for it.
    def _tell_freed(self):
        if self.freed_nbytes > FREED_NBYTES or len(self.freed) > MOST_FREED:
            writer = Writer.__new__(Writer)
            self._send_freed(writer)
            self._send(writer)

    def _free(self, uint64_t offset, uint64_t nbytes):
        self.freed.append(offset)
        self.freed_nbytes += <int64_t>nbytes

    # What was lent comes back, on any thread.
    def _lent_back(self, offset, nbytes):
        if self.socket is None:
            return
        self._free(offset, nbytes)
        if self.freed_nbytes > FREED_NBYTES:
            self._tell_freed()

    # -- what it is told ---------------------------------------------------------------------------

    def start(self, content):
        """Tells the worker what to run: a dict."""
        self._tell(START, content)

    def ask_ready(self, uint64_t question):
        """Has `is_ready` of the model asked; LinkOwner.told_ready gets the answer."""
        cdef Writer message = Writer.__new__(Writer)
        message.u8(ASK_READY)
        message.u64(question)
        self._send(message)

    def finalize(self):
        """Tells the worker to call `finalize` and to end."""
        cdef Writer message = Writer.__new__(Writer)
        message.u8(FINALIZE)
        self._send(message)

    def answer(self, uint64_t call, bint refused, int code, str text):
        """Answers a call of the worker: JSON text, or what refuses it."""
        cdef Writer event = Writer.__new__(Writer)
        event.u8(ANSWER)
        event.u64(call)
        event.u8(refused)
        event.u32(<uint32_t>code)
        event.long_text(text.encode("utf-8", "replace"))
        try:
            self._send_event(event)
        except (ServerError, MemoryError):
            if event.size < SHORT_NBYTES:
                raise
            # Too long for the room there is. Who asks waits for an answer.
            self.answer(call, True, int(NO_ROOM.code), NO_ROOM.message)

    def relieve(self, uint64_t handle, uint32_t count):
        """So many responses of a request were passed on: as many more may follow."""
        cdef Writer message = Writer.__new__(Writer)
        message.u8(RELIEVED)
        message.u64(handle)
        message.u32(count)
        self._send(message)

    def respond(self, uint64_t call, list outputs, dict parameters, error, bint final):
        """A response to an inference request of the worker's. `outputs`: Tensors, or None with word of the end alone.
        """
        cdef Writer event = Writer.__new__(Writer)
        cdef Writer tensors = Writer.__new__(Writer)
        cdef ta_lease *lease = NULL
        cdef uint64_t block = 0
        if error is None and outputs is not None:
            try:
                lease = tensors.tensors(outputs, self.requests)
            except ServerError as problem:
                error = problem
        try:
            if lease != NULL:
                block = self._keep(lease)
            write_inner_response(event, call, block, None if outputs is None else tensors, parameters, error, final)
            self._send_event(event)
        except (ServerError, MemoryError):
            # Likewise. The worker has not heard of the block.
            self._give_back(block)
            event = Writer.__new__(Writer)
            write_inner_response(event, call, 0, None, None, NO_ROOM, final)
            self._send_event(event)

    def _tell(self, int kind, content):
        cdef Writer event = Writer.__new__(Writer)
        event.u8(<uint8_t>kind)
        event.long_text(json.dumps(content).encode())
        self._send_event(event)

    def _send_event(self, Writer event):
        cdef Writer message = Writer.__new__(Writer)
        self._add(message, event)
        self._send(message)
