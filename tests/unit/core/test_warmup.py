"""Warm-up: what each instance runs before its model is ready, and loads that fail by it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, GatedModel, until

from triton_async import datatypes
from triton_async.core.warmup_samples import Sample, read_samples
from triton_async.errors import InvalidArg
from triton_async.infer.signature import ModelSignature, TensorSpec

EXPLICIT = "--model-control-mode=explicit"
TWO = "instance_group { count: 2 kind: KIND_CPU }"


def sample(given: str, *, name: str = "s", size: int = 1, count: int = 0) -> str:
    return (
        f"model_warmup {{ name: '{name}' batch_size: {size} count: {count} "
        f"inputs {{ key: 'INPUT0' value {{ {given} }} }} }}"
    )


ZEROS = "data_type: TYPE_FP32 dims: 3 zero_data: true"


def values(backend: GatedBackend) -> list[Any]:
    return [batch[0].tolist() for batch in backend.batches]


def test_each_instance_runs_all_samples_before_the_model_is_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "triton_async.core")
    directory = write_model(tmp_path, "m", max_batch_size=4, more=(
        TWO + sample(ZEROS, size=3, count=2)
        + sample("data_type: TYPE_FP32 dims: 2 input_data_file: 'in/x'", name="file") + sample(ZEROS, name="no", size=0)
    ))  # fmt: skip
    (directory / "warmup" / "in").mkdir(parents=True)
    # What is beyond the input's size is left alone.
    (directory / "warmup" / "in" / "x").write_bytes(np.float32([5, 6, 7]).tobytes())
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            load = asyncio.ensure_future(server.load_model("m"))
            # Both instances at once.
            held = [await backend.run_gate.arrival() for _ in range(2)]
            assert server.repository.index(False)[0]["state"] == "LOADING"
            assert not load.done()
            for one in held:
                one.set()
            backend.run_gate.open()
            await load
            rows = values(backend)
            assert len(rows) == 6
            assert rows.count([[0, 0, 0]] * 3) == 4
            assert rows.count([[5, 6]]) == 2
            # As Triton's documentation says, and not what it does: warm-up is not counted.
            (entry,) = server.statistics("m")
            assert (entry["inference_count"], entry["execution_count"], entry["batch_stats"]) == (0, 0, [])
            assert entry["inference_stats"]["success"]["count"] == 0
            assert (await server.infer(request("m", [[3]]))).outputs[0].numpy().tolist() == [[3]]
            assert server.statistics("m")[0]["execution_count"] == 1

    run(test)
    assert sorted(backend.closed) == ["m_0_0", "m_0_1", "model 1"]
    lines = [line for line in caplog.messages if "is running warmup sample" in line]
    assert lines.count("model 'm' instance m_0_1 is running warmup sample 's' for iteration 2") == 1
    assert len(lines) == 6


@pytest.mark.parametrize("thread_bound", [True, False])
def test_a_sample_that_fails_fails_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thread_bound: bool
) -> None:
    write_model(tmp_path, "m", more=TWO + sample(ZEROS))
    backend = GatedBackend()
    monkeypatch.setattr(GatedModel, "thread_bound", thread_bound)
    backend.fail_next = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            with pytest.raises(InvalidArg) as caught:
                await server.load_model("m")
            assert "failed to run warmup sample 's': " in caught.value.message
            assert "told to fail (on instance 'm_0_" in caught.value.message
            await until(lambda: len(backend.closed) == 3, "freed")
            # The other instance had warmed up; nothing of it is left, and the next load begins anew.
            await server.load_model("m")
            assert (await server.infer(request("m", [3]))).outputs[0].numpy().tolist() == [3]

    run(test)
    assert sorted(backend.closed) == ["m_0_0", "m_0_0", "m_0_1", "m_0_1", "model 1", "model 1"]


@pytest.mark.parametrize(("more", "problem"), [
    (sample("data_type: TYPE_FP32 dims: 3 input_data_file: 'f'"),
     "failed to run warmup sample 's': failed to open m/warmup/f of input 'INPUT0': No such file or directory (in "
     "'inputs' of model_warmup sample 's' of model 'm')"),
    (sample("data_type: TYPE_FP32 dims: 3 input_data_file: 'short'"),
     "failed to run warmup sample 's': warmup setting expects 12 bytes, but the data provided from short only has 4 "
     "bytes (in 'inputs' of model_warmup sample 's' of model 'm')"),
    (sample("data_type: TYPE_INT32 dims: 3 zero_data: true"),
     "failed to run warmup sample 's': [request id: <id_unknown>] inference input 'INPUT0' data-type is 'INT32', but "
     "model 'm' expects 'FP32' (in 'inputs' of model_warmup sample 's' of model 'm')"),
    (sample(ZEROS, size=2),
     "failed to run warmup sample 's': 'batch_size' of model_warmup sample 's' of model 'm' is 2, must be <= 1 for a "
     "model that does not support batching"),
])  # fmt: skip
def test_samples_that_do_not_fit_the_model(tmp_path: Path, more: str, problem: str) -> None:
    directory = write_model(tmp_path, "m", more=more)
    (directory / "warmup").mkdir()
    (directory / "warmup" / "short").write_bytes(b"1234")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            with pytest.raises(InvalidArg) as caught:
                await server.load_model("m")
            assert problem in caught.value.message

    run(test)


def test_stopping_does_not_wait_for_the_rest_of_a_warm_up(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more=sample(ZEROS, count=4_000_000_000))
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, backends=backend) as server:
            load = asyncio.ensure_future(server.load_model("m"))
            first = await backend.run_gate.arrival()
            stop = asyncio.ensure_future(server.stop())
            await asyncio.sleep(0)
            backend.run_gate.shut = False
            first.set()
            await stop
            (result,) = await asyncio.gather(load, return_exceptions=True)
            assert "the server is stopping" in str(result)

    run(test)
    assert len(backend.batches) == 1


def test_samples_of_a_sequence_begin_and_end_it_and_others_have_no_flags() -> None:
    number = datatypes.from_name("FP32")
    for injected, flags in (((), 0), ((TensorSpec("START", number, (1,)),), 3)):
        signature = ModelSignature("m", 1, [TensorSpec("IN", number, (1,))], [], injected_inputs=injected)
        assert Sample("s", 1, 1, []).request(signature).flags == flags


@pytest.mark.parametrize(("name", "low", "high"), [
    ("FP32", 0, 1), ("FP64", 0, 1), ("FP16", 0, 1), ("BOOL", 0, 1), ("BF16", 0, 0x3F80), ("INT8", -128, 127),
    ("UINT64", 0, 2**64 - 1), ("INT64", -(2**63), 2**63 - 1),
])  # fmt: skip
def test_random_data_are_sound_and_the_same_each_time(tmp_path: Path, name: str, low: int, high: int) -> None:
    from triton_async.config.warmup import WarmUpData, WarmUpInput, WarmUpSample

    datatype = datatypes.from_name(name)
    signature = ModelSignature("m", 1, [TensorSpec("IN", datatype, (-1,))], [])
    config: Any = type("Config", (), {
        "name": "m", "max_batch_size": 0,
        "warm_up": (WarmUpSample("s", 1, 1, (WarmUpInput("IN", datatype, (1000,), WarmUpData.RANDOM),)),),
    })  # fmt: skip
    found = [read_samples(config, signature, tmp_path)[0].tensors[0].numpy() for _ in range(2)]
    assert (found[0] == found[1]).all()
    assert len(np.unique(found[0])) > (1 if name == "BOOL" else 100)
    assert found[0].min() >= low
    assert found[0].max() <= high
    if name == "BOOL":
        assert set(found[0].view(np.uint8).tolist()) == {0, 1}
