"""Copies in and out: as few as the memory allows, from and to where the bytes are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import numpy as np
import pytest
from device_harness import World, arrays, check_numbered, numbered, request, signature
from fake_cuda import FakeDevices

from triton_async.backends.base import execute_requests
from triton_async.backends.device.kernels import gather_kernel
from triton_async.backends.device.options import SlotOptions
from triton_async.defines import DEVICE_STAGE_NBYTES
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest

Make = Callable[..., World]
CPU, PINNED, GPU = 0, 1, 2
SOURCE = Path(__file__).resolve().parents[4] / "csrc" / "gather.cu"
LARGE = DEVICE_STAGE_NBYTES // 4  # elements of a segment that is copied from where it lies


class Memory:
    """Arrays in any kind of memory, freed at the end."""

    def __init__(self, maker: ModuleType) -> None:
        self.maker = maker
        self.devices = FakeDevices()
        self.kept: list[Any] = []
        self.device: list[int] = []
        self.pinned: list[int] = []

    def allocate(self, nbytes: int, kind: int) -> int:
        """Address of new memory; 0xCD all over."""
        if kind == GPU:
            self.device.append(self.devices.allocate(0, nbytes))
            return self.device[-1]
        if kind == PINNED:
            self.pinned.append(self.devices.allocate_pinned(nbytes))
            return self.pinned[-1]
        self.kept.append(np.full(nbytes, 0xCD, np.uint8))
        return int(self.kept[-1].ctypes.data)

    def request(self, number: int, columns: int, rows: int, a: int, b: int) -> InferRequest:
        """`numbered`, its inputs being in memory of these kinds."""
        whole = np.full((rows, columns), number, np.float32)
        return InferRequest("m", inputs=[self.tensor("A", 2 * whole, a), self.tensor("B", -whole, b)])

    def tensor(self, name: str, array: np.ndarray, kind: int, device: int = 0) -> Any:
        address = self.allocate(max(array.nbytes, 1), kind)
        fake_cuda.write(address, array)
        return self.maker.tensor_at(name, array, address, kind, device)

    def free(self) -> None:
        for address in self.device:
            self.devices.free(0, address)
        for address in self.pinned:
            self.devices.free_pinned(address)


@pytest.fixture
def memory(batch_maker: ModuleType) -> Iterator[Memory]:
    made = Memory(batch_maker)
    yield made
    made.free()


def run(world: World, *requests: InferRequest) -> list[Any]:
    assert world.instance is not None
    return execute_requests(world.instance, world.signature, requests)


def copies_in(world: World, kinds: list[int], columns: int, memory: Memory) -> int:
    """Copies of input A of a batch whose requests have it in memory of these kinds, columns FP32 each."""
    requests = [memory.request(i, columns, 1, kind, GPU) for i, kind in enumerate(kinds)]
    fake_cuda.clear_trace()
    for i, response in enumerate(run(world, *requests)):
        check_numbered(response, i, columns)
    return world.steps().count("c in") - len(kinds)


@pytest.mark.parametrize(("kinds", "columns", "copies"), [
    ([CPU], 4, 1), ([CPU], LARGE, 1), ([PINNED], 4, 1), ([PINNED], LARGE, 1), ([GPU], 4, 1),
    ([CPU] * 5, 4, 1), ([CPU] * 5, LARGE, 1), ([PINNED] * 5, 4, 1), ([PINNED] * 5, LARGE, 5), ([GPU] * 5, 4, 5),
    ([CPU, CPU, GPU, CPU, CPU], 4, 3), ([CPU, PINNED, CPU], LARGE, 3), ([CPU, PINNED, CPU], 4, 1),
    ([GPU, PINNED, CPU, GPU], LARGE, 4),
])  # fmt: skip
def test_inputs_in_any_memory(
    world: Make, memory: Memory, kinds: list[int], columns: int, copies: int
) -> None:
    assert copies_in(world(), kinds, columns, memory) == copies


def test_rows_that_lie_together_are_one_copy(world: Make, memory: Memory, batch_maker: ModuleType) -> None:
    one = world()
    whole = np.arange(6 * LARGE, dtype=np.float32).reshape(6, LARGE)
    sent = memory.tensor("A", whole, PINNED)
    begin = memory.pinned[-1]
    requests = [
        InferRequest("m", inputs=[
            batch_maker.tensor_at("A", whole[i : i + 2], begin + i * 4 * LARGE, PINNED),
            memory.tensor("B", whole[i : i + 2], GPU),
        ]) for i in (0, 2, 4)
    ]  # fmt: skip
    del sent
    fake_cuda.clear_trace()
    found = np.concatenate([arrays(response)["SUM"] for response in run(one, *requests)])
    assert (found == 2 * whole).all()
    assert one.steps().count("c in") == 1 + 3


@pytest.mark.parametrize(
    ("kinds", "copies"), [((GPU, GPU), 0), ((GPU, PINNED), 1), ((PINNED, GPU), 1), ((CPU, CPU), 2)]
)
def test_what_one_request_has_on_the_device_is_read_there(
    world: Make, memory: Memory, kinds: tuple[int, int], copies: int
) -> None:
    made = world(reads_in_place=True)
    for number in (3, 4):
        one = memory.request(number, 4, 2, *kinds)
        fake_cuda.clear_trace()
        (response,) = run(made, one)
        check_numbered(response, number, rows=2)
        assert made.steps().count("c in") == copies
        del response, one


def test_what_is_not_alone_or_not_aligned_is_copied(world: Make, memory: Memory) -> None:
    made = world(reads_in_place=True)
    pair = [memory.request(number, 4, 1, GPU, GPU) for number in (5, 6)]
    fake_cuda.clear_trace()
    for number, response in zip((5, 6), run(made, *pair), strict=True):
        check_numbered(response, number)
    assert made.steps().count("c in") == 4
    skewed = np.full((1, 4), 7, np.float32)
    address = memory.allocate(skewed.nbytes + 4, GPU) + 4
    fake_cuda.write(address, 2 * skewed)
    one = InferRequest("m", inputs=[
        memory.maker.tensor_at("A", skewed, address, GPU, 0), memory.tensor("B", -skewed, GPU)
    ])  # fmt: skip
    fake_cuda.clear_trace()
    check_numbered(run(made, one)[0], 7)
    assert made.steps().count("c in") == 1
    del pair, one, response


def test_shape_tensors_on_the_device_come_to_the_host(world: Make, memory: Memory) -> None:
    one = world(signature(shape=True), host_inputs=frozenset({2}))
    requests = []
    for value, kind in ((7, GPU), (8, CPU), (9, GPU)):
        made = request([[1]], [[2]])
        shape = memory.tensor("N", np.array([[value]], np.int64), kind)
        requests.append(InferRequest("m", inputs=[*made.inputs, shape]))
    assert [arrays(response)["SUM"].tolist() for response in run(one, *requests)] == [[[3]]] * 3
    assert one.engine.shape_values == [[7, 8, 9]]


GATHER = SlotOptions(gather_threshold=3)


@pytest.mark.parametrize(("kinds", "gathered"), [
    ([GPU] * 3, True), ([PINNED, GPU, PINNED, GPU], True), ([GPU] * 2, False), ([GPU, CPU, GPU], False),
])  # fmt: skip
def test_many_segments_are_gathered_by_a_kernel(
    world: Make, memory: Memory, kinds: list[int], gathered: bool
) -> None:
    one = world(signature(), GATHER)
    requests = [memory.request(i, 5, 1 + i % 2, kind, GPU) for i, kind in enumerate(kinds)]
    fake_cuda.clear_trace()
    for i, response in enumerate(run(one, *requests)):
        check_numbered(response, i, 5, 1 + i % 2)
    assert one.steps().count("g in") == (len(kinds) >= 3) + gathered
    assert len(one.devices.kernels) == 1


def test_memory_of_another_gpu_is_not_read_by_the_kernel(world: Make, memory: Memory) -> None:
    one = world(signature(), GATHER)
    ones = np.ones((1, 4), np.float32)
    requests = [
        InferRequest("m", inputs=[memory.tensor("A", ones, GPU, i % 2), memory.tensor("B", ones, GPU)])
        for i in range(3)
    ]
    fake_cuda.clear_trace()
    assert [arrays(response)["SUM"].tolist() for response in run(one, *requests)] == [[[2] * 4]] * 3
    assert (one.steps().count("g in"), one.steps().count("c in")) == (1, 3)


@pytest.mark.parametrize("options", [SlotOptions(), SlotOptions(gather_threshold=3, pin_inputs=False)])
def test_the_kernel_needs_pinned_memory_and_a_threshold(world: Make, options: SlotOptions) -> None:
    one = world(signature(), options)
    assert one.devices.kernels == []
    for i, response in enumerate(run(one, *[numbered(i) for i in range(5)])):
        check_numbered(response, i)


def test_the_kernel_is_loaded_from_what_the_build_made(tmp_path: Path) -> None:
    devices = FakeDevices()
    (tmp_path / "gather.cu").touch()
    gather_kernel(devices, 0, tmp_path)
    (tmp_path / "gather.fatbin").touch()
    gather_kernel(devices, 0, tmp_path)
    assert [path.name for path in devices.kernels] == ["gather.cu", "gather.fatbin"]


def test_the_source_is_compiled_where_the_built_kernel_does_not_load(tmp_path: Path) -> None:
    class Old(FakeDevices):
        def load_kernel(self, device: int, path: Path, name: str) -> int:
            if path.suffix == ".fatbin":
                raise InternalError("the driver is too old")
            return super().load_kernel(device, path, name)

    devices = Old()
    (tmp_path / "gather.cu").touch()
    (tmp_path / "gather.fatbin").touch()
    gather_kernel(devices, 0, tmp_path)
    assert [path.name for path in devices.kernels] == ["gather.cu"]


def test_the_kernel_compiles(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        pytest.skip("gpu: no nvcc on this machine")
    made = tmp_path / "gather.ptx"
    command = [nvcc, "-ptx", "-Werror", "all-warnings", "-arch=compute_90", str(SOURCE), "-o", str(made)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert ".entry ta_gather(" in made.read_text()


def floats(address: int, count: int) -> list[float]:
    found: list[float] = fake_cuda.read(address, count).tolist()
    return found


@pytest.mark.parametrize("kind", [GPU, PINNED])
def test_outputs_go_straight_to_their_places(
    world: Make, memory: Memory, batch_maker: ModuleType, kind: int
) -> None:
    one = world()
    places = [memory.allocate(64, kind) for _ in range(2)]
    requests = [numbered(5, rows=1), numbered(6, rows=2)]
    placements = [(places[0], 64, kind, 0, 0, 0, 1), (places[1], 64, kind, 0, 1, 1, 2)]
    responses, placed, kinds = batch_maker.run_placed(
        one.instance, one.signature, requests, placements, wanted=(2, 1)
    )
    assert placed == [(1, 16), (1, 32)]
    assert floats(places[0], 4) == [5] * 4
    assert floats(places[1], 8) == [6] * 8
    assert kinds == [GPU, PINNED]  # nothing of the first output came to the host
    assert one.steps().count("c out") == 2 + 1
    assert [response.outputs[1].numpy().tolist() for response in responses] == [[[15] * 4], [[18] * 4] * 2]


def test_an_output_that_others_take_comes_to_the_host_too(
    world: Make, memory: Memory, batch_maker: ModuleType
) -> None:
    one = world()
    place = memory.allocate(64, GPU)
    responses, placed, _ = batch_maker.run_placed(
        one.instance, one.signature, [numbered(5), numbered(6)], [(place, 64, GPU, 0, 1, 1, 1)]
    )
    assert placed == [(1, 16)]
    assert floats(place, 4) == [6] * 4
    check_numbered(responses[0], 5)


def test_pageable_places_are_left_to_core(world: Make, memory: Memory, batch_maker: ModuleType) -> None:
    one = world()
    place = memory.allocate(64, CPU)
    responses, placed, kinds = batch_maker.run_placed(
        one.instance, one.signature, [numbered(5)], [(place, 64, CPU, 0, 0, 0, 1)], wanted=(2, 1)
    )
    assert placed == [(0, 0)]
    assert kinds == [PINNED, PINNED]
    assert [output.name for output in responses[0].outputs if output.nbytes] == ["DIFF"]


def test_a_place_that_is_too_small_stays_untouched(world: Make, memory: Memory, batch_maker: ModuleType) -> None:
    one = world()
    places = [memory.allocate(16, GPU) for _ in range(2)]
    placements = [(places[0], 15, GPU, 0, 0, 0, 1), (places[1], 16, GPU, 0, 1, 1, 1)]
    _, placed, _ = batch_maker.run_placed(one.instance, one.signature, [numbered(5), numbered(6)], placements)
    assert placed == [(-1, 16), (1, 16)]
    assert fake_cuda.read(places[0], 4).tobytes() == b"\xcd" * 16
    assert floats(places[1], 4) == [6] * 4


def test_a_whole_output_has_a_place_in_a_model_without_batches(
    world: Make, memory: Memory, batch_maker: ModuleType
) -> None:
    one = world(signature((2, 2), 0))
    place = memory.allocate(16, GPU)
    sent = request([[1, 2], [3, 4]], [[1, 1], [1, 1]])
    _, placed, _ = batch_maker.run_placed(one.instance, one.signature, [sent], [(place, 16, GPU, 0, 0, 0, 0)])
    assert placed == [(1, 16)]
    assert floats(place, 4) == [2, 3, 4, 5]


def test_late_outputs_have_places_too(world: Make, memory: Memory, batch_maker: ModuleType) -> None:
    one = world(late=(0,))
    place = memory.allocate(16, GPU)
    batch_maker.run_placed(one.instance, one.signature, [numbered(5)], [(place, 16, GPU, 0, 0, 0, 1)], wanted=(2, 1))
    assert floats(place, 4) == [5] * 4


def test_an_output_with_too_few_rows_is_not_placed(world: Make, memory: Memory, batch_maker: ModuleType) -> None:
    one = world()
    make_outputs = one.engine._make_outputs

    def shorter(slot, like, capturing):  # type: ignore[no-untyped-def]
        return [output._replace(dims=(1, 4), nbytes=16) for output in make_outputs(slot, like, capturing)]

    one.engine._make_outputs = shorter  # type: ignore[method-assign]
    place = memory.allocate(16, GPU)
    responses, placed, _ = batch_maker.run_placed(
        one.instance, one.signature, [numbered(5), numbered(6)], [(place, 16, GPU, 0, 1, 1, 1)]
    )
    assert placed == [(0, 0)]
    with pytest.raises(InternalError, match="expected batch size of at least 2 in model output, got 1"):
        arrays(responses[0])
