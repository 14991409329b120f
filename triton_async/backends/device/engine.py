"""The engine seam: what a GPU backend implements, and a DeviceInstance drives. Knows no CUDA library.

A DeviceInstance owns the slots, the streams, the copies between host and device and the completion; an engine only
puts kernels on a stream. TensorRT and PyTorch implement it; so does a fake in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class DeviceTensor(NamedTuple):
    """Bytes on the engine's device. `dims`: as the engine sees them, batch dimension first when the model batches."""

    address: int
    dims: tuple[int, ...]
    nbytes: int


class DeviceEngine:
    """One execution context on one GPU. Every method is called on the instance's thread, with the GIL, the device
    being current; several batches may be on the stream at once, one per slot.

    Raises of any method: ServerError, with the engine's own last error in its text.
    """

    #: Inputs (indices of the signature) whose values the engine reads on the host while it enqueues: shape tensors.
    host_inputs: frozenset[int] = frozenset()

    #: Whether `enqueue` may run under stream capture, once it ran plainly with the same shapes.
    capturable: bool = False

    def input_capacity(self, index: int) -> int:
        """Bytes that input `index` can take at most, 0 when unbounded: what a slot reserves for it at the start."""
        return 0

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        """Puts one run on `stream`, without waiting: its outputs in signature order.

        `inputs`: in signature order, None where absent; a host address for `host_inputs`. `consumed`: an event that
        the engine records once the inputs may be overwritten, if it can; the caller records it behind the run
        otherwise. Outputs belong to the engine and stay valid until the next `enqueue` of the same slot. An output is
        None when its shape is known only after the run: `late_output` gives it then.
        """
        raise NotImplementedError

    def records_consumed(self) -> bool:
        """Whether `enqueue` records `consumed` itself."""
        return False

    def late_output(self, slot: int, index: int) -> DeviceTensor:
        """Output `index` of the run in `slot`, whose stream is done."""
        raise NotImplementedError

    def close(self) -> None:
        """Frees the context and its memory. Nothing is on the stream."""
