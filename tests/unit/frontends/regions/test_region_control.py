"""Registering CUDA shared memory, end to end: both protocols, both lanes, real clients, GPUs of the fake driver."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from region_harness import NO_UINT, Client, Server, code, floats, serving, until, with_own, write_model


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
NO_HANDLE = "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"
BAD_BODIES: dict[str, tuple[Any, int, str]] = {
    "empty": (b"", 400, "failed to parse the request JSON buffer: The document is empty. at 0"),
    "no object": ([], 400, "Shared memory register request has no 'raw_handle' field"),
    "no handle": ({"byte_size": 8}, 400, "Shared memory register request has no 'raw_handle' field"),
    "handle of another kind": (
        {**BODY, "raw_handle": "x"}, 400, "attempt to access non-existing object member 'b64'",
    ),
    "no b64": ({**BODY, "raw_handle": {}}, 400, "attempt to access non-existing object member 'b64'"),
    "b64 no string": ({**BODY, "raw_handle": {"b64": 5}}, 400, "attempt to access JSON non-string as string"),
    "no size": ({"raw_handle": BODY["raw_handle"]}, 400, "attempt to access non-existing object member 'byte_size'"),
    "negative size": ({**BODY, "byte_size": -1}, 400, NO_UINT),
    "size too large": ({**BODY, "byte_size": 1 << 64}, 400, NO_UINT),
    "no device": (
        {"raw_handle": BODY["raw_handle"], "byte_size": 8}, 400,
        "attempt to access non-existing object member 'device_id'",
    ),
    "negative device": ({**BODY, "device_id": -1}, 400, NO_UINT),
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
    assert server.ask("systemsharedmemory/register", {"key": "/k", "byte_size": 8}) == (
        400, {"error": "'region name' is necessary to register system shared memory region"}
    )  # fmt: skip
    assert server.ask("systemsharedmemory/region/r/register", {"key": "/none", "byte_size": 8}) == (
        500, {"error": "Unable to open shared memory region: '/none'"}
    )  # fmt: skip
    assert server.ask("systemsharedmemory/unregister", b"") == (200, None)


@pytest.mark.parametrize("key", [
    "triton_python_backend_shm_region_1", "//triton_python_backend_shm_region_1", "/a/b", "../a", "/", "",
])  # fmt: skip
def test_keys_that_are_not_a_client_s_are_refused(client: Client, tmp_path: Path, key: str) -> None:
    file = Path("/dev/shm", f"region-{uuid.uuid4().hex}")
    file.write_bytes(bytes(8))
    try:
        register = client.triton.register_system_shared_memory
        status, text = client.refusal(register, "own", key, 8)
        assert status == code(client, "INVALID_ARGUMENT") and "cannot register shared memory region 'own'" in text
        register("own", f"/{file.name}", 8)
        client.triton.unregister_system_shared_memory("own")
    finally:
        file.unlink()


SYSTEM_BODY: dict[str, Any] = {"key": "/k", "byte_size": 8}
BAD_SYSTEM_BODIES: dict[str, tuple[Any, int, str]] = {
    "empty": (b"", 400, "failed to parse the request JSON buffer: The document is empty. at 0"),
    "no object": ([], 400, "Shared memory register request has no 'key' field"),
    "no key": ({"byte_size": 8}, 400, "Shared memory register request has no 'key' field"),
    "key no string": ({**SYSTEM_BODY, "key": 5}, 400, "attempt to access JSON non-string as string"),
    "no size": ({"key": "/k"}, 400, "Shared memory register request has no 'byte_size' field"),
    "negative size": ({**SYSTEM_BODY, "byte_size": -1}, 400, NO_UINT),
    "size too large": ({**SYSTEM_BODY, "byte_size": 1 << 64}, 400, NO_UINT),
    "negative offset": ({**SYSTEM_BODY, "offset": -1}, 400, NO_UINT),
}


@pytest.mark.parametrize("case", BAD_SYSTEM_BODIES, ids=str)
def test_bad_register_bodies_of_system_regions(server: Server, case: str) -> None:
    body, status, message = BAD_SYSTEM_BODIES[case]
    assert server.ask("systemsharedmemory/region/r/register", body) == (status, {"error": message})


def test_a_region_needs_a_name_over_grpc_too(server: Server) -> None:
    client = Client(server, "grpc")
    memory = server.gpus.share(8)
    assert "region name" in client.refusal(
        client.triton.register_cuda_shared_memory, "", memory.raw_handle, 0, 8
    )[1]
    assert client.refusal(client.triton.register_cuda_shared_memory, "x", memory.raw_handle, -1, 8)[1].endswith(
        "there is no GPU -1"
    )
    assert client.refusal(client.triton.register_system_shared_memory, "", "/k", 8) == (
        "INVALID_ARGUMENT", "'region name' is necessary to register system shared memory region"
    )  # fmt: skip
    client.close()


def test_the_extension_is_announced(client: Client) -> None:
    metadata = client.triton.get_server_metadata()
    extensions = list(metadata["extensions"] if client.protocol == "http" else metadata.extensions)
    at = extensions.index("system_shared_memory")
    assert extensions[at - 1 : at + 3] == [
        "model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data"
    ]  # fmt: skip


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
