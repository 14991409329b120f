"""Our own kernels: a fatbin when the package was built where nvcc is, else their source, compiled on the machine."""

from __future__ import annotations

import logging
from pathlib import Path

from triton_async.errors import InternalError
from triton_async.memory.devices import Devices

log = logging.getLogger("triton_async.device")

_FOLDER = Path(__file__).resolve().parent


def gather_kernel(devices: Devices, device: int, folder: Path = _FOLDER) -> int:
    """The kernel of csrc/gather.cu, ready for `device`. InternalError with CUDA's text; may take a second.

    `folder`: where the build put it.
    """
    built = folder / "gather.fatbin"
    if built.exists():
        try:
            return devices.load_kernel(device, built, "ta_gather")
        except InternalError as error:  # such as a driver older than the compiler
            log.warning("the gather kernel is compiled anew, as the built one does not load: %s", error)
    return devices.load_kernel(device, folder / "gather.cu", "ta_gather")
