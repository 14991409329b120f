"""The generate calls against Triton's, the same model.py files: python -m bench.e2e.generate.

Text in, text out: as an infer call, as generate, and as a stream of one event and of many, which come at once or
as a language model makes them. Plain sockets ask, one request at work on each connection.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.conformance.setup_oracle import prepare

from . import report, versus
from .perf import CPU_TICK_US, Window, cpu_ticks
from .versus import OURS, TRITON, Point, Subject

EVENTS = 50
_TEXT = "The quick brown fox jumps over the lazy dog"
_ECHO = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("text_output", pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy())]
            )
            for request in requests
        ]
"""
_WORDS = """
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for index in range({events}):
                if {pause}:
                    time.sleep({pause})
                word = pb_utils.Tensor("text_output", np.array([b"word %d" % index], dtype=np.object_))
                sender.send(pb_utils.InferenceResponse([word]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
_CONFIG = """backend: "python"
max_batch_size: 0
input { name: "text_input" data_type: TYPE_STRING dims: 1 }
output { name: "text_output" data_type: TYPE_STRING dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""
_DECOUPLED = "model_transaction_policy { decoupled: true }\n"
_COLUMNS = ("workload", *report.COLUMNS)
_KEYS = ("workload", *report.COLUMNS.values())
_NOTE = (
    f"`infer/s` and `CPU us/infer` of `{EVENTS} events` are per event; p50 and p99 are those of whole requests. CPU: "
    "the server with its stub processes. The client is one Python process: rates are no limit of either server."
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One row group: what is asked of which model."""

    name: str
    model: str
    call: str
    events: int = 1

    def request(self) -> bytes:
        """The call as it is sent."""
        entry = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [_TEXT]}
        body = json.dumps({"inputs": [entry]} if self.call == "infer" else {"text_input": _TEXT}).encode()
        return (
            f"POST /v2/models/{self.model}/{self.call} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


WORKLOADS = (
    Workload("infer", "echo", "infer"),
    Workload("generate", "echo", "generate"),
    Workload("one event", "echo", "generate_stream"),
    Workload(f"{EVENTS} events", "words", "generate_stream", EVENTS),
    Workload(f"{EVENTS} events, 1 ms apart", "paced_words", "generate_stream", EVENTS),
)


class Asker(asyncio.Protocol):
    """Sends the request again as soon as it is answered. `until_s`: no more from then on."""

    def __init__(self, request: bytes, until_s: float) -> None:
        self.times_s: list[float] = []
        self.last = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until_s = until_s
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not _complete(self._buffer):
            return
        self.last, self._buffer = self._buffer, b""
        self.times_s.append(time.perf_counter() - self._began_s)
        if time.perf_counter() < self._until_s:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or self._buffer:
            self.done.set_exception(error or ConnectionResetError("the answer has broken off"))
        else:
            self.done.set_result(None)


def _complete(answer: bytes) -> bool:
    if answer.endswith(b"\r\n0\r\n\r\n"):
        return True
    head, end, body = answer.partition(b"\r\n\r\n")
    _, found, length = head.lower().partition(b"content-length: ")
    return bool(end and found) and len(body) >= int(length.partition(b"\r\n")[0])


async def _drive(port: int, request: bytes, concurrency: int, seconds: float) -> list[Asker]:
    loop = asyncio.get_running_loop()
    until_s = time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda: Asker(request, until_s), "127.0.0.1", port) for _ in range(concurrency)
    ]
    askers = [asker for _, asker in made]
    await asyncio.gather(*(asker.done for asker in askers))
    return askers


def measure(subject: Subject, workload: Workload, concurrency: int, seconds: float) -> Window:
    """One window against a server that runs. Raises where the answer is not the one that is expected."""
    pid = subject.server.process.pid
    uvloop.run(_drive(subject.server.http_port, workload.request(), concurrency, min(seconds, 0.2)))
    ticks, began_s = cpu_ticks(pid), time.perf_counter()
    askers = uvloop.run(_drive(subject.server.http_port, workload.request(), concurrency, seconds))
    passed_s, ticks = time.perf_counter() - began_s, cpu_ticks(pid) - ticks
    for asker in askers:
        _check(subject, workload, asker.last)
    times_s = sorted(taken for asker in askers for taken in asker.times_s)
    count = len(times_s) * workload.events
    return Window(
        infer_per_s=count / passed_s,
        p50_us=times_s[len(times_s) // 2] * 1e6,
        p99_us=times_s[len(times_s) * 99 // 100] * 1e6,
        cpu_us=ticks * CPU_TICK_US / count,
    )


def _check(subject: Subject, workload: Workload, answer: bytes) -> None:
    expected = [_TEXT] if workload.events == 1 else [f"word {index}" for index in range(workload.events)]
    if b" 200 OK\r\n" not in answer or not all(f'"{text}"'.encode() in answer for text in expected):
        raise RuntimeError(f"{subject.name}: {workload.name} was answered with {answer[:500]!r}")


def write(root: Path) -> Path:
    """The models; returns `root`."""
    words = _WORDS.replace("{events}", str(EVENTS))
    for name, source, config in (
        ("echo", _ECHO, _CONFIG),
        ("words", words.replace("{pause}", "0"), _CONFIG + _DECOUPLED),
        ("paced_words", words.replace("{pause}", "0.001"), _CONFIG + _DECOUPLED),
    ):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(source.lstrip())
        (root / name / "config.pbtxt").write_text(config)
    return root


def main() -> None:
    """Starts the servers, measures, writes the report."""
    options = _options()
    oracle = None if options.only == OURS else prepare()
    names = {TRITON: "tritonserver 2.51, Python backend", OURS: "triton-async, in process"}
    rows: list[dict[str, Any]] = []
    with versus.both(oracle, options.only, write, write, options.flag) as running:
        subjects = [Subject(names[kind], server, "") for kind, server in running.items()]
        for workload in WORKLOADS:
            if options.workload not in workload.name:
                continue

            def window(subject: Subject, point: Point, workload: Workload = workload) -> Window:
                return measure(subject, workload, point[1], options.seconds)

            results = versus.take_turns(subjects, versus.points(options), options.rounds, window)
            rows += [{"workload": workload.name, **row} for row in report.medians(results)]
    print(report.save("Generate calls end to end", options.out, _COLUMNS, _KEYS, rows, note=_NOTE))


def _options() -> argparse.Namespace:
    parser = versus.parser("generate", __doc__, [1, 8], ["http"])
    parser.add_argument("--workload", default="", help="only those whose name contains this")
    parser.add_argument("--flag", action="append", default=[], help="a further one of our server's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
