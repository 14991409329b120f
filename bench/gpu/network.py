"""Tensors through the network against tensors in CUDA shared memory: clients in processes of their own."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.servers import free_ports

BODY, REGION = "request bodies", "CUDA shared memory"
_START_S = 300


@contextmanager
def served(repository: Path, *options: str) -> Iterator[int]:
    """A server process over the repository; its gRPC port."""
    http, grpc, metrics = free_ports(3)
    command = [
        sys.executable, "-m", "triton_async.cli", f"--model-repository={repository}", f"--http-port={http}",
        f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--allow-client-shm=true", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        _wait_until_ready(process, http)
        yield grpc
    finally:
        process.terminate()
        process.wait(60)


@dataclass(frozen=True)
class Clients:
    """What each of `count` processes does: asks for `batch_size` rows, one request after the other."""

    port: int
    model: str
    dims: tuple[int, ...]
    outputs: int
    how: str
    batch_size: int
    count: int
    seconds: float


def rows_per_s(clients: Clients) -> float:
    """Rows that all clients together get answered."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    go = context.Event()
    counts: Any = context.Queue()
    ready = context.Semaphore(0)
    processes = [
        context.Process(target=_client, args=(index, clients, ready, go, counts), daemon=True)
        for index in range(clients.count)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        if not ready.acquire(timeout=_START_S):
            raise TimeoutError("a client did not start")
    go.set()
    total = sum(counts.get(timeout=clients.seconds + 60) for _ in processes)
    for process in processes:
        process.join()
    return float(total) * clients.batch_size / clients.seconds


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the server did not become ready")


def _client(index: int, work: Clients, ready: Any, go: Event, counts: Any) -> None:
    import tritonclient.grpc as client

    server = client.InferenceServerClient(f"127.0.0.1:{work.port}")
    data = np.random.default_rng(index).random((work.batch_size, *work.dims)).astype(np.float16)
    output_nbytes = work.batch_size * work.outputs * data.itemsize
    tensor = client.InferInput("INPUT__0", list(data.shape), "FP16")
    wanted = client.InferRequestedOutput("OUTPUT__0")
    owned = None
    if work.how == REGION:
        owned = _register(server, f"region{index}", data, output_nbytes)
        tensor.set_shared_memory(f"region{index}", data.nbytes)
        wanted.set_shared_memory(f"region{index}", output_nbytes, data.nbytes)
    else:
        tensor.set_data_from_numpy(data)
    server.infer(work.model, [tensor], outputs=[wanted])
    ready.release()
    go.wait()
    count, until = 0, time.perf_counter() + work.seconds
    while time.perf_counter() < until:
        server.infer(work.model, [tensor], outputs=[wanted])
        count += 1
    counts.put(count)
    if owned is not None:
        server.unregister_cuda_shared_memory(f"region{index}")


def _register(server: Any, name: str, data: np.ndarray, output_nbytes: int) -> Any:
    """A region with `data` at its start and room for the outputs behind it; what keeps it allocated."""
    import cupy

    nbytes = data.nbytes + output_nbytes
    address = cupy.cuda.runtime.malloc(nbytes)
    cupy.cuda.runtime.memcpy(address, data.ctypes.data, data.nbytes, cupy.cuda.runtime.memcpyHostToDevice)
    cupy.cuda.runtime.deviceSynchronize()
    server.register_cuda_shared_memory(name, _base64(cupy.cuda.runtime.ipcGetMemHandle(address)), 0, nbytes)
    return address


def _base64(handle: bytes) -> bytes:
    # tritonclient takes what its own get_raw_handle gives and decodes it again.
    import base64

    return base64.b64encode(handle)
