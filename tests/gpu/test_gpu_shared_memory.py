"""CUDA shared memory on a real GPU: a client process exports its memory, a server process reads and writes it.

The client is this file run as a program, because a process cannot open its own IPC handles and must not be forked from
one that uses CUDA.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SYSTEM = Path(__file__).resolve().parents[1] / "system"
if str(SYSTEM) not in sys.path:
    sys.path.insert(0, str(SYSTEM))

CLIENT_SECONDS = 300
WIDTH = 1 << 16
NBYTES = WIDTH * 4
MODEL = """
backend: "identity"
max_batch_size: 8
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: {width} }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: {width} }}
instance_group {{ count: 2 kind: KIND_CPU }}
dynamic_batching {{ }}
"""


# -- the client process ----------------------------------------------------------------------------


class Memory:
    """Device memory that other processes may open: cudaMalloc, as tritonclient allocates it."""

    def __init__(self, nbytes: int) -> None:
        from cupy.cuda import runtime

        self.runtime = runtime
        self.nbytes = nbytes
        self.address = runtime.malloc(nbytes)
        self.raw_handle = base64.b64encode(bytes(runtime.ipcGetMemHandle(self.address)))

    def write(self, array: np.ndarray, offset: int = 0) -> None:
        data = np.ascontiguousarray(array)
        self.runtime.memcpy(self.address + offset, data.ctypes.data, data.nbytes, self.runtime.memcpyHostToDevice)
        self.runtime.deviceSynchronize()

    def read(self, count: int, offset: int = 0) -> np.ndarray:
        data = np.empty(count, np.float32)
        self.runtime.memcpy(data.ctypes.data, self.address + offset, data.nbytes, self.runtime.memcpyDeviceToHost)
        return data

    def free(self) -> None:
        self.runtime.free(self.address)


class Session:
    """One protocol's client and the memory that it has registered."""

    def __init__(self, protocol: str, url: str) -> None:
        if protocol == "http":
            import tritonclient.http as module
        else:
            import tritonclient.grpc as module
        self.module: Any = module
        self.protocol = protocol
        self.triton: Any = module.InferenceServerClient(url)

    def register(self, name: str, memory: Memory, nbytes: int) -> None:
        self.triton.register_cuda_shared_memory(name, memory.raw_handle, 0, nbytes)

    def unregister(self, name: str) -> None:
        self.triton.unregister_cuda_shared_memory(name)

    def regions(self) -> set[str]:
        found = self.triton.get_cuda_shared_memory_status()
        return {row["name"] for row in found} if self.protocol == "http" else set(found.regions)

    def input(self, rows: int, region: str, offset: int = 0, width: int = WIDTH) -> Any:
        found = self.module.InferInput("INPUT0", [rows, width], "FP32")
        found.set_shared_memory(region, rows * width * 4, offset=offset)
        return found

    def values(self, array: np.ndarray) -> Any:
        found = self.module.InferInput("INPUT0", list(array.shape), "FP32")
        found.set_data_from_numpy(array)
        return found

    def output(self, region: str, nbytes: int, offset: int = 0) -> Any:
        found = self.module.InferRequestedOutput("OUTPUT0")
        found.set_shared_memory(region, nbytes, offset=offset)
        return found


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    from tritonclient.utils import InferenceServerException

    try:
        call(*arguments)
    except InferenceServerException as error:
        return str(error.message())
    raise AssertionError("not refused")


def check_all_ways(session: Session) -> None:
    """Region to region, region to body, body to region; many times, since a missing wait shows only now and then."""
    source, target = Memory(4 * NBYTES), Memory(4 * NBYTES)
    session.register("source", source, 4 * NBYTES)
    session.register("target", target, 4 * NBYTES)
    assert session.regions() == {"source", "target"}
    for turn in range(200):
        sent = np.random.default_rng(turn).random((2, WIDTH), np.float32)
        offset = turn % 3 * NBYTES
        source.write(sent, offset)
        session.triton.infer(
            "wide", [session.input(2, "source", offset)], outputs=[session.output("target", 2 * NBYTES, offset)]
        )
        assert np.array_equal(target.read(2 * WIDTH, offset).reshape(sent.shape), sent), turn
    result = session.triton.infer("wide", [session.input(2, "source", offset)])
    assert np.array_equal(result.as_numpy("OUTPUT0"), sent)
    session.triton.infer("wide", [session.values(-sent)], outputs=[session.output("target", 2 * NBYTES)])
    assert np.array_equal(target.read(2 * WIDTH).reshape(sent.shape), -sent)
    message = refused(lambda: session.triton.infer(
        "wide", [session.values(sent)], outputs=[session.output("target", 2 * NBYTES - 1)]
    ))  # fmt: skip
    assert message.endswith(f"should be at least {2 * NBYTES} bytes to hold the results"), message
    session.unregister("source")
    session.unregister("target")
    assert session.regions() == set()
    source.free()
    target.free()


def check_small_regions(session: Session) -> None:
    """Allocations of a few bytes, of which CUDA puts many into one page."""
    memories = [Memory(64) for _ in range(16)]
    for index, memory in enumerate(memories):
        session.register(f"small{index}", memory, 64)
        memory.write(np.full(16, index, np.float32))
    for index, memory in enumerate(memories):
        session.triton.infer(
            "narrow", [session.input(1, f"small{index}", 0, 8)], outputs=[session.output(f"small{index}", 32, 32)]
        )
        memory.write(np.full(8, -1, np.float32))
        assert memory.read(16).tolist() == [-1] * 8 + [index] * 8
    session.triton.unregister_cuda_shared_memory()
    assert session.regions() == set()
    for memory in memories:
        memory.free()


def check_refusals(session: Session) -> None:
    memory = Memory(NBYTES)
    assert refused(session.register, "r", memory, 1 << 44) == (
        "failed to register shared memory region 'r': invalid args"
    )
    session.register("r", memory, NBYTES)
    assert refused(session.register, "r", memory, NBYTES) == "shared memory region 'r' already in manager"
    garbage = base64.b64encode(bytes(range(64)))
    assert refused(session.triton.register_cuda_shared_memory, "g", garbage, 0, 64) == (
        "failed to register shared memory region: invalid args"
    )
    assert "there is no GPU 99" in refused(
        session.triton.register_cuda_shared_memory, "g", memory.raw_handle, 99, 64
    )
    # The same allocation twice, and again after it was closed.
    session.register("again", memory, NBYTES)
    session.unregister("r")
    session.unregister("again")
    session.register("r", memory, NBYTES)
    memory.write(np.arange(WIDTH, dtype=np.float32))
    result = session.triton.infer("wide", [session.input(1, "r")])
    assert np.array_equal(result.as_numpy("OUTPUT0")[0], np.arange(WIDTH, dtype=np.float32))
    session.unregister("r")
    memory.free()


CHECKS = {"ways": check_all_ways, "small": check_small_regions, "refusals": check_refusals}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](Session(sys.argv[2], sys.argv[3]))
    print("passed")
    sys.exit()


# -- the tests -------------------------------------------------------------------------------------

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from server_process import running_server

    root = tmp_path_factory.mktemp("models")
    for name, width in (("wide", WIDTH), ("narrow", 8)):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(MODEL.format(width=width))
    with running_server([root], tmp_path_factory.mktemp("server"), ["--allow-client-shm=true"]) as process:
        yield process
        process.stop()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("check", CHECKS)
def test_a_client_process_shares_its_memory(server: Any, check: str, protocol: str) -> None:
    pytest.importorskip("cupy", reason="the client exports memory through CuPy")
    done = subprocess.run(
        [sys.executable, __file__, check, protocol, server.url(protocol)],
        capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "passed\n"), f"{done.stdout}{done.stderr}\n{server.output()}"
    server.wait_until_idle()
