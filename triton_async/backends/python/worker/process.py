# cython: annotation_typing=False, wraparound=True
"""A worker: one instance of a Python model in another process than the server's, and its way there.

Whichever thread waits for something reads the socket, for all of them; nobody reads it while nobody waits.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable

from . import wire
from .calls import refusal
from .channel import COUNTER, GAUGE, HISTOGRAM, Channel, Refused
from .context import Context
from .messages import ErrorCode, InferenceResponse, TritonError
from .outgoing import Outgoing, TooLarge
from .runner import ModelFailure, Runner, describe, unanswered
from .tensors import from_source

if TYPE_CHECKING:
    from .calls import Call
    from .messages import InferenceRequest

INTERNAL, INVALID_ARG = 1, 3

# Handles of the requests for whose sake a model runs just now, in a thread or a task: what it asks of others is for
# them. Tasks take it along from the execution that starts them.
ASKERS: ContextVar[list[int] | None] = ContextVar("askers", default=None)

# Responses of a call that are told to be taken at once: less than the server waits for.
TAKEN_AT_ONCE = 8


def _end_process() -> None:
    os._exit(0)


class _Answer:
    """What a thread waits for that has asked the server something."""

    __slots__ = ("code", "content", "refused")

    def __init__(self) -> None:
        self.content: str | None = None
        self.refused = False
        self.code = INTERNAL


class _Handle:
    """A metric family or a metric: its number on the server, and its kind."""

    __slots__ = ("kind", "number")

    def __init__(self, number: int, kind: int) -> None:
        self.number = number
        self.kind = kind


class _Taken:
    """Counts the responses of a call that the model has taken, and tells the server now and then."""

    __slots__ = ("_channel", "_count", "_number")

    def __init__(self, channel: WorkerChannel, number: int) -> None:
        self._channel = channel
        self._number = number
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        if self._count == TAKEN_AT_ONCE:
            self._count = 0
            self._channel.tell_taken(self._number, TAKEN_AT_ONCE)


class WorkerChannel:
    """The Channel of a worker process, over its socket and the memory that it shares with the server."""

    def __init__(self, connection: socket.socket, requests: wire.Memory, responses: wire.Memory) -> None:
        self._socket = connection
        self._requests = requests
        self._responses = responses
        self._out = Outgoing(connection, responses, self._wait_for)
        self._changed = threading.Condition()
        self._reading = False
        self._waiting = 0  # threads, until something was read
        self._received: list[wire.ReceivedRequest] = []  # of a batch that is not complete
        self._calls: dict[int, Call] = {}
        self._answers: dict[int, _Answer] = {}
        self._helping = 0  # calls that a thread of ours reads for
        self._number = 0
        self._number_lock = threading.Lock()
        self._credited: dict[int, Any] = {}  # requests that wait for relief, by handle
        self._cancelled: set[int] = set()
        # Batches to execute: requests and the batch's number.
        self.batches: deque[tuple[list[wire.ReceivedRequest], int]] = deque()
        self.context: Context | None = None
        self.start: dict[str, Any] | None = None
        self.ask_model: Callable[[], bool] | None = None
        self.finalizes = False
        self.output_names: list[str] = []
        # Outputs that the server takes whether its client asks for them or not.
        self.state_names: tuple[str, ...] = ()
        self.reschedules = False
        self.credits = 0
        # What is sent now is followed by more of its kind: it waits for that, and goes along.
        self.holding = False
        # Called by whoever waits for the server when that has gone; does not return.
        self.gone: Callable[[], None] = _end_process
        self._answered_ns = 0  # when the batch had its first response, or `execute` returned
        self._thread = threading.get_ident()  # that executes

    # -- reading ---------------------------------------------------------------------------------------------------

    def _wait_for(self, there: Callable[[], Any]) -> None:
        """Blocks until `there()` is true, and reads meanwhile, if nobody else does."""
        changed = self._changed
        with changed:
            while not there():
                if self._reading:
                    self._waiting += 1
                    changed.wait()
                    self._waiting -= 1
                else:
                    self._read()

    # Reads one message, as the only one. Under the lock, which others may have meanwhile.
    def _read(self) -> None:
        changed = self._changed
        self._reading = True
        changed.release()
        try:
            message = self._socket.recv(wire.MESSAGE_NBYTES)
        except ConnectionResetError:
            message = b""
        finally:
            changed.acquire()
            self._reading = False
            if self._waiting:
                changed.notify_all()
        if not message:
            self.gone()
        self._dispatch(message)

    def _dispatch(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            at = self._event(data, at)

    def _event(self, data: bytes, at: int) -> int:
        kind = data[at]
        if kind == wire.REQUEST:
            self._received.append(wire.ReceivedRequest(self, data, at, self._requests))
            return at + int(wire.U32.unpack_from(data, at + 1)[0])
        if kind == wire.EXECUTE:
            self.batches.append((self._received, wire.U64.unpack_from(data, at + 1)[0]))
            self._received = []
            return at + 9
        if kind == wire.FREED:
            (count,) = wire.U32.unpack_from(data, at + 1)
            self._out.freed([wire.U64.unpack_from(data, at + 5 + 8 * index)[0] for index in range(count)])
            return at + 5 + 8 * int(count)
        if kind == wire.RELIEVED:
            handle, = wire.U64.unpack_from(data, at + 1)
            source = self._credited.get(handle)
            if source is not None:
                source.credits += wire.U32.unpack_from(data, at + 9)[0]
            return at + 13
        if kind == wire.ANSWER:
            return self._on_answer(data, at + 1)
        if kind == wire.INNER:
            return self._on_inner(data, at + 1)
        if kind == wire.SPILLED:
            block, offset, nbytes = wire.SPILL.unpack_from(data, at + 1)
            spilled = self._requests.map[offset : offset + nbytes]
            self.give_back(block)
            self._event(spilled, 0)
            return at + 1 + wire.SPILL.size
        if kind == wire.ASK_READY:
            (question,) = wire.U64.unpack_from(data, at + 1)
            threading.Thread(target=self._tell_ready, args=(question,), name="is_ready", daemon=True).start()
            return at + 9
        if kind == wire.START:
            content, at = wire.long_text(data, at + 1)
            self.start = json.loads(content)
            return at
        self.finalizes = True
        return at + 1

    def _on_answer(self, data: bytes, at: int) -> int:
        (number,) = wire.U64.unpack_from(data, at)
        answer = self._answers.pop(number, _Answer())
        answer.refused = bool(data[at + 8])
        (answer.code,) = wire.U32.unpack_from(data, at + 9)
        answer.content, at = wire.long_text(data, at + 13)
        return at

    def _on_inner(self, data: bytes, at: int) -> int:
        number, flags, block_number = wire.INNER_HEAD.unpack_from(data, at)
        at += wire.INNER_HEAD.size
        block = wire.Block(self, self._requests, block_number) if block_number else None
        final = bool(flags & wire.FINAL)
        response = None
        if flags & wire.HAS_ERROR:
            (code,) = wire.U32.unpack_from(data, at)
            message, at = wire.long_text(data, at + 4)
            response = InferenceResponse([], TritonError(message, ErrorCode(code)))
        elif flags & wire.HAS_RESPONSE:
            parameters, at = wire.long_text(data, at)
            tensors, at = wire.read_tensors(data, at, block)
            response = InferenceResponse([from_source(name, source) for name, source in tensors])
            response._parameters = json.loads(parameters) if parameters else None
        call = self._calls.pop(number, None) if final else self._calls.get(number)
        if call is not None:
            call.deliver(response, final)
        return at

    # -- requests --------------------------------------------------------------------------------------------------

    def respond(self, request: Any, response: InferenceResponse | None, final: bool) -> None:
        self._respond(request, response, wire.FINAL if final else 0)

    def respond_last(self, request: Any, responses: list[InferenceResponse]) -> None:
        self._respond(request, responses.pop(), wire.FINAL | wire.RELEASES)
        self._over(request)

    def _respond(self, request: Any, response: InferenceResponse | None, flags: int) -> None:
        if not self._answered_ns:
            self._answered_ns = time.monotonic_ns()
        error = None if response is None else response._error
        try:
            if error is not None:
                message = error._message.encode("utf-8", "replace")
                body: list[Any] = [wire.U32.pack(int(error._code)), wire.pack_long(message)]
                flags |= wire.HAS_ERROR
            elif response is not None:
                body = self._outputs(request, response)
                flags |= wire.HAS_RESPONSE
            else:
                body = []
            body.insert(0, wire.RESPONSE_HEAD.pack(wire.RESPONSE, request.handle, flags))
            self._out.add(body)
        except TooLarge as problem:
            raise Refused(INTERNAL, str(problem)) from None
        if not flags & wire.FINAL:
            request.credits -= 1
            if request.credits <= self.credits // 2:
                self._credited[request.handle] = request
        if not self.holding:
            self._out.flush()

    def _outputs(self, request: Any, response: InferenceResponse) -> list[Any]:
        wanted = {*request.output_names, *self.state_names} if self.state_names else request.wanted()
        found: dict[str, Any] = {}
        for tensor in response._outputs:
            name = tensor._name
            if name in wanted:
                if name in found:
                    assert self.context is not None
                    raise Refused(INTERNAL, f"model '{self.context.model}' gave output '{name}' more than once")
                found[name] = tensor
        text = json.dumps(response._parameters).encode() if response._parameters else b""
        return [wire.pack_long(text), *self._out.tensors(list(found.values()))]

    def release(self, request: Any, reschedule: bool = False) -> None:
        if request.released:
            return
        if reschedule and not self.reschedules:
            raise Refused(
                INTERNAL,
                "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not configured "
                "to handle such a flag.",
            )
        self._over(request)
        self._out.add([wire.RELEASED_EVENT.pack(wire.RELEASED, request.handle, reschedule)])
        if not self.holding:
            self._out.flush()

    def _over(self, request: Any) -> None:
        request.over()
        if self._credited:
            self._credited.pop(request.handle, None)
        if self._cancelled:
            self._cancelled.discard(request.handle)

    def returned(self) -> None:
        self.holding = True
        if not self._answered_ns:
            self._answered_ns = time.monotonic_ns()

    def begin(self, batch: int) -> None:
        """`execute` is called."""
        self._answered_ns = 0
        self._responses.begin(batch)

    def done(self, batch: int) -> None:
        """`execute` has returned, and everything that comes of it at once was sent."""
        self.holding = False
        assert self.context is not None
        # A decoupled model goes on answering: then there is no end of its own part before that of the execution.
        answered_ns = 0 if self.context.decoupled else self._answered_ns
        self._out.flush(wire.DONE_EVENT.pack(wire.DONE, batch, answered_ns))

    def dropped(self, handle: int, sent: int, finished: bool) -> None:
        """A request that nobody has any more, without its final response or its release. In a finalizer."""
        assert self.context is not None
        events = []
        if not finished:
            known = self.context
            text = unanswered(known.decoupled, known.model, known.instance, sent).encode()
            events = [
                wire.RESPONSE_HEAD.pack(wire.RESPONSE, handle, wire.FINAL | wire.HAS_ERROR), wire.U32.pack(INTERNAL),
                wire.pack_long(text),
            ]  # fmt: skip
        events.append(wire.RELEASED_EVENT.pack(wire.RELEASED, handle, False))
        self._credited.pop(handle, None)
        self._out.add_later(b"".join(events), True)

    def give_back(self, block: int) -> None:
        """Request memory that is not read any more. In a finalizer."""
        self._out.add_later(wire.FREE_EVENT.pack(wire.FREE, block), False)

    def is_cancelled(self, request: Any) -> bool:
        if request.handle in self._cancelled:
            return True
        if not request.released and self._ask({"op": "is_cancelled", "handle": request.handle}):
            self._cancelled.add(request.handle)
            return True
        return False

    def congested(self, request: Any) -> bool:
        return bool(request.credits <= 0)

    def wait_for_relief(self, request: Any) -> None:
        self._credited[request.handle] = request
        self._wait_for(lambda: request.credits > 0)

    # -- business logic scripting ----------------------------------------------------------------------------------

    def submit(self, request: InferenceRequest, call: Call) -> None:
        source: Any = request._source
        parameters = json.dumps(source.parameters).encode() if source.parameters else b""
        correlation = source.correlation_id
        number = self._next()
        call.cancel_function = lambda: self._cancel(number)
        call.wait_function = self._wait_for
        call.await_function = self._help
        if call.decoupled:
            call.taken_function = _Taken(self, number)
        self._calls[number] = call
        try:
            self._out.add([
                self._exec_head(number, call.decoupled), wire.pack_text(source.inner_model),
                wire.EXEC_MIDDLE.pack(source.model_version, source.flags, source.timeout, isinstance(correlation, str)),
                wire.pack_text(correlation) if isinstance(correlation, str) else wire.U64.pack(correlation),
                wire.pack_text(source.id), wire.pack_long(parameters), wire.U16.pack(len(source.output_names)),
                *map(wire.pack_text, source.output_names), *self._out.tensors(request.inputs()),
            ])  # fmt: skip
        except (TooLarge, ValueError) as error:
            del self._calls[number]
            raise Refused(INVALID_ARG, refusal(source.inner_model, str(error))) from None
        self._out.flush()

    def _exec_head(self, number: int, decoupled: bool) -> bytes:
        askers = ASKERS.get()
        how = wire.DECOUPLED if decoupled else 0
        if askers is None:
            return wire.EXEC_HEAD.pack(wire.EXEC, number, how, wire.UNKNOWN)
        if threading.get_ident() == self._thread:
            how |= wire.ON_THREAD
        handles = list(askers)[: wire.UNKNOWN - 1]
        return wire.EXEC_HEAD.pack(wire.EXEC, number, how, len(handles)) + b"".join(map(wire.U64.pack, handles))

    def _cancel(self, number: int) -> None:
        if number in self._calls:
            self._out.add([wire.CANCEL_EVENT.pack(wire.CANCEL, number)])
            self._out.flush()

    def tell_taken(self, number: int, count: int) -> None:
        """The model has taken so many responses of a call: more may come."""
        self._out.add([wire.TAKEN_EVENT.pack(wire.TAKEN, number, count)])
        self._out.flush()

    # On a thread of its own: the model may be busy, or take its time.
    def _tell_ready(self, question: int) -> None:
        assert self.ask_model is not None
        answer, text = 0, ""
        try:
            answer = int(self.ask_model())
        except ModelFailure as error:
            answer, text = 2, error.message
        head = wire.TOLD_READY_HEAD.pack(wire.TOLD_READY, question, answer)
        self._out.add([head, wire.pack_long(text.encode("utf-8", "replace"))])
        self._out.flush()

    def listen(self) -> None:
        """Has somebody read all the time, so that questions are heard while the model works."""
        threading.Thread(target=self._wait_for, args=(lambda: False,), name="worker reader", daemon=True).start()

    def _help(self) -> None:
        """Somebody waits for a call in an event loop: a thread of ours reads, until all calls are over."""
        with self._changed:
            if self._helping:
                return
            self._helping = 1
        threading.Thread(target=self._read_for_others, name="worker calls", daemon=True).start()

    def _read_for_others(self) -> None:
        while True:
            self._wait_for(lambda: not self._calls)
            with self._changed:
                if not self._calls:
                    self._helping = 0
                    return

    def load_model(self, name: str, parameters: dict[str, Any]) -> None:
        config = {key: value for key, value in parameters.items() if not isinstance(value, bytes)}
        files = {key: base64.b64encode(value).decode() for key, value in parameters.items() if isinstance(value, bytes)}
        self._ask({"op": "load_model", "name": name, "parameters": config, "files": files})

    def unload_model(self, name: str, unload_dependents: bool) -> None:
        self._ask({"op": "unload_model", "name": name, "unload_dependents": unload_dependents})

    def is_model_ready(self, name: str, version: int) -> bool:
        return bool(self._ask({"op": "model_ready", "name": name, "version": version}))

    def _next(self) -> int:
        with self._number_lock:
            self._number += 1
            return self._number

    # Asks the server, and waits. Refused with its text.
    def _ask(self, question: dict[str, Any]) -> Any:
        number = self._next()
        answer = self._answers[number] = _Answer()
        self._tell(question, number)
        self._wait_for(lambda: answer.content is not None)
        assert answer.content is not None
        if answer.refused:
            raise Refused(answer.code, answer.content)
        return json.loads(answer.content)

    def _tell(self, content: dict[str, Any], number: int = 0) -> None:
        try:
            self._out.add([wire.CALL_HEAD.pack(wire.CALL, number), wire.pack_long(json.dumps(content).encode())])
        except TooLarge as error:
            self._answers.pop(number, None)
            raise Refused(INVALID_ARG, str(error)) from None
        self._out.flush()

    # -- log and metrics -------------------------------------------------------------------------------------------

    def log(self, level: int, text: str, filename: str, line: int) -> None:
        self._out.add([
            wire.LOG_HEAD.pack(wire.LOG, level, line & 0xFFFFFFFF), wire.pack_text(filename),
            wire.pack_long(text.encode("utf-8", "replace")),
        ])  # fmt: skip
        self._out.flush()

    def metric_family(self, name: str, description: str, kind: int) -> Any:
        return _Handle(self._ask({"op": "family", "name": name, "description": description, "kind": kind}), kind)

    def drop_family(self, family: Any) -> None:
        self._drop({"op": "drop_family", "number": family.number})

    def metric(self, family: Any, labels: dict[str, str], buckets: tuple[float, ...] | None) -> Any:
        question = {"op": "metric", "family": family.number, "labels": labels, "buckets": buckets}
        return _Handle(self._ask(question), family.kind)

    def drop_metric(self, metric: Any) -> None:
        self._drop({"op": "drop_metric", "number": metric.number})

    # In a finalizer.
    def _drop(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self._out.add_later(wire.CALL_HEAD.pack(wire.CALL, 0) + wire.pack_long(text), False)

    def metric_increment(self, metric: Any, value: float) -> None:
        self._operate("increment", metric, value, metric.kind == HISTOGRAM or (metric.kind == COUNTER and value < 0))

    def metric_set(self, metric: Any, value: float) -> None:
        self._operate("set", metric, value, metric.kind != GAUGE)

    def metric_observe(self, metric: Any, value: float) -> None:
        self._operate("observe", metric, value, metric.kind != HISTOGRAM)

    # What may be refused is asked, so that the server's text comes back; all else is told.
    def _operate(self, operation: str, metric: Any, value: float, asks: bool) -> None:
        content = {"op": operation, "metric": metric.number, "value": repr(float(value))}
        if asks:
            self._ask(content)
        else:
            self._tell(content)

    def metric_value(self, metric: Any) -> float:
        return float(self._ask({"op": "value", "metric": metric.number}))

    # -- life ------------------------------------------------------------------------------------------------------

    def wait_for_start(self) -> dict[str, Any]:
        """What to run."""
        self._wait_for(lambda: self.start is not None)
        assert self.start is not None
        return self.start

    def started(self, failed: bool, text: str) -> None:
        """Tells how loading the model went."""
        self._out.add([wire.STARTED_HEAD.pack(wire.STARTED, failed), wire.pack_long(text.encode("utf-8", "replace"))])
        self._out.flush()

    def next_batch(self) -> tuple[list[wire.ReceivedRequest], int] | None:
        """Waits for it. None: the worker is to end."""
        batches = self.batches
        if not batches:
            self._out.flush_later()
            self._wait_for(lambda: batches or self.finalizes)
        return batches.popleft() if batches else None

    def finalized(self) -> None:
        self._out.add([wire.FINALIZED_EVENT.pack(wire.FINALIZED)])
        self._out.flush()

    def close(self) -> None:
        """From here on nothing is sent, and whoever waits for the server hears that it has gone."""
        self._out.closed = True
        with suppress(OSError):  # the model has closed it
            self._socket.shutdown(socket.SHUT_RDWR)


Channel.register(WorkerChannel)


def serve(channel: WorkerChannel, runner: Runner) -> None:
    """Executes batches until the server says to end."""
    execute = runner.execute
    decoupled = runner.context.decoupled
    while True:
        found = channel.next_batch()
        if found is None:
            return
        sources, batch = found
        del found
        askers = [source.handle for source in sources]
        token = ASKERS.set(askers)
        channel.begin(batch)
        try:
            execute(sources)
        except BaseException as error:
            # What our own code lets through: the worker is no good any more.
            sys.stderr.write(f"a worker of ours failed: {describe(error)}")
            raise
        ASKERS.reset(token)
        if not decoupled:
            askers.clear()  # what is left of it, a task say, asks for nobody's sake
        channel.done(batch)
