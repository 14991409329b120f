"""Mixed traffic for a long time: valid, invalid and broken-off requests, loads and unloads, shared memory.

Every valid answer is verified. At the end the server must have no more memory than when it was warm, and no descriptor
that it did not have.
"""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import os
import random
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from triton_async.defines import IDLE_S

OPTIONS = ("--allow-client-shm=true", "--model-control-mode=explicit", "--load-model=numbers", "--load-model=strings")
SIZES = (1, 16, 1000, 20_000)
# Share of the time that is warm-up, and descriptors that a server opens in it and keeps (of its threads and files).
WARM_UP = 1 / 3
KEPT = 4
# Between two steps of a kind. Who does not wait for answers could ask for more than anybody can answer.
PAUSES_S = {"broken off": 0.05, "control": 0.02}

_CONFIG = """
    backend: "identity"
    max_batch_size: 8
    input {{ name: "INPUT0" data_type: {kind} dims: -1 }}
    output {{ name: "OUTPUT0" data_type: {kind} dims: -1 }}
    dynamic_batching {{ }}
"""


@dataclass
class Server:
    """What is asked, and looked at."""

    pid: int
    http: str
    grpc: str


@dataclass
class Found:
    """What came of it. `done`: steps by kind; `wrong`: what should not have been; sizes in bytes."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    warm_nbytes: int = 0
    end_nbytes: int = 0
    descriptors_left: int = 0

    @property
    def growth(self) -> float:
        """Of the memory, as a share of what it was when warm."""
        return self.end_nbytes / self.warm_nbytes - 1


def write_models(root: Path) -> None:
    """The repository that is served."""
    for name, kind in (("numbers", "TYPE_FP32"), ("strings", "TYPE_STRING"), ("comes", "TYPE_FP32")):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(_CONFIG.format(kind=kind))


def memory_nbytes(pid: int) -> int:
    """Memory that is the process's own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def descriptors(pid: int) -> int:
    """Open ones."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _tensor(module: Any, rng: random.Random) -> tuple[str, Any, Any]:
    """A model, its input, and what its output has to be."""
    n = rng.choice(SIZES)
    if rng.random() < 0.3:
        values = np.array([[f"{rng.random()} ü {n}".encode() for _ in range(min(n, 100))]], np.object_)
        tensor = module.InferInput("INPUT0", list(values.shape), "BYTES")
        tensor.set_data_from_numpy(values)
        return "strings", tensor, values
    values = np.full((rng.randint(1, 4), n), rng.random(), np.float32)
    tensor = module.InferInput("INPUT0", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return "numbers", tensor, values


def _valid(module: Any, url: str) -> Callable[[random.Random], None]:
    client = module.InferenceServerClient(url)

    def step(rng: random.Random) -> None:
        model, tensor, expected = _tensor(module, rng)
        got = client.infer(model, [tensor]).as_numpy("OUTPUT0")
        assert np.array_equal(got, expected), "a wrong answer"

    return step


def _json(server: Server) -> Callable[[random.Random], None]:
    connection = http.client.HTTPConnection(server.http, timeout=60)

    def step(rng: random.Random) -> None:
        values = [rng.randint(-1000, 1000) for _ in range(rng.choice(SIZES[:3]))]
        body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, len(values)], "data": values}]}
        connection.request("POST", "/v2/models/numbers/infer", json.dumps(body))
        answer = connection.getresponse()
        document = json.loads(answer.read())
        assert answer.status == 200 and document["outputs"][0]["data"] == values, "a wrong answer"

    return step


def _stream(server: Server) -> Callable[[random.Random], None]:
    def step(rng: random.Random) -> None:
        answers: list[Any] = []
        arrived = threading.Semaphore(0)

        def note(result: Any, error: Any) -> None:
            answers.append(error or result)
            arrived.release()

        with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
            client.start_stream(note)
            expected = []
            for _ in range(rng.randint(1, 8)):
                model, tensor, values = _tensor(tritonclient.grpc, rng)
                expected.append(values)
                client.async_stream_infer(model, [tensor])
            for _ in expected:
                assert arrived.acquire(timeout=60), "no answer on a stream"
            for got, values in zip(answers, expected, strict=True):
                assert np.array_equal(got.as_numpy("OUTPUT0"), values), f"a wrong answer on a stream: {got}"

    return step


_INVALID = (
    ("POST", "/v2/models/numbers/infer", b"{", 400), ("POST", "/v2/models/nowhere/infer", b"{}", 404),
    ("POST", "/v2/models/numbers/infer", b'{"inputs":[]}', 400), ("GET", "/v2/models/numbers/infer", b"", 405),
    ("POST", "/v2/models/numbers/infer",
     b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[9,1],"data":[1,2,3,4,5,6,7,8,9]}]}', 400),
    ("POST", "/v2/models/numbers/infer",
     b'{"inputs":[{"name":"INPUT0","datatype":"INT8","shape":[1,1],"data":[1]}]}', 400),
    ("POST", "/v2/models/numbers/infer",
     b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,1],"parameters":{"shared_memory_region":"none",'
     b'"shared_memory_byte_size":4}}]}', 404),
    ("GET", "/nowhere", b"", 404), ("POST", "/v2/repository/models/nowhere/load", b"", 500),
)  # fmt: skip


def _invalid(server: Server) -> Callable[[random.Random], None]:
    def step(rng: random.Random) -> None:
        method, path, body, status = rng.choice(_INVALID)
        connection = http.client.HTTPConnection(server.http, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == status, f"{method} {path} got {answer.status} for {status}: {text[:200]!r}"

    return step


def _broken_off(server: Server) -> Callable[[random.Random], None]:
    host, _, port = server.http.rpartition(":")
    body = np.ones(50_000, np.float32).tobytes()
    header = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 50_000],
                                     "parameters": {"binary_data_size": len(body)}}]}).encode()  # fmt: skip
    head = (
        f"POST /v2/models/numbers/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(header)}\r\n"
        f"Content-Length: {len(header) + len(body)}\r\n\r\n"
    ).encode()
    whole = head + header + body
    client = tritonclient.grpc.InferenceServerClient(server.grpc)

    def step(rng: random.Random) -> None:
        if rng.random() < 0.3:
            _, tensor, _ = _tensor(tritonclient.grpc, rng)
            client.async_infer("numbers", [tensor], lambda result, error: None).cancel()
            return
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            if rng.random() < 0.5:
                connection.sendall(whole[: rng.randrange(len(whole))])
            else:
                # Whole, and nobody reads the answer.
                connection.sendall(whole)

    return step


def _control(server: Server) -> Callable[[random.Random], None]:
    modules = ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc))
    clients = [(module, module.InferenceServerClient(url)) for module, url in modules]

    def step(rng: random.Random) -> None:
        module, client = rng.choice(clients)
        config = {
            "max_batch_size": rng.randint(1, 8), "backend": "identity",
            "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
            "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        }  # fmt: skip
        client.load_model("comes", config=json.dumps(config))
        values = np.full((1, 10), rng.random(), np.float32)
        tensor = module.InferInput("INPUT0", [1, 10], "FP32")
        tensor.set_data_from_numpy(values)
        assert np.array_equal(client.infer("comes", [tensor]).as_numpy("OUTPUT0"), values), "a wrong answer"
        client.unload_model("comes")
        client.get_model_repository_index()
        client.get_inference_statistics()

    return step


def _shared_memory(server: Server) -> Callable[[random.Random], None]:
    modules = ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc))
    clients = [(module, module.InferenceServerClient(url)) for module, url in modules]

    def step(rng: random.Random) -> None:
        module, client = rng.choice(clients)
        values = np.full((1, rng.choice(SIZES)), rng.random(), np.float32)
        name = uuid.uuid4().hex
        region = shm.create_shared_memory_region(name, f"/soak-{name}", 2 * values.nbytes)
        try:
            shm.set_shared_memory_region(region, [values])
            client.register_system_shared_memory(name, f"/soak-{name}", 2 * values.nbytes)
            tensor = module.InferInput("INPUT0", list(values.shape), "FP32")
            tensor.set_shared_memory(name, values.nbytes)
            output = module.InferRequestedOutput("OUTPUT0")
            output.set_shared_memory(name, values.nbytes, offset=values.nbytes)
            client.infer("numbers", [tensor], outputs=[output])
            got = shm.get_contents_as_numpy(region, np.float32, values.shape, offset=values.nbytes)
            assert np.array_equal(got, values), "a wrong answer in shared memory"
            client.unregister_system_shared_memory(name)
        finally:
            shm.destroy_shared_memory_region(region)

    return step


def _ask(server: Server, seconds: float, found: Found) -> None:
    """Asks for so long, from a thread of each kind."""
    stop = threading.Event()
    kinds: dict[str, Callable[[], Callable[[random.Random], None]]] = {
        "http": lambda: _valid(tritonclient.http, server.http),
        "grpc": lambda: _valid(tritonclient.grpc, server.grpc),
        "json": lambda: _json(server),
        "stream": lambda: _stream(server),
        "invalid": lambda: _invalid(server),
        "broken off": lambda: _broken_off(server),
        "control": lambda: _control(server),
        "shared memory": lambda: _shared_memory(server),
    }

    def ask(kind: str) -> None:
        rng = random.Random(kind)
        step = kinds[kind]()
        while not stop.wait(PAUSES_S.get(kind, 0.002)):
            try:
                step(rng)
                found.done[kind] += 1
            except (AssertionError, OSError, InferenceServerException, http.client.HTTPException) as error:
                found.wrong.append(f"{kind}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=ask, args=(kind,), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join(120)


def _settled_descriptors(pid: int, at_most: int) -> int:
    """Those that are left when the clients of this process are closed, which they are as they are collected."""
    gc.collect()
    deadline = time.monotonic() + 30
    while descriptors(pid) > at_most and time.monotonic() < deadline:
        time.sleep(0.2)
    return descriptors(pid)


def _settled_memory(pid: int) -> int:
    """What is left when the server has given back what is free."""
    deadline = time.monotonic() + 3 * IDLE_S + 1
    smallest = memory_nbytes(pid)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        smallest = min(smallest, memory_nbytes(pid))
    return smallest


def soak(server: Server, seconds: float) -> Found:
    """Asks for so long. What the server has when it is idle behind the warm-up is compared with what it has at the end:
    while it works it has what is in flight besides.
    """
    found = Found()
    before = descriptors(server.pid)
    _ask(server, WARM_UP * seconds, found)
    kept = _settled_descriptors(server.pid, before + KEPT)
    found.warm_nbytes = _settled_memory(server.pid)
    _ask(server, (1 - WARM_UP) * seconds, found)
    found.descriptors_left = max(0, _settled_descriptors(server.pid, kept) - kept)
    found.end_nbytes = _settled_memory(server.pid)
    return found
