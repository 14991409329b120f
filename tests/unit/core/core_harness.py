"""A real InferenceServer without front-ends, over identity models written for the test."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from triton_async.backends.registry import BackendRegistry
from triton_async.config.settings import parse
from triton_async.core.host import Backends, Host, Workers
from triton_async.core.inner import InnerRequests
from triton_async.core.limiter import RateLimiter
from triton_async.core.placement import OpenDevices
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.errors import Unsupported
from triton_async.infer.batch import live_batches
from triton_async.infer.request import InferRequest, live_requests
from triton_async.infer.response import live_responses
from triton_async.infer.tensor import from_numpy, live_tensors
from triton_async.memory.buffer import live_buffers
from triton_async.memory.devices import Devices
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool


def write_model(root: Path, name: str, *, max_batch_size: int = 0, delay_ms: int = 0, more: str = "") -> Path:
    """An identity model FP32[-1]; `more` is added to its config.pbtxt."""
    directory = root / name
    (directory / "1").mkdir(parents=True, exist_ok=True)
    (directory / "config.pbtxt").write_text(f"""
        backend: "identity"
        max_batch_size: {max_batch_size}
        input {{ name: "INPUT0" data_type: TYPE_FP32 dims: -1 }}
        output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }}
        parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}
        {more}
    """)
    return directory


def request(name: str, values: list[float] | np.ndarray, **more: object) -> InferRequest:
    array = np.asarray(values, np.float32)
    return InferRequest(name, inputs=[from_numpy("INPUT0", array)], **more)  # type: ignore[arg-type]


def no_devices() -> Devices:
    """OpenDevices of tests that are the same whatever the machine has."""
    raise Unsupported("this server was made without GPU support")


@asynccontextmanager
async def running(
    root: Path,
    *options: str,
    backends: Backends | None = None,
    pools: Pools | None = None,
    open_devices: OpenDevices = no_devices,
    **more: Any,
) -> AsyncIterator[InferenceServer]:
    """Starts a server on the repository, and stops it at the end. `backends`, `pools` in place of the package's own, or
    `open_devices` of its pools; `more` of its Host."""
    loop = asyncio.get_running_loop()
    settings = parse([f"--model-repository={root}", *options])
    reactor = Reactor()
    reactor.attach(loop)
    pools = pools or Pools(SlabPool(1 << 24), open_devices)
    limiter = None if settings.rate_limit == "off" else RateLimiter(reactor, settings.rate_limit_resource)
    with Workers(4) as workers:
        host = Host(
            loop, reactor, pools, backends or BackendRegistry(), workers, settings.backend_config,
            gpu_limits=settings.model_load_gpu_limit, limiter=limiter,
            loop_executions=settings.allow_loop_execution, **({"measured": settings.metrics} | more),
        )  # fmt: skip
        server = InferenceServer(settings, host)
        inner = InnerRequests(server)
        if backends is not None:
            backends.inference = inner  # type: ignore[attr-defined]
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
            inner.close()
            reactor.detach()


def live_objects() -> dict[str, int]:
    gc.collect()
    return {
        "request": live_requests(),
        "response": live_responses(),
        "batch": live_batches(),
        "tensor": live_tensors(),
        "lease": live_buffers(),
    }


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs the coroutine on uvloop, and checks that it leaves nothing alive."""
    before = live_objects()
    uvloop.run(test())  # type: ignore[arg-type]
    assert live_objects() == before
