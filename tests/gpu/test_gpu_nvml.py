"""The watch over GPUs with the real NVML."""

from __future__ import annotations

import pytest

from triton_async.core.gpu_metrics import GpuMonitor, load_nvml

pytestmark = pytest.mark.gpu


def test_a_real_gpu_is_read() -> None:
    pytest.importorskip("pynvml")
    nvml = load_nvml()
    count = nvml.nvmlDeviceGetCount()
    nvml.nvmlShutdown()
    monitor = GpuMonitor(3600.0)
    monitor.start()
    monitor.close()
    found = {
        name: {labels["gpu_uuid"]: value for labels, value in samples} for name, _, _, samples in monitor.families()
    }
    assert list(found) == [
        "nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage",
        "nv_gpu_power_limit", "nv_energy_consumption",
    ]  # fmt: skip
    totals = found["nv_gpu_memory_total_bytes"]
    assert len(totals) == count
    for device, (uuid, total) in enumerate(totals.items()):
        assert uuid == monitor.uuid(device)
        assert uuid.startswith("GPU-")
        assert total >= found["nv_gpu_memory_used_bytes"][uuid] >= 0
        assert 0 <= found["nv_gpu_utilization"][uuid] <= 1


def test_cudas_names_of_gpus_are_nvmls() -> None:
    devices = pytest.importorskip("triton_async.memory.devices").open_devices()
    monitor = GpuMonitor(3600.0, pci_bus_ids=lambda: {info.index: info.pci_bus_id for info in devices.infos})
    monitor.start()
    monitor.close()
    assert [bool(monitor.uuid(info.index)) for info in devices.infos] == [True] * len(devices.infos)
