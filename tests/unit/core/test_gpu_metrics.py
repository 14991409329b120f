"""The watch over GPUs, with readings that a test sets in place of NVML's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from triton_async.core.gpu_metrics import GpuMonitor, visible_indices

PATIENCE_S = 30
NAMES = [
    "nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage",
    "nv_gpu_power_limit", "nv_energy_consumption",
]  # fmt: skip


class NVMLError(Exception):
    pass


class Readings:
    """What NVML would read of some GPUs; `broken` fields fail. A whole reading ends with a `turn`."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 2

    def __init__(self, count: int) -> None:
        self.count = count
        self.energy_mj = [5_000 + i for i in range(count)]
        self.broken: set[str] = set()
        self.calls: list[str] = []
        self.shut_down = False
        self.read = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.paced = False

    def load(self) -> Any:
        self.thread = threading.current_thread()
        return self

    def turn(self) -> None:
        """Waits for the next whole reading."""
        if self.paced:
            self.go_on.release()
        self.paced = True
        assert self.read.acquire(timeout=PATIENCE_S)

    def _field(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise NVMLError("Not Supported")

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: str) -> int:
        return int(bus_id.removeprefix("0000:0").removesuffix(":00.0"))

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return f"GPU-{handle}".encode() if handle % 2 else f"GPU-{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._field("utilization")
        return SimpleNamespace(gpu=50 + handle, memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> Any:
        self._field("memory")
        assert version == 2
        return SimpleNamespace(total=1000, used=100 + handle, free=700, reserved=200)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._field("power")
        return 70_500

    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:
        self._field("limit")
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        self._field("energy")
        return self.energy_mj[handle]

    def nvmlShutdown(self) -> None:
        self.shut_down = True


class Pace:
    """Stands in for the event that the thread waits on: one reading for each `turn` of the test."""

    def __init__(self, readings: Readings) -> None:
        self.readings = readings
        self.stopped = False

    def wait(self, timeout: float) -> bool:
        self.readings.read.release()
        assert self.readings.go_on.acquire(timeout=PATIENCE_S)
        return self.stopped

    def set(self) -> None:
        self.stopped = True
        self.readings.go_on.release()


@contextmanager
def watching(readings: Readings, **more: Any) -> Iterator[GpuMonitor]:
    monitor = GpuMonitor(2.0, load=readings.load, **more)
    monitor._stop = Pace(readings)  # type: ignore[assignment]  # time is the test's
    monitor.start()
    readings.turn()
    yield monitor
    monitor.close()
    assert not readings.thread.is_alive()
    assert readings.shut_down


def values(monitor: GpuMonitor) -> dict[str, dict[str, float]]:
    """Family -> GPU -> value."""
    return {
        name: {labels["gpu_uuid"]: value for labels, value in samples}
        for name, _, _, samples in monitor.families()
    }


def test_every_family_has_a_sample_for_each_gpu() -> None:
    with watching(Readings(2)) as monitor:
        assert [(name, kind) for name, kind, _, _ in monitor.families()] == [
            (name, "counter" if "energy" in name else "gauge") for name in NAMES
        ]
        assert values(monitor) == {
            "nv_gpu_utilization": {"GPU-0": 0.5, "GPU-1": 0.51},
            "nv_gpu_memory_total_bytes": {"GPU-0": 1000, "GPU-1": 1000},
            "nv_gpu_memory_used_bytes": {"GPU-0": 100, "GPU-1": 101},
            "nv_gpu_power_usage": {"GPU-0": 70.5, "GPU-1": 70.5},
            "nv_gpu_power_limit": {"GPU-0": 700.0, "GPU-1": 700.0},
            "nv_energy_consumption": {"GPU-0": 0.0, "GPU-1": 0.0},
        }
        assert all("\n" not in text for _, _, text, _ in monitor.families())


def test_energy_counts_from_the_first_reading() -> None:
    readings = Readings(1)
    with watching(readings) as monitor:
        readings.energy_mj[0] += 2_500
        readings.turn()
        assert values(monitor)["nv_energy_consumption"] == {"GPU-0": 2.5}


def test_scrapes_read_nothing() -> None:
    readings = Readings(1)
    with watching(readings) as monitor:
        before = len(readings.calls)
        for _ in range(5):
            monitor.families()
        assert len(readings.calls) == before


def test_a_field_is_given_up_after_three_failures_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    readings = Readings(1)
    readings.broken = {"power"}
    with caplog.at_level(logging.WARNING), watching(readings) as monitor:
        readings.turn()
        assert not caplog.records
        readings.broken = set()
        readings.turn()
        assert values(monitor)["nv_gpu_power_usage"] == {"GPU-0": 70.5}
        readings.broken = {"power"}
        for _ in range(3):
            readings.turn()
            assert values(monitor)["nv_gpu_power_usage"] == {"GPU-0": 0}
        assert [record.getMessage() for record in caplog.records] == [
            "nv_gpu_power_usage of GPU GPU-0 is not available: Not Supported"
        ]
        readings.broken = set()
        asked = readings.calls.count("power")
        readings.turn()
        assert readings.calls.count("power") == asked
        assert values(monitor)["nv_gpu_power_usage"] == {"GPU-0": 0}
        assert values(monitor)["nv_gpu_power_limit"] == {"GPU-0": 700.0}


def test_only_gpus_that_cuda_may_use_are_shown() -> None:
    with watching(Readings(3), visible="2,GPU-1") as monitor:
        assert list(values(monitor)["nv_gpu_utilization"]) == ["GPU-2", "GPU-1"]
        assert [monitor.uuid(device) for device in (-1, 0, 1, 2)] == ["", "GPU-2", "GPU-1", ""]
    with watching(Readings(3), visible="") as monitor:
        assert monitor.families() == []


def test_cudas_own_list_of_gpus_counts_once_there_is_one() -> None:
    readings = Readings(3)
    known: dict[int, str] = {}
    with watching(readings, visible="0", pci_bus_ids=lambda: known) as monitor:
        readings.energy_mj[0] += 1000
        known |= {1: "0000:02:00.0", 3: "0000:00:00.0"}
        readings.turn()
        assert values(monitor)["nv_energy_consumption"] == {"GPU-2": 0.0, "GPU-0": 1.0}
        assert [monitor.uuid(device) for device in range(4)] == ["", "GPU-2", "", "GPU-0"]


@pytest.mark.parametrize(("error", "message"), [
    (OSError("libnvidia-ml.so.1: cannot open shared object file"), "no NVIDIA driver is installed"),
    (ImportError("No module named 'pynvml'"), "the Python package 'nvidia-ml-py' is not installed"),
    (NVMLError("Driver/library version mismatch"), "Driver/library version mismatch"),
])  # fmt: skip
def test_without_a_driver_there_is_one_line_and_no_metric(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Any:
        raise error

    monitor = GpuMonitor(0.001, load=load)
    with caplog.at_level(logging.INFO):
        monitor.start()
        monitor._thread.join(PATIENCE_S)
        monitor.close()
    assert [record.getMessage() for record in caplog.records] == [f"GPU metrics are off: {message}"]
    assert monitor.families() == []


def test_a_driver_that_breaks_down_ends_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    readings = Readings(1)
    monitor = GpuMonitor(0.0, load=readings.load)
    lost: Callable[..., int] = lambda: 1 // 0  # noqa: E731
    readings.nvmlDeviceGetCount = lost  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        monitor.start()
        monitor._thread.join(PATIENCE_S)
    assert "GPU metrics end: integer division" in caplog.text
    assert readings.shut_down
    assert monitor.families() == []
    monitor.close()


def test_a_monitor_that_never_started_may_be_closed() -> None:
    GpuMonitor(1.0, load=Readings(1).load).close()


def test_real_waiting_ends_at_close() -> None:
    readings = Readings(1)
    monitor = GpuMonitor(3600.0, load=readings.load)
    monitor.start()
    monitor.close()
    assert readings.shut_down


@pytest.mark.parametrize(("visible", "expected"), [
    (None, [0, 1, 2]), ("", []), ("1", [1]), ("2,0", [2, 0]), (" 1 , 2 ", [1, 2]), ("0,-1,1", [0]), ("0,9,1", [0]),
    ("0,0,1", [0]), ("GPU-ab", [0]), ("GPU-b,GPU-ac", [2, 1]), ("GPU-a", []), ("MIG-b/1/0", []), ("NoDevFiles", []),
    ("٣", []),
])  # fmt: skip
def test_the_variable_of_visible_devices(visible: str | None, expected: list[int]) -> None:
    assert visible_indices(["GPU-ab12", "GPU-ac34", "GPU-b"], visible) == expected
