"""What the clients of a light model notice of other clients: python -m bench.e2e.fairness.

A light model's clients, half over HTTP and half over gRPC, ask at a steady pace, alone and beside one offender at a
time; p99 and worst of their answers, and the most memory that the server had.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from tests import certificates
from tests.conformance import servers
from tests.conformance.servers import Server
from triton_async import protos

from . import fairness_models, report
from .fairness_offenders import COMPUTING, LOG, OFFENDERS, TLS, Offender, Ports
from .turns import worst as longest_turn

_RATE = 100  # requests per second over each protocol
_COLUMNS = (
    "beside", "p99 ms", "÷ alone", "÷ computing", "worst ms", "longest turn, CPU ms", "peak RSS MiB", "answers",
)  # fmt: skip
_KEYS = ("beside", "p99_ms", "p99_ratio", "p99_beyond", "worst_ms", "turn_ms", "rss_mib", "answers")
_NOTE = (
    "The light model doubles FP32[16] on ONNX Runtime. Its clients, in a process of their own, ask 100 times a second "
    "over each protocol. What an offender costs beyond its share of the processors shows in three ways: it has the "
    "least priority (nice 19); `÷ computing` is relative to clients beside a process that only computes; and the "
    "longest turn is processor time of the loop's thread alone, whoever else had the processors. With `--pin` the "
    "server has the first processor for itself, its other threads included, and all clients share the others."
)
_BASELINES = ("nobody", COMPUTING)
# What needs a server of its own.
_KINDS = {TLS: "tls", LOG: "log"}
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


def _victim(ports: Ports, tls: bool, seconds: float, answer: Connection) -> None:
    took: list[float] = []
    end_s = time.monotonic() + seconds
    # Where gRPC is encrypted, its handshakes are the offender's.
    asking = [_ask_http] if tls else [_ask_http, _ask_grpc]
    threads = [
        threading.Thread(target=ask, args=(port, end_s, took)) for ask, port in zip(asking, ports, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.send(took)


def _offend(offender: Offender, ports: Ports, seconds: float, begun: Connection) -> None:
    # What it computes itself is not to hold up the light model's clients on a processor that they share.
    os.nice(19)
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


def measure(server: Server, turns: Path, name: str, offender: Offender | None, seconds: float) -> dict[str, object]:
    """One row: the light model's clients beside an offender, or alone. `turns`: where the server notes its longest."""
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
    begin_s = time.monotonic()
    victim = context.Process(target=_victim, args=(ports, name == TLS, seconds, answer))
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
        "worst_ms": round(1e3 * took[-1], 1), "turn_ms": round(longest_turn(str(turns), begin_s, time.monotonic()), 1),
        "rss_mib": _peak(server), "answers": len(took),
    }  # fmt: skip


def _run_offender(name: str, ports: Ports, seconds: float, begun: Connection) -> None:
    _offend(OFFENDERS[name], ports, seconds, begun)


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """The picture: a bar for the worst and one for the 99th percentile of each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [str(row["beside"]) for row in rows]
    figure, axes = pyplot.subplots(figsize=(10, 0.32 * len(rows) + 1.2), layout="constrained")
    for key, label, color, height in (
        ("worst_ms", "worst", "#9ecae1", 0.8),
        ("p99_ms", "p99", "#08519c", 0.5),
        ("turn_ms", "longest turn", "#d94801", 0.2),
    ):
        axes.barh(names, [float(str(row[key])) for row in rows], height, color=color, label=label)
    axes.axvline(50, color="#c00", linestyle=":")
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.set_xlabel("ms (cut at 100; the line is the target for the worst)")
    axes.set_title("Answers of a light model beside other clients")
    axes.legend(loc="lower right")
    figure.savefig(path)
    pyplot.close(figure)


@contextlib.contextmanager
def _started(folder: Path, repository: Path, kind: str) -> Iterator[tuple[Server, Path]]:
    """The server, its longest turns noted in the file. `kind`: "plain", "tls" (gRPC), "log" (to a pipe that nobody
    reads, verbosely).
    """
    turns, log = folder / f"turns-{kind}", folder / f"log-{kind}"
    options = ["--model-control-mode=explicit", "--load-model=*", f"--model-repository={repository}"]
    pipe = None
    if kind == "tls":
        made = certificates.make(folder)
        pair = (f"--grpc-server-cert={made.server.cert}", f"--grpc-server-key={made.server.key}")
        options += ["--grpc-use-ssl=1", *pair]
    elif kind == "log":
        os.mkfifo(log)
        pipe = os.open(log, os.O_RDWR | os.O_NONBLOCK)
        options.append("--log-verbose=1")
    command = [sys.executable, "-m", "bench.e2e.turns", str(turns), *options]
    server = Server("triton-async", command, servers.ours_env(), log)
    try:
        deadline = time.monotonic() + 120
        while not server.ready():
            if time.monotonic() > deadline or not server.alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        yield server, turns
    finally:
        server.stop()
        if pipe is not None:
            os.close(pipe)


def _pin(server: Server) -> None:
    """The server to the first processor, clients to the others: nobody shares with it."""
    cpus = sorted(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus[:1])
    os.sched_setaffinity(0, cpus[1:] or cpus)


def main() -> None:
    """Starts the servers, measures beside each offender, writes the report and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", default="", help="offenders whose name has this in it")
    parser.add_argument("--pin", action="store_true", help="the server alone on the first processor")
    parser.add_argument("--out", type=Path, default=Path("bench/results/fairness"))
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        repository = fairness_models.write(folder / "models")
        for kind in ("plain", "tls", "log"):
            chosen = [name for name in OFFENDERS if _KINDS.get(name, "plain") == kind
                      and (name in _BASELINES or options.only in name)]  # fmt: skip
            if not chosen:
                continue
            with _started(folder, repository, kind) as (server, turns):
                if options.pin:
                    _pin(server)
                for name in chosen:
                    rows.append(measure(server, turns, name, OFFENDERS[name], options.seconds))
                    alone, computing = (float(str(row["p99_ms"])) for row in (rows[0], rows[min(1, len(rows) - 1)]))
                    rows[-1]["p99_ratio"] = round(float(str(rows[-1]["p99_ms"])) / alone, 2)
                    rows[-1]["p99_beyond"] = round(float(str(rows[-1]["p99_ms"])) / computing, 2)
                    print(rows[-1], flush=True)
    report.save("Fairness between clients", options.out, _COLUMNS, _KEYS, rows, note=_NOTE)
    draw(rows, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
