"""Utilisation of a GPU while something runs, through NVML, where there is one."""

from __future__ import annotations

import statistics
import threading
from types import TracebackType

_INTERVAL_S = 0.1


class Utilisation:
    """`with Utilisation() as gpu: ...; gpu.mean` is the share of time a kernel ran, None without NVML."""

    def __init__(self, device: int = 0) -> None:
        self._device = device
        self._samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def mean(self) -> float | None:
        return statistics.mean(self._samples) / 100 if self._samples else None

    def __enter__(self) -> Utilisation:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(self._device)
        except Exception as problem:  # without NVML there is no figure, and that is all
            print(f"no GPU utilisation: {problem}")
            return
        while not self._stop.wait(_INTERVAL_S):
            self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        pynvml.nvmlShutdown()
