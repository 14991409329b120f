"""Throughput and latency of fixed delays, none, and the one that the server finds: python -m bench.e2e.curves.

Three models, each loaded once for every setting; clients that ask again at once, arrivals at random, and in bursts. One
picture for each model. Needs matplotlib (pip install --group bench).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.conformance import servers
from tests.conformance.servers import Server

from . import curves_models, report
from .curves_load import Load, Measured
from .curves_models import KINDS, Kind

_LOADS = (0.1, 0.4, 0.7, 0.9)  # shares of the rate that many clients reach without a delay
_BURST = 8
_ARRIVALS = ("clients", "at random", f"in bursts of {_BURST}")
_COLUMNS = ("model", "arrivals", "load", "setting", "infer/s", "mean ms", "p50 ms", "p99 ms", "rows per batch", "")
_KEYS = ("model", "arrivals", "load", "setting", "per_s", "mean_ms", "p50_ms", "p99_ms", "rows", "remark")
_NOTE = (
    "One instance on one thread; the load, one thread too, has the other processor. `load`: clients, or the share of "
    "the rate that the most clients reach without a delay. Latencies of arrivals are from when they were due. What "
    "does not keep up with its arrivals is marked. Below, the delay that the server finds against the best fixed one "
    "of each load: 1.05 is five in a hundred better, 0.95 as much worse."
)


def _drive(port: int, requests: list[bytes], seconds: float, kind: str, load: float) -> Measured:
    made = Load(port, requests, seconds)
    if kind == _ARRIVALS[0]:
        return made.closed(int(load))
    return made.open(load, 1 if kind == _ARRIVALS[1] else _BURST)


def _counts(server: Server, model: str) -> tuple[int, int]:
    """Rows and executions so far."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)["model_stats"][0]
    return found["inference_count"], found["execution_count"]


class _Runs:
    """Measures one kind of model on a server that is there."""

    def __init__(self, server: Server, kind: Kind, seconds: float, pool: ProcessPoolExecutor) -> None:
        self._server, self._kind, self._seconds, self._pool = server, kind, seconds, pool
        self.rows: list[dict[str, Any]] = []

    def measure(self, setting: str, arrivals: str, load: float, seconds: float) -> Measured:
        model = curves_models.model_name(self._kind, setting)
        requests = curves_models.requests(self._kind, self._input(), model)
        return self._pool.submit(_drive, self._server.http_port, requests, seconds, arrivals, load).result()

    def _input(self) -> str:
        return "data" if self._kind.name == "resnet" else "INPUT"

    def point(self, arrivals: str, load: float, shown: str) -> None:
        """All settings, one after the other."""
        for setting in curves_models.settings(self._kind):
            model = curves_models.model_name(self._kind, setting)
            before = _counts(self._server, model)
            found = self.measure(setting, arrivals, load, self._seconds)
            after = _counts(self._server, model)
            self.rows.append({
                "model": self._kind.name, "arrivals": arrivals, "load": shown, "setting": setting,
                "per_s": round(found.per_s, 1), "mean_ms": round(found.mean_ms, 3), "p50_ms": round(found.p50_ms, 3),
                "p99_ms": round(found.p99_ms, 3),
                "rows": round((after[0] - before[0]) / max(after[1] - before[1], 1), 2),
                "remark": "" if found.kept_up else "does not keep up",
            })  # fmt: skip
            print(" ".join(str(value) for value in self.rows[-1].values()), flush=True)

    def all_points(self, quick: bool) -> None:
        """Clients, then arrivals at shares of what the most clients reach."""
        for setting in curves_models.settings(self._kind):
            self.measure(setting, _ARRIVALS[0], 4, min(self._seconds, 1.0))  # warm up
        most = self.measure("none", _ARRIVALS[0], self._kind.closed[-1], self._seconds).per_s
        for clients in self._kind.closed[:: 2 if quick else 1]:
            self.point(_ARRIVALS[0], clients, str(clients))
        for arrivals in _ARRIVALS[1:]:
            for share in _LOADS[:: 2 if quick else 1]:
                self.point(arrivals, share * most, f"{share:.0%}")


def draw(rows: Sequence[dict[str, Any]], kind: str, path: Path) -> None:
    """Latency over throughput: p99 as lines, means as thin ones."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "curves"
    from matplotlib import pyplot

    figure, places = pyplot.subplots(1, len(_ARRIVALS), figsize=(11, 3.6), sharey=True, layout="constrained")
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    colours = pyplot.get_cmap("viridis", len(settings))
    for place, arrivals in zip(places, _ARRIVALS, strict=True):
        for number, setting in enumerate(settings):
            points = [row for row in rows if (row["arrivals"], row["setting"]) == (arrivals, setting)]
            automatic = setting.startswith("auto")
            look: dict[str, Any] = {"color": "crimson" if automatic else colours(number), "marker": "o"}
            look |= {"markersize": 3}
            rates, tails = ([row[field] for row in points] for field in ("per_s", "p99_ms"))
            place.plot(rates, tails, label=setting, linewidth=2 if automatic else 1.2, **look)
            place.plot(rates, [row["mean_ms"] for row in points], linewidth=0.6, linestyle=":", **look)
        place.set_title(arrivals, fontsize=9)
        place.set_xlabel("infer/s", fontsize=8)
        place.set_yscale("log")
        place.tick_params(labelsize=7)
        place.grid(True, which="both", linewidth=0.3)
    places[0].set_ylabel("ms: p99 (lines), mean (dots)", fontsize=8)
    places[0].legend(fontsize=7, title="delay", title_fontsize=7)
    figure.suptitle(f"{kind}: latency over throughput", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def against_best(rows: Sequence[dict[str, Any]]) -> str:
    """The automatic delay against the best fixed one, for each load."""
    found = []
    for key in dict.fromkeys((row["model"], row["arrivals"], row["load"]) for row in rows):
        points = [row for row in rows if (row["model"], row["arrivals"], row["load"]) == key]
        for auto in [row for row in points if row["setting"].startswith("auto")]:
            way = auto["setting"].removeprefix("auto")
            fixed = [row for row in points if row["setting"].endswith(way) and row is not auto]
            fixed = [row for row in fixed if way or row["setting"] == "none" or row["setting"].endswith(" ms")]
            per_s = auto["per_s"] / max(row["per_s"] for row in fixed)
            means, tails = ([row[field] for row in fixed] for field in ("mean_ms", "p99_ms"))
            found.append((*key, auto["setting"], f"{per_s:.2f}", f"{min(means) / auto['mean_ms']:.2f}",
                          f"{min(tails) / auto['p99_ms']:.2f}"))  # fmt: skip
    columns = ("model", "arrivals", "load", "setting", "infer/s ÷ best", "best mean ÷", "best p99 ÷")
    return report.table(columns, found)


def main() -> None:
    """Serves the models, one kind after the other, and writes tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.5, help="of each window; all take 13 minutes with 3.5")
    parser.add_argument("--quick", action="store_true", help="windows of 1 s, half of the loads: 3 minutes")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("bench/results/curves"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind in [kind for kind in KINDS if options.only in kind.name]:
            repository = curves_models.write(Path(folder) / kind.name, kind)
            log = Path(folder) / f"{kind.name}.log"
            with servers.running("triton-async", servers.ours_command(repository), servers.ours_env(), log) as server:
                seconds = 1.0 if options.quick else options.seconds
                runs = _Runs(server, kind, seconds * kind.longer, pool)
                runs.all_points(options.quick)
            rows += runs.rows
            draw(runs.rows, kind.name, options.out.with_name(f"{options.out.name}-{kind.name}.svg"))
    note = f"{_NOTE}\n\n{against_best(rows)}"
    report.save("Delays of batches", options.out, _COLUMNS, _KEYS, rows, note=note)
    print(against_best(rows))


if __name__ == "__main__":
    main()
