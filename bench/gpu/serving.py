"""A server inside this process, and requests whose tensors lie where those of the network would lie."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from tests.unit.core.core_harness import running as running_server
from triton_async.backends.tensorrt.calls import copy_async, synchronize
from triton_async.core.server import InferenceServer
from triton_async.datatypes import from_name
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import make
from triton_async.memory.devices import open_devices
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

from .models import Subject

# Where inputs lie: in the pool that request bodies are received into, or on the device already.
MEMORY = ("host", "device")

# One set for the process: pinned memory takes long to make. Nothing is opened before a GPU is asked for.
POOLS = Pools(SlabPool(1 << 24), open_devices)


@asynccontextmanager
async def running(write: Callable[[Path], None], *flags: str) -> AsyncIterator[InferenceServer]:
    """A started server over what `write` puts into an empty repository. RuntimeError when the model does not load."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        async with running_server(Path(folder), *flags, pools=POOLS) as server:
            failed = [row for row in await server.repository_index() if row.get("state") != "READY"]
            if failed:
                raise RuntimeError(f"{failed[0]['name']}: {failed[0].get('reason', 'not loaded')}")
            yield server


def request_maker(subject: Subject, rows: int, device: str, memory: str) -> Callable[[], InferRequest]:
    """Makes requests of `rows` rows over one shared input."""
    on_gpu = device != "cpu"
    half = subject.half and on_gpu
    values = np.random.default_rng(0).random((rows, *subject.dims)).astype(np.float16 if half else np.float32)
    if memory == "device":
        index = int(device.partition(":")[2] or 0)
        buffer = POOLS.device(index).acquire(values.nbytes)
        POOLS.devices.use(index)
        copy_async(buffer.address, values.ctypes.data, values.nbytes, 0)
        synchronize(0)
    else:
        pool = POOLS.pinned() if on_gpu else POOLS.host
        buffer = pool.acquire(values.nbytes)
        memoryview(buffer).cast("B")[:] = values.tobytes()
    tensor = make("INPUT__0", from_name("FP16" if half else "FP32"), values.shape, buffer)
    return lambda: InferRequest(subject.name, inputs=[tensor])
