# cython: annotation_typing=False, wraparound=True
"""The wire form of what a worker and its server say to each other, from the worker's side: isolated/wire.pxd describes
it. Requests are looked into when a model asks for what is in them.
"""

from __future__ import annotations

import json
import mmap
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .tensors import NUMBERS, TRITON_TO_NUMPY_TYPE, decode, object_array

if TYPE_CHECKING:
    from .channel import TensorSource
    from .process import WorkerChannel

START, REQUEST, EXECUTE, RELIEVED, FREED, INNER, ANSWER, FINALIZE, SPILLED, ASK_READY = range(1, 11)
STARTED, RESPONSE, RELEASED, DONE, FREE, EXEC, CANCEL, CALL, LOG, FINALIZED, TAKEN, TOLD_READY = range(33, 45)
FINAL, HAS_ERROR, HAS_RESPONSE, RELEASES = 1, 2, 4, 8
INLINE, IN_MEMORY = 0, 1

MESSAGE_NBYTES = 1 << 16
INLINE_NBYTES = 1 << 12
# Bytes that what lies in shared memory is aligned to.
ALIGNMENT = 64

NAMES = {number: name for name, number in NUMBERS.items()}
DTYPES: dict[int, Any] = {number: np.dtype(kind) for number, kind in TRITON_TO_NUMPY_TYPE.items()}
DTYPES[NUMBERS["BF16"]] = np.dtype(np.uint16)
BYTES = NUMBERS["BYTES"]

U16 = struct.Struct("<H")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
REQUEST_HEAD = struct.Struct("<BIIQQIQQB")
HEAD_NBYTES = REQUEST_HEAD.size
TENSOR_HEAD = struct.Struct("<BBB")
EXECUTE_EVENT = struct.Struct("<BQ")
SPILL = struct.Struct("<QQQ")
INNER_HEAD = struct.Struct("<QBQ")
RESPONSE_HEAD = struct.Struct("<BQB")
RELEASED_EVENT = struct.Struct("<BQB")
DONE_EVENT = struct.Struct("<BQQ")
FREE_EVENT = struct.Struct("<BQ")
EXEC_HEAD = struct.Struct("<BQBH")
EXEC_MIDDLE = struct.Struct("<qIQB")
CANCEL_EVENT = struct.Struct("<BQ")
CALL_HEAD = struct.Struct("<BQ")
LOG_HEAD = struct.Struct("<BBI")
STARTED_HEAD = struct.Struct("<BB")
TOLD_READY_HEAD = struct.Struct("<BQB")
TAKEN_EVENT = struct.Struct("<BQI")
FINALIZED_EVENT = struct.Struct("<B")
SPILLED_EVENT = struct.Struct("<BQQ")
DECOUPLED, ON_THREAD, UNKNOWN = 1, 2, 0xFFFF
MAX_RANK = 16
# By the number of dimensions: the shape and bytes of a tensor that came, and the head of one that is sent, either way.
SHAPES = [struct.Struct(f"<{rank}qQ") for rank in range(MAX_RANK + 1)]
INLINE_HEADS = [struct.Struct(f"<BBB{rank}qQ") for rank in range(MAX_RANK + 1)]
MEMORY_HEADS = [struct.Struct(f"<BBB{rank}qQQ") for rank in range(MAX_RANK + 1)]
# What is used again and again, so much of each at most: names and inline heads of tensors in their form for the server,
# and what such heads that came from there say.
_PACKED: dict[str, bytes] = {}
_PACKED_HEADS: dict[tuple[str, int, tuple[int, ...]], bytes] = {}
_READ_HEADS: dict[bytes, tuple[str, int, tuple[int, ...], int, int]] = {}
KNOWN = 256
KNOWN_HEAD_NBYTES = 256


def text(data: bytes, at: int) -> tuple[str, int]:
    """A text and where it ends."""
    start = at + 2
    end = start + U16.unpack_from(data, at)[0]
    return data[start:end].decode(), end


def long_text(data: bytes, at: int) -> tuple[str, int]:
    start = at + 4
    end = start + U32.unpack_from(data, at)[0]
    return data[start:end].decode(), end


def pack_text(value: str) -> bytes:
    encoded = value.encode("utf-8", "replace")
    if len(encoded) > 0xFFFF:
        raise ValueError("a name or id of more than 65535 bytes")
    return U16.pack(len(encoded)) + encoded


def pack_name(value: str) -> bytes:
    """`pack_text` of something that may well be sent again."""
    packed = _PACKED.get(value)
    if packed is None:
        packed = pack_text(value)
        if len(_PACKED) < KNOWN:
            _PACKED[value] = packed
    return packed


def inline_head(name: str, number: int, shape: tuple[int, ...], nbytes: int) -> bytes:
    """What stands in front of a tensor's bytes in a message. `nbytes`: what a tensor of numbers of this shape has."""
    rank = len(shape)
    if number == BYTES:
        return pack_name(name) + INLINE_HEADS[rank].pack(number, rank, INLINE, *shape, nbytes)
    key = (name, number, shape)
    packed = _PACKED_HEADS.get(key)
    if packed is None:
        packed = pack_name(name) + INLINE_HEADS[rank].pack(number, rank, INLINE, *shape, nbytes)
        if len(_PACKED_HEADS) >= KNOWN:
            _PACKED_HEADS.clear()
        _PACKED_HEADS[key] = packed
    return packed


def pack_long(value: bytes) -> bytes:
    return U32.pack(len(value)) + value


class Memory:
    """Memory that is shared with the server, mapped as long as anything of it is used."""

    def __init__(self, descriptor: int) -> None:
        self.map = mmap.mmap(descriptor, 0)
        self.nbytes = len(self.map)
        self.address: int = np.frombuffer(self.map, np.uint8).__array_interface__["data"][0]

    def begin(self, batch: int) -> None:
        """Of the responses' memory: lets the server see which batch is executed, or was as the last one."""
        U64.pack_into(self.map, 0, batch)


class Block:
    """Request memory that the server may use again once nobody has this object."""

    __slots__ = ("_channel", "memory", "number")

    def __init__(self, channel: WorkerChannel, memory: Memory, number: int) -> None:
        self._channel = channel
        self.memory = memory
        self.number = number

    def __del__(self) -> None:
        self._channel.give_back(self.number)


class _Range:
    """What numpy takes an array in a block from, and keeps as long as the array lives."""

    __slots__ = ("__array_interface__", "_block")

    def __init__(self, block: Block, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._block = block
        self.__array_interface__ = {
            "version": 3, "typestr": dtype.str, "shape": shape, "data": (block.memory.address + offset, False),
        }  # fmt: skip


class ReceivedTensor:
    """A tensor of a message: bytes in it, or a range of shared memory."""

    __slots__ = ("_block", "_data", "_nbytes", "_number", "_offset", "datatype", "shape")

    gpu = None

    def __init__(  # noqa: PLR0917
        self, number: int, shape: tuple[int, ...], data: bytes | None, offset: int, nbytes: int, block: Block | None
    ) -> None:
        self.datatype = NAMES[number]
        self.shape = shape
        self._number = number
        self._data = data
        self._offset = offset
        self._nbytes = nbytes
        self._block = block

    def dlpack(self) -> NoReturn:
        raise RuntimeError("a tensor of a worker process is on the host")

    def array(self) -> np.ndarray:
        data, offset = self._data, self._offset
        if self._number == BYTES:
            if data is None:
                assert self._block is not None
                content: Any = memoryview(self._block.memory.map)[offset : offset + self._nbytes]
            else:
                content = data[offset : offset + self._nbytes]
            return object_array(decode(content), self.shape)
        dtype = DTYPES[self._number]
        if data is None:
            assert self._block is not None
            return np.asarray(_Range(self._block, offset, dtype, self.shape))
        array = np.frombuffer(bytearray(data[offset : offset + self._nbytes]), dtype)
        array.shape = self.shape
        return array


def read_tensors(data: bytes, at: int, block: Block | None) -> tuple[list[tuple[str, ReceivedTensor]], int]:
    """The tensors of an event, names and contents, and where it ends."""
    found = []
    count = data[at] | data[at + 1] << 8
    at += 2
    for _ in range(count):
        # A name, three numbers of a byte, the second of them the rank, dimensions, bytes.
        end = at + 2 + (data[at] | data[at + 1] << 8)
        end += 11 + 8 * data[end + 1]
        head = data[at:end]
        known = _READ_HEADS.get(head)
        if known is None:
            known = _read_head(head)
        name, number, shape, place, nbytes = known
        at = end
        if place == INLINE:
            found.append((name, ReceivedTensor(number, shape, data, at, nbytes, block)))
            at += nbytes
        else:
            found.append((name, ReceivedTensor(number, shape, None, U64.unpack_from(data, at)[0], nbytes, block)))
            at += 8
    return found, at


def _read_head(head: bytes) -> tuple[str, int, tuple[int, ...], int, int]:
    name, at = text(head, 0)
    number, rank, place = TENSOR_HEAD.unpack_from(head, at)
    *dims, nbytes = SHAPES[rank].unpack_from(head, at + 3)
    known = name, number, tuple(dims), place, nbytes
    if len(head) <= KNOWN_HEAD_NBYTES:
        if len(_READ_HEADS) >= KNOWN:
            _READ_HEADS.clear()
        _READ_HEADS[head] = known
    return known


class ReceivedRequest:
    """A request of the server's: the bytes of its event, read when the model asks."""

    __slots__ = (
        "_block", "_channel", "_data", "_fields", "_start", "_tensors_at", "credits", "finished", "flags", "handle",
        "release_flags", "released", "sent", "timeout",
    )  # fmt: skip

    def __init__(self, channel: WorkerChannel, data: bytes, start: int, memory: Memory) -> None:
        _, _, tensors, handle, block, flags, timeout, _, _ = REQUEST_HEAD.unpack_from(data, start)
        self._channel = channel
        self._data = data
        self._start = start
        self._tensors_at = start + tensors
        self._block = Block(channel, memory, block) if block else None
        self._fields: tuple[int | str, str, dict[str, Any] | None, list[str], str | None] | None = None
        self.handle = handle
        self.flags = flags
        self.timeout = timeout
        self.release_flags = 1
        self.sent = 0
        self.finished = False
        self.released = False
        self.credits = channel.credits

    def inputs(self) -> list[tuple[str, TensorSource]]:
        return read_tensors(self._data, self._tensors_at, self._block)[0]  # type: ignore[return-value]

    @property
    def correlation_id(self) -> int | str:
        return self._look()[0]

    @property
    def id(self) -> str:
        return self._look()[1]

    @property
    def parameters(self) -> dict[str, Any] | None:
        return self._look()[2]

    @property
    def output_names(self) -> list[str]:
        return self._look()[3]

    @property
    def trace_context(self) -> str | None:
        return self._look()[4]

    def wanted(self) -> list[str]:
        """The same as `output_names`, by a look at no more than it takes to see that none are named."""
        data = self._data
        at = self._start + HEAD_NBYTES
        at += 2 + (data[at] | data[at + 1] << 8) if data[at - 1] else 8
        at += 2 + (data[at] | data[at + 1] << 8)
        at += 4 + (data[at] | data[at + 1] << 8 | data[at + 2] << 16 | data[at + 3] << 24)
        return self._channel.output_names if data[at] == data[at + 1] == 0 else self._look()[3]

    # The fields that few ask for, read once.
    def _look(self) -> tuple[int | str, str, dict[str, Any] | None, list[str], str | None]:
        if self._fields is not None:
            return self._fields
        data = self._data
        at = self._start + HEAD_NBYTES
        correlation_id: int | str
        if data[at - 1]:
            correlation_id, at = text(data, at)
        else:
            (correlation_id,) = U64.unpack_from(data, at)
            at += 8
        request_id, at = text(data, at)
        parameters, at = long_text(data, at)
        (count,) = U16.unpack_from(data, at)
        at += 2
        names = []
        for _ in range(count):
            one, at = text(data, at)
            names.append(one)
        self._fields = (
            correlation_id, request_id, json.loads(parameters) if parameters else None,
            names or self._channel.output_names, long_text(data, at)[0] or None,
        )  # fmt: skip
        return self._fields

    def over(self) -> None:
        """The model has given the request up: memory of inputs that it has no tensor of goes back."""
        self.released = True
        self._block = None

    def __del__(self) -> None:
        if not self.released:
            self._channel.dropped(self.handle, self.sent, self.finished)


class Allocator:
    """Which parts of the response memory are free. Under the channel's lock."""

    def __init__(self, nbytes: int) -> None:
        # (offset, nbytes), by offset, no two neighbours. In front is what `Memory.begin` writes.
        self._free = [(ALIGNMENT, nbytes - ALIGNMENT)]
        self._taken: dict[int, int] = {}
        self.nbytes = nbytes - ALIGNMENT

    def needed(self, sizes: list[int]) -> int:
        """Bytes that so many each take."""
        return sum(max((nbytes + ALIGNMENT - 1) // ALIGNMENT, 1) * ALIGNMENT for nbytes in sizes)

    def take_all(self, sizes: list[int]) -> list[int] | None:
        """`take` for each; None, and nothing taken, where there is no room for all."""
        taken: list[int] = []
        for nbytes in sizes:
            offset = self.take(nbytes)
            if offset is None:
                for one in taken:
                    self.give_back(one)
                return None
            taken.append(offset)
        return taken

    def take(self, nbytes: int) -> int | None:
        """Where so many bytes are free, as far in front as it goes; None for no room."""
        nbytes = max((nbytes + ALIGNMENT - 1) // ALIGNMENT, 1) * ALIGNMENT
        for index, (offset, size) in enumerate(self._free):
            if size >= nbytes:
                if size == nbytes:
                    del self._free[index]
                else:
                    self._free[index] = (offset + nbytes, size - nbytes)
                self._taken[offset] = nbytes
                return offset
        return None

    def give_back(self, offset: int) -> None:
        nbytes = self._taken.pop(offset)
        index = bisect_left(self._free, (offset, 0))
        if index < len(self._free) and self._free[index][0] == offset + nbytes:
            nbytes += self._free.pop(index)[1]
        if index > 0 and sum(self._free[index - 1]) == offset:
            offset, before = self._free[index - 1]
            self._free[index - 1] = (offset, before + nbytes)
        else:
            self._free.insert(index, (offset, nbytes))

