# cython: annotation_typing=False, wraparound=True
"""What a worker sends: events put together to messages, tensors put into shared memory."""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any, Callable, Sequence

import numpy as np

from . import wire
from .forks import is_fork
from .tensors import NUMBERS, Tensor, encode


class TooLarge(Exception):
    """Something for which there is no room however long one waits."""


class Outgoing:
    """Any thread. `wait_for(there)`: blocks until `there()`, and hears the server meanwhile."""

    def __init__(
        self, connection: socket.socket, memory: wire.Memory, wait_for: Callable[[Callable[[], Any]], None]
    ) -> None:
        self._socket = connection
        self._memory = memory
        self._wait_for = wait_for
        self._view = memoryview(memory.map)
        self._lock = threading.Lock()
        self._allocator = wire.Allocator(memory.nbytes)
        self._parts: list[bytes] = []
        self._nbytes = 0
        # What finalizers have to say, who may come at any time, in the middle of any of this.
        self._later: deque[bytes] = deque()
        # Nobody hears any more.
        self.closed = False

    def add(self, event: Sequence[bytes]) -> None:
        """Adds an event, to be sent with the next flush at the latest. TooLarge."""
        nbytes = sum(map(len, event))
        if nbytes > wire.MESSAGE_NBYTES - 64:
            content = b"".join(event)
            (offset,) = self._place([nbytes])
            self._view[offset : offset + nbytes] = content
            event = [wire.SPILLED_EVENT.pack(wire.SPILLED, offset, nbytes)]
            nbytes = len(event[0])
        with self._lock:
            if self._nbytes + nbytes > wire.MESSAGE_NBYTES:
                self._send()
            self._parts += event
            self._nbytes += nbytes
        if self._later:  # what a finalizer could not send because of us
            self.flush_later()

    def flush(self, last: bytes = b"") -> None:
        """Sends what there is, and a short event behind it."""
        with self._lock:
            if self._later:
                self._take_later()
            if last:
                if self._nbytes + len(last) > wire.MESSAGE_NBYTES:
                    self._send()
                self._parts.append(last)
            self._send()
        if self._later:
            self.flush_later()

    def add_later(self, events: bytes, at_once: bool) -> None:
        """The same in a finalizer: takes no lock that may be held. `at_once`: need not wait for other things."""
        self._later.append(events)
        if at_once:
            self.flush_later()

    def flush_later(self) -> None:
        """Sends what finalizers have left, unless somebody is at it."""
        while self._later and self._lock.acquire(False):
            try:
                self._take_later()
                self._send()
            finally:
                self._lock.release()

    # Under the lock.
    def _take_later(self) -> None:
        while self._later:
            events = self._later.popleft()
            if self._nbytes + len(events) > wire.MESSAGE_NBYTES:
                self._send()
            self._parts.append(events)
            self._nbytes += len(events)

    def _send(self) -> None:
        if self._parts:
            message = b"".join(self._parts)
            self._parts.clear()
            self._nbytes = 0
            if self.closed or is_fork():  # what its copies of finalizers say is not for the server
                return
            with suppress(BrokenPipeError, ConnectionResetError):  # the server has gone: who reads hears of it
                self._socket.send(message, socket.MSG_NOSIGNAL)

    # -- tensors ---------------------------------------------------------------------------------------------------

    def tensors(self, tensors: Sequence[Tensor]) -> list[bytes]:
        """Tensors as parts of an event; large ones go to shared memory. TooLarge."""
        parts = [wire.U16.pack(len(tensors))]
        large = []
        inlined = 0
        for tensor in tensors:
            number = NUMBERS[tensor._datatype]
            array = tensor._array if tensor._array is not None else tensor._open()
            shape = array.shape
            if number == wire.BYTES:
                content: Any = tensor._wire if tensor._wire is not None else encode(array.ravel())
                nbytes = len(content)
            else:
                content = array
                nbytes = array.nbytes
            rank = len(shape)
            if rank > wire.MAX_RANK:
                raise TooLarge(f"tensor '{tensor._name}' has {rank} dimensions, at most {wire.MAX_RANK} are supported")
            if nbytes <= wire.INLINE_NBYTES and inlined + nbytes <= wire.MESSAGE_NBYTES // 2:
                inlined += nbytes
                parts.append(wire.inline_head(tensor._name, number, shape, nbytes))
                parts.append(content if number == wire.BYTES else content.tobytes())
            else:
                large.append((len(parts), wire.pack_name(tensor._name), number, shape, content, nbytes))
                parts.append(b"")
        if large:
            self._put(parts, large)
        return parts

    # Large tensors of an event: their bytes to shared memory, their heads to their places among the parts.
    def _put(self, parts: list[bytes], large: list[Any]) -> None:
        places = self._place([one[5] for one in large])
        for (at, name, number, shape, content, nbytes), offset in zip(large, places):
            if number == wire.BYTES:
                self._view[offset : offset + nbytes] = content
            else:
                place = np.frombuffer(self._memory.map, content.dtype, content.size, offset)
                np.copyto(place.reshape(shape), content)
            rank = len(shape)
            parts[at] = name + wire.MEMORY_HEADS[rank].pack(number, rank, wire.IN_MEMORY, *shape, nbytes, offset)

    # Where in the response memory so many bytes each may be put, all of them at once: who has some and waits for more
    # might wait for himself. Waits for the server to give some back. TooLarge.
    def _place(self, sizes: list[int]) -> list[int]:
        with self._lock:
            places = self._allocator.take_all(sizes)
        if places is not None:
            return places
        if self._allocator.needed(sizes) > self._allocator.nbytes:
            raise TooLarge(f"{sum(sizes)} bytes are more than what is shared with the server, {self._allocator.nbytes}")
        self.flush()  # what is held back is among what the server has to read first
        found: list[list[int]] = []

        def there() -> bool:
            with self._lock:
                places = self._allocator.take_all(sizes)
            if places is not None:
                found.append(places)
            return bool(found)

        self._wait_for(there)
        return found[0]

    def freed(self, offsets: Sequence[int]) -> None:
        """The server reads these places no more."""
        with self._lock:
            for offset in offsets:
                self._allocator.give_back(offset)
