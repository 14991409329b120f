from typing import Protocol

from triton_async.backends.base import ModelInstance
from triton_async.backends.device.engine import DeviceEngine
from triton_async.backends.device.options import SlotOptions
from triton_async.infer.signature import ModelSignature
from triton_async.memory.buffer import Buffer
from triton_async.memory.devices import Devices
from triton_async.memory.slab import SlabPool

class DeviceMemory(Protocol):
    def acquire(self, nbytes: int) -> Buffer: ...

class DeviceInstance(ModelInstance):
    graph_count: int
    def __init__(
        self,
        name: str,
        engine: DeviceEngine,
        signature: ModelSignature,
        devices: Devices,
        device: int,
        options: SlotOptions,
        pool: SlabPool,
        *,
        pinned_pool: SlabPool | None = None,
        memory: DeviceMemory | None = None,
    ) -> None: ...
