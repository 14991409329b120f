"""What the server's end of a worker makes of what the worker says: all of it is one of ours, or ends the link."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from python_stage import IDENTITY, IO, request, stage, write

from triton_async.backends.python.isolated import wire as server_wire
from triton_async.backends.python.isolated.link import Link
from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.backends.python.isolated.owner import LinkOwner
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.worker import wire
from triton_async.errors import InternalError
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool


class Heard(LinkOwner):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def ended(self, problem: str | None) -> None:
        self.events.append(("ended", problem))

    def started(self, failed: bool, text: str) -> None:
        self.events.append(("started", failed, text))

    def finalized(self) -> None:
        self.events.append(("finalized",))

    def called(self, call: int, content: dict[str, Any]) -> None:
        self.events.append(("called", call, content))

    def executes(self, call: int, fields: dict[str, Any]) -> None:
        self.events.append(("executes", call, fields))

    def cancels(self, call: int) -> None:
        self.events.append(("cancels", call))

    def takes(self, call: int, count: int) -> None:
        self.events.append(("takes", call, count))

    def logs(self, level: int, line: int, file: str, text: str) -> None:
        self.events.append(("logs", level, line, file, text))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def link(heard: Heard) -> Iterator[Link]:
    reader = Reader()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        found = Link(ours, SharedMemory(1 << 20, True), SharedMemory(1 << 20, False), SlabPool(0), reader, heard)
        yield found
        found.fail(InternalError("over"))
    assert reader.watched == 0


LOG = wire.LOG_HEAD.pack(wire.LOG, 1, 7) + wire.pack_text("model.py") + wire.pack_long("ä".encode())
CALL = wire.CALL_HEAD.pack(wire.CALL, 3) + wire.pack_long(b'{"op": "value"}')
TENSOR = wire.pack_text("X") + struct.pack("<BBBqQ", 11, 1, wire.INLINE, 2, 8) + b"abcdefgh"
STRINGS = wire.pack_text("S") + struct.pack("<BBBqqQ", 13, 2, wire.INLINE, 1, 2, 9) + b"\1\0\0\0x\0\0\0\0"
SHARED = wire.pack_text("Y") + struct.pack("<BBBqQQ", 2, 1, wire.IN_MEMORY, 4096, 4096, 1 << 10)
EXEC = (
    wire.EXEC_HEAD.pack(wire.EXEC, 9, wire.DECOUPLED, 2) + wire.U64.pack(7) + wire.U64.pack(8)
    + wire.pack_text("other") + wire.EXEC_MIDDLE.pack(-1, 3, 5, False)
    + wire.U64.pack(17) + wire.pack_text("id") + wire.pack_long(b'{"a":1}') + wire.U16.pack(1) + wire.pack_text("OUT")
    + wire.U16.pack(3) + TENSOR + STRINGS + SHARED
)  # fmt: skip
STARTED = wire.STARTED_HEAD.pack(wire.STARTED, 0) + wire.pack_long(b"{}")
TAKEN = wire.TAKEN_EVENT.pack(wire.TAKEN, 9, 8)
WHOLE = [LOG, CALL, EXEC, STARTED, TAKEN, wire.CANCEL_EVENT.pack(wire.CANCEL, 9),
         wire.FINALIZED_EVENT.pack(wire.FINALIZED)]  # fmt: skip


def test_events_of_a_worker_of_ours_are_told(link: Link, heard: Heard) -> None:
    assert link.receive(b"".join(WHOLE))
    names = [event[0] for event in heard.events]
    assert names == ["logs", "called", "executes", "started", "takes", "cancels", "finalized"]
    assert heard.events[0] == ("logs", 1, 7, "model.py", "ä")
    fields = heard.events[2][2]
    inputs = fields.pop("inputs")
    assert fields == {
        "decoupled": True, "on_thread": False, "askers": [],
        "model_name": "other", "model_version": -1, "flags": 3, "timeout_us": 5, "sequence_id": 17,
        "id": "id", "parameters": {"a": 1}, "output_names": ["OUT"],
    }  # fmt: skip
    assert [(tensor.name, tensor.shape, tensor.nbytes) for tensor in inputs] == [
        ("X", (2,), 8), ("S", (1, 2), 9), ("Y", (4096,), 4096)
    ]  # fmt: skip
    assert bytes(inputs[0]) == b"abcdefgh"
    heard.events.clear()


def test_a_message_that_is_cut_anywhere_ends_the_link(link: Link, heard: Heard) -> None:
    for event in WHOLE[:-1]:
        for length in range(1, len(event)):
            heard.events.clear()
            assert not link.receive(event[:length])
            assert heard.events[-1] == ("ended", "sent a message ends inside an event")
    heard.events.clear()


def test_a_message_that_is_too_long_ends_the_link(link: Link, heard: Heard) -> None:
    assert not link.receive(LOG, truncated=True)
    assert heard.events == [("ended", "sent a message that is too long")]


def test_bytes_at_random_are_refused_or_understood(link: Link, heard: Heard) -> None:
    """Whatever comes, `receive` returns; what it could not deal with would be a fault of ours."""
    chance = random.Random(os.environ.get("TEST_SEED", "1"))
    kinds = [wire.RESPONSE, wire.RELEASED, wire.DONE, wire.FREE, wire.SPILLED, wire.EXEC, wire.CALL, wire.LOG, 0, 255]
    for number in range(30_000):
        if number % 2:
            message = bytearray(chance.choice(WHOLE) + chance.choice(WHOLE))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(message))
                message[at] = chance.choice([0, 1, 2, 127, 128, 255, message[at] ^ (1 << chance.randrange(8))])
        else:
            message = bytearray([chance.choice(kinds)]) + chance.randbytes(chance.randint(0, 80))
        heard.events.clear()
        understood = link.receive(bytes(message))
        problems = [event[1] for event in heard.events if event[0] == "ended"]
        assert understood == (not problems), message
        assert not problems or "could not deal with" not in problems[0], (message, problems)
    heard.events.clear()


@pytest.mark.parametrize("offset", [0, 1, (1 << 20) - 8, (1 << 20) - 7, 1 << 20, 1 << 32, (1 << 63) - 1, 1 << 63,
                                    (1 << 64) - 1])  # fmt: skip
@pytest.mark.parametrize("nbytes", [0, 1, 8, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1 << 32, (1 << 63) - 1])
def test_only_what_lies_wholly_inside_the_memory_is_read(
    link: Link, heard: Heard, offset: int, nbytes: int
) -> None:
    head = EXEC[: -len(TENSOR + STRINGS + SHARED) - 2] + wire.U16.pack(1)
    tensor = wire.pack_text("Y") + struct.pack("<BBBqQQ", 2, 1, wire.IN_MEMORY, nbytes, nbytes, offset)
    assert link.receive(head + tensor) == (offset + nbytes <= 1 << 20)
    heard.events.clear()


def test_both_sides_have_the_same_numbers() -> None:
    """Of events: the server's are in a .pxd, which says them in its text."""
    pxd = server_wire.__file__.rpartition("/")[0] + "/wire.pxd"
    with open(pxd) as file:
        lines = file.read().splitlines()
    numbers = dict(line.strip().split(" = ") for line in lines if line.startswith("    ") and " = " in line)
    assert len(numbers) == 28
    assert {name: getattr(wire, name) for name in numbers} == {name: int(value) for name, value in numbers.items()}


def test_the_allocator_gives_no_byte_twice() -> None:
    chance = random.Random(3)
    allocator = wire.Allocator(1 << 16)
    taken: dict[int, int] = {}
    for _ in range(5000):
        if taken and chance.random() < 0.5:
            offset = chance.choice(list(taken))
            del taken[offset]
            allocator.give_back(offset)
            continue
        nbytes = chance.choice([0, 1, 63, 64, 65, 1000, 20_000])
        offset = allocator.take(nbytes)
        if offset is not None:
            assert all(offset + nbytes <= other or other + size <= offset for other, size in taken.items())
            assert offset % wire.ALIGNMENT == 0 and offset + nbytes <= 1 << 16
            taken[offset] = max(nbytes, 1)
    for offset in taken:
        allocator.give_back(offset)
    assert allocator.take((1 << 16) - wire.ALIGNMENT) == wire.ALIGNMENT


def test_shared_memory_can_not_change_its_size() -> None:
    memory = SharedMemory(1 << 16, True)
    for nbytes in (0, 1 << 17):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, nbytes)
    memory.close()


def test_an_answer_that_has_no_room_is_a_refusal() -> None:
    reader = Reader()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    requests = SharedMemory(1 << 20, True)
    with theirs:
        link = Link(ours, requests, SharedMemory(1 << 20, False), SlabPool(0), reader, Heard())
        output = from_numpy("OUT", np.zeros(1 << 17, np.float32))
        for _ in range(4):  # more than there is room for, if any of it stayed
            link.respond(5, [output], {"long": "x" * (2 << 20)}, None, True)
            message = theirs.recv(1 << 20)
            number, flags, block = wire.INNER_HEAD.unpack_from(message, 1)
            assert (message[0], number, flags, block) == (wire.INNER, 5, wire.FINAL | wire.HAS_ERROR, 0)
            assert b"no room in the memory that is shared with the worker process" in message
            link.answer(6, False, 0, "x" * (2 << 20))
            message = theirs.recv(1 << 20)
            assert message[0] == wire.ANSWER
            assert message[9] == 1
            assert b"no room in the memory" in message
        link.respond(7, [output], None, None, True)
        assert wire.INNER_HEAD.unpack_from(theirs.recv(1 << 20), 1)[:2] == (7, wire.FINAL | wire.HAS_RESPONSE)
        link.fail(InternalError("over"))
    assert reader.watched == 0


def test_a_request_that_has_no_room_leaves_none_behind(tmp_path: Path) -> None:
    isolated = """
        parameters { key: "ISOLATION" value { string_value: "process" } }
        parameters { key: "MEMORY_LIMIT_BYTES" value { string_value: "134217728" } }
    """
    write(tmp_path, "m", IDENTITY, IO + isolated)
    x = np.ones(8 << 20, np.float32)
    with stage(tmp_path) as server:
        for _ in range(5):
            too_long = request("m", IN=x)
            too_long.parameters = {"long": "x" * (120 << 20)}
            assert "no room for a request in the memory" in server.error(too_long).message
        assert server.ask("m", x).sum() == 8 << 20


TWO_OUTPUTS = """
    input { name: "IN" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
    output { name: "MORE" data_type: TYPE_FP32 dims: -1 }
    parameters { key: "ISOLATION" value { string_value: "process" } }
    parameters { key: "MEMORY_LIMIT_BYTES" value { string_value: "201326592" } }
"""


@pytest.mark.parametrize(("more", "text"), [
    ("x", "bytes are more than what is shared with the server"),
    ("x[:1].reshape([1] * 17)", "tensor 'MORE' has 17 dimensions, at most 16 are supported"),
])  # fmt: skip
def test_a_response_that_has_no_room_leaves_none_behind(tmp_path: Path, more: str, text: str) -> None:
    write(tmp_path, "m", f"""
class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        asked = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        x = np.broadcast_to(np.float32(1), (int(asked[0]),))  # no memory of the worker's own
        outputs = [pb_utils.Tensor("OUT", x)]
        if asked[1]:
            outputs.append(pb_utils.Tensor("MORE", {more}))
        return [pb_utils.InferenceResponse(outputs)]
""", TWO_OUTPUTS)  # fmt: skip
    with stage(tmp_path) as server:
        for _ in range(4):
            error = server.error(request("m", IN=np.float32([26 << 20, 1])))
            assert text in error.message
            assert server.infer(request("m", "OUT", IN=np.float32([10 << 20, 0])))["OUT"].shape == (10 << 20,)
