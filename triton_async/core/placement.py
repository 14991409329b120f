"""Where instances go and whether there is room: asks backends and GPUs for it while models load.

Functions run on load threads; GpuLoads belongs to the loop thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from triton_async.backends.base import Backend
from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.config.placement import Gpus
from triton_async.errors import InvalidArg, ServerError, Unavailable, Unsupported
from triton_async.memory.devices import Devices

# The machine's GPUs. The first call may load CUDA and block; a ServerError says why there are none.
OpenDevices = Callable[[], Devices]


def find_gpus(backend: Backend, open_devices: OpenDevices, named: bool = True) -> Gpus:
    """GPUs that instances of `backend` may be on. Opens the devices only for a backend that can use them, and that
    prefers them unless they are `named`.
    """
    preferred = backend.preferred_groups
    if InstanceKind.GPU not in backend.kinds:
        return Gpus(problem=backend.gpu_problem)
    if backend.prefers_cpu and not named:
        return Gpus(cpu_first=True, preferred=preferred)
    try:
        infos = open_devices().infos
    except ServerError as error:
        return Gpus(problem=error.message, preferred=preferred)
    problem = "" if infos else "this machine has no GPU that can be used"
    return Gpus(tuple(info.index for info in infos), problem, backend.prefers_cpu, preferred)


def check_backend(backend: Backend, config: ModelConfig, open_devices: OpenDevices) -> None:
    """ServerError unless `backend` makes instances of all kinds that the config has, and knows its accelerators."""
    accelerators = config.proto.optimization.execution_accelerators
    if accelerators.ByteSize() and not backend.accelerators:
        raise Unsupported(
            f"unable to load model '{config.name}': backend '{config.backend}' knows no execution accelerators"
        )
    for group in config.instance_groups:
        if group.kind not in backend.kinds:
            known = ", ".join(f"KIND_{kind.name}" for kind in backend.kinds)
            # What was to run on anything is on the CPU for want of a GPU.
            problem = find_gpus(backend, open_devices).problem if InstanceKind.GPU in backend.kinds else ""
            raise InvalidArg(
                f"instance group {group.name} of model {config.name} has kind KIND_{group.kind.name}, backend "
                f"'{config.backend}' supports only {known}" + (f"; {problem}" if problem else "")
            )


def gpus_in_use(config: ModelConfig) -> tuple[int, ...]:
    """GPUs that a model has instances on, ascending."""
    groups = [group for group in config.instance_groups if group.kind is InstanceKind.GPU]
    return tuple(sorted({gpu for group in groups for gpu in group.gpus}))


def check_load_limits(devices: Devices, gpus: Iterable[int], limits: Mapping[int, float]) -> None:
    """Unavailable when one of `gpus` has more of its memory in use than `limits` (fraction of all) lets a load find."""
    for gpu in gpus:
        if gpu in limits:
            free, total = devices.memory_info(gpu)
            if total - free > total * limits[gpu]:
                raise Unavailable(f"memory limit set for GPU {gpu} has exceeded, model loading is rejected.")


def used_nbytes(devices: Devices, gpus: Iterable[int]) -> dict[int, int]:
    """Bytes in use of each GPU."""
    used = {}
    for gpu in gpus:
        free, total = devices.memory_info(gpu)
        used[gpu] = total - free
    return used


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """What a loaded version takes of one place; a `memory_usage` entry of the statistics."""

    type: str
    id: int
    byte_size: int

    def as_dict(self) -> dict[str, object]:
        """The entry, as the statistics extension has it."""
        return {"type": self.type, "id": self.id, "byte_size": self.byte_size}


class GpuLoads:
    """Which loads had a GPU to themselves: only for them the growth of its used memory is the model's."""

    def __init__(self) -> None:
        self._running: Counter[int] = Counter()
        self._begun: Counter[int] = Counter()

    def begin(self, gpus: Iterable[int]) -> dict[int, int]:
        """Notes a load on these GPUs, which ends with `end(what this returned)`."""
        place = {}
        for gpu in gpus:
            self._begun[gpu] += 1
            place[gpu] = self._begun[gpu] if self._running[gpu] == 0 else 0
            self._running[gpu] += 1
        return place

    def end(self, place: Mapping[int, int]) -> tuple[int, ...]:
        """GPUs that no other load touched in the meantime, ascending."""
        for gpu in place:
            self._running[gpu] -= 1
        return tuple(sorted(gpu for gpu, begun in place.items() if begun == self._begun[gpu]))
