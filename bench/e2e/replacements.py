"""Replaces a server under load, again and again: python -m bench.e2e.replacements.

Two servers share the ports; clients over HTTP and gRPC ask without a pause while one after the other is ended and a new
one started. Every request has to be answered, and rightly, and executed once, whichever server it came to: half of the
clients ask a model that writes down the id of each request that it runs. No client of HTTP asks again.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tests.conformance import servers
from triton_async import protos

from . import fairness_models

_OPTIONS = ("--reuse-http-port=true", "--reuse-grpc-port=true", "--allow-metrics=false", "--log-info=false")
_READY_S = 120.0
# Writes the id of each request to a file that all servers share, in one write each.
_COUNTING = """
import os

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.file = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def execute(self, requests):
        responses = []
        for request in requests:
            os.write(self.file, (request.request_id() + "\\n").encode())
            values = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", values + values)]))
        return responses
"""
_COUNTING_CONFIG = """
backend: "python"
input {{ name: "X" data_type: TYPE_FP32 dims: 16 }}
output {{ name: "Y" data_type: TYPE_FP32 dims: 16 }}
"""
_COUNTS = "counts"


@dataclass
class Found:
    """What became of the requests."""

    answered: dict[str, int] = field(default_factory=lambda: {"http": 0, "grpc": 0})
    lost: list[str] = field(default_factory=list)
    #: Ids of requests to the model that counts, answered.
    ids: list[str] = field(default_factory=list)
    #: Those that it has not run, or not once.
    doubled: list[str] = field(default_factory=list)

    def count(self, executed: Path) -> None:
        """Compares what was answered with what was run."""
        runs = Counter(executed.read_text().split())
        self.doubled = [f"{name}: run {runs[name]} times" for name in {*self.ids, *runs} if runs[name] != 1]


def _body(value: int, name: str) -> bytes:
    numbers = ",".join([str(value)] * 16)
    entry = f'{{"name":"X","datatype":"FP32","shape":[16],"data":[{numbers}]}}'
    return f'{{"id":"{name}","inputs":[{entry}]}}'.encode()


def _ask_http(port: int, model: str, keep: int, stop: threading.Event, found: Found) -> None:
    """`keep`: requests of one connection; 0 for as long as the server keeps it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    value = 0
    while not stop.is_set():
        value += 1
        name = f"http-{keep}-{value}"
        try:
            connection.request("POST", f"/v2/models/{model}/infer", _body(value, name))
            response = connection.getresponse()
            if response.read().count(f"{2 * value}.0".encode()) != 16 or response.status != 200:
                found.lost.append(f"http: wrong answer, status {response.status}")
        except (OSError, http.client.HTTPException) as error:
            found.lost.append(f"http: {type(error).__name__} {error}")
            connection.close()
            continue
        found.answered["http"] += 1
        if model == _COUNTS:
            found.ids.append(name)
        if keep and value % keep == 0:
            connection.close()


def _ask_grpc(port: int, model: str, stop: threading.Event, found: Found) -> None:
    # A connection of its own. What a server that goes has not taken, and says so, the channel asks the next one.
    options = [("grpc.use_local_subchannel_pool", 1)]
    value = 0
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        while not stop.is_set():
            value += 1
            name = f"grpc-{value}"
            message = protos.message("inference.ModelInferRequest")(model_name=model, id=name)
            message.inputs.add(name="X", datatype="FP32", shape=[16])
            message.raw_input_contents.append(bytes(64))
            try:
                answer = protos.message("inference.ModelInferResponse").FromString(
                    ask(message.SerializeToString(), timeout=60, wait_for_ready=True)
                )
                if answer.id != name:
                    found.lost.append(f"grpc: another's answer, {answer.id} for {name}")
            except grpc.RpcError as error:
                found.lost.append(f"grpc: {error.code()} {error.details()}")  # type: ignore[attr-defined]
                continue
            found.answered["grpc"] += 1
            if model == _COUNTS:
                found.ids.append(name)


def _write_counting_model(repository: Path, executed: Path) -> None:
    folder = repository / _COUNTS / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(_COUNTING.format(path=str(executed)))
    (repository / _COUNTS / "config.pbtxt").write_text(_COUNTING_CONFIG.format())
    executed.touch()


def _start(repository: Path, ports: list[int], log: Path) -> subprocess.Popen[bytes]:
    command = servers.ours_command(
        repository, f"--http-port={ports[0]}", f"--grpc-port={ports[1]}", "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1", "--model-control-mode=explicit",
        f"--load-model={fairness_models.LIGHT}", f"--load-model={_COUNTS}", *_OPTIONS,
    )  # fmt: skip
    with log.open("ab") as sink:
        process = subprocess.Popen(command, env=servers.ours_env(), stdout=sink, stderr=sink)
    deadline = time.monotonic() + _READY_S
    while not all(servers.listens(process.pid, port) for port in ports):
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise RuntimeError(f"a server did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)
    return process


def replace(times: int, folder: Path) -> Found:
    """Replaces a server so many times under load."""
    repository = fairness_models.write(folder / "models")
    _write_counting_model(repository, folder / "executed")
    ports = servers.free_ports(2)
    found, stop = Found(), threading.Event()
    current = _start(repository, ports, folder / "log")
    light = fairness_models.LIGHT
    asking = [(_ask_http, (ports[0], model, keep, stop, found))
              for model, keep in ((light, 0), (light, 2), (_COUNTS, 0), (_COUNTS, 1), (_COUNTS, 7))]  # fmt: skip
    clients = [threading.Thread(target=ask, args=arguments) for ask, arguments in asking]
    for model in (light, _COUNTS):
        clients.append(threading.Thread(target=_ask_grpc, args=(ports[1], model, stop, found)))
    for client in clients:
        client.start()
    try:
        for _ in range(times):
            fresh = _start(repository, ports, folder / "log")
            current.send_signal(signal.SIGTERM)
            if (status := current.wait(60)) != 0:
                found.lost.append(f"a server ended with {status}")
            current = fresh
    finally:
        stop.set()
        for client in clients:
            client.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(current.pid, signal.SIGKILL)
        current.wait()
    found.count(folder / "executed")
    return found


def main() -> None:
    """Prints what became of the requests; fails when one was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = replace(options.times, Path(folder))
    print(f"{options.times} replacements, answered: {found.answered}, lost: {len(found.lost)}, of {len(found.ids)} "
          f"that were counted doubled or never run: {len(found.doubled)}")  # fmt: skip
    if found.lost or found.doubled:
        sys.exit("\n".join([*found.lost[:20], *found.doubled[:20]]))


if __name__ == "__main__":
    main()
