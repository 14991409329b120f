"""When memory that is free is given back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from core_harness import request, run, running, write_model

from triton_async.core.idle_memory import IdleMemory
from triton_async.defines import FILE_THREADS, IDLE_CPU_SHARE, IDLE_S
from triton_async.memory.slab import SlabPool


class Cpu:
    """The process's CPU time, in seconds."""

    used = 0.0

    def __call__(self) -> float:
        return self.used


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def cache_something(pool: SlabPool) -> None:
    del [pool.acquire(1 << 20)][:]
    assert pool.cached_nbytes > 0


def test_it_is_given_back_once_when_the_server_has_become_idle(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=50)

    async def test() -> None:
        async with running(tmp_path) as server:
            pool, cpu = server.repository.host.pool, Cpu()
            memory = IdleMemory(server.repository.host, cpu)
            cache_something(pool)
            memory.look()
            await asyncio.sleep(0.02)
            assert pool.cached_nbytes, "nothing has happened since the start"
            asked = asyncio.ensure_future(server.infer(request("m", [1.0])))
            await asyncio.sleep(0)
            memory.look()
            await asked
            assert pool.cached_nbytes, "a request was there"
            cpu.used += 1.01 * IDLE_CPU_SHARE * IDLE_S
            memory.look()
            await asyncio.sleep(0.02)
            assert pool.cached_nbytes, "something has worked"
            cpu.used += 0.99 * IDLE_CPU_SHARE * IDLE_S
            memory.look()
            await until(lambda: not pool.cached_nbytes)
            cache_something(pool)
            memory.look()
            await asyncio.sleep(0.02)
            assert pool.cached_nbytes, "it was idle before"

    run(test)


def test_it_is_given_back_though_a_file_system_hangs(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path) as server:
            host, cpu, hang = server.repository.host, Cpu(), threading.Event()
            looks = [host.loop.run_in_executor(host.workers.files, hang.wait) for _ in range(FILE_THREADS)]
            try:
                memory = IdleMemory(host, cpu)
                cpu.used += 1.01 * IDLE_CPU_SHARE * IDLE_S
                memory.look()
                cache_something(host.pool)
                memory.look()
                await until(lambda: not host.pool.cached_nbytes)
            finally:
                hang.set()
                await asyncio.gather(*looks)

    run(test)
