"""GPUs as NVML sees them, for the metrics: read on a thread of its own, every so often, never by a scrape.

NVML knows nothing of CUDA_VISIBLE_DEVICES and CUDA is not started for this, so the variable is read here. Nothing is
imported or loaded before the thread runs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from triton_async.core.families import Family
from triton_async.defines import GPU_POLL_MIN_S

log = logging.getLogger("triton_async.core")

# After so many failures in a row a field of a GPU is not asked for any more.
_FAILURES_MAX = 3

_FAMILIES = (
    ("nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0]"),
    ("nv_gpu_memory_total_bytes", "gauge", "GPU total memory, in bytes"),
    ("nv_gpu_memory_used_bytes", "gauge", "GPU used memory, in bytes"),
    ("nv_gpu_power_usage", "gauge", "GPU power usage, in watts"),
    ("nv_gpu_power_limit", "gauge", "GPU power management limit, in watts"),
    ("nv_energy_consumption", "counter", "GPU energy consumption since the server started, in joules"),
)


def load_nvml() -> Any:
    """The pynvml module, initialised. OSError when there is no driver, ImportError without the package."""
    # Tells that there is no GPU far sooner than the import, which holds up the threads that load models.
    ctypes.CDLL("libnvidia-ml.so.1")
    import pynvml

    pynvml.nvmlInit()
    return pynvml


@dataclass(slots=True)
class _Gpu:
    """One GPU under watch; `index` is CUDA's. Monitor thread; `values` are read by others, one at a time."""

    index: int
    handle: Any
    uuid: str
    values: dict[str, float | int] = field(default_factory=lambda: {family[0]: 0 for family in _FAMILIES})
    failures: dict[str, int] = field(default_factory=dict)
    first_energy_mj: int | None = None


class GpuMonitor:
    """Reads the GPUs every `interval_s`, or GPU_POLL_MIN_S if that is longer, until closed. `visible`:
    CUDA_VISIBLE_DEVICES, None when it is not set. `pci_bus_ids`: of the GPUs that are in use, by CUDA's index, once it
    was started; they tell better than the variable.

    Its methods are for any thread; `families` and `uuid` never block.
    """

    def __init__(
        self,
        interval_s: float,
        *,
        load: Callable[[], Any] = load_nvml,
        visible: str | None = None,
        pci_bus_ids: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        self._interval_s = max(interval_s, GPU_POLL_MIN_S)
        self._load = load
        self._visible = visible
        self._pci_bus_ids = pci_bus_ids
        self._known: dict[int, str] = {}
        self._gpus: tuple[_Gpu, ...] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="gpu metrics", daemon=True)

    def start(self) -> None:
        """Starts the thread, which reads for the first time at once."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; a reading under way is waited for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def families(self) -> list[Family]:
        """What was read last; empty while no GPU is known."""
        gpus = self._gpus
        if not gpus:
            return []
        return [
            (name, kind, text, [({"gpu_uuid": gpu.uuid}, gpu.values[name]) for gpu in gpus])
            for name, kind, text in _FAMILIES
        ]

    def uuid(self, device: int) -> str:
        """UUID of a GPU by CUDA's index; "" while it is not known."""
        return next((gpu.uuid for gpu in self._gpus if gpu.index == device), "")

    def _main(self) -> None:
        try:
            nvml = self._load()
        except Exception as error:  # a driver that does not fit its library has errors of many kinds
            log.info("GPU metrics are off: %s", _reason(error))
            return
        try:
            gpus = _find(nvml, self._visible)
            while True:
                gpus = self._as_cuda(nvml, gpus)
                for gpu in gpus:
                    _read(nvml, gpu)
                self._gpus = gpus
                if self._stop.wait(self._interval_s):
                    return
        except Exception as error:
            self._gpus = ()
            log.warning("GPU metrics end: %s", _reason(error))
        finally:
            nvml.nvmlShutdown()

    def _as_cuda(self, nvml: Any, gpus: tuple[_Gpu, ...]) -> tuple[_Gpu, ...]:
        """CUDA's own list of GPUs, once there is one; those of `gpus` go on counting."""
        known = dict(self._pci_bus_ids())
        if not known or known == self._known:
            return gpus
        self._known = known
        before = {gpu.uuid: gpu for gpu in gpus}
        found = []
        for index, bus_id in known.items():
            handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
            uuid = _uuid(nvml, handle)
            gpu = before.get(uuid) or _Gpu(index, handle, uuid)
            gpu.index = index
            found.append(gpu)
        return tuple(found)


def visible_indices(uuids: Sequence[str], visible: str | None) -> list[int]:
    """Indices into `uuids`, which are in PCI order, of the GPUs that CUDA_VISIBLE_DEVICES lets CUDA see.

    A list of indices or of beginnings of UUIDs that ends at its first bad entry, as CUDA reads it. CUDA counts in
    another order unless all GPUs are alike or CUDA_DEVICE_ORDER is PCI_BUS_ID; parts of a GPU (MIG-...) stand for
    nothing, since what is measured is the whole.
    """
    if visible is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in visible.split(","):
        name = entry.strip()
        if name.isascii() and name.isdigit():
            matches = [int(name)] if int(name) < len(uuids) else []
        else:
            matches = [i for i, uuid in enumerate(uuids) if name.startswith("GPU-") and uuid.startswith(name)]
        if len(matches) != 1 or matches[0] in found:
            break
        found += matches
    return found


def environment_visible() -> str | None:
    """CUDA_VISIBLE_DEVICES of this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _find(nvml: Any, visible: str | None) -> tuple[_Gpu, ...]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    uuids = [_uuid(nvml, handle) for handle in handles]
    return tuple(
        _Gpu(index, handles[i], uuids[i]) for index, i in enumerate(visible_indices(uuids, visible))
    )


def _read(nvml: Any, gpu: _Gpu) -> None:
    """Reads every field that works; each by itself, since a GPU may know some and not others."""
    handle = gpu.handle
    fields: dict[str, Callable[[], float | int]] = {
        "nv_gpu_utilization": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu * 0.01,
        "nv_gpu_memory_total_bytes": lambda: _memory(nvml, handle).total,
        "nv_gpu_memory_used_bytes": lambda: _memory(nvml, handle).used,
        "nv_gpu_power_usage": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "nv_gpu_power_limit": lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
        "nv_energy_consumption": lambda: _energy(nvml, gpu),
    }
    for name, read in fields.items():
        if gpu.failures.get(name, 0) >= _FAILURES_MAX:
            continue
        try:
            gpu.values[name] = read()
            gpu.failures[name] = 0
        except nvml.NVMLError as error:
            gpu.values[name] = 0
            gpu.failures[name] = gpu.failures.get(name, 0) + 1
            if gpu.failures[name] == _FAILURES_MAX:
                log.warning("%s of GPU %s is not available: %s", name, gpu.uuid, _reason(error))


def _memory(nvml: Any, handle: Any) -> Any:
    # The second version leaves out of `used` what the driver keeps for itself.
    return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)


def _energy(nvml: Any, gpu: _Gpu) -> float:
    now_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)
    if gpu.first_energy_mj is None:
        gpu.first_energy_mj = now_mj
    return float(now_mj - gpu.first_energy_mj) / 1000


def _uuid(nvml: Any, handle: Any) -> str:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "the Python package 'nvidia-ml-py' is not installed"
    if isinstance(error, OSError):
        return "no NVIDIA driver is installed"
    return str(error) or type(error).__name__
