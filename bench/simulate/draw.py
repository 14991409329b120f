"""The pictures of the simulation, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "simulate"
    from matplotlib import pyplot

    return pyplot


def _finish(pyplot: Any, figure: Any, places: Sequence[Any], path: Path) -> None:
    for place in places:
        place.tick_params(labelsize=7)
        place.grid(True, which="both", linewidth=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def validation(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Latency and batch size over load, measured as points, simulated as lines."""
    pyplot = _pyplot()
    figure, places = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    loads = [float(row["load"].rstrip("%")) for row in rows]
    for field, colour in (("p99_ms", "crimson"), ("p50_ms", "steelblue"), ("mean_ms", "grey")):
        places[0].plot(loads, [row["simulated"][field] for row in rows], color=colour, linewidth=1.2)
        measured = [row["measured"][field] for row in rows]
        places[0].plot(loads, measured, "o", color=colour, markersize=4, label=field.removesuffix("_ms"))
    places[1].plot(loads, [row["simulated"]["rows"] for row in rows], color="black", linewidth=1.2, label="simulated")
    places[1].plot(loads, [row["measured"]["rows"] for row in rows], "o", color="black", markersize=4, label="measured")
    for place, text in zip(places, ("ms", "rows per batch"), strict=True):
        place.set_xlabel("load, % of capacity", fontsize=8)
        place.set_ylabel(text, fontsize=8)
        place.legend(fontsize=7)
    figure.suptitle("One replica: measured (points), simulated (lines)", fontsize=9)
    _finish(pyplot, figure, places, path)


def balance(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """p99 over load for each balancer, a panel for each number of replicas."""
    pyplot = _pyplot()
    counts = list(dict.fromkeys(row["replicas"] for row in rows))
    names = [name for name in rows[0] if name not in ("replicas", "load")]
    figure, places = pyplot.subplots(1, len(counts), figsize=(9, 3), sharey=True, layout="constrained")
    for place, count in zip(places, counts, strict=True):
        mine = [row for row in rows if row["replicas"] == count]
        loads = [float(row["load"].rstrip("%")) for row in mine]
        for name, colour in zip(names, ("grey", "steelblue", "crimson"), strict=True):
            place.plot(loads, [row[name] for row in mine], marker="o", markersize=3, color=colour, label=name)
        place.set_title(f"{count:,} replicas", fontsize=9)
        place.set_xlabel("load, % of capacity", fontsize=8)
        place.set_yscale("log")
    places[0].set_ylabel("p99, ms", fontsize=8)
    places[0].legend(fontsize=7, title="request goes to a replica", title_fontsize=7)
    _finish(pyplot, figure, places, path)


def surge(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Replicas and p99 over time, a column for each number of replicas."""
    pyplot = _pyplot()
    counts = list(dict.fromkeys(line["count"] for line in lines))
    figure, rows = pyplot.subplots(
        2, len(counts), figsize=(9, 5), sharex=True, sharey="row", squeeze=False, layout="constrained"
    )
    texts = list(dict.fromkeys(line["text"] for line in lines))
    colours = pyplot.get_cmap("viridis", len(texts))
    for column, count in enumerate(counts):
        for line in (one for one in lines if one["count"] == count):
            text = line["text"]
            colour = colours(texts.index(text))
            shares = [100 * ready / count for ready in line["ready"]]
            rows[0][column].plot(line["looks_s"], shares, color=colour, linewidth=1.2, label=text)
            tails = [tail / line["whole_s"] for tail in line["p99_s"]]
            rows[1][column].plot(line["at_s"], tails, color=colour, linewidth=1.2)
        rows[0][column].set_title(f"{count:,} replicas", fontsize=9)
        rows[1][column].set_xlabel("seconds", fontsize=8)
        rows[1][column].set_yscale("log")
    rows[0][0].set_ylabel("ready, % of what full batches need", fontsize=8)
    rows[1][0].set_ylabel("p99 ÷ one execution", fontsize=8)
    rows[0][0].legend(fontsize=6)
    _finish(pyplot, figure, [place for row in rows for place in row], path)
