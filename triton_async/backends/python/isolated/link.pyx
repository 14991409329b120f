"""The server's end of one worker. What comes from there is looked at once, in private memory, and believed only so far
as it is about the worker's own requests."""

import logging
import select

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN
from libc.errno cimport errno as c_errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.fields cimport (
    is_sent_on,
    json_object,
    read_inner_request,
    read_parameters,
    request_inputs,
    write_request,
)
from triton_async.backends.python.isolated.memory cimport SharedMemory
from triton_async.backends.python.isolated.outbound cimport Outbound
from triton_async.backends.python.isolated.wire cimport (
    CALL,
    CANCEL,
    DONE,
    EXEC,
    EXECUTE,
    FINAL,
    FINALIZED,
    FREE,
    HAS_ERROR,
    HAS_RESPONSE,
    LOG,
    RELEASED,
    RELEASES,
    RESPONSE,
    SPILLED,
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
from triton_async.memory.arena cimport ta_lease
from triton_async.memory.slab cimport SlabPool

from triton_async.backends.python.isolated.wire import TakesLong, WireError
from triton_async.backends.python.defines import (
    WORKER_LOOP_NBYTES,
    WORKER_MESSAGE_NBYTES,
    WORKER_RESPONSE_CREDITS,
    WORKER_SPILL_NBYTES,
)
from triton_async.errors import InternalError, ServerError, from_code

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *data, size_t nbytes, int flags)
    int MSG_DONTWAIT
    int MSG_PEEK
    int MSG_TRUNC

log = logging.getLogger("triton_async.python")

cdef Py_ssize_t MESSAGE_NBYTES = WORKER_MESSAGE_NBYTES
cdef Py_ssize_t LOOP_NBYTES = WORKER_LOOP_NBYTES
cdef int CREDITS = WORKER_RESPONSE_CREDITS
cdef uint64_t SPILL_NBYTES = WORKER_SPILL_NBYTES
# Messages read before other workers have their turn.
cdef int MESSAGES_PER_TURN = 16
# What is wrong with a message that was cut.
TOO_LONG = "sent a message that is too long"


def _what_is_wrong(error):
    if isinstance(error, WireError):
        return f"sent {error}"
    log.exception("a message of a Python worker could not be dealt with")
    return f"sent what the server could not deal with ({type(error).__name__})"


cdef class Link(Outbound):
    """`own`: our end of a SOCK_SEQPACKET pair, taken over. `requests` and `responses`: SharedMemory, as the worker has
    them too. `pool`: where outputs are copied to. `reader`: Reader. `owner`: LinkOwner."""

    def __init__(self, own, SharedMemory requests, SharedMemory responses, SlabPool pool, reader, owner):
        Outbound.__init__(self, own, requests, reader, owner)
        self.responses = responses
        self.pool = pool
        self.factories = {}
        self.ahead = {}
        self.batches = {}
        self.inbox = bytearray(MESSAGE_NBYTES)
        self._watch()

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
        cdef uint64_t block
        cdef int taken = 0
        if self.freed:
            self._send_freed(message)
        for factory in factories:
            event = Writer.__new__(Writer)
            block = 0
            try:
                block = self._request(event, factory)
                self._add(message, event)
            except (ServerError, MemoryError) as error:
                self._give_back(block)  # the worker has not heard of it
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

    # The block of its tensors, 0: none.
    cdef uint64_t _request(self, Writer event, ResponseFactory factory) except? 0:
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
        return block

    # -- from the worker, on the loop's thread -----------------------------------------------------

    def follow_loop(self, watcher):
        """Has the loop read what is short. `watcher`: backends.base.Watcher. Reader's thread."""
        self.watcher = watcher

    def on_readable(self):
        """The loop's: the socket is readable, or at its end."""
        if not self.on_loop or self.socket is None:
            return
        self.busy = True
        try:
            self._read_here()
        finally:
            self.busy = False

    # One message: others have their turn, too.
    cdef int _read_here(self) except -1:
        cdef char *data = PyByteArray_AS_STRING(self.inbox)
        cdef ssize_t nbytes = c_recv(self.fd, data, MESSAGE_NBYTES, MSG_DONTWAIT | MSG_TRUNC)
        cdef bytes message
        cdef Cursor cursor
        cdef const char *start
        if nbytes < 0 and c_errno == EAGAIN:
            return 0
        if nbytes <= 0:  # the end, which the reader's thread finds, too
            return self._leave(None, None)
        if nbytes > MESSAGE_NBYTES:
            return self._leave(None, TOO_LONG)
        try:
            message = PyBytes_FromStringAndSize(data, nbytes)
            if nbytes > LOOP_NBYTES:
                return self._leave(message, None)
            start = PyBytes_AS_STRING(message)
            cursor = cursor_over(start, nbytes, message)
            cursor.most_nbytes = LOOP_NBYTES
            while cursor.at < cursor.end:
                start = cursor.at
                if not self._is_short(start[0]):
                    raise TakesLong
                self._event(cursor)
        except TakesLong:
            return self._leave(message[start - PyBytes_AS_STRING(message):], None)
        except Exception as error:
            return self._leave(None, _what_is_wrong(error))
        self._tell_freed()
        return 0

    cdef bint _is_short(self, int kind) noexcept:
        return kind in (RESPONSE, RELEASED, DONE, FREE, EXEC, CANCEL, TAKEN)

    # The reader's thread goes on from here.
    cdef int _leave(self, bytes message, str problem) except -1:
        self.on_loop = False
        self.watcher.forget(self.fd)
        self.left = (message, problem)
        self.reader.call(self.go_on)
        return 0

    # -- from the worker, on the reader's thread ---------------------------------------------------

    def go_on(self):
        """Deals with what the loop has left."""
        left, self.left = self.left, None
        if left is None or self.deaf or self.socket is None:
            return
        message, problem = left
        if problem is not None:
            self._end(problem)
        elif message is None or self.receive(message):
            self._read_all()

    def claim(self):
        """Has the loop read no more; False while it is just at it: then it is to be asked again in a moment."""
        if self.busy:
            return False
        self.stop_reading(False)
        self.go_on()
        return True

    def on_events(self, int events):
        """The reader's: the socket is readable, writable or at its end."""
        if events & select.EPOLLOUT:
            self._on_writable()
        if events & ~select.EPOLLOUT and not self.on_loop and self.left is None:
            self._read_all()

    # The loop goes on when there is nothing more to read.
    cdef int _read_all(self) except -1:
        cdef ssize_t nbytes
        cdef bytes message
        cdef char *data = PyByteArray_AS_STRING(self.inbox)
        for _ in range(MESSAGES_PER_TURN):
            if self.socket is None:
                return 0
            nbytes = c_recv(self.fd, data, MESSAGE_NBYTES, MSG_DONTWAIT | MSG_TRUNC)
            if nbytes < 0 and c_errno == EAGAIN:
                if self.watcher is not None and not self.stopped and not self.outbox:
                    self.on_loop = True
                    self._watch()
                    try:
                        self.on_loop = self.watcher.watch(self.fd, self.on_readable)
                    except OSError:  # no memory for it
                        self.on_loop = False
                break
            if nbytes <= 0:
                self._end(None)
                return 0
            try:
                message = PyBytes_FromStringAndSize(data, min(nbytes, MESSAGE_NBYTES))
            except MemoryError:  # it is lost: the worker is no use any more
                self._end("sent a message that there is no memory for")
                return 0
            if not self.receive(message, nbytes > MESSAGE_NBYTES):
                return 0
        return self._watch()

    # Has the reader hear what is its own to hear.
    cdef int _watch(self) except -1:
        cdef int events = 0
        if self.socket is None:
            return 0
        if not self.stopped and not self.on_loop and self.left is None:
            events |= select.EPOLLIN
        if self.outbox:
            events |= select.EPOLLOUT
        self.reader.watch(self.fd, self.on_events, events)
        return 0

    def _rewatch(self):
        self._watch()

    def receive(self, bytes message, bint truncated=False):
        """Deals with one message; False when it was none of a worker of ours, which ends the link."""
        cdef Cursor cursor = cursor_over(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), message)
        if truncated:
            self._end(TOO_LONG)
            return False
        try:
            while cursor.at < cursor.end:
                self._event(cursor)
        except Exception as error:
            self._end(_what_is_wrong(error))
            return False
        self._tell_freed()
        return True

    def _end(self, problem):
        if self.owner is not None:
            self.owner.ended(problem)

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
        if not final:
            self._check_ahead(handle)
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
        elif flags & RELEASES:
            factory.release()
        return self._forget_if_over(handle, factory)

    # A worker sends only so many responses ahead of who takes them, so that none can fill the server up.
    cdef int _check_ahead(self, uint64_t handle) except -1:
        if self.ahead.get(handle, 0) >= CREDITS:
            raise WireError("more responses than it was allowed")
        return 0

    cdef int _count_ahead(self, uint64_t handle, ResponseFactory factory) except -1:
        cdef int ahead = self.ahead.get(handle, 0) + 1
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
        if cursor.u8():
            if not self.reschedules or factory.finished:
                raise WireError("word of a request that can not be run once more")
            factory.reschedule()
            return self._forget_if_over(handle, factory)
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
        cdef uint64_t answered_ns = cursor.u64()
        if batch is None:
            raise WireError("word of the end of a batch that it does not have")
        if answered_ns < <uint64_t>1 << 63:
            batch.c.compute_output_start_ns = <int64_t>answered_ns
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
        cdef list freed = []
        fields = read_inner_request(cursor, self.responses, self.pool, freed)
        self.freed.extend(freed)
        self.freed_nbytes += cursor.freed_nbytes
        cursor.freed_nbytes = 0
        if fields["askers"] is not None:
            fields["askers"] = self._requests_of(fields["askers"])
        return fields

    # Those that are not over.
    cdef list _requests_of(self, list handles):
        cdef ResponseFactory factory
        cdef list found = []
        for handle in handles:
            factory = self.factories.get(handle)
            if factory is not None:
                found.append(factory.request)
        return found

    def has_begun(self):
        """Whether the worker says that it executes the oldest batch that is out, or has done so."""
        cdef uint64_t begun
        memcpy(&begun, self.responses.base, 8)
        for number in self.batches:
            return begun >= number
        return True

    def is_cancelled(self, handle):
        """Whether nobody waits for the responses of a request any more; one that is over counts as such."""
        cdef ResponseFactory factory = self.factories.get(handle)
        return factory is None or factory.request.cancelled

    # -- end ---------------------------------------------------------------------------------------

    def stop_reading(self, bint for_good):
        """Hears no more of the worker by itself. `for_good`: nor when asked to."""
        self.stopped = True
        self.deaf = self.deaf or for_good
        if self.on_loop:
            self.on_loop = False
            self.watcher.forget(self.fd)
        self._watch()

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
