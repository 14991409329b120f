"""Who reads what a worker says: the loop's thread what is short, the reader's what takes long, all of it in order."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from triton_async.backends.python.defines import WORKER_LOOP_NBYTES, WORKER_MESSAGE_NBYTES
from triton_async.backends.python.isolated.link import Link
from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.backends.python.isolated.owner import LinkOwner
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.worker import wire
from triton_async.core.reactor import Reactor
from triton_async.errors import InternalError
from triton_async.memory.slab import SlabPool

TIMEOUT_S = 20


class Heard(LinkOwner):
    """Notes what it is told, and by which thread."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.changed = threading.Condition()

    def _note(self, *event: Any) -> None:
        with self.changed:
            self.events.append((*event, threading.current_thread().name))
            self.changed.notify_all()

    def ended(self, problem: str | None) -> None:
        self._note("ended", problem)

    def executes(self, call: int, fields: dict[str, Any]) -> None:
        self._note("executes", call, [tensor.nbytes for tensor in fields["inputs"]])

    def cancels(self, call: int) -> None:
        self._note("cancels", call)

    def logs(self, level: int, line: int, file: str, text: str) -> None:
        self._note("logs", line)

    def wait_for(self, count: int) -> list[tuple[Any, ...]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= count, TIMEOUT_S), self.events
            return list(self.events)


class Stage:
    """A loop that runs on a thread named `loop`, a reader, and a link whose worker is the test."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.reactor = Reactor()
        self.thread = threading.Thread(target=self._main, name="loop")
        self.thread.start()
        self.call(lambda: self.reactor.attach(self.loop))
        self.reader = Reader(self.reactor)
        self.heard = Heard()
        ours, self.worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memories = SharedMemory(1 << 20, True), SharedMemory(1 << 20, False)
        self.link = Link(ours, *memories, SlabPool(0), self.reader, self.heard)
        self.link.follow_loop(self.reactor)
        self.worker.send(log(1))  # from here on, the loop's

    def _main(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def call(self, function: Callable[[], object]) -> None:
        """On the loop's thread; returns when it was called."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(TIMEOUT_S)

    def close(self) -> None:
        over = threading.Event()

        def end() -> None:
            if not self.link.claim():
                self.reader.call(end)
                return
            self.link.fail(InternalError("over"))
            over.set()

        self.reader.call(end)
        assert over.wait(TIMEOUT_S)
        self.worker.close()
        self.call(self.reactor.detach)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        assert self.reader.watched == 0


@pytest.fixture
def stage() -> Iterator[Stage]:
    found = Stage()
    found.heard.wait_for(1)
    count = 1
    while found.heard.events[-1][-1] != "loop":  # the reader may not have got to the end yet
        found.worker.send(cancel(0))
        count += 1
        found.heard.wait_for(count)
    del found.heard.events[1:]
    yield found
    found.close()
    found.heard.events.clear()


def log(line: int) -> bytes:
    return wire.LOG_HEAD.pack(wire.LOG, 1, line) + wire.pack_text("model.py") + wire.pack_long(b"x")


def cancel(call: int) -> bytes:
    return wire.CANCEL_EVENT.pack(wire.CANCEL, call)


def execute(call: int, nbytes: int) -> bytes:
    """With one input of so many bytes, in shared memory."""
    return b"".join([
        wire.EXEC_HEAD.pack(wire.EXEC, call, 0, wire.UNKNOWN), wire.pack_text("other"),
        wire.EXEC_MIDDLE.pack(-1, 0, 0, False), wire.U64.pack(0), wire.pack_text(""), wire.pack_long(b""),
        wire.U16.pack(0), wire.U16.pack(1),
        wire.pack_text("X"), wire.MEMORY_HEADS[1].pack(2, 1, wire.IN_MEMORY, nbytes, nbytes, 0),
    ])  # fmt: skip


def test_short_messages_are_read_on_the_loop(stage: Stage) -> None:
    stage.worker.send(cancel(1) + execute(2, 64))
    stage.worker.send(cancel(3))
    assert stage.heard.wait_for(4)[1:] == [
        ("cancels", 1, "loop"), ("executes", 2, [64], "loop"), ("cancels", 3, "loop")
    ]  # fmt: skip


def test_what_takes_long_is_read_on_the_other_thread_and_nothing_overtakes_it(stage: Stage) -> None:
    many = wire.pack_long(b"y" * (WORKER_LOOP_NBYTES + 1))
    long = wire.LOG_HEAD.pack(wire.LOG, 1, 8) + wire.pack_text("model.py") + many
    stage.worker.send(cancel(1) + execute(2, WORKER_LOOP_NBYTES + 1) + cancel(3))
    stage.worker.send(cancel(4))
    stage.worker.send(long)
    stage.worker.send(log(9) + cancel(5))
    found = stage.heard.wait_for(8)[1:]
    assert [event[:2] for event in found] == [
        ("cancels", 1), ("executes", 2), ("cancels", 3), ("cancels", 4), ("logs", 8), ("logs", 9), ("cancels", 5)
    ]  # fmt: skip
    assert found[0][-1] == "loop"
    assert {found[at][-1] for at in (1, 2, 4, 5)} == {"python workers"}


def test_the_loop_reads_again_when_all_is_read(stage: Stage) -> None:
    for call in range(1, 500):
        stage.worker.send(log(call) if call % 7 == 0 else cancel(call))
    found = stage.heard.wait_for(500)[1:]
    assert [event[1] for event in found] == list(range(1, 500))
    before = len(stage.heard.events)
    for number in range(200):  # the other thread may have been in the middle of it
        stage.worker.send(cancel(number))
        if stage.heard.wait_for(before + number + 1)[-1][-1] == "loop":
            break
    assert stage.heard.events[-1][-1] == "loop"


@pytest.mark.parametrize(("message", "problem"), [
    (bytes([200]), "sent an event of the unknown kind 200"),
    (cancel(1)[:-1], "sent a message ends inside an event"),
    (bytes(WORKER_MESSAGE_NBYTES + 1), "sent a message that is too long"),
])  # fmt: skip
def test_what_no_worker_of_ours_says_is_told_once_and_ends_it(stage: Stage, message: bytes, problem: str) -> None:
    stage.worker.send(message)
    assert stage.heard.wait_for(2)[1:] == [("ended", problem, "python workers")]


def test_its_end_is_told_on_the_other_thread(stage: Stage) -> None:
    stage.worker.send(cancel(1))
    stage.worker.close()
    assert stage.heard.wait_for(3)[1:] == [("cancels", 1, "loop"), ("ended", None, "python workers")]


def test_a_claimed_link_is_read_no_more(stage: Stage) -> None:
    claimed = threading.Event()
    blocked = threading.Event()

    def claim() -> None:
        assert stage.link.claim()
        claimed.set()

    # While the loop can not read: what came first is still there for who asks.
    blocking = threading.Event()
    stage.loop.call_soon_threadsafe(lambda: (blocking.set(), blocked.wait()))
    assert blocking.wait(TIMEOUT_S)
    stage.worker.send(cancel(1))
    stage.reader.call(claim)
    assert claimed.wait(TIMEOUT_S)
    blocked.set()
    stage.call(lambda: None)
    assert stage.link.pending()
    assert len(stage.heard.events) == 1


def test_a_watcher_without_a_loop_leaves_it_to_the_reader() -> None:
    reader = Reader(Reactor())
    heard = Heard()
    ours, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(ours, SharedMemory(1 << 20, True), SharedMemory(1 << 20, False), SlabPool(0), reader, heard)
    link.follow_loop(reader.watcher)  # type: ignore[arg-type]
    with worker:
        for call in range(3):
            worker.send(cancel(call))
            assert heard.wait_for(call + 1)[-1] == ("cancels", call, "python workers")
    heard.wait_for(4)
    link.fail(InternalError("over"))
    heard.events.clear()


def test_handlers_of_the_reactor_may_fail_and_be_forgotten() -> None:
    async def run() -> list[int]:
        reactor = Reactor()
        reactor.attach(asyncio.get_running_loop())
        one, other = socket.socketpair()
        called: list[int] = []
        was_called = asyncio.Event()

        def handler() -> None:
            called.append(len(one.recv(100)))
            was_called.set()
            if len(called) == 1:
                raise ValueError("for the log")

        with one, other:
            assert reactor.watch(one.fileno(), handler)
            for count in (1, 2, 3):
                other.send(b"x" * count)
                await was_called.wait()
                was_called.clear()
            reactor.forget(one.fileno())
            other.send(b"x")
            await asyncio.sleep(0.05)
        reactor.detach()
        return called

    assert uvloop.new_event_loop().run_until_complete(run()) == [1, 2, 3]
