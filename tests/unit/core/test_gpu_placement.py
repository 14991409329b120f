"""Loading onto GPUs: who is asked, what is refused, how much memory a model may find and took."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from core_harness import no_devices, run, running, write_model
from gated_backend import GatedBackend, GatedModel

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.identity import IdentityBackend
from triton_async.config.model_config import InstanceKind
from triton_async.core.placement import GpuLoads, find_gpus
from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, InvalidArg
from triton_async.memory.devices import DeviceInfo

EXPLICIT = "--model-control-mode=explicit"
ON_GPU = "instance_group { kind: KIND_GPU count: 1 }"
GIB = 1 << 30


class FewGpus:
    """GPUs of 10 GiB whose memory is used by what the test says."""

    def __init__(self, count: int) -> None:
        self.infos = tuple(DeviceInfo(i, "fake", (9, 0), 10 * GIB, f"0000:0{i}:00.0") for i in range(count))
        self.used = dict.fromkeys(range(count), 0)
        self.asked = 0
        self.broken_after = -1

    def memory_info(self, device: int) -> tuple[int, int]:
        self.asked += 1
        if 0 <= self.broken_after < self.asked:
            raise RuntimeError("no answer")
        return 10 * GIB - self.used[device], 10 * GIB

    def open(self) -> Any:
        return self


class GpuModel(GatedModel):
    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        assert isinstance(self.backend, GpuBackend)
        self.backend.places.append((name, device_id))
        self.backend.gpus.used[device_id] += GIB
        return super().create_instance(name, group, device_id)


class GpuBackend(GatedBackend):
    """Its instances say on which GPU they are, and take a GiB there."""

    kinds = (InstanceKind.GPU,)  # type: ignore[assignment]

    def __init__(self, gpus: FewGpus) -> None:
        super().__init__()
        self.gpus = gpus
        self.places: list[tuple[str, int]] = []

    def load(self, context: LoadContext) -> LoadedModel:
        super().load(context)
        return GpuModel(self, context)


def used(server: InferenceServer, name: str) -> Any:
    return server.statistics(name)[0]["memory_usage"]


def not_to_be_opened() -> Any:
    raise AssertionError("nothing here is for a GPU")


def test_devices_are_not_opened_for_backends_of_the_cpu(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "auto", more="instance_group { kind: KIND_AUTO }")

    async def test() -> None:
        async with running(tmp_path, open_devices=not_to_be_opened) as server:
            assert server.ready()
            assert used(server, "m") == []

    run(test)
    assert find_gpus(IdentityBackend(), not_to_be_opened).problem == "the identity backend runs on the CPU only"


def test_a_group_of_gpus_says_why_there_are_none(tmp_path: Path) -> None:
    gpus = FewGpus(0)
    assert find_gpus(GpuBackend(gpus), gpus.open).problem == "this machine has no GPU that can be used"
    assert find_gpus(GpuBackend(gpus), no_devices).problem == "this server was made without GPU support"
    write_model(tmp_path, "m", more=ON_GPU)

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            with pytest.raises(InvalidArg, match=r"has kind KIND_GPU but no GPUs are available: the identity backend "
                                                 r"runs on the CPU only"):
                await server.load_model("m")

    run(test)


@pytest.mark.parametrize(("more", "expected"), [
    ("", [("m_0", 0), ("m_1", 1)]),
    (ON_GPU, [("m_0_0", 0), ("m_0_1", 1)]),
    ("instance_group { count: 2 gpus: 1 }", [("m_0_0", 1), ("m_0_1", 1)]),
    ("instance_group [ { kind: KIND_GPU gpus: 0 passive: true }, { kind: KIND_GPU gpus: 1 } ]",
     [("m_0_0", 0), ("m_1_0", 1)]),
])  # fmt: skip
def test_instances_are_made_where_the_config_says(
    tmp_path: Path, more: str, expected: list[tuple[str, int]]
) -> None:
    write_model(tmp_path, "m", more=more)
    gpus = FewGpus(2)
    backend = GpuBackend(gpus)

    async def test() -> None:
        async with running(tmp_path, backends=backend, open_devices=gpus.open) as server:
            assert server.ready()
            assert sorted(backend.places) == expected
            taken = {device: sum(GIB for _, at in expected if at == device) for device in (0, 1)}
            assert used(server, "m") == [
                {"type": "GPU", "id": device, "byte_size": nbytes} for device, nbytes in taken.items() if nbytes
            ]

    run(test)


def test_a_backend_of_gpus_alone_says_why_it_has_none(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=GpuBackend(FewGpus(0))) as server:
            with pytest.raises(InvalidArg) as caught:
                await server.load_model("m")
            assert (
                "instance group m of model m has kind KIND_CPU, backend 'identity' supports only KIND_GPU; this server "
                "was made without GPU support"
            ) in caught.value.message

    run(test)


@pytest.mark.parametrize(("more", "error"), [
    ("instance_group { kind: KIND_CPU }",
     "instance group m_0 of model m has kind KIND_CPU, backend 'identity' supports only KIND_GPU"),
    ("optimization { execution_accelerators { gpu_execution_accelerator { name: 'x' } } }",
     "unable to load model 'm': backend 'identity' knows no execution accelerators"),
])  # fmt: skip
def test_what_the_backend_does_not_do_is_refused(tmp_path: Path, more: str, error: str) -> None:
    write_model(tmp_path, "m", more=more)
    gpus = FewGpus(1)

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=GpuBackend(gpus), open_devices=gpus.open) as server:
            with pytest.raises(InvalidArg) as caught:
                await server.load_model("m")
            assert error in caught.value.message

    run(test)


def test_a_model_is_not_loaded_on_a_gpu_that_is_fuller_than_the_limit(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more="instance_group { kind: KIND_GPU gpus: 1 }")
    gpus = FewGpus(2)
    backend = GpuBackend(gpus)
    gpus.used = {0: 9 * GIB, 1: 5 * GIB + 1}
    options = (EXPLICIT, "--model-load-gpu-limit=1:0.5", "--model-load-gpu-limit=0:0.1")

    async def test() -> None:
        async with running(tmp_path, *options, backends=backend, open_devices=gpus.open) as server:
            with pytest.raises(InvalidArg, match=r"Unavailable: memory limit set for GPU 1 has exceeded, model "
                                                 r"loading is rejected\.;"):
                await server.load_model("m")
            assert backend.places == []
            gpus.used[1] = 5 * GIB
            await server.load_model("m")
            assert backend.places == [("m_0_0", 1)]

    run(test)


def test_models_that_load_at_the_same_time_do_not_count_each_others_memory(tmp_path: Path) -> None:
    for name, device in (("a", 0), ("b", 0), ("c", 1)):
        write_model(tmp_path, name, more=f"instance_group {{ kind: KIND_GPU gpus: {device} }}")
    gpus = FewGpus(2)
    backend = GpuBackend(gpus)
    backend.load_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend, open_devices=gpus.open) as server:
            loads = [asyncio.ensure_future(server.load_model(name)) for name in "abc"]
            for event in [await backend.load_gate.arrival() for _ in range(3)]:
                event.set()
            await asyncio.gather(*loads)
            assert used(server, "a") == used(server, "b") == []
            assert used(server, "c") == [{"type": "GPU", "id": 1, "byte_size": GIB}]

    run(test)


def test_a_loaded_model_serves_though_its_memory_can_not_be_told(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=ON_GPU)
    gpus = FewGpus(1)
    gpus.broken_after = 1

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=GpuBackend(gpus), open_devices=gpus.open) as server:
            await server.load_model("m")
            assert server.ready()
            assert used(server, "m") == []

    run(test)


def test_a_load_that_fails_ends_its_turn_on_the_gpu(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=ON_GPU)
    gpus = FewGpus(1)
    backend = GpuBackend(gpus)
    backend.troubles["load m"] = InternalError("not today")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend, open_devices=gpus.open) as server:
            with pytest.raises(InvalidArg, match="not today"):
                await server.load_model("m")
            backend.troubles.clear()
            await server.load_model("m")
            assert used(server, "m") == [{"type": "GPU", "id": 0, "byte_size": GIB}]

    run(test)


@pytest.mark.parametrize(("more", "label"), [
    (ON_GPU.replace("count", "gpus: 1 count"), 'gpu_uuid="GPU-1",'),
    (ON_GPU, ""),
    ("instance_group { kind: KIND_GPU gpus: 5 }", ""),
])  # fmt: skip
def test_series_of_a_model_on_one_gpu_name_it(tmp_path: Path, more: str, label: str) -> None:
    write_model(tmp_path, "m", more=more)
    gpus = FewGpus(6)
    families = [("some_gauge", "gauge", "A source of the test's", [({"gpu_uuid": "GPU-1"}, 0.5)])]
    host: dict[str, Any] = {
        "metric_sources": (lambda: families,),
        "gpu_uuid": lambda device: f"GPU-{device}" if device < 5 else "",
    }  # fmt: skip

    async def test() -> None:
        async with running(tmp_path, backends=GpuBackend(gpus), open_devices=gpus.open, **host) as server:
            lines = b"".join(await server.metrics_parts()).decode().split("\n")
            assert f'nv_inference_count{{{label}model="m",version="1"}} 0' in lines
            assert lines[lines.index("# TYPE some_gauge gauge") + 1] == 'some_gauge{gpu_uuid="GPU-1"} 0.5'

    run(test)


def test_turns_on_gpus() -> None:
    loads = GpuLoads()
    first = loads.begin([0, 1])
    second = loads.begin([1, 2])
    assert loads.end(first) == (0,)
    third = loads.begin([0, 2])
    assert loads.end(second) == ()
    assert loads.end(third) == (0,)
    assert loads.end(loads.begin([0, 1, 2])) == (0, 1, 2)
    assert loads.end(loads.begin([])) == ()


def test_a_backend_makes_no_instances_on_gpus_unless_it_says_so() -> None:
    assert InstanceKind.GPU not in Backend().kinds
