"""CUDA as it is called once per device, allocation or region, on a real GPU."""

from __future__ import annotations

import pytest

from triton_async.errors import InternalError
from triton_async.memory.devices import open_devices

pytestmark = pytest.mark.gpu

MIB = 1 << 20


def test_memory_streams_events_and_sizes() -> None:
    devices = open_devices()
    info = devices.infos[0]
    assert info.total_nbytes > 0 and info.compute_capability >= (6, 0) and info.name
    devices.use(info.index)
    free, total = devices.memory_info(info.index)
    assert 0 < free <= total
    address = devices.allocate(info.index, MIB)
    assert address % 256 == 0
    nbytes = devices.allocation_nbytes(address)
    assert nbytes >= MIB and devices.allocation_nbytes(address + 256) == nbytes - 256
    devices.free(info.index, address)
    with pytest.raises(InternalError):
        devices.allocation_nbytes(address)
    devices.free_pinned(devices.allocate_pinned(MIB))
    least, most_urgent = devices.stream_priorities(info.index)
    assert least >= most_urgent
    stream = devices.create_stream(info.index, most_urgent)
    devices.destroy_stream(stream)
    assert devices.create_stream(info.index, most_urgent) == stream
    devices.destroy_stream(stream)
    devices.destroy_event(devices.create_event(info.index))
    with pytest.raises(MemoryError):
        devices.allocate(info.index, 1 << 50)
    with pytest.raises(InternalError):
        devices.open_ipc(info.index, bytes(64))
