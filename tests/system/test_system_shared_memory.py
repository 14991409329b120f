"""System shared memory with the tools of tritonclient: inputs and outputs in regions, over both protocols."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from server_process import ServerProcess, running_server
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

MODULES = {"http": tritonclient.http, "grpc": tritonclient.grpc}
WIDTH = 1 << 14
NBYTES = WIDTH * 4
MODEL = """
backend: "identity"
max_batch_size: 8
input {{ name: "INPUT0" data_type: {kind} dims: -1 }}
output {{ name: "OUTPUT0" data_type: {kind} dims: -1 }}
dynamic_batching {{ }}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("models")
    for name, kind in (("numbers", "TYPE_FP32"), ("strings", "TYPE_STRING")):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(MODEL.format(kind=kind))
    with running_server([root], tmp_path_factory.mktemp("server"), ["--allow-client-shm=true"]) as process:
        yield process
        process.wait_until_idle()
        process.stop()


class Client:
    """A client and the shared memory that it made; all of it is gone at the end."""

    def __init__(self, server: ServerProcess, protocol: str) -> None:
        self.module: Any = MODULES[protocol]
        self.protocol = protocol
        self._stack = ExitStack()
        self.triton: Any = self._stack.enter_context(self.module.InferenceServerClient(server.url(protocol)))

    def make(self, name: str, nbytes: int, slash: str = "/") -> Any:
        """Shared memory, registered by `name`."""
        key = f"{slash}test-{uuid.uuid4().hex}"
        handle = shm.create_shared_memory_region(name, key, nbytes)
        self._stack.callback(shm.destroy_shared_memory_region, handle)
        self.triton.register_system_shared_memory(name, key, nbytes)
        self._stack.callback(self.triton.unregister_system_shared_memory, name)
        return handle

    def input(self, shape: list[int], kind: str, region: str, nbytes: int, offset: int = 0) -> Any:
        found = self.module.InferInput("INPUT0", shape, kind)
        found.set_shared_memory(region, nbytes, offset)
        return found

    def output(self, region: str, nbytes: int, offset: int = 0) -> Any:
        found = self.module.InferRequestedOutput("OUTPUT0")
        found.set_shared_memory(region, nbytes, offset)
        return found

    def refusal(self, *arguments: Any, **more: Any) -> str:
        with pytest.raises(InferenceServerException) as refused:
            self.triton.infer(*arguments, **more)
        return str(refused.value.message())

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(params=["http", "grpc"])
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client(server, request.param)
    yield made
    made.close()
    found = MODULES["http"].InferenceServerClient(server.http_url).get_system_shared_memory_status()
    assert found == []


def test_tensors_go_in_and_out_through_regions(client: Client) -> None:
    source, target = client.make("source", 4 * NBYTES), client.make("target", 4 * NBYTES, slash="")
    for turn in range(20):
        sent = np.random.default_rng(turn).random((2, WIDTH), np.float32)
        offset = turn % 3 * NBYTES
        shm.set_shared_memory_region(source, [sent], offset)
        result = client.triton.infer(
            "numbers", [client.input([2, WIDTH], "FP32", "source", 2 * NBYTES, offset)],
            outputs=[client.output("target", 2 * NBYTES, offset)],
        )  # fmt: skip
        assert result.get_output("OUTPUT0") is not None
        assert np.array_equal(shm.get_contents_as_numpy(target, np.float32, [2, WIDTH], offset), sent)
    result = client.triton.infer("numbers", [client.input([2, WIDTH], "FP32", "source", 2 * NBYTES, offset)])
    assert np.array_equal(result.as_numpy("OUTPUT0"), sent)


def test_strings_go_in_and_out_through_regions(client: Client) -> None:
    strings = np.array([[b"one", b"", b"drei", bytes(range(256))]], dtype=np.object_)
    serialized = serialize_byte_tensor(strings)
    wire = serialized.item()
    source, target = client.make("source", 1 << 12), client.make("target", 1 << 12)
    shm.set_shared_memory_region(source, [serialized])
    client.triton.infer(
        "strings", [client.input([1, 4], "BYTES", "source", len(wire))], outputs=[client.output("target", 1 << 12)]
    )
    found = shm.get_contents_as_numpy(target, np.object_, [1, 4])
    assert found.tolist() == strings.tolist()
    message = client.refusal("strings", [client.input([1, 4], "BYTES", "source", len(wire) - 1)])
    assert "strings" in message or "string" in message


def test_what_does_not_fit_is_refused(client: Client) -> None:
    client.make("source", NBYTES)
    whole = client.input([1, WIDTH], "FP32", "source", NBYTES)
    assert client.refusal("numbers", [whole], outputs=[client.output("none", NBYTES)]) == (
        "Unable to find shared memory region: 'none'"
    )
    assert client.refusal("numbers", [client.input([1, WIDTH], "FP32", "source", NBYTES, 4)]) == (
        "Invalid offset + byte size for shared memory region: 'source'"
    )
    assert client.refusal("numbers", [client.input([1, 1], "FP32", "source", 4, NBYTES)]) == (
        "Invalid offset for shared memory region: 'source'"
    )
    client.make("small", NBYTES - 1)
    assert client.refusal("numbers", [whole], outputs=[client.output("small", NBYTES - 1)]).endswith(
        f"should be at least {NBYTES} bytes to hold the results"
    )


def test_two_clients_of_one_region(server: ServerProcess, client: Client) -> None:
    """As `multiprocessing.shared_memory` and perf_analyzer do: the name goes while the region is in use."""
    handle = client.make("region", NBYTES)
    sent = np.arange(WIDTH, dtype=np.float32)[None]
    shm.set_shared_memory_region(handle, [sent])
    other = Client(server, "http" if client.protocol == "grpc" else "grpc")
    for one in (client, other):
        result = one.triton.infer("numbers", [one.input([1, WIDTH], "FP32", "region", NBYTES)])
        assert np.array_equal(result.as_numpy("OUTPUT0"), sent)
    other.close()


def test_an_owner_that_makes_its_memory_smaller_harms_nobody_else(server: ServerProcess, client: Client) -> None:
    """It gets errors; the server, and others whose requests share its batches, notice nothing."""
    folder, key = Path("/dev/shm"), f"test-{uuid.uuid4().hex}"
    (folder / key).write_bytes(bytes(4 * NBYTES))
    client.triton.register_system_shared_memory("mine", key, 4 * NBYTES)
    other = Client(server, client.protocol)
    sent = np.random.default_rng(1).random((1, WIDTH), np.float32)
    shm.set_shared_memory_region(other.make("theirs", NBYTES), [sent])
    failed: list[str] = []
    stop = threading.Event()

    def owner() -> None:
        mine = Client(server, client.protocol)
        while not stop.is_set():
            try:
                mine.triton.infer("numbers", [mine.input([4, WIDTH], "FP32", "mine", 4 * NBYTES)])
            except InferenceServerException as error:
                failed.append(str(error.message()))
        mine.close()

    thread = threading.Thread(target=owner)
    thread.start()
    try:
        for turn in range(60):
            os.truncate(folder / key, NBYTES if turn % 2 else 4 * NBYTES)
            result = other.triton.infer("numbers", [other.input([1, WIDTH], "FP32", "theirs", NBYTES)])
            assert np.array_equal(result.as_numpy("OUTPUT0"), sent)
    finally:
        stop.set()
        thread.join()
        client.triton.unregister_system_shared_memory("mine")
        (folder / key).unlink()
        other.close()
    assert set(failed) <= {"shared memory region 'mine' has become smaller since it was registered"}
    assert failed


def test_a_region_is_listed_until_it_is_unregistered(client: Client) -> None:
    client.make("region", 64)
    found = client.triton.get_system_shared_memory_status("region")
    entry = found[0] if client.protocol == "http" else found.regions["region"]
    size = entry["byte_size"] if client.protocol == "http" else entry.byte_size
    assert int(size) == 64
    client.triton.unregister_system_shared_memory()
    found = client.triton.get_system_shared_memory_status()
    assert not (found if client.protocol == "http" else found.regions)
