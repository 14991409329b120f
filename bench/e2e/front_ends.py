"""A server with several front-end processes: python -m bench.e2e.front_ends [--front-ends 1 2 4] [--seconds 5], and
--connections 10000 for connections that stay open, --kill-seconds 300 for front-ends that are killed under load.

The load comes from the same machine, so what it takes is missing to the server: on few cores requests/s say little.
CPU per request of each process does not depend on it. From these the capacity follows: what the fullest process, each
of them one thread, could answer on a core of its own, where the front-ends share their part. That is the load
generator's cost taken out; it holds where there are cores for all processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .holds import HEAD, holds
from .load import Requests, require, wrk
from .perf import CPU_TICK_US, own_ticks

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / "system")]

import front_end_models  # noqa: E402
from front_end_processes import front_ends, wait_for_metric, wait_until_idle  # noqa: E402
from server_process import ServerProcess, poll, running_server  # noqa: E402

MODEL = "numbers"
ELEMENTS = 16


def rate(server: ServerProcess, count: int, folder: Path, seconds: float, concurrency: int) -> None:
    """One line of the table: a window of wrk."""
    script = Requests(folder, ELEMENTS).http()
    at = SimpleNamespace(http_port=int(server.http_url.rpartition(":")[2]))
    fronts = front_ends(server) if count > 1 else []
    wrk(at, MODEL, script, concurrency, 1)  # type: ignore[arg-type]
    before = [own_ticks(pid) for pid in (server.pid, *fronts)]
    answers, took_s, p50, p99 = wrk(at, MODEL, script, concurrency, seconds)  # type: ignore[arg-type]
    ticks = [own_ticks(pid) - old for pid, old in zip((server.pid, *fronts), before, strict=True)]
    model_us, *front_us = (one * CPU_TICK_US / answers for one in ticks)
    fullest_us = max(model_us, sum(front_us) / max(len(front_us), 1))
    print(
        f"| {count} | {answers / took_s:,.0f} | {p50:.0f} | {p99:.0f} | {model_us:.1f} | {sum(front_us):.1f} | "
        f"{model_us + sum(front_us):.1f} | {1e6 / fullest_us:,.0f} |",
        flush=True,
    )


async def hold(server: ServerProcess, connections: int) -> None:
    """So many connections, each of which asks once, and again when all are open."""
    host, _, port = server.http_url.partition(":")
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))

    for at in range(0, connections, 250):
        new = await asyncio.gather(*(
            asyncio.open_connection(host, int(port)) for _ in range(min(250, connections - at))
        ))  # fmt: skip
        await asyncio.gather(*(ask(*one) for one in new))
        opened += new
    begun = time.monotonic()
    for at in range(0, connections, 250):
        await asyncio.gather(*(ask(*one) for one in opened[at : at + 250]))
    shares = [len(os.listdir(f"/proc/{pid}/fd")) for pid in front_ends(server)]
    took_s = time.monotonic() - begun
    print(f"{connections} connections, descriptors of each front-end: {shares}; all asked once more in {took_s:.1f} s")
    for _, writer in opened:
        writer.close()


def kills(server: ServerProcess, seconds: float, clients: int) -> list[str]:
    """Kills front-ends at random under load. What went wrong."""
    outcomes: Counter[str] = Counter()
    away: list[float] = []
    end = time.monotonic() + seconds
    body = b'{"inputs":[{"name":"INPUT0","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'

    def ask() -> None:
        connection = http.client.HTTPConnection(server.http_url, timeout=10)
        while time.monotonic() < end:
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body)
                answer = connection.getresponse()
                right = b'"data":[1,2]' in answer.read().replace(b".0", b"")
                outcomes["right" if answer.status == 200 and right else f"wrong: {answer.status}"] += 1
            except TimeoutError:
                outcomes["wrong: no answer"] += 1
                connection.close()
            except (http.client.HTTPException, OSError):
                outcomes["broken off"] += 1
                connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    killed = 0
    while time.monotonic() < end - 2:
        time.sleep(random.uniform(0.3, 2.0))
        pids = front_ends(server)
        begun = time.monotonic()
        os.kill(random.choice(pids), signal.SIGKILL)
        killed += 1
        poll(lambda old=pids: len(set(front_ends(server)) - set(old)) > 0, "another one", 10)
        wait_for_metric(server, "triton_async_frontend_processes", len(pids))
        away.append(time.monotonic() - begun)
    for thread in threads:
        thread.join()
    print(f"{killed} front-ends killed in {seconds:g} s; requests: {dict(outcomes)}")
    print(
        f"another one listened after {statistics.median(away):.2f} s (median), {max(away):.2f} s (longest); "
        f"{sum(one > 1 for one in away)} took more than a second"
    )
    return [what for what in outcomes if what.startswith("wrong")]


def main() -> None:
    """Prints what was measured; fails when an answer was wrong or anything is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--front-ends", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--kill-seconds", type=float, default=0)
    options = parser.parse_args()
    require()
    if options.connections or options.kill_seconds:
        options.front_ends = [max(options.front_ends)]
    else:
        print("| front-ends | requests/s | p50 µs | p99 µs | models, µs/request | front-ends | all | capacity/s |")
        print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        front_end_models.build(folder / "models")
        for count in options.front_ends:
            with running_server([folder / "models"], folder, [f"--frontend-processes={count}"]) as server:
                run(server, count, folder, options)
                server.stop()


def run(server: ServerProcess, count: int, folder: Path, options: Any) -> None:
    """What was asked for."""
    if options.connections:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        asyncio.run(hold(server, options.connections))
    elif options.kill_seconds:
        kills(server, 3, 8)
        wait_until_idle(server)
        before = holds(server.pid)
        wrong, rows = [], [before.row("before")]
        for name in ("half way", "afterwards"):
            wrong += kills(server, options.kill_seconds / 2, 8)
            wait_until_idle(server)
            with contextlib.suppress(AssertionError):
                poll(lambda: holds(server.pid).same_as(before), "nothing to be left")
            after = holds(server.pid)
            rows.append(after.row(name))
        print(HEAD, *rows, sep="\n")
        if wrong or not after.same_as(before):
            raise SystemExit(f"wrong: {wrong}, or something is left")
    else:
        rate(server, count, folder, options.seconds, options.concurrency)


if __name__ == "__main__":
    main()
