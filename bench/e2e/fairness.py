"""What the clients of a light model notice of other clients: python -m bench.e2e.fairness.

A light model's clients, half over HTTP and half over gRPC, ask at a steady pace, alone and beside one offender at a
time; p99 and worst of their answers, and the most memory that the server had.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import multiprocessing
import statistics
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from tests.conformance import servers
from tests.conformance.servers import Server
from triton_async import protos

from . import fairness_models, report
from .fairness_offenders import OFFENDERS, Offender, Ports

_RATE = 100  # requests per second over each protocol
_COLUMNS = ("beside", "p99 ms", "÷ alone", "worst ms", "peak RSS MiB", "answers")
_KEYS = ("beside", "p99_ms", "p99_ratio", "worst_ms", "rss_mib", "answers")
_NOTE = (
    "The light model doubles FP32[16] on ONNX Runtime. Its clients, in a process of their own, ask 100 times a second "
    "over each protocol. Clients and offenders share the processors with the server, so `nobody` has their noise too."
)
_BODY = b'{"inputs":[{"name":"X","datatype":"FP32","shape":[16],"data":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]}'


def _ask_http(port: int, end_s: float, took: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    due = time.monotonic()
    while due < end_s:
        start = time.monotonic()
        connection.request("POST", f"/v2/models/{fairness_models.LIGHT}/infer", _BODY)
        response = connection.getresponse()
        if response.read().count(b"2.0") != 16:
            raise RuntimeError("a wrong answer")
        took.append(time.monotonic() - start)
        due = max(due + 1 / _RATE, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _ask_grpc(port: int, end_s: float, took: list[float]) -> None:
    message = protos.message("inference.ModelInferRequest")(model_name=fairness_models.LIGHT)
    message.inputs.add(name="X", datatype="FP32", shape=[16])
    message.raw_input_contents.append(bytes(64))
    data = message.SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        due = time.monotonic()
        while due < end_s:
            start = time.monotonic()
            ask(data, timeout=60)
            took.append(time.monotonic() - start)
            due = max(due + 1 / _RATE, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


def _victim(ports: Ports, seconds: float, answer: Connection) -> None:
    took: list[float] = []
    end_s = time.monotonic() + seconds
    threads = [
        threading.Thread(target=ask, args=(port, end_s, took))
        for ask, port in zip((_ask_http, _ask_grpc), ports, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.send(took)


def _offend(offender: Offender, ports: Ports, seconds: float, begun: Connection) -> None:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    begun.send(None)
    with contextlib.suppress(OSError, http.client.HTTPException, grpc.RpcError):
        offender(ports, stop)


def _peak(server: Server, reset: bool = False) -> int:
    proc = Path(f"/proc/{server.process.pid}")
    if reset:
        (proc / "clear_refs").write_text("5")
    line = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def measure(server: Server, name: str, offender: Offender | None, seconds: float) -> dict[str, object]:
    """One row: the light model's clients beside an offender, or alone."""
    context = multiprocessing.get_context("spawn")
    ports = server.http_port, server.grpc_port
    _peak(server, reset=True)
    other = None
    if offender is not None:
        begun, tell = context.Pipe(duplex=False)
        other = context.Process(target=_run_offender, args=(name, ports, seconds + 2, tell))
        other.start()
        begun.recv()
        time.sleep(1.5)  # its bodies are made meanwhile
    answers, answer = context.Pipe(duplex=False)
    victim = context.Process(target=_victim, args=(ports, seconds, answer))
    victim.start()
    took = answers.recv() if answers.poll(seconds + 120) else []
    victim.join(5)
    if other is not None:
        other.join(30)
        other.kill()
    if not took:
        raise RuntimeError(f"nobody was answered beside: {name}")
    took.sort()
    return {
        "beside": name, "p99_ms": round(1e3 * statistics.quantiles(took, n=100)[98], 1),
        "worst_ms": round(1e3 * took[-1], 1), "rss_mib": _peak(server), "answers": len(took),
    }  # fmt: skip


def _run_offender(name: str, ports: Ports, seconds: float, begun: Connection) -> None:
    _offend(OFFENDERS[name], ports, seconds, begun)


def draw(rows: list[dict[str, object]]) -> str:
    """The picture: a bar for the worst and one for the 99th percentile of each row, as SVG."""
    height = 24 * len(rows) + 50
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="900" height="{height}" fill="white"/>',
        '<text x="10" y="18">Answers of a light model beside other clients: p99 (dark) and worst (light), '
        "milliseconds, 100 at the right edge; the line is at 50</text>",
    ]
    for number, row in enumerate(rows):
        y = 34 + 24 * number
        worst, p99 = (min(float(str(row[key])), 100.0) * 4.5 for key in ("worst_ms", "p99_ms"))
        label = str(row["beside"]).replace("&", "&amp;").replace("<", "&lt;")
        lines += [
            f'<text x="10" y="{y + 12}">{label}</text>',
            f'<rect x="330" y="{y}" width="{worst:.1f}" height="16" fill="#9ecae1"/>',
            f'<rect x="330" y="{y + 3}" width="{p99:.1f}" height="10" fill="#08519c"/>',
            f'<text x="{334 + worst:.1f}" y="{y + 12}">{row["worst_ms"]}</text>',
        ]
    lines += [f'<line x1="555" y1="30" x2="555" y2="{height - 10}" stroke="#c00" stroke-dasharray="4"/>', "</svg>"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Starts the server, measures beside each offender, writes the report and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", default="", help="offenders whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fairness"))
    options = parser.parse_args()
    names = [name for name in OFFENDERS if name == "nobody" or options.only in name]
    with tempfile.TemporaryDirectory() as folder:
        repository = fairness_models.write(Path(folder) / "models")
        command = servers.ours_command(repository, "--model-control-mode=explicit", "--load-model=*")
        server = Server("triton-async", command, servers.ours_env(), Path(folder) / "log")
        try:
            server.wait_ready()
            rows = []
            for name in names:
                rows.append(measure(server, name, OFFENDERS[name], options.seconds))
                alone = float(str(rows[0]["p99_ms"]))
                rows[-1]["p99_ratio"] = round(float(str(rows[-1]["p99_ms"])) / alone, 2)
                print(rows[-1], flush=True)
        finally:
            server.stop()
    report.save("Fairness between clients", options.out, _COLUMNS, _KEYS, rows, note=_NOTE)
    options.out.with_suffix(".svg").write_text(draw(rows))


if __name__ == "__main__":
    main()
