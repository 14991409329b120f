"""Latency and number of replicas at 10, 100 and 1,000 of them: python -m bench.simulate [calibrate] [validate] [scale].

`calibrate` measures one replica with a real server, `validate` compares the simulation with such a server at several
loads, `scale` simulates many. All three by default; each takes what an earlier one has left in --out. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.e2e import report

from . import draw, experiments, measure

_STEPS = ("calibrate", "validate", "scale")
_ERRORS = ("load", "", "mean ms", "p50 ms", "p99 ms", "rows per batch")


def _percent(simulated: float, measured: float) -> str:
    return f"{simulated / measured - 1:+.0%}"


def _validation(rows: list[dict[str, Any]]) -> str:
    table = []
    for row in rows:
        fields = ("mean_ms", "p50_ms", "p99_ms", "rows")
        for kind in ("measured", "simulated"):
            table.append((row["load"], kind, *(f"{row[kind][field]:.2f}" for field in fields)))
        errors = (_percent(row["simulated"][field], row["measured"][field]) for field in fields)
        table.append(("", "error", *errors))
    return report.table(_ERRORS, table)


def _table(rows: list[dict[str, Any]]) -> str:
    columns = tuple(rows[0])
    return report.table(columns, [tuple(str(row[column]) for column in columns) for row in rows])


def _text(kept: dict[str, Any]) -> str:
    replica, head = kept["replica"], kept["header"]
    times = ", ".join(f"{1e3 * one:.2f}" for one in replica["times_s"])
    parts = [
        "# Simulation of many replicas\n",
        f"`{head['command']}`, {head['date']}, {head['commit']}; {head['machine']['cpu']}, "
        f"{head['machine']['cores']} cores, load {head['machine']['load']} before.\n",
        f"Model `{kept['model']}`: {times} ms for batches of 1 to {replica['max_batch']}, spread "
        f"{replica['spread']:.2f}, {1e3 * replica['gap_s']:.2f} ms between executions, "
        f"{1e3 * replica['outside_s']:.2f} ms around them; ready in {replica['start_s']:.1f} s.\n",
    ]
    if "validation" in kept:
        parts += ["## One replica: simulated against measured\n", _validation(kept["validation"])]
    if "balance" in kept:
        parts += ["\n## How requests are spread: p99 in ms\n", _table(kept["balance"])]
        parts += ["\n## A load that trebles within a minute\n", _table(kept["surge"])]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Runs the steps that are asked for, and writes tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="step", help="of calibrate, validate, scale")
    parser.add_argument("--model", default="waits", choices=("waits", "small"), help="small needs a quiet machine")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulated requests")
    parser.add_argument("--out", type=Path, default=Path("bench/results/simulate"))
    options = parser.parse_args()
    steps = options.steps or list(_STEPS)
    if unknown := set(steps) - set(_STEPS):
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    path = options.out.with_suffix(".json")
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if "calibrate" in steps or "validate" in steps:
        with measure.subject(options.model) as (subject, start_s):
            if "calibrate" in steps:
                kept["replica"] = measure.as_json(measure.calibrate(subject, start_s, options.seconds))
                kept["model"], kept["header"] = options.model, report.header()
                kept["header"]["command"] = " ".join(["python -m bench.simulate", *options.steps])
            if "validate" in steps:
                replica = measure.from_json(kept["replica"])
                kept["validation"] = experiments.validation(subject, replica, options.seconds)
                draw.validation(kept["validation"], options.out.with_name(f"{options.out.name}-one.svg"))
    if "scale" in steps:
        replica = measure.from_json(kept["replica"])
        kept["balance"] = experiments.balance(replica, options.quick)
        draw.balance(kept["balance"], options.out.with_name(f"{options.out.name}-balance.svg"))
        kept["surge"], lines = experiments.surge(replica, options.quick)
        draw.surge(lines, options.out.with_name(f"{options.out.name}-surge.svg"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(_text(kept))
    print(_text(kept))


if __name__ == "__main__":
    main()
