"""Front-ends hear of every change of the server's state, also of one right behind another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import uvloop
from core_harness import running, write_model

from triton_async.backends.python.isolated.memory import SharedMemory
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
            assert news.state == server.phase
            await fronts.close(0)

    uvloop.run(main())
