"""Large request bodies of a model that likes pinned memory are received into it; all others are not."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
from core_harness import run, write_model
from express_harness import Wire, express
from fake_devices import FakeDevices
from http_harness import infer_body, message
from pinned_backend import CPU, PINNED, PinnedBackend, write_pinned_model

from triton_async.defines import INPUT_POOL_NBYTES
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

LARGE = INPUT_POOL_NBYTES // 4
SMALL = LARGE - 1000


def infer(model: str, count: int) -> bytes:
    values = np.arange(count, dtype=np.float32)
    body, headers = infer_body(values)
    return message("POST", f"/v2/models/{model}/infer", body, headers)


async def echo(wire: Wire, model: str, count: int, answers: int) -> None:
    """One request on the connection, cut in pieces, whose `answers`th answer has to be its values."""
    wire.send(infer(model, count), 10_000)
    answer = (await wire.answers(answers))[-1]
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    assert answer.endswith(np.arange(count, dtype=np.float32).tobytes())


def test_only_large_bodies_of_a_model_that_likes_it_land_in_pinned_memory(tmp_path: Path) -> None:
    write_pinned_model(tmp_path, "pinned")
    write_pinned_model(tmp_path, "off", "optimization { input_pinned_memory { enable: false } }")
    write_model(tmp_path, "cpu")
    devices, backend = FakeDevices(), PinnedBackend()
    pools = Pools(SlabPool(1 << 20), lambda: devices, pinned_nbytes=1 << 20)

    async def test() -> None:
        async with express(tmp_path, backends=backend, pools=pools) as (_, listener):
            wire = Wire(listener)
            pinned = pools.pinned()
            for turn, (model, count) in enumerate([
                ("pinned", LARGE), ("pinned", SMALL), ("off", LARGE), ("cpu", LARGE), ("pinned", 4 * LARGE),
            ]):  # fmt: skip
                await echo(wire, model, count, turn + 1)
            assert backend.seen == [PINNED, CPU, CPU, PINNED]
            gc.collect()
            assert (pinned.leased, pinned.fallbacks) == (0, 0)
            wire.leave()

    run(test)
    pools.close()
    gc.collect()
    assert devices.leaks == {}


def test_a_body_that_finds_the_pool_exhausted_is_received_all_the_same(tmp_path: Path) -> None:
    write_pinned_model(tmp_path, "pinned")
    backend = PinnedBackend()
    pools = Pools(SlabPool(1 << 20), FakeDevices, pinned_nbytes=2 * INPUT_POOL_NBYTES)

    async def test() -> None:
        async with express(tmp_path, backends=backend, pools=pools) as (_, listener):
            wire = Wire(listener)
            await echo(wire, "pinned", LARGE, 1)
            held = pools.pinned().acquire(INPUT_POOL_NBYTES)
            await echo(wire, "pinned", LARGE, 2)
            del held
            await echo(wire, "pinned", LARGE, 3)
            assert backend.seen == [PINNED, CPU, PINNED] and pools.pinned().fallbacks == 1
            wire.leave()

    run(test)


def test_a_client_that_leaves_in_its_body_gives_the_pinned_memory_back(tmp_path: Path) -> None:
    write_pinned_model(tmp_path, "pinned")
    pools = Pools(SlabPool(0), FakeDevices, pinned_nbytes=1 << 20)

    async def test() -> None:
        async with express(tmp_path, backends=PinnedBackend(), pools=pools) as (_, listener):
            wire = Wire(listener)
            wire.send(infer("pinned", LARGE)[:-1])
            assert pools.pinned().leased == 1
            wire.leave()
            assert pools.pinned().leased == 0

    run(test)


def test_a_server_of_cpu_models_never_asks_for_a_gpu(tmp_path: Path) -> None:
    write_model(tmp_path, "cpu")

    def open_devices() -> FakeDevices:
        raise AssertionError("a CPU model asked for a GPU")

    pools = Pools(SlabPool(1 << 20), open_devices)

    async def test() -> None:
        async with express(tmp_path, pools=pools) as (server, listener):
            wire = Wire(listener)
            await echo(wire, "cpu", LARGE, 1)
            assert server.large_pool is server.pool is pools.host
            wire.leave()

    run(test)
