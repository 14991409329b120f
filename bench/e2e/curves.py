"""Throughput and latency of fixed delays, none, and the one that the server finds: python -m bench.e2e.curves.

Models, each loaded once for every setting; clients that ask again at once, arrivals at random, and in bursts. One
picture for each model. Of transformers both ways to batch requests of unequal lengths: equal ones only, and padded.
What is measured is kept beside the report until that is written: a run that was broken off goes on where it was.
Needs matplotlib (pip install --group bench).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.conformance import servers
from tests.conformance.servers import Server

from . import curves_models, report
from .curves_load import Load, Measured
from .curves_models import KINDS, PADDED, Kind

_LOADS = (0.1, 0.4, 0.7, 0.9)  # shares of the rate that many clients reach without a delay
_BURST = 8
_ATTEMPTS = 3
# Arrivals that a window has at least, as far as that takes no longer than so many seconds.
_LEAST_ARRIVALS, _LONGEST_S = 32, 8.0
_ARRIVALS = ("clients", "at random", f"in bursts of {_BURST}")
_COLUMNS = ("model", "arrivals", "load", "setting", "infer/s", "mean ms", "p50 ms", "p99 ms", "rows per batch", "")
_KEYS = ("model", "arrivals", "load", "setting", "per_s", "mean_ms", "p50_ms", "p99_ms", "rows", "remark")
_NOTE = (
    "One instance on one thread; the load, one thread too, has the other processor. `load`: clients, or the share of "
    "the rate that the most clients reach without a delay, padded or not. Latencies of arrivals are from when they "
    "were due. Medians of windows that the settings take in turns. What does not keep up with its arrivals is marked. "
    "Below, the delay that the server finds against the best fixed one of each load: 1.05 is five in a hundred better, "
    "0.95 as much worse."
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


class _Kept:
    """What was measured so far, in a file. Measurements of another kind are not gone on with."""

    def __init__(self, path: Path, how: dict[str, Any]) -> None:
        self._path, self._how = path, how
        self.rows: list[dict[str, Any]] = []
        self.most: dict[str, float] = {}
        if path.exists():
            found = json.loads(path.read_text())
            if found["how"] == how:
                self.rows, self.most = found["rows"], found["most"]
                print(f"goes on behind {len(self.rows)} rows of {path}", flush=True)

    def has(self, *key: str) -> bool:
        """Whether the point of this model, these arrivals and this load is there."""
        return any((row["model"], row["arrivals"], row["load"]) == key for row in self.rows)

    def save(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"how": self._how, "rows": self.rows, "most": self.most}))
        new.replace(self._path)

    def done(self) -> None:
        self._path.unlink(missing_ok=True)


class _Runs:
    """Measures one kind of model on a server that is there."""

    def __init__(
        self, server: Server, kind: Kind, options: argparse.Namespace, pool: ProcessPoolExecutor, kept: _Kept
    ) -> None:
        self._server, self._kind, self._pool, self._kept = server, kind, pool, kept
        self._rounds, self._quick = options.rounds, options.quick
        self._seconds = options.seconds * kind.longer
        self._settings = curves_models.settings(kind)

    def measure(self, setting: str, arrivals: str, load: float, seconds: float) -> Measured:
        model = curves_models.model_name(self._kind, setting)
        requests = curves_models.requests(self._kind, "data" if self._kind.name == "resnet" else "INPUT", model)
        port = self._server.http_port
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._pool.submit(_drive, port, requests, seconds, arrivals, load).result()
            except (RuntimeError, OSError) as problem:
                seconds *= 2
                print(f"{model}, {arrivals}, {load:g}: {problem}; once more, for {seconds:g} s", flush=True)
        return self._pool.submit(_drive, port, requests, seconds, arrivals, load).result()

    def point(self, arrivals: str, loads: dict[str, float], shown: str) -> None:
        """All settings in turns; `loads` by their ways."""
        if self._kept.has(self._kind.name, arrivals, shown):
            return
        names = list(self._settings)
        found: dict[str, list[Measured]] = {name: [] for name in names}
        before = {name: _counts(self._server, curves_models.model_name(self._kind, name)) for name in names}
        for number in range(self._rounds):
            first = number * len(names) // self._rounds
            for name in names[first:] + names[:first]:
                load, seconds = loads[self._settings[name].way], self._seconds
                if arrivals != _ARRIVALS[0]:
                    seconds = max(seconds, min(_LEAST_ARRIVALS / load, _LONGEST_S))
                found[name].append(self.measure(name, arrivals, load, seconds))
        for name, windows in found.items():
            rows, executions = _counts(self._server, curves_models.model_name(self._kind, name))
            rows, executions = rows - before[name][0], executions - before[name][1]
            row: dict[str, Any] = {"model": self._kind.name, "arrivals": arrivals, "load": shown, "setting": name}
            row |= {
                field: round(statistics.median(getattr(window, field) for window in windows), digits)
                for field, digits in (("per_s", 1), ("mean_ms", 3), ("p50_ms", 3), ("p99_ms", 3))
            }
            late = sum(not window.kept_up for window in windows)
            row |= {
                "rows": round(rows / max(executions, 1), 2),
                "remark": "does not keep up" if 2 * late > len(windows) else "",
            }
            self._kept.rows.append(row)
            print(" ".join(str(value) for value in row.values()), flush=True)
        self._kept.save()

    def all_points(self) -> None:
        """Clients, then arrivals at shares of what the most clients reach."""
        for setting in self._settings:
            self.measure(setting, _ARRIVALS[0], 4, min(self._seconds, 1.0))  # warm up
        most = {way: self._most(way) for way in self._kind.ways}
        for clients in self._kind.closed[:: 2 if self._quick else 1]:
            self.point(_ARRIVALS[0], dict.fromkeys(most, clients), str(clients))
        for arrivals in _ARRIVALS[1:]:
            for share in _LOADS[:: 2 if self._quick else 1]:
                self.point(arrivals, {way: share * rate for way, rate in most.items()}, f"{share:.0%}")

    def _most(self, way: str) -> float:
        name = f"none {way}" if way else "none"
        key = curves_models.model_name(self._kind, name)
        if key not in self._kept.most:
            windows = [self.measure(name, _ARRIVALS[0], self._kind.closed[-1], self._seconds).per_s for _ in range(3)]
            self._kept.most[key] = statistics.median(windows)
        return self._kept.most[key]


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
            look |= {"markersize": 3, "linestyle": "--" if setting.endswith(PADDED) else "-"}
            rates, tails = ([row[field] for row in points] for field in ("per_s", "p99_ms"))
            place.plot(rates, tails, label=setting, linewidth=2 if automatic else 1.2, **look)
            place.plot(rates, [row["mean_ms"] for row in points], linewidth=0.6, **{**look, "linestyle": ":"})
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


def _groups(rows: Sequence[dict[str, Any]], *fields: str) -> Iterator[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    for key in dict.fromkeys(tuple(row[field] for field in fields) for row in rows):
        yield key, [row for row in rows if tuple(row[field] for field in fields) == key]


def _is_padded(row: dict[str, Any]) -> bool:
    return bool(row["setting"].endswith(f" {PADDED}"))


def against_best(rows: Sequence[dict[str, Any]]) -> str:
    """The automatic delay against the best fixed one, for each load and way to batch."""
    found = []
    for key, points in _groups(rows, "model", "arrivals", "load"):
        for auto in [row for row in points if row["setting"].startswith("auto")]:
            fixed = [row for row in points if _is_padded(row) == _is_padded(auto) and row is not auto]
            per_s = auto["per_s"] / max(row["per_s"] for row in fixed)
            means, tails = ([row[field] for row in fixed] for field in ("mean_ms", "p99_ms"))
            found.append((*key, auto["setting"], f"{per_s:.2f}", f"{min(means) / auto['mean_ms']:.2f}",
                          f"{min(tails) / auto['p99_ms']:.2f}"))  # fmt: skip
    columns = ("model", "arrivals", "load", "setting", "infer/s ÷ best", "best mean ÷", "best p99 ÷")
    return report.table(columns, found)


def padded_against_equal(rows: Sequence[dict[str, Any]]) -> str:
    """What requests of unequal lengths in a batch are good for: the most that either way answers within a p99."""
    found = []
    for (model, arrivals), points in _groups(rows, "model", "arrivals"):
        ways = {padded: [row for row in points if _is_padded(row) == padded and not row["remark"]]
                for padded in (False, True)}  # fmt: skip
        if not all(ways.values()):
            continue
        for bound_ms in sorted({min(row["p99_ms"] for row in equal) for _, equal in _groups(ways[False], "load")}):
            rates = [
                max((row["per_s"] for row in ways[padded] if row["p99_ms"] <= bound_ms), default=0.0)
                for padded in (False, True)
            ]
            found.append((model, arrivals, f"{bound_ms:.2f}", *rates, f"{rates[1] / rates[0]:.2f}"))
    columns = ("model", "arrivals", "p99 ms, at most", "equal shapes, infer/s", "padded, infer/s", "times")
    return report.table(columns, found) if found else ""


def main() -> None:
    """Serves the models, one kind after the other, and writes tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each window; all take half an hour with 1.2")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each setting and load")
    parser.add_argument("--quick", action="store_true", help="one window each, half of the loads: 4 minutes")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--out", type=Path, default=Path("bench/results/curves"))
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    how = {"seconds": options.seconds, "rounds": options.rounds, "quick": options.quick}
    kept = _Kept(options.out.with_suffix(".part.json"), how)
    context = multiprocessing.get_context("spawn")
    kinds = [kind for kind in KINDS if options.only in kind.name]
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=context) as pool:
        for kind in kinds:
            repository = curves_models.write(Path(folder) / kind.name, kind)
            log = Path(folder) / f"{kind.name}.log"
            with servers.running("triton-async", servers.ours_command(repository), servers.ours_env(), log) as server:
                _Runs(server, kind, options, pool, kept).all_points()
    rows = [row for row in kept.rows if row["model"] in {kind.name for kind in kinds}]
    for (model,), measured in _groups(rows, "model"):
        draw(measured, model, options.out.with_name(f"{options.out.name}-{model}.svg"))
    tables = f"{against_best(rows)}\n\n{padded_against_equal(rows)}".rstrip()
    report.save("Delays of batches", options.out, _COLUMNS, _KEYS, rows, note=f"{_NOTE}\n\n{tables}")
    print(tables)
    kept.done()


if __name__ == "__main__":
    main()
