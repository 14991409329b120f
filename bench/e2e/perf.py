"""Runs perf_analyzer for one window and counts what the server spent on it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path

from tests.conformance.servers import Server
from tests.conformance.setup_oracle import Oracle

CPU_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Window:
    """What one run measured. CPU time is the server's and its children's, per inference."""

    infer_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float


@dataclasses.dataclass(frozen=True)
class Load:
    """What perf_analyzer is to send. `shape` is for models with dynamic dims. `shared_nbytes`: of each output, when
    tensors are to lie in system shared memory; 0: in the messages. `streaming`: over a gRPC stream, for decoupled ones.
    """

    protocol: str
    port: int
    model: str
    concurrency: int
    seconds: float
    shape: str = ""
    shared_nbytes: int = 0
    streaming: bool = False


def _stat(pid: int) -> tuple[int, int]:
    """Parent and CPU ticks of a process; (0, 0) when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0, 0
    return int(fields[1]), int(fields[11]) + int(fields[12])


def _ticks(root: int) -> dict[int, int]:
    """CPU ticks up to now of `root` and each of its descendants."""
    stats = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    members = {root}
    grown = True
    while grown:
        more = {pid for pid, (parent, _) in stats.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return {pid: stats[pid][1] for pid in members if pid in stats}


def family(root: int) -> list[int]:
    """`root` and all its descendants."""
    return list(_ticks(root))


def cpu_ticks(root: int) -> int:
    """CPU ticks of `root` and all its descendants up to now."""
    return sum(_ticks(root).values())


def own_ticks(pid: int) -> int:
    """CPU ticks of one process up to now, without what it has started; 0 when it is gone."""
    return _stat(pid)[1]


def _command(oracle: Oracle, load: Load) -> list[str]:
    """Three windows that make up `seconds`, taken whatever their variation: medians come from the rounds.

    perf_analyzer reports nothing on fewer than three.
    """
    return [
        str(oracle.perf_analyzer),
        f"-m{load.model}",
        f"-u127.0.0.1:{load.port}",
        f"-i{load.protocol}",
        *([f"--shape={load.shape}"] if load.shape else []),
        *_shared(load),
        *(["--streaming", "--async"] if load.streaming else []),
        f"--concurrency-range={load.concurrency}",
        f"--measurement-interval={int(load.seconds * 1000 / 3)}",
        "--max-trials=6",
        "--stability-percentage=99999",
    ]


def _shared(load: Load) -> list[str]:
    if not load.shared_nbytes:
        return []
    return ["--shared-memory=system", f"--output-shared-memory-size={load.shared_nbytes}"]


_ATTEMPTS = 4


def _number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"perf_analyzer printed no {pattern}:\n{text[-2000:]}")
    return float(match[1])


def measure(oracle: Oracle, server: Server, load: Load) -> Window:
    """One run of perf_analyzer against a server that runs."""
    # Between windows its main thread sorts out the records of requests in quadratic time while its workers add new
    # ones. Beyond some 25,000 infer/s it may never catch up (the server goes on answering): the run is taken again.
    for _ in range(_ATTEMPTS - 1):
        try:
            return _measure_once(oracle, server, load)
        except subprocess.TimeoutExpired as problem:
            print(f"perf_analyzer did not end within {problem.timeout:g} s, once more with shorter windows")
            load = dataclasses.replace(load, seconds=load.seconds / 2)
    return _measure_once(oracle, server, load)


def _measure_once(oracle: Oracle, server: Server, load: Load) -> Window:
    command, model = _command(oracle, load), load.model
    counted = inference_count(server, model)
    ticks = cpu_ticks(server.process.pid)
    done = subprocess.run(
        command,
        env=oracle.perf_env(),
        capture_output=True,
        text=True,
        timeout=10 + 6 * load.seconds,
        check=False,
    )
    ticks = cpu_ticks(server.process.pid) - ticks
    counted = inference_count(server, model) - counted
    text = done.stdout + done.stderr
    if done.returncode or not counted:
        raise RuntimeError(f"perf_analyzer failed on {server.name}:\n{text[-2000:]}")
    return Window(
        infer_per_s=_number(r"Throughput: ([\d.]+) infer/sec", text),
        p50_us=_number(r"p50 latency: (\d+) usec", text),
        p99_us=_number(r"p99 latency: (\d+) usec", text),
        cpu_us=ticks * CPU_TICK_US / counted,
    )


def inference_count(server: Server, model: str) -> int:
    """Inferences of a model so far, warm-up of perf_analyzer included, as the server counts them."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=10) as reply:
        return int(json.load(reply)["model_stats"][0]["inference_count"])
