"""Front-ends hear of every change of the server's state, also of one right behind another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from core_harness import running, write_model
from gated_backend import until

from triton_async.backends.python.isolated.memory import SharedMemory
from triton_async.processes.calls import decoded, encoded
from triton_async.processes.news import News
from triton_async.processes.supervisor import FrontEnds


async def some_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_change_while_another_one_is_told_is_told_too(tmp_path: Path) -> None:
    async def main() -> None:
        write_model(tmp_path, "numbers")
        loop = asyncio.get_running_loop()
        async with running(tmp_path) as server:
            news = News(server)
            fronts = FrontEnds(server, SharedMemory(1 << 20, True, kept=True), 0, {}, news, ("127.0.0.1", 0))
            await fronts.start()
            for steps in range(6):  # of the loop between the two
                told: list[int] = []

                def change(told: list[int] = told) -> None:
                    told.append(news.number)
                    server._wake_readiness()  # type: ignore[attr-defined]

                await some_turns()
                change()
                for _ in range(steps):
                    await asyncio.sleep(0)
                loop.call_soon(change)
                await some_turns()
                assert news.number > told[1], steps
            server.drain()
            await some_turns()
            assert not news.are_old()
            await fronts.close(0)

    uvloop.run(main())


def test_who_hears_that_a_model_is_ready_finds_it_at_every_front_end(tmp_path: Path) -> None:
    """However soon one asks: also in the turn in which a model has become ready of its own accord."""

    async def main() -> None:
        write_model(tmp_path, "numbers")
        async with running(tmp_path, "--model-control-mode=poll", "--repository-poll-secs=0") as server:
            news = News(server)
            fronts = FrontEnds(server, SharedMemory(1 << 20, True, kept=True), 0, {}, news, ("127.0.0.1", 0))
            await fronts.start()
            await some_turns()

            def hear(told: list[Any], text: bytes) -> None:
                told.append((news.number, news.are_old(), text))

            for name in ("model_is_ready", "model_statistics", "repository_index"):
                told: list[tuple[int, bool, bytes]] = []
                arguments = [] if name == "repository_index" else [name]

                def ask(name: str = name, arguments: list[str] = arguments, told: list[Any] = told) -> None:
                    entry = server.repository.models.get(name)
                    if entry is not None and entry.ready() and not told:
                        told.append((news.number, False, b""))
                        fronts._answering.call(
                            encoded([name, arguments]), partial(hear, told)
                        )

                server.repository._on_change = _after(server.repository._on_change, ask)
                write_model(tmp_path, name)
                await server.repository.poll_now()
                await until(lambda told=told: len(told) > 1, "the answer")  # type: ignore[misc]
                (before, _, _), (after, old, text) = told
                assert decoded(text)[0] == "ok"
                assert after > before and not old
            await fronts.close(0)

    uvloop.run(main())


def _after(first: Callable[[Any], None], then: Callable[[], None]) -> Callable[[Any], None]:
    def both(entry: Any) -> None:
        first(entry)
        then()

    return both
