"""Server on a GPU ÷ the bare engine on the same GPU, in one run: saturation, Poisson arrivals, latency, memory paths.

`python -m bench.gpu` writes bench/results/gpu.{md,json} and a timeline. `--device cpu` runs all that needs no GPU, with
the MLP alone, to try the benchmark itself; it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import uvloop

from bench.e2e.report import header, table
from triton_async.core.server import InferenceServer

from . import bare, network, timeline
from .load import highest_rate, poisson, saturate, warm_up
from .models import MLP, RESNET50, Subject, write
from .serving import MEMORY, request_maker, running
from .watch import Utilisation

Row = dict[str, Any]
# Requests that are out at a time to keep two slots full.
_OUTSTANDING_BATCHES = 6
_INSTANCES = 1
# In the server's own process, and by clients over gRPC.
_PARTS = ("server", "network")
# A single row may take so many times what the bare engine takes for the largest batch: it waits for one, at most, and
# runs in the next.
_BOUND_SERVICE_TIMES = 2
_RELOADS, _WARM_RELOADS = 100, 5
_WARM_BATCHES = 20
_GATHER = 4
_NS_PER_US = 1000
_PHASES = ("success", "queue", "compute_input", "compute_infer", "compute_output")


async def _saturation(subject: Subject, options: argparse.Namespace, memory: str) -> list[Row]:
    """Whole batches from clients, so that batching costs nothing: what dispatch and copies take."""
    rows = []
    for batch_size in subject.batch_sizes:
        alone_on = bare.resident if memory == "device" else bare.copied
        base = alone_on(subject, options.device, batch_size, options.seconds)
        async with _serving(subject, options, batch_size) as server:
            make = request_maker(subject, batch_size, options.device, memory)
            await warm_up(server, (make() for _ in range(_WARM_BATCHES)))
            with Utilisation() as gpu:
                reached = await saturate(server, make, batch_size, _OUTSTANDING_BATCHES, options.seconds)
        rows.append({
            "measure": "saturation", "model": subject.name, "batch": batch_size, "memory": memory,
            "rows_per_s": reached.rows_per_s, "bare_rows_per_s": base.rows_per_s,
            "ratio": reached.rows_per_s / base.rows_per_s, "gpu_utilisation": gpu.mean,
            "p99_us": reached.p99_us,
        })  # fmt: skip
        print(rows[-1])
    return rows


async def _latency(subject: Subject, options: argparse.Namespace, memory: str, busy_wait: bool) -> Row:
    """One row at a time: what the server adds to the bare engine, and in which phase."""
    alone_on = bare.resident if memory == "device" else bare.copied
    base = alone_on(subject, options.device, 1, options.seconds)
    async with _serving(subject, options, 1, busy_wait=busy_wait) as server:
        make = request_maker(subject, 1, options.device, memory)
        await warm_up(server, (make() for _ in range(_WARM_BATCHES)))
        before = _phases_ns(server, subject.name)
        alone = await saturate(server, make, 1, 1, options.seconds)
        after = _phases_ns(server, subject.name)
    count = after["success"][0] - before["success"][0]
    phases = {name: (after[name][1] - before[name][1]) / count / _NS_PER_US for name in after}
    row = {
        "measure": f"one at a time, {'spinning' if busy_wait else 'sleeping'}", "model": subject.name, "batch": 1,
        "memory": memory, "added_latency_us": alone.p50_us - base.latency_us, "p99_us": alone.p99_us,
        "rows_per_s": alone.rows_per_s, "bare_rows_per_s": 1e6 / base.latency_us, "phases_us": phases,
    }  # fmt: skip
    print(row)
    return row


def _phases_ns(server: InferenceServer, name: str) -> dict[str, tuple[int, int]]:
    found = server.statistics(name)[0]["inference_stats"]
    return {key: (int(value["count"]), int(value["ns"])) for key, value in found.items() if key in _PHASES}


async def _arrivals(subject: Subject, options: argparse.Namespace, memory: str, gather: int = 0) -> Row:
    """Single rows at random times: the share of the bare engine that a latency bound leaves."""
    batch_size = subject.batch_sizes[-1]
    base = bare.resident(subject, options.device, batch_size, options.seconds)
    bound_us = _BOUND_SERVICE_TIMES * base.latency_us
    async with _serving(subject, options, batch_size, gather=gather) as server:
        make = request_maker(subject, 1, options.device, memory)
        sizes = range(1, batch_size + 1)
        await warm_up(server, [request_maker(subject, rows, options.device, memory)() for rows in sizes])
        await poisson(server, make, base.rows_per_s / 10, options.seconds / 4)
        best = await highest_rate(server, make, base.rows_per_s, bound_us, options.seconds)
    how = "gather kernel" if gather else "a copy each"
    row = {
        "measure": f"Poisson arrivals, p99 within {bound_us:.0f} µs, {how}", "model": subject.name, "batch": batch_size,
        "memory": memory, "rows_per_s": best.rows_per_s, "bare_rows_per_s": base.rows_per_s,
        "ratio": best.rows_per_s / base.rows_per_s, "p99_us": best.p99_us,
    }  # fmt: skip
    print(row)
    return row


async def _timeline(subject: Subject, options: argparse.Namespace, path: Path) -> Row:
    """Which part of the copies runs beside kernels."""
    batch_size = subject.batch_sizes[-1]
    async with _serving(subject, options, batch_size) as server:
        make = request_maker(subject, batch_size, options.device, "host")
        await warm_up(server, (make() for _ in range(_WARM_BATCHES)))
        drawn = await timeline.record(lambda: saturate(server, make, batch_size, _OUTSTANDING_BATCHES, 0.5))
    timeline.draw(drawn, path)
    return {
        "measure": "copies beside kernels", "model": subject.name, "batch": batch_size, "memory": "pinned",
        "ratio": drawn.overlapped(),
    }  # fmt: skip


async def _reloads(subject: Subject, options: argparse.Namespace) -> Row:
    """What a hundred loads and unloads leave on the device."""
    batch_size = subject.batch_sizes[-1]
    used = []
    async with _serving(subject, options, batch_size, "--model-control-mode=explicit", "--load-model=*") as server:
        make = request_maker(subject, batch_size, options.device, "host")
        started = 0.0
        for turn in range(_WARM_RELOADS + _RELOADS):
            if turn == _WARM_RELOADS:
                started = time.perf_counter()
            await server.unload_model(subject.name)
            await server.load_model(subject.name)
            await server.infer(make())
            used.append(_used_nbytes())
    reload_ms = (time.perf_counter() - started) * 1e3 / _RELOADS
    growth = used[-1] - used[_WARM_RELOADS - 1]
    row = {"measure": f"{_RELOADS} reloads, {reload_ms:.0f} ms each: {growth / (1 << 20):+.1f} MiB on the device",
           "model": subject.name, "batch": batch_size}  # fmt: skip
    print(row)
    return row


def _used_nbytes() -> int:
    free, total = torch.cuda.mem_get_info(0)
    return int(total - free)


def _over_the_network(rows: list[Row], subject: Subject, options: argparse.Namespace) -> None:
    """The same batches over gRPC, in the messages and in CUDA shared memory."""
    batch_size = subject.batch_sizes[-1]
    base = 0.0
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write(subject, repository, options.device, max_batch_size=batch_size, instances=_INSTANCES)
        with network.served(repository) as port:
            for how in (network.BODY, network.REGION):
                reached = network.rows_per_s(network.Clients(
                    port, subject.name, subject.dims, subject.outputs, how, batch_size, options.clients,
                    options.seconds,
                ))  # fmt: skip
                rows.append({
                    "measure": f"gRPC, {how}", "model": subject.name, "batch": batch_size,
                    "rows_per_s": reached, "ratio": reached / base if base else 1.0,
                })  # fmt: skip
                base = base or reached
                print(rows[-1])


def _serving(  # type: ignore[no-untyped-def]
    subject: Subject, options: argparse.Namespace, max_batch_size: int, *flags: str, **more: Any
):
    def repository(root: Path) -> None:
        write(subject, root, options.device, max_batch_size=max_batch_size, instances=_INSTANCES, **more)

    return running(repository, *flags)


async def _in_process(rows: list[Row], subjects: list[Subject], options: argparse.Namespace) -> None:
    for subject in subjects:
        for memory in MEMORY if options.device != "cpu" else MEMORY[:1]:
            rows += await _saturation(subject, options, memory)
            rows += [await _latency(subject, options, memory, busy_wait) for busy_wait in (False, True)]
            rows.append(await _arrivals(subject, options, memory))
        if options.device != "cpu":
            rows.append(await _arrivals(subject, options, "device", gather=_GATHER))
        if options.device != "cpu":
            rows.append(await _timeline(subject, options, options.out.with_name(f"gpu-timeline-{subject.name}.png")))
            rows.append(await _reloads(subject, options))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cuda:0 (default), or cpu to try the benchmark itself")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default: 2)")
    parser.add_argument("--clients", type=int, default=8, help="client processes of the runs over gRPC (default: 8)")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (default: all)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu"), help="path without ending")
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    if on_gpu and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu tries the benchmark itself")
    subjects = [RESNET50, MLP] if on_gpu else [replace(MLP, half=False)]
    # The loop and the instances share the GIL: an instance that asks for it gets it soon.
    sys.setswitchinterval(2e-5)
    rows: list[Row] = []
    try:
        if "server" in options.parts:
            uvloop.run(_in_process(rows, subjects, options))
        for subject in subjects if on_gpu and "network" in options.parts else ():
            _over_the_network(rows, subject, options)
    finally:
        # What was measured before something failed is worth keeping.
        if on_gpu and rows:
            _save(rows, options.out)


def _save(rows: list[Row], out: Path) -> None:
    device = torch.cuda.get_device_properties(0)
    head = {**header(), "gpu": device.name, "torch": torch.__version__, "cuda": torch.version.cuda}
    keys = ("measure", "model", "batch", "memory", "rows_per_s", "bare_rows_per_s", "ratio", "p99_us",
            "added_latency_us", "gpu_utilisation")  # fmt: skip
    cells = [[_cell(row.get(key)) for key in keys] for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({**head, "rows": rows}, indent=1, default=asdict) + "\n")
    out.with_suffix(".md").write_text(
        f"# Server on a GPU against the bare engine\n\n{device.name}, torch {torch.__version__} · {head['date']} · "
        f"commit {head['commit']}\n\n{table(keys, cells)}\n"
    )


def _cell(value: object) -> object:
    return "" if value is None else round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
