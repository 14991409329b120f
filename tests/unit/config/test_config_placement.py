"""Where a config puts its instances, for the GPUs that its backend may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_models import load_text

from triton_async.config.model_config import InstanceKind
from triton_async.config.placement import Gpus
from triton_async.errors import InvalidArg, Unavailable

CPU, GPU, MODEL = InstanceKind.CPU, InstanceKind.GPU, InstanceKind.MODEL

TABLE = [
    # No group at all: one of the model's name, wherever it can run.
    ("", (), [("m_0", CPU, 0), ("m_1", CPU, 0)]),
    ("", (0,), [("m_0", GPU, 0)]),
    ("", (0, 2), [("m_0", GPU, 0), ("m_1", GPU, 2)]),
    ("backend: 'identity'", (), [("m_0", CPU, 0)]),
    # KIND_AUTO is the default kind.
    ("instance_group { }", (), [("m_0_0", CPU, 0), ("m_0_1", CPU, 0)]),
    ("instance_group { }", (0, 1), [("m_0_0", GPU, 0), ("m_0_1", GPU, 1)]),
    ("instance_group { count: 2 gpus: 1 }", (0, 1), [("m_0_0", GPU, 1), ("m_0_1", GPU, 1)]),
    # KIND_GPU: `count` on each GPU.
    ("instance_group { kind: KIND_GPU }", (0,), [("m_0_0", GPU, 0)]),
    (
        "instance_group { kind: KIND_GPU count: 2 gpus: [ 1, 0 ] }", (0, 1),
        [("m_0_0", GPU, 1), ("m_0_1", GPU, 1), ("m_0_2", GPU, 0), ("m_0_3", GPU, 0)],
    ),
    # The other kinds stay where they are.
    ("instance_group { kind: KIND_CPU }", (0,), [("m_0_0", CPU, 0), ("m_0_1", CPU, 0)]),
    ("instance_group { kind: KIND_MODEL count: 2 }", (0,), [("m_0_0", MODEL, 0), ("m_0_1", MODEL, 0)]),
    (
        "instance_group [ { name: 'a' kind: KIND_CPU count: 1 }, { kind: KIND_GPU gpus: 1 } ]", (0, 1),
        [("a_0", CPU, 0), ("m_1_0", GPU, 1)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gpus", "expected"), TABLE)
def test_instances_and_their_places(
    tmp_path: Path, text: str, gpus: tuple[int, ...], expected: list[tuple[str, InstanceKind, int]]
) -> None:
    problem = "" if gpus else "there are none"
    found = load_text(tmp_path, text, find_gpus=lambda backend, named: Gpus(gpus, problem))
    assert [(i.name, i.kind, i.device) for i in found.instances()] == expected


@pytest.mark.parametrize(("text", "gpus", "message"), [
    ("instance_group { kind: KIND_GPU }", (),
     "instance group m_0 of model m has kind KIND_GPU but no GPUs are available: the driver is missing"),
    ("instance_group { kind: KIND_GPU gpus: 0 }", (), "no GPUs are available: the driver is missing"),
    ("instance_group { kind: KIND_GPU gpus: [ 0, 2 ] }", (0, 1),
     "instance group m_0 of model m specifies invalid or unsupported gpu id 2. GPUs that may be used are: 0, 1"),
    ("instance_group { kind: KIND_GPU gpus: -1 }", (0,), "unsupported gpu id -1"),
    # As Triton: with a GPU that is not there the choice falls on the CPU, which takes no list of GPUs.
    ("instance_group { gpus: 7 }", (0, 1), "has kind KIND_CPU but specifies one or more GPUs"),
    ("instance_group { kind: KIND_MODEL gpus: 0 }", (0,), "has kind KIND_MODEL but specifies one or more GPUs"),
])  # fmt: skip
def test_places_that_can_not_be(tmp_path: Path, text: str, gpus: tuple[int, ...], message: str) -> None:
    problem = "" if gpus else "the driver is missing"
    with pytest.raises(InvalidArg) as caught:
        load_text(tmp_path, text, find_gpus=lambda backend, named: Gpus(gpus, problem))
    assert message in caught.value.message
    assert caught.value.message.endswith("(in config.pbtxt)")


@pytest.mark.parametrize(("text", "asked"), [
    ("instance_group { kind: KIND_CPU }", []), ("instance_group { kind: KIND_MODEL }", []),
    ("instance_group { kind: KIND_CPU } instance_group { kind: KIND_GPU }", ["onnxruntime"]),
    ("instance_group { }", ["onnxruntime"]), ("", ["onnxruntime"]), ("backend: 'identity'", ["identity"]),
])  # fmt: skip
def test_gpus_are_asked_for_only_when_some_group_may_use_them(tmp_path: Path, text: str, asked: list[str]) -> None:
    calls: list[str] = []

    def find_gpus(backend: str, named: bool) -> Gpus:
        calls.append(backend)
        return Gpus((0,))

    load_text(tmp_path, text, find_gpus=find_gpus)
    assert calls == asked


def test_an_error_of_the_search_for_gpus_is_not_the_files(tmp_path: Path) -> None:
    def find_gpus(backend: str, named: bool) -> Gpus:
        raise Unavailable("the engine is missing")

    with pytest.raises(Unavailable) as caught:
        load_text(tmp_path, "instance_group { }", find_gpus=find_gpus)
    assert caught.value.message == "the engine is missing"


def test_host_policies_are_named_after_the_place(tmp_path: Path) -> None:
    text = """instance_group [ { kind: KIND_CPU count: 1 }, { kind: KIND_GPU gpus: 1 }, { kind: KIND_MODEL },
                              { kind: KIND_GPU gpus: 1 host_policy: "near" } ]"""
    found = load_text(tmp_path, text, find_gpus=lambda backend, named: Gpus((0, 1)))
    assert [i.host_policy for i in found.instances()] == ["cpu", "gpu_1", "model", "near"]
