"""What the GPU did while the server ran: copies and kernels from torch's profiler, as a picture and as a share."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import torch

# (start, end) in microseconds
Interval = tuple[float, float]
_LANES = ("copy in", "kernels", "copy out")
_COLOURS = {"copy in": (66, 133, 244), "kernels": (52, 168, 83), "copy out": (251, 140, 0)}
_WIDTH, _LANE_HEIGHT, _MARGIN = 1400, 60, 90


@dataclass(frozen=True)
class Timeline:
    """Intervals per lane, sorted."""

    lanes: dict[str, list[Interval]]

    def overlapped(self) -> float | None:
        """Share of the time of copies during which a kernel ran; None when nothing was copied."""
        kernels = _merged(self.lanes["kernels"])
        copies = _merged(self.lanes["copy in"] + self.lanes["copy out"])
        total = sum(end - start for start, end in copies)
        return sum(_common(copy, kernels) for copy in copies) / total if total else None


async def record(run: Callable[[], Awaitable[object]]) -> Timeline:
    """Runs the coroutine under the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        await run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return parse(json.loads(path.read_text()))


def parse(trace: dict) -> Timeline:  # type: ignore[type-arg]
    """The lanes of a Chrome trace with categories `kernel` and `gpu_memcpy`."""
    lanes: dict[str, list[Interval]] = {name: [] for name in _LANES}
    for event in trace["traceEvents"]:
        if event.get("ph") != "X":
            continue
        interval = (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        if event.get("cat") == "kernel":
            lanes["kernels"].append(interval)
        elif event.get("cat") == "gpu_memcpy":
            lane = "copy in" if "HtoD" in event["name"] else "copy out" if "DtoH" in event["name"] else "kernels"
            lanes[lane].append(interval)
    return Timeline({name: sorted(found) for name, found in lanes.items()})


def draw(timeline: Timeline, path: Path, window_us: float = 20_000.0) -> None:
    """A PNG of `window_us` from the middle of the record."""
    from PIL import Image, ImageDraw

    every = [interval for found in timeline.lanes.values() for interval in found]
    if not every:
        return
    first, last = min(start for start, _ in every), max(end for _, end in every)
    begin = first + max(last - first - window_us, 0) / 2
    scale = (_WIDTH - _MARGIN - 10) / window_us
    image = Image.new("RGB", (_WIDTH, _LANE_HEIGHT * len(_LANES) + 40), "white")
    pen = ImageDraw.Draw(image)
    for row, name in enumerate(_LANES):
        top = row * _LANE_HEIGHT + 10
        pen.text((8, top + 15), name, fill="black")
        for start, end in timeline.lanes[name]:
            if begin <= end and start <= begin + window_us:
                left = _MARGIN + max(start - begin, 0) * scale
                right = max(_MARGIN + min(end - begin, window_us) * scale, left + 1)
                pen.rectangle((left, top, right, top + _LANE_HEIGHT - 20), fill=_COLOURS[name])
    for tick in range(6):
        x = _MARGIN + tick * window_us / 5 * scale
        pen.text((x, _LANE_HEIGHT * len(_LANES) + 15), f"{tick * window_us / 5000:g} ms", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _merged(intervals: list[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _common(interval: Interval, others: list[Interval]) -> float:
    return sum(max(min(interval[1], end) - max(interval[0], start), 0.0) for start, end in others)
