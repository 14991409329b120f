"""Microseconds that an instance on a GPU spends for each batch besides the GPU: issuing, engine call, completion.

Run from the repository root with the package built in place: `python bench/micro/device_instance.py`. On the fake CUDA
driver of the tests, whose calls stand for the driver's and whose streams are threads of this process: "issuing" is
the CPU of the instance's thread alone, with the fake's calls, without making the batches; the rest of the CPU is mostly
the fake's own. The engine puts nothing on its stream.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "unit" / "backends" / "device")]

from device_harness import numbered, signature  # noqa: E402
from fake_cuda import FakeDevices  # noqa: E402

from triton_async.backends.base import ModelInstance, execute_batches  # noqa: E402
from triton_async.backends.device.engine import DeviceEngine, DeviceTensor  # noqa: E402
from triton_async.backends.device.instance import DeviceInstance  # noqa: E402
from triton_async.backends.device.options import SlotOptions  # noqa: E402
from triton_async.memory.slab import SlabPool  # noqa: E402

ROUNDS, BATCHES = 7, 2000
COLUMNS = 16


class IdleEngine(DeviceEngine):
    """Has its outputs ready."""

    capturable = True

    def __init__(self, devices: FakeDevices) -> None:
        self.devices = devices
        self.addresses = [devices.allocate(0, 64 * COLUMNS) for _ in range(2)]

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        assert inputs[0] is not None
        return [DeviceTensor(address, inputs[0].dims, inputs[0].nbytes) for address in self.addresses]

    def close(self) -> None:
        for address in self.addresses:
            self.devices.free(0, address)


def measure(instance: ModelInstance, requests: int) -> tuple[float, float, float]:
    """Wall, issuing thread's and whole CPU microseconds of each batch of so many requests; median of some rounds."""
    found = []
    for _ in range(ROUNDS):
        batches = [[numbered(i, COLUMNS) for i in range(requests)] for _ in range(BATCHES)]
        wall, thread, whole = time.perf_counter(), time.thread_time(), time.process_time()
        execute_batches(instance, signature((COLUMNS,), 8), batches)
        found.append([time.perf_counter() - wall, time.thread_time() - thread, time.process_time() - whole])
    return tuple(np.median(found, axis=0) / BATCHES * 1e6)


def main() -> None:
    """Prints a table."""
    devices = FakeDevices()
    print(f"{'run':8}{'requests':>10}{'wall µs':>10}{'issuing µs':>12}{'all CPU µs':>12}")
    for requests in (1, 8):
        # A batch that fails at once: what making and splitting it takes.
        base = measure(ModelInstance("bare"), requests)
        for name, options in (("plain", SlotOptions()), ("graph", SlotOptions(graphs=True))):
            instance = DeviceInstance(
                "m_0", IdleEngine(devices), signature((COLUMNS,), 8), devices, 0, options, SlabPool(1 << 24),
                pinned_pool=SlabPool(1 << 24),
            )  # fmt: skip
            wall, issuing, whole = (got - off for got, off in zip(measure(instance, requests), base, strict=True))
            instance.close()
            print(f"{name:8}{requests:>10}{wall:>10.1f}{issuing:>12.1f}{whole:>12.1f}")


if __name__ == "__main__":
    main()
