from triton_async.memory.buffer import Buffer
from triton_async.memory.devices import Devices

class DevicePool:
    device: int
    budget_nbytes: int
    leased: int
    leased_nbytes: int
    direct_nbytes: int
    def __init__(self, devices: Devices, device: int, nbytes: int) -> None: ...
    def acquire(self, nbytes: int) -> Buffer: ...
