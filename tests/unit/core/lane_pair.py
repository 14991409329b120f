"""Both ends of a front-end's lane in one process, over a server of its own."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from core_harness import running, write_model

from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.config.settings import parse
from triton_async.core.reactor import Reactor
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool
from triton_async.processes import defines
from triton_async.processes.calls import Answering, encoded
from triton_async.processes.lane import lease_rings, rings_nbytes
from triton_async.processes.news import News
from triton_async.processes.peer import FrontEnd
from triton_async.processes.remote import ModelsLane, RemoteServer

NBYTES = 1 << 26
RING_AT = {"front-end": 0, "model process": defines.RING_NBYTES + 128}


async def until(condition: Callable[[], Any]) -> None:
    """Returns when it holds; fails when it does not for long."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Pair:
    """A server, and a front-end that asks it. `problems`: what each side found wrong with the other."""

    def __init__(self, server: Any, root: Path) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setblocking(False)
        bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(4)]
        for bell, copy in ((0, 2), (1, 3)):
            os.dup2(bells[bell], bells[copy])
        bodies = SharedMemory(NBYTES, True, lends=False)
        own = SharedMemory(0, True, fd=os.dup(bodies.fd), lends=True)
        lease_rings(own)
        responses = SharedMemory(NBYTES, True, kept=True)
        self.problems: list[tuple[str, str | None]] = []
        self.when_told: Callable[[], None] | None = None
        self.news = News(server)
        self.server = server
        self.bodies = bodies
        self.bells = {"front-end": bells[2], "model process": bells[3]}
        self.front_end = FrontEnd(
            loop, ours, bodies, responses, bodies, bells[0], bells[1], server, Answering(server, self._settle),
            lambda _, told: None, lambda _, problem: self.problems.append(("front-end", problem)),
        )  # fmt: skip
        self.reactor = Reactor()
        self.reactor.attach(loop)
        self.model_process = ModelsLane(
            loop, theirs, own, own, SharedMemory(0, False, fd=os.dup(responses.fd)), bells[3], bells[2], self._on_told,
            lambda problem: self.problems.append(("model process", problem)),
        )  # fmt: skip
        pool = SlabPool(0, own.arena, SlabPool(1 << 20), defines.INLINE_NBYTES + 1)
        settings = parse([f"--model-repository={root}"])
        self.remote = RemoteServer(settings, self.reactor, loop, pool, self.model_process, 1)
        self.pool = pool
        self.front_end.open()
        self.model_process.open()

    async def _settle(self, changed: bool) -> None:
        if changed:
            self.publish()

    def publish(self) -> None:
        message, models = self.news.changes()
        self.front_end.know(models)
        self.front_end.tell(encoded(message))

    def _on_told(self, told: dict[str, Any]) -> None:
        self.remote.set_state(told["state"], told["max_held_nbytes"], told["reads_context"], told["models_asked"])
        self.remote.set_models(told["models"])
        self.remote.set_regions(told["regions"])
        if self.when_told is not None:
            self.when_told()

    def write(self, author: str, data: bytes, tail: int) -> None:
        """Puts bytes on the author's ring and says that so many were written, without its help."""
        with mmap.mmap(self.bodies.fd, rings_nbytes()) as memory:
            at = RING_AT[author]
            before = struct.unpack_from("<Q", memory, at)[0]
            for index, byte in enumerate(data):
                memory[at + 128 + (before + index) % defines.RING_NBYTES] = byte
            struct.pack_into("<Q", memory, at, (before + tail) % 2**64)
        os.eventfd_write(self.bells["model process" if author == "model process" else "front-end"], 1)

    def say(self, author: str, message: bytes) -> None:
        """One whole message."""
        data = struct.pack("<I", len(message)) + message
        self.write(author, data, (len(data) + 7) // 8 * 8)

    def close(self) -> None:
        self.model_process.close()
        self.front_end.close()
        self.reactor.detach()


@asynccontextmanager
async def pair(root: Path) -> AsyncIterator[Pair]:
    write_model(root, "numbers", max_batch_size=8)
    async with running(root) as server:
        both = Pair(server, root)
        both.publish()
        await until(lambda: both.remote.serves("numbers"))
        try:
            yield both
        finally:
            both.close()
            await asyncio.sleep(0.01)


def run(root: Path, scenario: Callable[[Pair], Awaitable[None]]) -> None:
    async def main() -> None:
        async with pair(root) as both:
            await scenario(both)

    uvloop.run(main())


def request(array: np.ndarray, **more: Any) -> InferRequest:
    return InferRequest("numbers", inputs=[from_numpy("INPUT0", array)], **more)
