"""The engine alone: the same module in a loop without a server, which is what the server is held against."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .models import Subject, scripted

_WARM_UP = 20


@dataclass(frozen=True)
class Rate:
    """Rows per second at one batch size; `latency_us`: one run at a time, the median."""

    batch_size: int
    rows_per_s: float
    latency_us: float


def resident(subject: Subject, device: str, batch_size: int, seconds: float) -> Rate:
    """Inputs and outputs stay on the device; runs queue up behind each other."""
    module = scripted(subject, device)
    rows = _rows(subject, device, batch_size)
    return _measure(batch_size, seconds, lambda: module(rows))


def copied(subject: Subject, device: str, batch_size: int, seconds: float) -> Rate:
    """Inputs come from pinned memory and outputs go there, on one stream: a plain torch loop."""
    module = scripted(subject, device)
    pinned = device != "cpu"
    host = _rows(subject, "cpu", batch_size, half=subject.half and pinned)
    result = torch.empty((batch_size, subject.outputs), dtype=host.dtype)
    if pinned:
        host, result = host.pin_memory(), result.pin_memory()

    def once() -> None:
        result.copy_(module(host.to(device, non_blocking=True)), non_blocking=True)

    return _measure(batch_size, seconds, once)


def _rows(subject: Subject, device: str, batch_size: int, half: bool | None = None) -> torch.Tensor:
    half = subject.half and device != "cpu" if half is None else half
    return torch.rand((batch_size, *subject.dims), device=device).to(torch.float16 if half else torch.float32)


def _measure(batch_size: int, seconds: float, once) -> Rate:  # type: ignore[no-untyped-def]
    with torch.inference_mode(), _unoptimised():
        for _ in range(_WARM_UP):
            once()
        _synchronize()
        latencies = []
        until = time.perf_counter() + seconds / 2
        while not latencies or time.perf_counter() < until:
            started = time.perf_counter()
            once()
            _synchronize()
            latencies.append(time.perf_counter() - started)
        latencies.sort()
        median = latencies[len(latencies) // 2]
        runs = max(int(seconds / 2 / median), 1)
        started = time.perf_counter()
        for _ in range(runs):
            once()
        _synchronize()
        elapsed = time.perf_counter() - started
    return Rate(batch_size, runs * batch_size / elapsed, median * 1e6)


@contextmanager
def _unoptimised() -> Iterator[None]:
    """As the models of `models.write` are run; of this thread."""
    torch._C._set_graph_executor_optimize(False)
    try:
        yield
    finally:
        torch._C._set_graph_executor_optimize(True)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
