"""An instance whose engine breaks gets another: waiting batches run on it, or are answered while there is none."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, GatedInstance, GatedModel, until

from triton_async.backends.base import LoadContext, LoadedModel, ModelInstance
from triton_async.core import instances
from triton_async.core.retry import Retry
from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, Unavailable
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import Tensor

SECOND = 1_000_000_000


class FragileInstance(GatedInstance):
    """Breaks when a batch begins with -1. `backend.made`: how many there were."""

    def run(self, inputs: list[Tensor | None]) -> list[object]:
        outputs = super().run(inputs)
        if outputs[0].flat[0] == -1:
            self.broken = True
            raise InternalError("it broke")
        return outputs


class FragileModel(GatedModel):
    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        self.backend.meet(f"create {name}")
        self.backend.made += 1  # type: ignore[attr-defined]
        return FragileInstance(self.backend, name, self.context)


class FragileBackend(GatedBackend):
    made = 0

    def load(self, context: LoadContext) -> LoadedModel:
        return FragileModel(self, context)


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(instances, "clock", made)
    return made


async def answer(server: InferenceServer, value: float) -> list[float]:
    response: InferResponse = await server.infer(request("m", [value]))
    return response.outputs[0].numpy().tolist()  # type: ignore[no-any-return]


def test_waiting_batches_run_on_the_new_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path, "m")
    backend = FragileBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            sent = [asyncio.ensure_future(answer(server, value)) for value in (-1, 2, 3)]
            first = await backend.run_gate.arrival()
            await asyncio.sleep(0)  # the second one is in the mailbox, the third one in the queue
            backend.run_gate.open()
            first.set()
            with pytest.raises(InternalError, match="it broke"):
                await sent[0]
            assert await asyncio.gather(*sent[1:]) == [[2], [3]]
            assert backend.made == 2
            assert backend.closed == ["m_0"]

    with caplog.at_level(logging.INFO):
        run(test)
    assert backend.closed == ["m_0", "m_0", "model 1"]
    assert "instance 'm_0' is broken and is made anew" in caplog.text
    assert "instance 'm_0' was made anew" in caplog.text


def test_a_new_engine_is_made_without_waiting_for_a_batch(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    backend = FragileBackend()

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            with pytest.raises(InternalError):
                await answer(server, -1)
            await until(lambda: backend.made == 2, "made anew")

    run(test)


def test_batches_are_answered_while_there_is_no_engine(tmp_path: Path, clock: Clock) -> None:
    write_model(tmp_path, "m")
    backend = FragileBackend()

    async def refused(server: InferenceServer) -> None:
        with pytest.raises(Unavailable, match="model instance 'm_0' is broken and could not be made anew"):
            await answer(server, 5)

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            backend.troubles["create m_0"] = RuntimeError("the GPU is gone")
            with pytest.raises(InternalError, match="it broke"):
                await answer(server, -1)
            for _ in range(3):
                await refused(server)
            # It may be made again, but not so soon.
            del backend.troubles["create m_0"]
            await refused(server)
            clock.now_ns += SECOND
            assert await answer(server, 5) == [5]
            assert backend.made == 2

    run(test)


def test_each_failure_puts_the_next_attempt_off(tmp_path: Path, clock: Clock) -> None:
    write_model(tmp_path, "m")
    backend = FragileBackend()
    attempts: list[int] = []

    def meet(place: str) -> None:
        if place == "create m_0" and attempts is not None and backend.made:
            attempts.append(clock.now_ns)
            raise InternalError("no")

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            backend.meet = meet  # type: ignore[method-assign]
            with pytest.raises(InternalError):
                await answer(server, -1)
            for _ in range(16):
                with pytest.raises(Unavailable):
                    await answer(server, 1)
                clock.now_ns += SECOND // 2

    run(test)
    assert attempts == [0, SECOND, 3 * SECOND, 7 * SECOND]


@pytest.mark.parametrize("remake", [True, False])
def test_a_stop_behind_a_batch_that_breaks_the_engine(tmp_path: Path, remake: bool) -> None:
    write_model(tmp_path, "m")
    backend = FragileBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            sent = [asyncio.ensure_future(answer(server, value)) for value in (-1, 2)]
            first = await backend.run_gate.arrival()
            if not remake:
                backend.troubles["create m_0"] = RuntimeError("gone")
            stop = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            backend.run_gate.open()
            first.set()
            await stop
            results = await asyncio.gather(*sent, return_exceptions=True)
            assert isinstance(results[0], InternalError)
            if remake:
                assert results[1] == [2]
            else:
                assert isinstance(results[1], Unavailable)

    run(test)
    assert backend.closed.count("m_0") == 1 + remake
    assert backend.closed[-1] == "model 1"


def test_a_broken_engine_that_can_not_be_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model(tmp_path, "m")
    backend = FragileBackend()

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            backend.troubles["instance close"] = RuntimeError("stuck")
            with pytest.raises(InternalError):
                await answer(server, -1)
            assert await answer(server, 4) == [4]
            del backend.troubles["instance close"]

    run(test)
    assert "could not be closed properly" in caplog.text


def test_the_other_instances_go_on(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more="instance_group { count: 3 kind: KIND_CPU }")
    backend = FragileBackend()

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for value in range(5):
                with pytest.raises(InternalError):
                    await answer(server, -1)
                answers = await asyncio.gather(*[answer(server, 10 * value + i) for i in range(20)])
                assert answers == [[10 * value + i] for i in range(20)]
            await until(lambda: backend.made == 3 + 5, "all made anew")

    run(test)


def test_an_instance_without_an_engine_is_the_last_to_be_given_a_batch(tmp_path: Path, clock: Clock) -> None:
    write_model(tmp_path, "m", more="instance_group { count: 2 kind: KIND_CPU }")
    backend = FragileBackend()

    async def test() -> None:
        async with running(tmp_path, backends=backend) as server:
            for name in ("m_0_0", "m_0_1"):
                backend.troubles[f"create {name}"] = RuntimeError("gone")
            with pytest.raises(InternalError):
                await answer(server, -1)
            await until(lambda: len(backend.closed) == 1, "given up")
            # The broken one may be asked once, before it is known to have no engine.
            assert (await one_by_one(server)).count("Unavailable") <= 1

    async def one_by_one(server: InferenceServer) -> list[str]:
        seen = []
        for value in range(20):
            try:
                assert await answer(server, value) == [value]
                seen.append("answered")
            except Unavailable:
                seen.append("Unavailable")
        return seen

    run(test)


def test_retries_are_due_at_once_then_later_and_later() -> None:
    retry = Retry(10, 35)
    assert retry.is_due(0)
    waits = []
    now = 100
    for _ in range(4):
        retry.failed(now)
        assert not retry.is_due(now + retry.wait_ns - 1)
        assert retry.is_due(now + retry.wait_ns)
        waits.append(retry.wait_ns)
        now += retry.wait_ns
    assert waits == [10, 20, 35, 35]
