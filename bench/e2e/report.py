"""Turns measurements into a JSON document and a markdown table."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .perf import Window

# (server, protocol, concurrency) -> the windows of all rounds
Results = dict[tuple[str, str, int], list[Window]]
# Before the run: what others do on the machine weighs on the servers unequally.
_LOAD = round(os.getloadavg()[0], 1)
_FIELDS = ("infer_per_s", "p50_us", "p99_us", "cpu_us")
# Columns of a comparison, and the keys of `medians` that fill them.
COLUMNS = {
    "protocol": "protocol",
    "concurrency": "concurrency",
    "server": "server",
    "infer/s": "infer_per_s",
    "p50 us": "p50_us",
    "p99 us": "p99_us",
    "server CPU us/infer": "cpu_us",
    "infer/s vs first": "ratio",
    "p99 vs first": "p99_ratio",
    "CPU vs first": "cpu_ratio",
}


def machine() -> dict[str, Any]:
    """CPU model, number of cores that this process may use, and how busy they are."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    model = names[0].split(":", 1)[1].strip() if names else platform.processor()
    return {"cpu": model, "cores": cores, "load": _LOAD, "python": platform.python_version()}


def commit() -> str:
    """The commit that is checked out, marked when the tree differs from it."""
    try:
        run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"


def header() -> dict[str, Any]:
    """Where, when and how a measurement was made."""
    now = datetime.datetime.now(datetime.UTC)
    module = Path(sys.argv[0]).stem.removeprefix("__main__")
    command = " ".join([f"python -m bench.e2e{'.' if module else ''}{module}", *sys.argv[1:]])
    return {"machine": machine(), "date": f"{now:%Y-%m-%d}", "commit": commit(), "command": command}


def medians(results: Results) -> list[dict[str, Any]]:
    """One row per server, protocol and concurrency; the ratios are to the first server's medians."""
    rows = []
    first = next(iter(results))[0]
    for (server, protocol, concurrency), windows in results.items():
        row: dict[str, Any] = {"server": server, "protocol": protocol, "concurrency": concurrency}
        for field in _FIELDS:
            row[field] = round(statistics.median(getattr(window, field) for window in windows), 1)
        row["rounds"] = [round(window.infer_per_s, 1) for window in windows]
        for field, ratio in (("infer_per_s", "ratio"), ("p99_us", "p99_ratio"), ("cpu_us", "cpu_ratio")):
            base = statistics.median(getattr(window, field) for window in results[first, protocol, concurrency])
            row[ratio] = round(row[field] / base, 3) if base else ""
        rows.append(row)
    return rows


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def save_comparison(title: str, out: Path, results: Results, note: str = "") -> str:
    """`save` of the medians of a comparison."""
    return save(title, out, tuple(COLUMNS), tuple(COLUMNS.values()), medians(results), note=note)


def save(
    title: str, out: Path, columns: Sequence[str], keys: Sequence[str], rows: list[dict[str, Any]], *, note: str = ""
) -> str:
    """Writes `out`.json and `out`.md, with a note below the table; returns the markdown."""
    head = header()
    body = table(columns, [[row.get(key, "") for key in keys] for row in rows])
    where = f"{head['machine']['cpu']}, {head['machine']['cores']} cores, load before {head['machine']['load']}"
    text = f"# {title}\n\n{where} · {head['date']} · commit {head['commit']}\n\n`{head['command']}`\n\n{body}\n"
    if note:
        text += f"\n{note}\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    out.with_suffix(".md").write_text(text)
    return text
