"""The server's end of one worker. What comes from there is looked at once, in private memory, and believed only so far
as it is about the worker's own requests."""

import json
import logging
import select
from collections import deque

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ENOBUFS
from libc.errno cimport errno as c_errno
from libc.stdint cimport uint8_t, uint32_t, uintptr_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.fields cimport (
    is_sent_on,
    json_object,
    read_inner_request,
    read_parameters,
    request_inputs,
    write_inner_response,
    write_request,
)
from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.wire cimport (
    ANSWER,
    ASK_READY,
    CALL,
    CANCEL,
    DONE,
    EXEC,
    EXECUTE,
    FINAL,
    FINALIZE,
    FINALIZED,
    FREE,
    FREED,
    HAS_ERROR,
    HAS_RESPONSE,
    LOG,
    RELEASED,
    RELIEVED,
    RESPONSE,
    SPILLED,
    START,
    STARTED,
    TAKEN,
    TOLD_READY,
    Cursor,
    Writer,
    cursor_over,
)
from triton_async.backends.python.local cimport client_view
from triton_async.infer.batch cimport Batch, asks_for
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.arena cimport ta_lease, ta_lease_return
from triton_async.memory.slab cimport SlabPool

from triton_async.backends.python.isolated.wire import WireError
from triton_async.defines import (
    WORKER_FREED_NBYTES,
    WORKER_MESSAGE_NBYTES,
    WORKER_OUTBOX_NBYTES,
    WORKER_RESPONSE_CREDITS,
    WORKER_SPILL_NBYTES,
)
from triton_async.errors import InternalError, ServerError, Unavailable, from_code

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void *data, size_t nbytes, int flags)
    ssize_t c_recv "recv"(int fd, void *data, size_t nbytes, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int MSG_PEEK
    int MSG_TRUNC

log = logging.getLogger("triton_async.python")

cdef Py_ssize_t MESSAGE_NBYTES = WORKER_MESSAGE_NBYTES
cdef int64_t FREED_NBYTES = WORKER_FREED_NBYTES
cdef int CREDITS = WORKER_RESPONSE_CREDITS
cdef int64_t OUTBOX_NBYTES = WORKER_OUTBOX_NBYTES
cdef uint64_t SPILL_NBYTES = WORKER_SPILL_NBYTES
# Messages read before other workers have their turn.
cdef int MESSAGES_PER_TURN = 16
# Bytes in a message that a spilled event is worth.
cdef int ROOM_FOR_SPILLED = 64


cdef class Link:
    """`own`: our end of a SOCK_SEQPACKET pair, taken over. `requests` and `responses`: SharedMemory, as the worker has
    them too. `pool`: where outputs are copied to. `reader`: Reader. `owner`: LinkOwner."""

    def __init__(self, own, SharedMemory requests, SharedMemory responses, SlabPool pool, reader, owner):
        own.setblocking(False)
        self.socket = own
        self.fd = own.fileno()
        self.requests = requests
        self.responses = responses
        self.pool = pool
        self.reader = reader
        self.owner = owner
        self.factories = {}
        self.ahead = {}
        self.batches = {}
        self.blocks = {}
        self.outbox = deque()
        self.freed = []
        self.inbox = bytearray(MESSAGE_NBYTES)
        reader.watch(self.fd, self.on_events)

    @property
    def failed(self):
        """Whether it is over."""
        return self.socket is None

    # -- to the worker -----------------------------------------------------------------------------

    cdef bint submit(self, Batch batch, list factories) except -1:
        cdef Writer message = Writer.__new__(Writer)
        cdef Writer event
        cdef ResponseFactory factory
        cdef uint64_t number
        cdef int taken = 0
        if self.freed:
            self._send_freed(message)
        for factory in factories:
            event = Writer.__new__(Writer)
            try:
                self._request(event, factory)
                self._add(message, event)
            except (ServerError, MemoryError) as error:
                self._refuse(factory, error)
                continue
            taken += 1
        if taken == 0:
            if message.size:
                self._send(message)
            return False
        self.last_number += 1
        number = self.last_number
        self.batches[number] = batch
        event = Writer.__new__(Writer)
        event.u8(EXECUTE)
        event.u64(number)
        self._add(message, event)
        self._send(message)
        return True

    def _refuse(self, ResponseFactory factory, error):
        if not isinstance(error, ServerError):
            error = InternalError(f"model '{factory.signature.model_name}': no memory to hand a request to its worker")
        for handle, known in list(self.factories.items()):
            if known is factory:
                del self.factories[handle]
        factory.send([], None, error)
        factory.release()

    cdef int _request(self, Writer event, ResponseFactory factory) except -1:
        cdef Writer tensors = Writer.__new__(Writer)
        cdef ta_lease *lease = tensors.tensors(request_inputs(factory), self.requests)
        cdef uint64_t block = self._keep(lease) if lease != NULL else 0
        self.last_number += 1
        try:
            write_request(event, factory.request, self.last_number, block, tensors)
        except BaseException:
            self._give_back(block)
            raise
        self.factories[self.last_number] = factory
        return 0

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
            self.reader.watch_writable(self.fd, True)
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
        self.reader.watch_writable(self.fd, False)

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
        self._send_event(event)

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
        if lease != NULL:
            block = self._keep(lease)
        write_inner_response(event, call, block, None if outputs is None else tensors, parameters, error, final)
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

    # -- from the worker ---------------------------------------------------------------------------

    def on_events(self, int events):
        """The reader's: the socket is readable, writable or at its end."""
        cdef ssize_t nbytes
        cdef char *data = PyByteArray_AS_STRING(self.inbox)
        if events & select.EPOLLOUT:
            self._on_writable()
        if not events & ~select.EPOLLOUT:
            return
        for _ in range(MESSAGES_PER_TURN):
            if self.socket is None:
                return
            nbytes = c_recv(self.fd, data, MESSAGE_NBYTES, MSG_DONTWAIT | MSG_TRUNC)
            if nbytes < 0 and c_errno == EAGAIN:
                return
            if nbytes <= 0:
                self.owner.ended(None)
                return
            if not self.receive(PyBytes_FromStringAndSize(data, min(nbytes, MESSAGE_NBYTES)),
                                nbytes > MESSAGE_NBYTES):
                return

    def receive(self, bytes message, bint truncated=False):
        """Deals with one message; False when it was none of a worker of ours, which ends the link."""
        cdef Cursor cursor = cursor_over(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), message)
        try:
            if truncated:
                raise WireError("a message that is too long")
            while cursor.at < cursor.end:
                self._event(cursor)
        except WireError as error:
            if self.owner is not None:
                self.owner.ended(f"sent {error}")
            return False
        except Exception as error:
            log.exception("a message of a Python worker could not be dealt with")
            if self.owner is not None:
                self.owner.ended(f"sent what the server could not deal with ({type(error).__name__})")
            return False
        if self.freed_nbytes > FREED_NBYTES or len(self.freed) > 64:
            writer = Writer.__new__(Writer)
            self._send_freed(writer)
            self._send(writer)
        return True

    cdef int _event(self, Cursor cursor) except -1:
        cdef int kind = cursor.u8()
        if kind == RESPONSE:
            return self._on_response(cursor)
        if kind == RELEASED:
            return self._on_released(cursor)
        if kind == DONE:
            return self._on_done(cursor)
        if kind == FREE:
            return self._on_free(cursor)
        if kind == SPILLED:
            return self._on_spilled(cursor)
        if kind == EXEC:
            self.owner.executes(cursor.u64(), self._exec(cursor))
        elif kind == CANCEL:
            self.owner.cancels(cursor.u64())
        elif kind == TAKEN:
            call = cursor.u64()
            self.owner.takes(call, cursor.u32())
        elif kind == CALL:
            self.owner.called(cursor.u64(), json_object(cursor.long_bytes()))
        elif kind == LOG:
            level, line = cursor.u8(), cursor.u32()
            self.owner.logs(level, line, cursor.text(), cursor.long_text())
        elif kind == TOLD_READY:
            call, level = cursor.u64(), cursor.u8()
            self.owner.told_ready(call, level, cursor.long_text())
        elif kind == STARTED:
            failed = cursor.u8()
            self.owner.started(bool(failed), cursor.long_text())
        elif kind == FINALIZED:
            self.owner.finalized()
        else:
            raise WireError(f"an event of the unknown kind {kind}")
        return 0

    cdef int _on_spilled(self, Cursor cursor) except -1:
        cdef uint64_t offset = cursor.u64()
        cdef uint64_t nbytes = cursor.u64()
        cdef const char *data = self.responses.inside(offset, nbytes)
        cdef Cursor inner
        cdef bytes content
        if data == NULL or nbytes > SPILL_NBYTES:
            raise WireError("an event outside of the shared memory")
        content = PyBytes_FromStringAndSize(data, <Py_ssize_t>nbytes)
        self._free(offset, nbytes)
        if nbytes == 0 or content[0] == SPILLED:
            raise WireError("an event without content")
        inner = cursor_over(PyBytes_AS_STRING(content), <Py_ssize_t>nbytes, content)
        self._event(inner)
        if inner.at != inner.end:
            raise WireError("something behind an event")
        return 0

    # What was lent comes back, on any thread.
    def _lent_back(self, offset, nbytes):
        if self.socket is None:
            return
        self._free(offset, nbytes)
        if self.freed_nbytes > FREED_NBYTES:
            writer = Writer.__new__(Writer)
            self._send_freed(writer)
            self._send(writer)

    def _free(self, uint64_t offset, uint64_t nbytes):
        self.freed.append(offset)
        self.freed_nbytes += <int64_t>nbytes

    cdef ResponseFactory _factory_of(self, Cursor cursor):
        cdef ResponseFactory factory = self.factories.get(cursor.u64())
        if factory is None:
            raise WireError("something about a request that it does not have")
        return factory

    cdef int _on_response(self, Cursor cursor) except -1:
        cdef uint64_t handle
        cdef const char *start = cursor.at
        cdef ResponseFactory factory = self._factory_of(cursor)
        cdef int flags = cursor.u8()
        cdef bint final = flags & FINAL
        cdef Tensor tensor
        cdef list outputs = []
        cdef list freed = []
        memcpy(&handle, start, 8)
        if factory.finished:
            raise WireError("a response behind the final one")
        error = parameters = None
        if flags & HAS_ERROR:
            code = cursor.u32()
            error = from_code(code if code < 8 else 1, cursor.long_text())
        elif flags & HAS_RESPONSE:
            parameters = read_parameters(cursor.long_bytes())
            cursor.lender = self._lent_back if is_sent_on(factory.request) else None
            for tensor in cursor.tensors(self.responses, self.pool, freed):
                spec = factory.signature.output_by_name.get(tensor.name)
                if spec is not None and asks_for(factory.request, <TensorSpec>spec):
                    try:
                        outputs.append(client_view(factory.signature, <TensorSpec>spec, tensor))
                    except ServerError as problem:
                        error = problem
            self.freed_nbytes += cursor.freed_nbytes
            cursor.freed_nbytes = 0
            if len({(<Tensor>tensor).name for tensor in outputs}) < len(outputs):
                raise WireError("an output twice in a response")
            self.freed.extend(freed)
        elif not final:
            raise WireError("a response that is none")
        if final and not flags & (HAS_ERROR | HAS_RESPONSE):
            self._end_without(factory)
        else:
            try:
                # As in the server's process: an output goes out with the datatype that the model gave it.
                if error is None:
                    factory.send_taken(outputs, parameters, final)
                else:
                    factory.send([], None, error, final)
            except ServerError as problem:
                factory.send([], None, problem, final)
        if not final:
            self._count_ahead(handle, factory)
        return self._forget_if_over(handle, factory)

    # A worker sends only so many responses ahead of who takes them, so that none can fill the server up.
    cdef int _count_ahead(self, uint64_t handle, ResponseFactory factory) except -1:
        cdef int ahead = self.ahead.get(handle, 0) + 1
        if ahead > CREDITS:
            raise WireError("more responses than it was allowed")
        self.ahead[handle] = ahead
        if ahead == CREDITS // 2:
            factory.on_relief(lambda: self._relieve(handle))
        return 0

    def _relieve(self, handle):
        ahead = self.ahead.pop(handle, 0)
        if ahead and self.socket is not None:
            self.relieve(handle, ahead)

    # Word that no response follows.
    def _end_without(self, ResponseFactory factory):
        if not factory.signature.decoupled:
            raise WireError("word of the end of a request without its response")
        factory.send([], None, None, True)

    cdef int _on_released(self, Cursor cursor) except -1:
        cdef uint64_t handle
        cdef const char *start = cursor.at
        cdef ResponseFactory factory = self._factory_of(cursor)
        memcpy(&handle, start, 8)
        cursor.u8()
        if not factory.finished and not factory.signature.decoupled:
            raise WireError("word of the release of a request that it had not answered")
        factory.release()
        return self._forget_if_over(handle, factory)

    cdef int _forget_if_over(self, uint64_t handle, ResponseFactory factory) except -1:
        if factory.finished and factory.released:
            del self.factories[handle]
            self.ahead.pop(handle, None)
        return 0

    cdef int _on_done(self, Cursor cursor) except -1:
        cdef Batch batch = self.batches.pop(cursor.u64(), None)
        if batch is None:
            raise WireError("word of the end of a batch that it does not have")
        self.owner.batch_done(batch)
        return 0

    cdef int _on_free(self, Cursor cursor) except -1:
        cdef uint64_t number = cursor.u64()
        if number not in self.blocks:
            raise WireError("word of memory that it does not have")
        self._give_back(number)
        return 0

    # What it says of an inference request that it makes.
    def _exec(self, Cursor cursor):
        fields = read_inner_request(cursor, self.responses, self.pool, self.freed)
        self.freed_nbytes += cursor.freed_nbytes
        cursor.freed_nbytes = 0
        return fields

    def is_cancelled(self, handle):
        """Whether nobody waits for the responses of a request any more; one that is over counts as such."""
        cdef ResponseFactory factory = self.factories.get(handle)
        return factory is None or factory.request.cancelled

    # -- end ---------------------------------------------------------------------------------------

    def stop_reading(self, bint for_good):
        """Hears no more of the worker by itself. `for_good`: nor when asked to."""
        self.reader.forget(self.fd)
        self.deaf = self.deaf or for_good

    def pending(self):
        """Whether there is something that was not read."""
        cdef char byte
        return not self.deaf and self.socket is not None and \
            c_recv(self.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0

    def fail(self, error):
        """Ends it: what was not answered is answered with `error`, and given up. Returns the batches that were out,
        which are the caller's. On the reader's thread, or where that does not know of the link."""
        cdef ResponseFactory factory
        if self.socket is None:
            return []
        self.reader.forget(self.fd)
        own, self.socket = self.socket, None
        own.close()
        self.owner = None
        factories, self.factories = self.factories, {}
        for factory in factories.values():
            if not factory.finished:
                factory.send([], None, error)
            factory.release()
        batches, self.batches = self.batches, {}
        for number in list(self.blocks):
            self._give_back(number)
        self.outbox.clear()
        self.requests.close()
        self.responses.close()
        return list(batches.values())
