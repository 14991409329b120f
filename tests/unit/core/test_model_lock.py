"""Locks of models: one holder at a time, and nobody who would wait for himself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from triton_async.core.model_lock import ModelLock, current, in_turn
from triton_async.errors import Unavailable

A, B, C = "a", "b", "c"


def run(test: Callable[[dict[str, ModelLock]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test({key: ModelLock(key) for key in (A, B, C)})

    asyncio.run(main())


def refused(*ring: str) -> Any:
    return pytest.raises(Unavailable, match=f"by what its own load waits for: {' -> '.join(ring)}$")


async def asked(held: Callable[[], Awaitable[Any]]) -> Any:
    """Runs it as what a load asks for on a thread of its own."""
    context, loop = in_turn(), asyncio.get_running_loop()

    def ask() -> Any:
        return asyncio.run_coroutine_threadsafe(_now(held), loop).result(20)

    return await loop.run_in_executor(None, context.run, ask)


async def _now(held: Callable[[], Awaitable[Any]]) -> Any:
    return await held()


def test_one_at_a_time() -> None:
    async def test(locks: dict[str, ModelLock]) -> None:
        order: list[str] = []

        async def hold(name: str) -> None:
            async with locks[A].held():
                order.append(f"{name} begins")
                await asyncio.sleep(0)
                order.append(f"{name} ends")

        await asyncio.gather(hold("one"), hold("two"))
        assert order == ["one begins", "one ends", "two begins", "two ends"]
        assert current() is None
        assert not locks[A].locked()

    run(test)


def test_a_load_that_asks_for_itself() -> None:
    async def test(locks: dict[str, ModelLock]) -> None:
        async def again() -> None:
            async with locks[A].held():
                raise AssertionError

        async with locks[A].held():
            with refused(A, A):
                await asked(again)
        async with locks[A].held():  # nothing is left of it
            pass

    run(test)


def test_a_ring_of_three_and_a_chain_that_is_none() -> None:
    async def test(locks: dict[str, ModelLock]) -> None:
        async def chain(*keys: str) -> None:
            async with locks[keys[0]].held():
                if keys[1:]:
                    await asked(lambda: chain(*keys[1:]))

        await chain(A, B, C)
        with refused(A, B, C, A):
            await chain(A, B, C, A)
        with refused(B, C, B):
            await chain(A, B, C, B)

    run(test)


def test_two_that_ask_for_each_other_at_once() -> None:
    async def test(locks: dict[str, ModelLock]) -> None:
        both = asyncio.Barrier(2)

        async def only(key: str) -> None:
            async with locks[key].held():
                pass

        async def load(key: str, other: str) -> None:
            async with locks[key].held():
                await both.wait()
                await asked(lambda: only(other))

        results = await asyncio.gather(load(A, B), load(B, A), return_exceptions=True)
        (problem,) = [result for result in results if result is not None]
        assert isinstance(problem, Unavailable)
        assert problem.message.split(": ")[1] in ("a -> b -> a", "b -> a -> b")

    run(test)


def test_a_ring_through_one_that_has_not_got_its_lock_yet() -> None:
    async def test(locks: dict[str, ModelLock]) -> None:
        gate, waits = asyncio.Event(), asyncio.Event()

        async def only(key: str) -> None:
            async with locks[key].held():
                pass

        async def first() -> None:  # has B until the gate opens
            async with locks[B].held():
                await gate.wait()

        async def second() -> None:  # has A, and asks for B, behind the third
            async with locks[A].held():
                waits.set()
                await asked(lambda: only(B))

        async def third() -> None:  # has B behind the first, and asks for A
            async with locks[B].held():
                await asked(lambda: only(A))

        tasks = [asyncio.ensure_future(first()), asyncio.ensure_future(third())]
        await asyncio.sleep(0.01)
        tasks.append(asyncio.ensure_future(second()))
        await waits.wait()
        await asyncio.sleep(0.05)
        gate.set()
        _, ring, fine = await asyncio.gather(*tasks, return_exceptions=True)
        assert fine is None
        assert isinstance(ring, Unavailable)
        assert ring.message.endswith("b -> a -> b")

    run(test)


def test_what_is_over_waits_for_nobody() -> None:
    async def test(locks: dict[str, ModelLock]) -> None:
        async with locks[A].held():
            kept = in_turn()
            assert kept.run(current) is not None
        assert kept.run(current) is None

        async def again() -> None:
            async with locks[A].held():
                pass

        await asyncio.get_running_loop().create_task(again(), context=kept)
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()
        assert found == [None]

    run(test)
