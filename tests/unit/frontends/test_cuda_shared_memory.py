"""CUDA shared memory end to end: both protocols, both lanes, real clients, GPUs of the fake driver."""

from __future__ import annotations

import base64
import functools
import json
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_cuda_sync
import numpy as np
import pytest
from region_harness import Client, Server, serving, told, until, write_model
from tritonclient.utils import InferenceServerException

from triton_async.infer.tensor import encode_bytes

CODES = {"http": {"INVALID_ARGUMENT": "400", "NOT_FOUND": "404", "INTERNAL": "500", "ALREADY_EXISTS": "400"}}


@pytest.fixture(scope="module", params=[True, False], ids=["express", "slow"])
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("models")
    write_model(root, "fp32")
    write_model(root, "two", count=2)
    write_model(root, "strings", datatype="TYPE_STRING")
    together = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 60000000 }"
    write_model(root, "four", dims="4", max_batch_size=4, more=together)
    write_model(root, "strings4", datatype="TYPE_STRING", dims="1", max_batch_size=4, more=together)
    write_model(root, "labelled", dims="4", labels=["a", "b", "c", "d"])
    for name, backend, more in (
        ("gated", "gated", {}), ("gpu", "gpu", {}), ("gpu_strings", "gpu", {"datatype": "TYPE_STRING"}),
        ("on_gpu", "placed", {"more": "instance_group { count: 1 kind: KIND_GPU gpus: 1 }"}),
        ("gpu4", "gpu", {"dims": "4", "max_batch_size": 4, "more": together}),
        ("gpu_strings4", "gpu", {"datatype": "TYPE_STRING", "dims": "1", "max_batch_size": 4, "more": together}),
    ):  # fmt: skip
        write_model(root, name, **more)
        config = root / name / "config.pbtxt"
        config.write_text(config.read_text().replace('"identity"', f'"{backend}"'))
    with serving(root, "--allow-client-shm=true", express=request.param) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client; whatever it registers is gone behind the test, and nothing is leased any more."""
    made = Client(server, request.param)
    yield made
    for name in made.status():
        made.triton.unregister_cuda_shared_memory(name)
    until(lambda: server.regions.leases == 0, "no lease is out")
    until(lambda: list(server.gpus.opened) == [server.engine.address], "regions are closed")
    made.close()


def code(client: Client, name: str) -> str:
    return CODES.get(client.protocol, {}).get(name, name)


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 0.5


# -- control ---------------------------------------------------------------------------------------


def test_register_status_unregister(client: Client) -> None:
    client.register("a", 64)
    client.register("b", 100, 1)
    assert client.status() == {"a": (0, 64), "b": (1, 100)}
    assert client.status("b") == {"b": (1, 100)}
    client.triton.unregister_cuda_shared_memory("a")
    client.triton.unregister_cuda_shared_memory("nobody")
    assert client.status() == {"b": (1, 100)}
    assert client.refusal(client.status, "a") == (
        code(client, "NOT_FOUND"), "Unable to find cuda shared memory region: 'a'"
    )  # fmt: skip


def test_unregister_all_closes_all(tmp_path: Path) -> None:
    with serving(tmp_path, "--allow-client-shm=1", express=True) as own:
        for protocol in ("http", "grpc"):
            client = Client(own, protocol)
            for index in range(50):
                client.register(f"r{index}", 64)
            assert len(client.status()) == 50
            client.triton.unregister_cuda_shared_memory()
            assert client.status() == {} and own.gpus.opened == {}
            client.close()


def test_a_region_registered_over_one_protocol_serves_the_other(server: Server) -> None:
    http, grpc = Client(server, "http"), Client(server, "grpc")
    memory = http.register("r", 64)
    memory.array(np.float32)[:] = floats(16)
    result = grpc.infer("fp32", grpc.input([16], "r", 64))
    assert np.array_equal(result.as_numpy("OUTPUT0"), floats(16))
    grpc.triton.unregister_cuda_shared_memory("r")
    assert http.status() == {}
    http.close()
    grpc.close()


def test_refused_registrations(client: Client) -> None:
    memory = client.register("r", 64)
    register = client.triton.register_cuda_shared_memory
    assert client.refusal(register, "r", memory.raw_handle, 0, 64) == (
        code(client, "ALREADY_EXISTS"), "shared memory region 'r' already in manager"
    )  # fmt: skip
    invalid = code(client, "INVALID_ARGUMENT")
    assert client.refusal(register, "x", memory.raw_handle, 0, 65) == (
        invalid, "failed to register shared memory region 'x': invalid args"
    )  # fmt: skip
    assert client.refusal(register, "x", memory.raw_handle, 7, 64) == (
        invalid, "failed to register shared memory region 'x': invalid args, there is no GPU 7"
    )  # fmt: skip
    assert client.refusal(register, "x", base64.b64encode(b"\0" * 64), 0, 64) == (
        invalid, "failed to register shared memory region: invalid args"
    )  # fmt: skip
    assert client.status() == {"r": (0, 64)}


BODY: dict[str, Any] = {"raw_handle": {"b64": base64.b64encode(b"h" * 64).decode()}, "device_id": 0, "byte_size": 8}
NO_UINT = "attempt to access JSON non-unsigned-integer as unsigned-integer"
NO_HANDLE = "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"
BAD_BODIES: dict[str, tuple[Any, int, str]] = {
    "empty": (b"", 500, "failed to parse the request JSON buffer: The document is empty. at 0"),
    "no object": ([], 400, "Shared memory register request has no 'raw_handle' field"),
    "no handle": ({"byte_size": 8}, 400, "Shared memory register request has no 'raw_handle' field"),
    "handle of another kind": (
        {**BODY, "raw_handle": "x"}, 500, "attempt to access non-existing object member 'b64'",
    ),
    "no b64": ({**BODY, "raw_handle": {}}, 500, "attempt to access non-existing object member 'b64'"),
    "b64 no string": ({**BODY, "raw_handle": {"b64": 5}}, 500, "attempt to access JSON non-string as string"),
    "no size": ({"raw_handle": BODY["raw_handle"]}, 500, "attempt to access non-existing object member 'byte_size'"),
    "negative size": ({**BODY, "byte_size": -1}, 500, NO_UINT),
    "size too large": ({**BODY, "byte_size": 1 << 64}, 500, NO_UINT),
    "no device": (
        {"raw_handle": BODY["raw_handle"], "byte_size": 8}, 500,
        "attempt to access non-existing object member 'device_id'",
    ),
    "negative device": ({**BODY, "device_id": -1}, 500, NO_UINT),
    "no base64": ({**BODY, "raw_handle": {"b64": "*" * 88}}, 400, NO_HANDLE),
    "no ASCII": ({**BODY, "raw_handle": {"b64": "ä" * 88}}, 400, NO_HANDLE),
    "cut off": ({**BODY, "raw_handle": {"b64": "aGhoa"}}, 400, NO_HANDLE),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BODIES, ids=str)
def test_bad_register_bodies(server: Server, case: str) -> None:
    body, status, message = BAD_BODIES[case]
    assert server.ask("cudasharedmemory/region/r/register", body) == (status, {"error": message})


def test_control_paths(server: Server) -> None:
    assert server.ask("cudasharedmemory/register", BODY) == (
        400, {"error": "'region name' is necessary to register cuda shared memory region"}
    )  # fmt: skip
    assert server.ask("cudasharedmemory/region/r/register", method="GET")[0] == 405
    assert server.ask("cudasharedmemory/status", b"")[0] == 405
    assert server.ask("systemsharedmemory/status", method="GET") == (200, [])
    assert server.ask("systemsharedmemory/region/engine/status", method="GET") == (404, {
        "error": "The region named 'engine' is registered as CUDA shared memory, not system shared memory"
    })  # fmt: skip
    assert server.ask("systemsharedmemory/region/r/register", {"key": "/k", "byte_size": 8})[0] == 501
    assert server.ask("systemsharedmemory/unregister", b"")[0] == 501


def test_a_region_needs_a_name_over_grpc_too(server: Server) -> None:
    client = Client(server, "grpc")
    memory = server.gpus.share(8)
    assert "region name" in client.refusal(
        client.triton.register_cuda_shared_memory, "", memory.raw_handle, 0, 8
    )[1]
    assert client.refusal(client.triton.register_cuda_shared_memory, "x", memory.raw_handle, -1, 8)[1].endswith(
        "there is no GPU -1"
    )
    assert client.refusal(client.triton.register_system_shared_memory, "x", "/k", 8)[0] == "UNIMPLEMENTED"
    client.close()


def test_the_extension_is_announced(client: Client) -> None:
    metadata = client.triton.get_server_metadata()
    extensions = list(metadata["extensions"] if client.protocol == "http" else metadata.extensions)
    at = extensions.index("cuda_shared_memory")
    assert extensions[at - 1 : at + 2] == ["model_configuration", "cuda_shared_memory", "binary_tensor_data"]


def test_without_the_option_nothing_is_registered_or_announced(tmp_path: Path) -> None:
    write_model(tmp_path, "fp32")
    off = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    with serving(tmp_path, express=True, enabled=False) as own:
        for protocol in ("http", "grpc"):
            client = Client(own, protocol)
            handle = base64.b64encode(b"h" * 64)
            for call in (
                lambda c=client, h=handle: c.triton.register_cuda_shared_memory("r", h, 0, 8),
                lambda c=client: c.triton.unregister_cuda_shared_memory("r"),
                lambda c=client: c.triton.unregister_cuda_shared_memory(),
                lambda c=client: c.triton.register_system_shared_memory("r", "/k", 8),
                lambda c=client: c.triton.unregister_system_shared_memory(),
            ):
                assert client.refusal(call) == ("501" if protocol == "http" else "UNIMPLEMENTED", off)
            assert client.status() == {}
            assert client.refusal(client.infer, "fp32", client.input([2], "r", 8))[1] == (
                "Unable to find shared memory region: 'r'"
            )
            metadata = client.triton.get_server_metadata()
            assert "shared_memory" not in str(metadata)
            client.close()


def test_requests_go_on_while_a_region_is_opened(client: Client, server: Server) -> None:
    server.gpus.gate.clear()
    server.gpus.opening.clear()
    with ThreadPoolExecutor(1) as pool:
        try:
            opening = pool.submit(with_own, client, lambda c: c.register("r", 64))
            assert server.gpus.opening.wait(20)
            assert np.array_equal(client.infer("fp32", client.values(floats(4))).as_numpy("OUTPUT0"), floats(4))
            assert client.status() == {}
        finally:
            server.gpus.gate.set()
        opening.result(20)
    assert client.status() == {"r": (0, 64)}


def test_a_client_that_goes_away_does_not_stop_a_registration(server: Server) -> None:
    memory = server.gpus.share(64)
    body = json.dumps({**BODY, "raw_handle": {"b64": memory.raw_handle.decode()}}).encode()
    server.gpus.gate.clear()
    server.gpus.opening.clear()
    try:
        with socket.create_connection(("127.0.0.1", server.http_port)) as raw:
            raw.sendall(b"POST /v2/cudasharedmemory/region/gone/register HTTP/1.1\r\nHost: x\r\nContent-Length: "
                        b"%d\r\n\r\n%b" % (len(body), body))
            assert server.gpus.opening.wait(20)
    finally:
        server.gpus.gate.set()
    client = Client(server, "http")
    until(lambda: "gone" in client.status(), "the region is registered")
    client.triton.unregister_cuda_shared_memory("gone")
    client.close()


# -- inference -------------------------------------------------------------------------------------


def described(client: Client, result: Any) -> dict[str, Any]:
    """Everything that the response says of OUTPUT0."""
    output = result.get_output("OUTPUT0")
    if client.protocol == "http":
        return dict(output)
    response = result.get_response()
    assert not response.raw_output_contents[[o.name for o in response.outputs].index("OUTPUT0")]
    return {"name": output.name, "datatype": output.datatype, "shape": list(output.shape), **output.parameters}


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


def at_once(client: Client, *calls: Any) -> list[Any]:
    """What each call gives, or the refusal that it raises, each with a connection of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(functools.partial(with_own, client), calls))


def with_own(client: Client, call: Any) -> Any:
    """One such call; for other threads, as the HTTP client serves the one that made it."""
    own = Client(client.server, client.protocol)
    try:
        return call(own)
    except InferenceServerException as error:
        return told(error)
    finally:
        own.close()


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


# -- what is refused -------------------------------------------------------------------------------


def test_unknown_regions(client: Client) -> None:
    memory = client.register("r", 64)
    unknown = (code(client, "NOT_FOUND"), "Unable to find shared memory region: 'x'")
    assert client.refusal(client.infer, "fp32", client.input([16], "x", 64)) == unknown
    assert client.refusal(
        client.infer, "fp32", client.input([16], "r", 64), outputs=[client.output("x", 64)]
    ) == unknown
    client.triton.unregister_cuda_shared_memory("r")
    assert client.refusal(client.infer, "fp32", client.input([16], "r", 64))[0] == code(client, "NOT_FOUND")
    assert memory.nbytes == 64


EDGES = [0, 1, 63, 64, 65, 2**31, 2**63 - 1]


@pytest.mark.parametrize("offset", EDGES)
def test_ranges_outside_the_region(client: Client, offset: int) -> None:
    client.register("r", 64)
    for nbytes in EDGES:
        if offset < 64 and offset + nbytes <= 64:
            continue
        expected = "Invalid offset" if offset >= 64 else "Invalid offset + byte size"
        for inputs, outputs in (
            ([client.input([16], "r", nbytes, offset)], None),
            ([client.values(floats(16))], [client.output("r", nbytes, offset)]),
        ):
            assert client.refusal(client.infer, "fp32", *inputs, outputs=outputs) == (
                code(client, "INVALID_ARGUMENT"), f"{expected} for shared memory region: 'r'"
            )  # fmt: skip


def test_numbers_that_wrap(server: Server) -> None:
    http, grpc = Client(server, "http"), Client(server, "grpc")
    http.register("r", 64)
    top = (1 << 64) - 1
    overflow = (
        f"Integer overflow detected: byte_size ({top}) + offset (1) exceeds maximum value ({top}) for region 'r'"
    )
    invalid = "Invalid offset for shared memory region: 'r'"
    for offset, nbytes, message in ((1, top, overflow), (top, 1, invalid), (1 << 63, 1 << 63, invalid)):
        place = {"shared_memory_region": "r", "shared_memory_offset": offset, "shared_memory_byte_size": nbytes}
        body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "parameters": place}]}
        assert server.ask("models/fp32/infer", body) == (400, {"error": message})
        # What is unsigned there is signed over gRPC, with the same bits.
        signed = [value - (1 << 64) if value >> 63 else value for value in (offset, nbytes)]
        assert grpc.refusal(grpc.infer, "fp32", grpc.input([1], "r", signed[1], signed[0])) == (
            "INVALID_ARGUMENT", message
        )  # fmt: skip
    http.triton.unregister_cuda_shared_memory("r")
    http.close()
    grpc.close()


def test_an_input_of_another_size_than_its_shape(client: Client) -> None:
    client.register("r", 64)
    for nbytes in (60, 0, 64):
        expected = 32 if nbytes == 64 else 64
        assert client.refusal(client.infer, "fp32", client.input([expected // 4], "r", nbytes)) == (
            code(client, "INVALID_ARGUMENT"),
            f"[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model 'fp32'. Expected "
            f"{expected}, got {nbytes}",
        )


def http_infer(server: Server, inputs: dict[str, Any], outputs: dict[str, Any] | None = None) -> tuple[int, Any]:
    body: dict[str, Any] = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], **inputs}]}
    if outputs is not None:
        body["outputs"] = [{"name": "OUTPUT0", **outputs}]
    return server.ask("models/fp32/infer", body)


REGION = {"shared_memory_region": "engine", "shared_memory_byte_size": 8}
HTTP_REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, int, str]] = {
    "data too": (
        {"parameters": REGION, "data": [1, 2]}, None, 400,
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        "'shared_memory_region' in 'parameters'. But set 'data' 'shared_memory_region'",
    ),
    "binary too": (
        {"parameters": {**REGION, "binary_data_size": 8}}, None, 400,
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        "'shared_memory_region' in 'parameters'. But set 'binary_data_size' 'shared_memory_region'",
    ),
    "no size": (
        {"parameters": {"shared_memory_region": "engine"}}, None, 400,
        "[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model 'fp32'. Expected 8, got 0",
    ),
    "offset without region": (
        {"data": [1, 2], "parameters": {"shared_memory_offset": "0"}}, None, 500,
        f"Unable to parse 'shared_memory_offset': {NO_UINT}",
    ),
    "negative offset": (
        {"parameters": {**REGION, "shared_memory_offset": -1}}, None, 500,
        f"Unable to parse 'shared_memory_offset': {NO_UINT}",
    ),
    "size of another kind": (
        {"parameters": {**REGION, "shared_memory_byte_size": 8.0}}, None, 500,
        f"Unable to parse 'shared_memory_byte_size': {NO_UINT}",
    ),
    "region of another kind": (
        {"parameters": {**REGION, "shared_memory_region": 1}}, None, 500,
        "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string",
    ),
    "output with classes": (
        {"data": [1, 2]}, {"parameters": {**REGION, "classification": 1}}, 400,
        "Output can't set both 'shared_memory_region' and 'classification'",
    ),
    "output in binary form": (
        {"data": [1, 2]}, {"parameters": {**REGION, "binary_data": True}}, 400,
        "Output can't set both 'shared_memory_region' and 'binary_data'",
    ),
    "output without size": (
        {"data": [1, 2]}, {"parameters": {"shared_memory_region": "engine"}}, 500,
        "shared memory size specified with the request for output 'OUTPUT0' (0 bytes) should be at least 8 bytes to "
        "hold the results",
    ),
    "output offset of another kind": (
        {"data": [1, 2]}, {"parameters": {"shared_memory_offset": None}}, 500,
        f"Unable to parse 'shared_memory_offset': {NO_UINT}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HTTP_REFUSALS, ids=str)
def test_http_parameters_that_do_not_go_together(server: Server, case: str) -> None:
    inputs, outputs, status, message = HTTP_REFUSALS[case]
    assert http_infer(server, inputs, outputs) == (status, {"error": message})
    assert server.regions.leases == 0


def test_http_answers_say_nothing_of_regions(server: Server) -> None:
    """Triton sends neither data nor parameters of an output in shared memory, whatever else the request says."""
    answer = {
        "model_name": "fp32", "model_version": "1",
        "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [2]}],
    }  # fmt: skip
    assert http_infer(server, {"parameters": REGION}, {"parameters": REGION}) == (200, answer)
    assert http_infer(server, {"data": [1, 2]}, {"parameters": {**REGION, "binary_data": False}}) == (200, answer)
    body = {
        "parameters": {"binary_data_output": True}, "outputs": [{"name": "OUTPUT0", "parameters": REGION}],
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1, 2]}],
    }  # fmt: skip
    assert server.ask("models/fp32/infer", body) == (200, answer)
    until(lambda: server.regions.leases == 0, "no lease is out")


def _stray(key: str) -> str:
    return f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor 'INPUT0'"


def _wrong(key: str, kind: str) -> str:
    return f"invalid value type for '{key}' parameter for tensor 'INPUT0', expected {kind}."


NAME, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
GRPC_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({NAME: "engine"}, f"'{SIZE}' must be specified along with '{NAME}' parameter for tensor 'INPUT0'"),
    "name of another kind": ({NAME: 5, SIZE: 8}, _wrong(NAME, "string_param")),
    "size of another kind": ({NAME: "engine", SIZE: "8"}, _wrong(SIZE, "int64_param")),
    "offset of another kind": ({NAME: "engine", SIZE: 8, OFFSET: True}, _wrong(OFFSET, "int64_param")),
    "offset alone": ({OFFSET: 8}, _stray(OFFSET)),
    "size alone": ({SIZE: 8}, _stray(SIZE)),
}


@pytest.mark.parametrize("where", ["input", "output"])
@pytest.mark.parametrize("case", GRPC_REFUSALS, ids=str)
def test_grpc_parameters_that_do_not_go_together(server: Server, case: str, where: str) -> None:
    parameters, message = GRPC_REFUSALS[case]
    client = Client(server, "grpc")
    request = client.values(floats(2))
    output = client.output()
    tensor = request._get_tensor() if where == "input" else output._get_tensor()
    for key, value in parameters.items():
        kind = {str: "string_param", bool: "bool_param", int: "int64_param"}[type(value)]
        setattr(tensor.parameters[key], kind, value)
    expected = message if where == "input" else message.replace("INPUT0", "OUTPUT0")
    assert client.refusal(client.infer, "fp32", request, outputs=[output]) == ("INVALID_ARGUMENT", expected)
    client.close()
    until(lambda: server.regions.leases == 0, "no lease is out")


def test_grpc_data_beside_a_region(server: Server) -> None:
    client = Client(server, "grpc")
    request = client.input([2], "engine", 8)
    request._get_tensor().contents.fp32_contents.extend([1, 2])
    assert client.refusal(client.infer, "fp32", request)[1] == (
        "unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for model 'fp32'"
    )
    output = client.output("engine", 8)
    output._get_tensor().parameters["classification"].int64_param = 1
    assert client.refusal(client.infer, "fp32", client.values(floats(2)), outputs=[output]) == (
        "INVALID_ARGUMENT", "output can't set both 'shared_memory_region' and 'classification'"
    )  # fmt: skip
    client.close()


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


# -- trouble ---------------------------------------------------------------------------------------

BROKEN = "CUDA_ERROR_ILLEGAL_ADDRESS: as the test asked for"


def test_copies_that_fail(client: Client) -> None:
    client.register("r", 64)
    internal = code(client, "INTERNAL")
    with fake_cuda_sync.failing(copy=700):
        assert client.refusal(client.infer, "fp32", client.input([2], "r", 8)) == (
            internal, f"failed to copy input 'INPUT0' of model 'fp32' from GPU 0: {BROKEN}"
        )  # fmt: skip
        assert client.refusal(client.infer, "fp32", client.values(floats(2)), outputs=[client.output("r", 8)]) == (
            internal, f"failed to copy output 'OUTPUT0' to its shared memory region: {BROKEN}"
        )  # fmt: skip
    with fake_cuda_sync.failing(synchronise=700):
        assert client.refusal(client.infer, "fp32", client.values(floats(2)), outputs=[client.output("r", 8)]) == (
            internal, f"failed to wait for copies to GPU memory: {BROKEN}"
        )  # fmt: skip
        # Lost on one GPU before the other one's turn.
        client.register("far", 64, 1)
        sent = client.module.InferInput("INPUT1", [2], "FP32")
        sent.set_data_from_numpy(floats(2))
        outputs = [client.output("r", 8), client.output("far", 8, name="OUTPUT1")]
        assert client.refusal(client.infer, "two", client.values(floats(2)), sent, outputs=outputs) == (
            internal, f"failed to wait for copies to GPU memory: {BROKEN}"
        )  # fmt: skip
    with fake_cuda_sync.failing(copy=700):
        # No copy of theirs.
        assert client.infer("fp32", client.values(floats(2))).as_numpy("OUTPUT0").shape == (2,)
    client.infer("fp32", client.input([2], "r", 8), outputs=[client.output("r", 8, 8)])


def test_a_gpu_that_cannot_be_used(client: Client, server: Server) -> None:
    client.register("r", 64, 1)
    # The instance's thread may have used the GPU before.
    client.register("other", 64, 0)
    client.infer("fp32", client.input([2], "other", 8))
    server.gpus.fail_use = True
    try:
        status, message = client.refusal(client.infer, "fp32", client.input([2], "r", 8))
    finally:
        server.gpus.fail_use = False
    assert (status, message) == (
        code(client, "INTERNAL"),
        "failed to copy input 'INPUT0' of model 'fp32' from GPU 1: CUDA_ERROR_OF_THE_FAKE: no context for you",
    )
    client.infer("fp32", client.input([2], "r", 8))


def test_a_model_that_fails_leaves_regions_alone(client: Client, server: Server) -> None:
    memory = client.register("r", 64)
    server.gated.fail_next = True
    status, _ = client.refusal(client.infer, "gated", client.values(floats(2)), outputs=[client.output("r", 8)])
    assert status == code(client, "INTERNAL")
    assert not memory.array().any()


@pytest.mark.parametrize("everything", [False, True])
def test_unregistering_during_use(client: Client, server: Server, everything: bool) -> None:
    source, target = client.register("in", 16), client.register("out", 16)
    source.array(np.float32)[:] = floats(4)
    server.gated.run_gate.shut = True
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            with_own, client, lambda c: c.infer("gated", c.input([4], "in", 16), outputs=[c.output("out", 16)])
        )
        standing = server.call(server.gated.run_gate.arrival())
        if everything:
            # The engine's region goes with the others; it is taken in again at once.
            client.triton.unregister_cuda_shared_memory()
            server.call(server.server.register_cuda_region("engine", server.engine.handle, 0, server.engine.nbytes))
        else:
            client.triton.unregister_cuda_shared_memory("in")
            client.triton.unregister_cuda_shared_memory("out")
        assert set(client.status()) == {"in", "out"}
        assert {source.address, target.address} <= set(server.gpus.opened)
        assert client.refusal(client.infer, "fp32", client.input([4], "in", 16))[0] == code(client, "NOT_FOUND")
        again = client.register("in", 32)
        assert client.status("in") == {"in": (0, 32)}
        server.gated.run_gate.shut = False
        standing.set()
        running.result(20)
    assert np.array_equal(target.array(np.float32), floats(4))
    until(lambda: set(client.status()) == {"in"}, "the old regions are gone")
    until(lambda: set(server.gpus.opened) == {again.address, server.engine.address}, "they are closed")


def test_a_client_that_goes_away_gives_its_leases_back(server: Server) -> None:
    client = Client(server, "http")
    client.register("r", 64)
    body = json.dumps({
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": {
            "shared_memory_region": "r", "shared_memory_byte_size": 8}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {
            "shared_memory_region": "r", "shared_memory_offset": 32, "shared_memory_byte_size": 8}}],
    }).encode()  # fmt: skip
    server.gated.run_gate.shut = True
    try:
        raws = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(3)]
        for raw in raws:
            raw.sendall(
                b"POST /v2/models/gated/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        standing = server.call(server.gated.run_gate.arrival())
        until(lambda: server.regions.leases == 6, "all requests are taken")
        for raw in raws:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # gone, not only silent
            raw.close()
        # Those in the queue go at once, the one that runs when it is done.
        until(lambda: server.regions.leases <= 4, "the queue has been left")
    finally:
        server.gated.run_gate.shut = False
    standing.set()
    server.gated.run_gate.open()
    until(lambda: server.regions.leases == 0, "no lease is out")
    client.triton.unregister_cuda_shared_memory("r")
    client.close()


def test_a_cancelled_grpc_call_gives_its_leases_back(server: Server) -> None:
    client = Client(server, "grpc")
    client.register("r", 64)
    server.gated.run_gate.shut = True
    try:
        done = threading.Event()
        call = client.triton.async_infer(
            "gated", [client.input([2], "r", 8)], lambda result, error: done.set(), outputs=[client.output("r", 8, 8)]
        )
        standing = server.call(server.gated.run_gate.arrival())
        assert server.regions.leases == 2
        call.cancel()
        assert done.wait(20)
    finally:
        server.gated.run_gate.shut = False
    standing.set()
    until(lambda: server.regions.leases == 0, "no lease is out")
    client.triton.unregister_cuda_shared_memory("r")
    client.close()
