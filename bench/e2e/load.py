"""Loads that outrun perf_analyzer: `wrk` and `h2load` with requests made beforehand, on 127.0.0.1 only."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import struct
import subprocess
from pathlib import Path

import numpy as np

from tests.conformance.servers import Server
from triton_async import protos

from .perf import CPU_TICK_US, Window, cpu_ticks, inference_count
from .versus import Point, Subject

# Concurrent requests of one HTTP/2 connection; further ones get connections of their own.
STREAMS = 32
_TIMEOUT_S = 60.0
_WRK = """local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.headers["Inference-Header-Content-Length"] = "{header}"
file:close()
"""
# What wrk makes of the above by itself, given.
_WRK_RAW = """local file = io.open("{request}", "rb")
local request = file:read("*a")
wrk.format = function() return request end
file:close()
"""
_WRK_DONE = """done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def require() -> None:
    """Ends the program when a load generator is missing."""
    missing = [program for program in ("wrk", "h2load") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} not found; Debian has them in the packages wrk and nghttp2-client")


class Requests:
    """One infer request of INPUT0 FP32[1,elements] for both protocols, as files below `folder`."""

    def __init__(self, folder: Path, elements: int) -> None:
        self.folder = folder
        self._elements = elements
        self.tensor = np.random.default_rng(elements).standard_normal(elements, dtype=np.float32).tobytes()

    def http_body(self) -> tuple[int, bytes]:
        """Length of the JSON header, and the body; the binary form in both directions, as perf_analyzer asks for it."""
        tensor = {
            "name": "INPUT0",
            "shape": [1, self._elements],
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(self.tensor)},
        }
        outputs = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]
        header = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        return len(header), header + self.tensor

    def grpc_message(self, model: str) -> bytes:
        """A framed ModelInferRequest."""
        message = protos.message("inference.ModelInferRequest")(model_name=model)
        message.inputs.add(name="INPUT0", datatype="FP32", shape=[1, self._elements])
        message.raw_input_contents.append(self.tensor)
        data = message.SerializeToString()
        return struct.pack(">BI", 0, len(data)) + data

    def http(self) -> Path:
        """A script for wrk."""
        header, content = self.http_body()
        body = self.folder / f"body-{self._elements}"
        body.write_bytes(content)
        script = body.with_suffix(".lua")
        script.write_text(_WRK.format(body=body, header=header) + _WRK_DONE)
        return script

    def raw(self, number: int, request: bytes) -> Path:
        """A script that has wrk send just these bytes."""
        path = self.folder / f"request-{number}"
        path.write_bytes(request)
        script = path.with_suffix(".lua")
        script.write_text(_WRK_RAW.format(request=path) + _WRK_DONE)
        return script

    def grpc(self, model: str) -> Path:
        """A message for h2load."""
        path = self.folder / f"message-{model}-{self._elements}"
        path.write_bytes(self.grpc_message(model))
        return path


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def _find(pattern: str, text: str) -> tuple[float, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern} in:\n{text[-2000:]}")
    return tuple(map(float, match.groups()))


def wrk(server: Server, model: str, script: Path, concurrency: int, seconds: float) -> tuple[float, ...]:
    """Answers, the seconds they took, p50, p99 in microseconds."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/infer"
    text = _run(["wrk", "-t1", f"-c{concurrency}", f"-d{max(round(seconds), 1)}s", f"-s{script}", url])
    requests, duration_us, p50, p99, errors = _find(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", text)
    if errors:
        raise RuntimeError(f"wrk: {errors:.0f} of {requests:.0f} requests failed")
    return requests, duration_us / 1e6, p50, p99


def _h2load(server: Server, message: Path, concurrency: int, seconds: float, streams: int) -> tuple[float, ...]:
    """Infer/s, p50, p99 in microseconds. h2load sees neither messages nor statuses of gRPC."""
    log = message.with_suffix(".log")
    log.unlink(missing_ok=True)
    clients = max(concurrency // streams, 1)
    text = _run(
        [
            "h2load", f"-D{max(round(seconds), 1)}", f"-c{clients}", f"-m{min(streams, concurrency)}", "-t1",
            f"-d{message}", "-w24", "-W28", f"--log-file={log}",
            "-Hcontent-type: application/grpc", "-Hte: trailers",
            f"http://127.0.0.1:{server.grpc_port}/inference.GRPCInferenceService/ModelInfer",
        ]
    )  # fmt: skip
    failed, errored, timeout = _find(r"(\d+) failed, (\d+) errored, (\d+) timeout", text)
    if failed or errored or timeout:
        raise RuntimeError(f"h2load: {failed:.0f} failed, {errored:.0f} errored, {timeout:.0f} timed out")
    took = [int(line.rpartition("\t")[2]) for line in log.read_text().splitlines()]
    cuts = statistics.quantiles(took, n=100)
    return (*_find(r"finished in [\d.]+m?s, ([\d.]+) req/s", text), cuts[49], cuts[98])


def drive(
    subject: Subject,
    point: Point,
    requests: Requests,
    seconds: float,
    *,
    streams: int = STREAMS,
    script: Path | None = None,
) -> Window:
    """One window of load; `script` is for wrk, in place of that of `requests`.

    The server's own count tells whether what the generator took for answers were any.
    """
    protocol, concurrency = point
    server, model = subject.server, subject.model
    source = script or (requests.http() if protocol == "http" else requests.grpc(model))
    counted = inference_count(server, model)
    ticks = cpu_ticks(server.process.pid)
    if protocol == "http":
        answers, took_s, p50, p99 = wrk(server, model, source, concurrency, seconds)
        rate = answers / took_s
    else:
        rate, p50, p99 = _h2load(server, source, concurrency, seconds, streams)
    ticks = cpu_ticks(server.process.pid) - ticks
    counted = inference_count(server, model) - counted
    if counted < 0.9 * rate * seconds:
        raise RuntimeError(f"{server.name} counts {counted} inferences where {rate * seconds:.0f} were answered")
    return Window(rate, p50, p99, ticks * CPU_TICK_US / counted)
