"""Inputs and outputs in CUDA shared memory, alone and in batches: both protocols, both lanes, real clients."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fake_cuda_sync
import numpy as np
import pytest
from region_harness import Client, Server, at_once, code, described, floats, until, with_own

from triton_async.infer.tensor import encode_bytes


def test_inputs_and_outputs_in_regions(client: Client) -> None:
    source, target = client.register("in", 128), client.register("out", 256, 1)
    source.array(np.float32)[:] = floats(32)
    before = fake_cuda_sync.copies()
    result = client.infer(
        "fp32", client.input([16], "in", 64, 32), outputs=[client.output("out", 64, 128)]
    )
    assert fake_cuda_sync.copies() == before + 2
    assert np.array_equal(target.array(np.float32, 128, 16), floats(32)[8:24])
    assert not target.array(np.uint8, 0, 128).any() and not target.array(np.uint8, 192).any()
    assert described(client, result) == {"name": "OUTPUT0", "datatype": "FP32", "shape": [16]}


def test_only_the_input_or_the_output_in_a_region(client: Client) -> None:
    memory = client.register("r", 64)
    memory.array(np.float32)[:] = floats(16)
    result = client.infer("fp32", client.input([16], "r", 64))
    assert np.array_equal(result.as_numpy("OUTPUT0"), floats(16))
    client.infer("fp32", client.values(-floats(16)), outputs=[client.output("r", 64)])
    assert np.array_equal(memory.array(np.float32), -floats(16))


def test_one_output_in_a_region_and_one_in_the_response(client: Client) -> None:
    memory = client.register("r", 64)
    memory.array(np.float32)[:8] = floats(8)
    sent = client.module.InferInput("INPUT1", [8], "FP32")
    sent.set_data_from_numpy(floats(8) * 2)
    result = client.infer(
        "two", client.input([8], "r", 32), sent,
        outputs=[client.output(name="OUTPUT1"), client.output("r", 32, 32)],
    )  # fmt: skip
    assert np.array_equal(result.as_numpy("OUTPUT1"), floats(8) * 2)
    assert described(client, result) == {"name": "OUTPUT0", "datatype": "FP32", "shape": [8]}
    assert np.array_equal(memory.array(np.float32, 32), floats(8))


def test_an_output_may_go_to_where_the_input_came_from(client: Client) -> None:
    memory = client.register("r", 16)
    memory.array(np.float32)[:] = floats(4)
    client.infer("fp32", client.input([4], "r", 16), outputs=[client.output("r", 16)])
    assert np.array_equal(memory.array(np.float32), floats(4))


def test_many_requests_one_after_another(client: Client) -> None:
    """So many that short executions are run on the loop thread, but for those with regions."""
    memory = client.register("r", 16)
    for index in range(300):
        assert client.infer("fp32", client.values(floats(2))).as_numpy("OUTPUT0")[0] == 0.5
        if index % 50 == 0:
            memory.array(np.float32)[:2] = index
            client.infer("fp32", client.input([2], "r", 8), outputs=[client.output("r", 8, 8)])
            assert memory.array(np.float32).tolist() == [index] * 4


@pytest.mark.parametrize("model", ["four", "gpu4"])
def test_a_batch_of_all_kinds(client: Client, model: str) -> None:
    """One request each: region to region, region to body, body to region, and a region that is too small."""
    memory = client.register("r", 256, 1)
    memory.array(np.float32)[:16] = floats(16)
    _, second, _, refused = at_once(
        client,
        lambda c: c.infer(model, c.input([1, 4], "r", 16), outputs=[c.output("r", 16, 128)]),
        lambda c: c.infer(model, c.input([1, 4], "r", 16, 16)),
        lambda c: c.infer(model, c.values(floats(1, 4) + 100), outputs=[c.output("r", 20, 160)]),
        lambda c: c.infer(model, c.input([1, 4], "r", 16, 48), outputs=[c.output("r", 15, 192)]),
    )
    assert np.array_equal(second.as_numpy("OUTPUT0"), floats(16)[None, 4:8])
    assert np.array_equal(memory.array(np.float32, 128, 4), floats(4))
    assert np.array_equal(memory.array(np.float32, 160, 4), floats(4) + 100)
    assert not memory.array(np.float32, 192).any()
    assert refused == (
        code(client, "INTERNAL"),
        "shared memory size specified with the request for output 'OUTPUT0' (15 bytes) should be at least 16 bytes to "
        "hold the results",
    )
    (entry,) = client.server.server.statistics(model)
    assert entry["execution_count"] * 4 == entry["inference_count"] + entry["inference_stats"]["fail"]["count"]


@pytest.mark.parametrize("model", ["four", "gpu4"])
def test_a_batch_that_goes_to_regions_only(client: Client, model: str) -> None:
    memory = client.register("r", 64)
    before = fake_cuda_sync.copies()
    at_once(client, *(
        lambda c, i=i: c.infer(model, c.values(floats(1, 4) + i), outputs=[c.output("r", 16, 16 * i)])
        for i in range(4)
    ))  # fmt: skip
    assert np.array_equal(memory.array(np.float32).reshape(4, 4), np.concatenate([floats(1, 4) + i for i in range(4)]))
    # From a GPU straight to the regions, not by way of the host.
    assert fake_cuda_sync.copies() == before + 4


@pytest.mark.parametrize("model", ["four", "gpu4"])
def test_requests_without_rows_share_a_batch(client: Client, model: str) -> None:
    """Nothing of the others' rows comes to where a request has none."""
    memory = client.register("r", 64)
    loaded = client.server.server.repository.models[model].versions[1].loaded
    assert loaded is not None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(with_own, client, lambda c: c.infer(
            model, c.values(np.empty((0, 4), np.float32)), outputs=[c.output("r", 16, 32)]
        ))  # fmt: skip
        # It has to be there first: four rows wait for nobody.
        until(lambda: loaded.model.pending == 1, "it is queued")
        client.infer(model, client.values(floats(4, 4)))
        none = waiting.result(30)
    assert described(client, none)["shape"] == [0, 4]
    assert not memory.array().any()


def test_a_model_without_batches_that_leaves_its_output_on_the_gpu(client: Client) -> None:
    memory = client.register("r", 64)
    memory.array(np.float32)[:] = floats(16)
    assert np.array_equal(client.infer("gpu", client.input([16], "r", 64)).as_numpy("OUTPUT0"), floats(16))
    client.infer("gpu", client.values(floats(8) * 3), outputs=[client.output("r", 32)])
    assert np.array_equal(memory.array(np.float32, 0, 8), floats(8) * 3)
    assert client.infer("gpu", client.values(floats(0))).as_numpy("OUTPUT0").shape == (0,)
    assert client.refusal(client.infer, "gpu", client.values(floats(8)), outputs=[client.output("r", 31)])[0] == code(
        client, "INTERNAL"
    )


def test_an_instance_gets_its_gpu_back(client: Client, server: Server) -> None:
    """Copies to and from another GPU make that one current for a while, and nothing else does."""
    client.register("far", 64, 0).array(np.float32)[:2] = floats(2)
    client.register("near", 64, 1)
    server.gpus.used.clear()
    client.infer("on_gpu", client.input([2], "near", 8), outputs=[client.output("near", 8, 8)])
    # The output that the instance left lies on GPU 0, but only the region's GPU takes part in a copy between two.
    assert server.gpus.used == []
    assert np.array_equal(client.infer("on_gpu", client.input([2], "far", 8)).as_numpy("OUTPUT0"), floats(2))
    assert server.gpus.used == [0, 1, 0, 1]


@pytest.mark.parametrize("model", ["strings", "gpu_strings"])
def test_strings_in_regions(client: Client, model: str) -> None:
    memory = client.register("r", 256)
    encoded = encode_bytes([b"one", b"", b"three" * 5])
    memory.array()[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    sent = client.input([3], "r", len(encoded), datatype="BYTES")
    assert client.infer(model, sent).as_numpy("OUTPUT0").tolist() == [b"one", b"", b"three" * 5]
    client.infer(model, sent, outputs=[client.output("r", 128, 128)])
    assert bytes(memory.array(np.uint8, 128, len(encoded))) == encoded
    assert client.refusal(client.infer, model, sent, outputs=[client.output("r", len(encoded) - 1, 128)]) == (
        code(client, "INTERNAL"),
        f"shared memory size specified with the request for output 'OUTPUT0' ({len(encoded) - 1} bytes) should be at "
        f"least {len(encoded)} bytes to hold the results",
    )


@pytest.mark.parametrize("model", ["strings4", "gpu_strings4"])
def test_strings_of_a_batch_are_cut_where_they_end(client: Client, model: str) -> None:
    memory = client.register("r", 256)
    words = [b"a", b"longer", b"", b"the longest of all"]
    results = at_once(client, *(
        lambda c, i=i: c.infer(
            model, c.values(np.array([[words[i]]], np.object_), "BYTES"),
            outputs=[c.output() if i == 1 else c.output("r", 64, 64 * i)],
        )
        for i in range(4)
    ))  # fmt: skip
    assert results[1].as_numpy("OUTPUT0").tolist() == [[words[1]]]
    for index in (0, 2, 3):
        encoded = encode_bytes([words[index]])
        assert bytes(memory.array(np.uint8, 64 * index, len(encoded))) == encoded


BAD_STRINGS: dict[str, tuple[bytes, str]] = {
    "too few": (
        encode_bytes([b"x"]), "expected 2 string elements for inference input 'INPUT0' for model 'strings', got 1",
    ),
    "too many": (
        encode_bytes([b"x", b"y", b"z"]),
        "unexpected number of string elements 3 for inference input 'INPUT0' for model 'strings', expecting 2",
    ),
    "cut in the length": (encode_bytes([b"x"]) + b"\1\0", "incomplete string length indicator for inference input"),
    "longer than it is": (
        encode_bytes([b"x"]) + b"\xff\xff\xff\xff",
        "incomplete string data for inference input 'INPUT0', expecting string of length 4294967295 but only 0 bytes "
        "available",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_STRINGS, ids=str)
def test_broken_strings_in_a_region(client: Client, case: str) -> None:
    data, message = BAD_STRINGS[case]
    memory = client.register("r", 64)
    memory.array()[: len(data)] = np.frombuffer(data, np.uint8)
    status, found = client.refusal(client.infer, "strings", client.input([2], "r", len(data), datatype="BYTES"))
    assert (status, message in found) == (code(client, "INVALID_ARGUMENT"), True), found


def test_strings_in_a_region_do_not_break_the_batch_of_others(client: Client) -> None:
    memory = client.register("r", 64)
    memory.array()[:4] = 0xFF
    with ThreadPoolExecutor(1) as pool:
        # Alone in its batch, so it waits for nobody, and its neighbours come to four without it.
        words = [np.array([[word]], np.object_) for word in (b"a", b"b", b"c", b"d")]
        others = pool.submit(at_once, client, *(
            lambda c, word=word: c.infer("strings4", c.values(word, "BYTES")) for word in words
        ))  # fmt: skip
        status, _ = client.refusal(
            client.infer, "strings4", client.input([4, 1], "r", 4, datatype="BYTES")
        )
        assert status == code(client, "INVALID_ARGUMENT")
        results = others.result(30)
    assert [result.as_numpy("OUTPUT0").tolist() for result in results] == [word.tolist() for word in words]


def test_a_broken_output_in_gpu_memory(client: Client, server: Server) -> None:
    server.break_output = True
    try:
        status, message = client.refusal(
            client.infer, "gpu_strings", client.values(np.array([b"word"], np.object_), "BYTES")
        )
    finally:
        server.break_output = False
    assert (status, message) == (
        code(client, "INTERNAL"), "output 'OUTPUT0' of model 'gpu_strings' has broken string elements"
    )  # fmt: skip


def test_raw_contents_are_counted_without_inputs_in_regions(server: Server) -> None:
    client = Client(server, "grpc")
    server.engine.array(np.float32)[:2] = [5, 6]
    sent = client.module.InferInput("INPUT1", [2], "FP32")
    sent.set_data_from_numpy(floats(2))
    result = client.infer("two", client.input([2], "engine", 8), sent)
    assert result.as_numpy("OUTPUT0").tolist() == [5, 6]
    assert np.array_equal(result.as_numpy("OUTPUT1"), floats(2))
    client.close()


def test_regions_on_a_grpc_stream(server: Server) -> None:
    client = Client(server, "grpc")
    memory = client.register("r", 64)
    memory.array(np.float32)[:4] = floats(4)
    answers: list[Any] = []
    done = threading.Event()

    def take(result: Any, error: Any) -> None:
        answers.append((result, error))
        if len(answers) == 3:
            done.set()

    client.triton.start_stream(take)
    for region, offset in (("r", 16), ("unknown", 0), ("r", 48)):
        client.triton.async_stream_infer("fp32", [client.input([4], "r", 16)], outputs=[
            client.output(region, 16, offset)
        ])  # fmt: skip
    assert done.wait(20)
    client.triton.stop_stream()
    assert [error is None for _, error in answers] == [True, False, True]
    assert "Unable to find shared memory region: 'unknown'" in str(answers[1][1])
    assert np.array_equal(memory.array(np.float32, 16, 4), floats(4))
    assert np.array_equal(memory.array(np.float32, 48, 4), floats(4))
    client.triton.unregister_cuda_shared_memory("r")
    client.close()
