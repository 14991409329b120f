"""The engine seam: what a GPU backend implements, and a DeviceInstance drives. Knows no CUDA library.

A DeviceInstance owns the slots, the streams, the copies between host and device and the completion; an engine only
puts kernels on a stream. TensorRT and PyTorch implement it; so does a fake in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from triton_async.errors import Unsupported


class DeviceTensor(NamedTuple):
    """Bytes on the engine's device. `dims`: as the engine sees them, batch dimension first when the model batches."""

    address: int
    dims: tuple[int, ...]
    nbytes: int


class DeviceEngine:
    """One execution context on one GPU. Every method but `late_output` is called on the instance's thread; all with
    the GIL, the device being current. Several batches may be on the stream at once, one per slot.

    Raises of any method: ServerError, with the engine's own last error in its text.
    """

    #: Inputs (indices of the signature) whose values the engine reads on the host while it enqueues: shape tensors.
    host_inputs: frozenset[int] = frozenset()

    #: Whether `enqueue` may run under stream capture, once it ran plainly with the same shapes.
    capturable: bool = False

    #: Whether `enqueue` takes inputs at any address of its device that is a multiple of 16, not in its slot's memory
    #: alone: what one request brings there, from a CUDA shared memory region say, is then read where it lies.
    reads_in_place: bool = False

    #: Set by the engine when it can serve no more, such as after a CUDA error that lasts: core makes a new instance.
    broken: bool = False

    def input_capacity(self, index: int) -> int:
        """Bytes that input `index` can take at most, 0 when unbounded: what a slot reserves for it at the start."""
        return 0

    def graph_dims(self, index: int) -> tuple[int, ...] | None:
        """Dims of input `index`, without the batch dimension, at which CUDA graphs are captured unless the config
        names others: an optimization profile's opt dims. None: the config's own, when they are fixed."""
        return None

    def enqueue(
        self, slot: int, inputs: Sequence[DeviceTensor | None], stream: int, consumed: int
    ) -> Sequence[DeviceTensor | None]:
        """Puts one run on `stream`, without waiting: its outputs in signature order.

        `inputs`: in signature order, None where absent; a host address for `host_inputs`. `consumed`: an event that
        the engine records once the inputs may be overwritten, if it can; the caller records it behind the run
        otherwise. Outputs belong to the engine and stay valid until the next `enqueue` of the same slot. An output is
        None when its shape is known only after the run: `late_output` gives it then.

        Under stream capture `consumed` is 0 and no event may be recorded. What a captured run uses, its outputs
        included, stays in place until `drop_captures`, whatever else is run in the slot.
        """
        raise Unsupported("this engine has no enqueue")

    def records_consumed(self) -> bool:
        """Whether `enqueue` records `consumed` itself."""
        return False

    def late_output(self, slot: int, index: int) -> DeviceTensor:
        """Output `index` of the run in `slot`, which is done. On the completion thread: an `enqueue` of another slot
        may be under way."""
        raise Unsupported("this engine has no late outputs")

    def drop_captures(self, slot: int) -> None:
        """The graphs captured in `slot` are destroyed: what they used may be freed or move."""

    def close(self) -> None:
        """Frees the context and its memory. Nothing is on the stream."""
