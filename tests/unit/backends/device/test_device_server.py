"""Models on a (fake) GPU behind a real InferenceServer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import numpy as np
import pytest
import uvloop
from device_harness import FakeEngine, pinned_pool
from fake_cuda import FakeDevices, Gate

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.device.instance import DeviceInstance
from triton_async.backends.device.options import slot_options
from triton_async.config.settings import parse
from triton_async.core import instances
from triton_async.core.host import Host, Workers
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, ServerError, Unavailable
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import from_numpy
from triton_async.memory.device import DevicePool
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

PINNED, GPU = 1, 2
CONFIG = """
    backend: "fake"
    max_batch_size: 16
    input [ {{ name: "A" data_type: TYPE_FP32 dims: -1 }}, {{ name: "B" data_type: TYPE_FP32 dims: -1 }} ]
    output [ {{ name: "SUM" data_type: TYPE_FP32 dims: -1 }}, {{ name: "DIFF" data_type: TYPE_FP32 dims: -1 }} ]
    instance_group {{ count: {count} kind: KIND_CPU }}
    {more}
"""


class FakeModel(LoadedModel):
    def __init__(self, backend: FakeBackend, context: LoadContext) -> None:
        self.backend, self.context = backend, context

    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        engine = FakeEngine(self.backend.devices, self.backend.gate)
        self.backend.engines.append(engine)
        context = self.context
        return DeviceInstance(
            name, engine, context.signature, self.backend.devices, 0, slot_options(context.config), context.pool,
            pinned_pool=pinned_pool(context.pool), memory=self.backend.memory,
        )  # fmt: skip


class FakeBackend(Backend):
    """A backend on the fake driver; also the registry of itself."""

    def __init__(self) -> None:
        fake_cuda.recover()
        self.before = fake_cuda.state().live()
        self.devices = FakeDevices()
        self.memory: DevicePool | None = DevicePool(self.devices, 0, 1 << 16)
        self.gate = Gate()
        self.engines: list[FakeEngine] = []

    def get(self, name: str, place: object = None) -> Backend:
        return self

    def load(self, context: LoadContext) -> LoadedModel:
        return FakeModel(self, context)

    def check_all_is_back(self) -> None:
        self.gate.free()
        self.memory = None
        assert [engine.closed for engine in self.engines] == [1] * len(self.engines)
        assert fake_cuda.state().live() == self.before


@contextlib.asynccontextmanager
async def running(root: Path, backend: FakeBackend, more: str = "", count: int = 1) -> AsyncIterator[InferenceServer]:
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG.format(count=count, more=more))
    loop = asyncio.get_running_loop()
    settings = parse([f"--model-repository={root}"])
    reactor = Reactor()
    reactor.attach(loop)
    with Workers(2) as workers:
        pools = Pools(SlabPool(1 << 24), lambda: backend.devices)
        host = Host(loop, reactor, pools, backend, workers, settings.backend_config)
        server = InferenceServer(settings, host)
        await server.start()
        yield server
        await server.stop()
        reactor.detach()


def run(test: Callable[[], Awaitable[None]]) -> None:
    uvloop.run(test())  # type: ignore[arg-type]
    gc.collect()


def request(number: float, rows: int = 1, columns: int = 4, outputs: Sequence[RequestedOutput] = ()) -> InferRequest:
    whole = np.full((rows, columns), number, np.float32)
    return InferRequest("m", inputs=[from_numpy("A", 2 * whole), from_numpy("B", -whole)], outputs=list(outputs))


async def check(server: InferenceServer, number: int, rows: int, columns: int) -> None:
    response: InferResponse = await server.infer(request(number, rows, columns))
    found = {output.name: output.numpy() for output in response.outputs}
    assert found["SUM"].shape == (rows, columns)
    assert (found["SUM"] == number).all()
    assert (found["DIFF"] == 3 * number).all()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(fake_cuda.PATIENCE_S * 500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("not reached")


@pytest.mark.parametrize("more", [
    "dynamic_batching { }",
    "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true }",
    "dynamic_batching { } optimization { cuda { graphs: true busy_wait_events: true "
    "graph_spec { batch_size: 16 input { key: 'A' value { dim: 4 } } input { key: 'B' value { dim: 4 } } "
    "graph_lower_bound { batch_size: 1 } } } gather_kernel_buffer_threshold: 4 priority: PRIORITY_MAX }",
    "",
])  # fmt: skip
@pytest.mark.parametrize("count", [1, 3])
def test_a_thousand_requests(tmp_path: Path, more: str, count: int) -> None:
    backend = FakeBackend()

    async def test() -> None:
        async with running(tmp_path, backend, more, count) as server:
            for first in range(0, 1000, 250):
                await asyncio.gather(*[check(server, i, 1 + i % 3, 4 + i % 2) for i in range(first, first + 250)])

    run(test)
    backend.check_all_is_back()


def test_what_the_gpu_does_counts_as_computing(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.gate.shut()

    async def test() -> None:
        async with running(tmp_path, backend) as server:
            sent = [asyncio.ensure_future(check(server, i, 1, 4)) for i in range(2)]
            await asyncio.to_thread(backend.gate.arrivals, 1)
            await asyncio.sleep(0.05)
            backend.gate.let_through()
            await asyncio.to_thread(backend.gate.arrivals, 2)
            await asyncio.sleep(0.05)
            backend.gate.open()
            await asyncio.gather(*sent)
            stats = server.statistics("m")[0]["inference_stats"]
            # Each run has its own 50 ms: the second batch was not computing while it waited for the first.
            assert stats["compute_infer"]["count"] == 2
            computing = stats["compute_infer"]["ns"]
            assert 95_000_000 <= computing <= stats["success"]["ns"] - 45_000_000

    run(test)
    backend.check_all_is_back()


def test_clients_that_leave(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.gate.shut()

    async def test() -> None:
        async with running(tmp_path, backend, "dynamic_batching { }") as server:
            sent = [asyncio.ensure_future(server.infer(request(i))) for i in range(40)]
            await asyncio.to_thread(backend.gate.arrivals, 1)
            for one in sent[::2]:
                one.cancel()
            backend.gate.open()
            answers = await asyncio.gather(*sent, return_exceptions=True)
            for i, response in enumerate(answers):
                if i % 2 == 0:
                    assert isinstance(response, asyncio.CancelledError)
                else:
                    assert isinstance(response, InferResponse)
                    assert response.outputs[0].numpy().tolist() == [[i] * 4]

    run(test)
    backend.check_all_is_back()


def test_a_server_that_stops_finishes_what_is_on_the_gpu(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.gate.shut()

    async def test() -> None:
        async with running(tmp_path, backend) as server:
            sent = [asyncio.ensure_future(check(server, i, 2, 4)) for i in range(5)]
            await asyncio.to_thread(backend.gate.arrivals, 1)
            stop = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            assert not stop.done()
            backend.gate.open()
            await stop
            await asyncio.gather(*sent)

    run(test)
    backend.check_all_is_back()


def test_a_broken_gpu_is_answered_for_until_it_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    now = [0]
    monkeypatch.setattr(instances, "clock", lambda: now[0])

    async def fails(server: InferenceServer) -> ServerError:
        with pytest.raises(ServerError) as caught:
            await server.infer(request(1))
        return caught.value

    async def test() -> None:
        async with running(tmp_path, backend) as server:
            await check(server, 1, 1, 4)
            fake_cuda.fail_at(0, fake_cuda.ILLEGAL_ADDRESS, lasting=True)
            error = await fails(server)
            assert isinstance(error, InternalError)
            assert "CUDA_ERROR_ILLEGAL_ADDRESS" in error.message
            await until(lambda: len(backend.engines) == 2)  # and that could not be made
            assert isinstance(await fails(server), Unavailable)
            fake_cuda.recover()
            assert isinstance(await fails(server), Unavailable)
            now[0] += 10**9
            await check(server, 2, 1, 4)
            assert len(backend.engines) == 3

    run(test)
    backend.check_all_is_back()


def test_failures_here_and_there_fail_their_batches_alone(tmp_path: Path) -> None:
    backend = FakeBackend()

    async def attempt(server: InferenceServer, number: int) -> Any:
        try:
            await check(server, number, 1, 4)
        except InternalError as error:
            return error.message
        return None

    async def test() -> None:
        async with running(tmp_path, backend, "dynamic_batching { }") as server:
            messages = []
            for first in range(0, 600, 20):
                fake_cuda.fail_at(first % 37)
                messages += await asyncio.gather(*[attempt(server, i) for i in range(first, first + 20)])
            failed = [message for message in messages if message is not None]
            assert 0 < len(failed) < 600
            fake_cuda.recover()
            await check(server, 7, 1, 4)
            assert len(backend.engines) == 1

    run(test)
    backend.check_all_is_back()


def test_core_leaves_outputs_where_they_may_be(tmp_path: Path, batch_maker: ModuleType) -> None:
    """Two requests of one batch: one takes an output anywhere; the other does so too, has it on the host, or puts it
    into a region."""
    backend = FakeBackend()
    anywhere, host = RequestedOutput("SUM", anywhere=True), RequestedOutput("SUM")
    pool = SlabPool(1 << 16)

    def found(response: InferResponse) -> tuple[int, int]:
        output = response.outputs[0]
        address, kind, _ = batch_maker.place_of(output)
        values = fake_cuda.read(address, output.nbytes // 4).tolist()
        assert values == [values[0]] * 4
        return kind, int(values[0])

    async def test() -> None:
        both = "dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 60000000 }"
        async with running(tmp_path, backend, both) as server:
            assert backend.memory is not None

            async def answers(*wanted: RequestedOutput) -> list[InferResponse]:
                sent = [request(7 + i, outputs=[output]) for i, output in enumerate(wanted)]
                return await asyncio.gather(*map(server.infer, sent))

            before = backend.memory.leased
            responses = await answers(anywhere, anywhere)
            assert [found(one) for one in responses] == [(GPU, 7), (GPU, 8)]
            assert backend.memory.leased == before + 1
            responses = await answers(anywhere, host)
            assert [found(one) for one in responses] == [(PINNED, 7), (PINNED, 8)]
            region = pool.acquire(16)
            responses = await answers(anywhere, RequestedOutput("SUM", region=region))
            assert found(responses[0]) == (GPU, 7)
            assert np.frombuffer(region, np.float32).tolist() == [8] * 4  # type: ignore[call-overload]
            assert server.statistics("m")[0]["execution_count"] == 3
            responses.clear()
            await asyncio.sleep(0)  # the callback at hand has the tasks, whose results they are
            assert backend.memory.leased == before

    run(test)
    backend.check_all_is_back()
