"""A real server with its gRPC front-end on a thread of its own, over identity models, for real clients."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import reference
import uvloop
from pings import ping_options

from triton_async.backends.registry import BackendRegistry
from triton_async.config.settings import parse
from triton_async.core.host import Backends, Host, Workers
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.defines import GRPC_MAX_STREAM_REQUESTS
from triton_async.frontends.grpc import server as grpc_server
from triton_async.frontends.grpc.express.keepalive import PingOptions
from triton_async.infer.batch import live_batches
from triton_async.infer.request import live_requests
from triton_async.infer.response import live_responses
from triton_async.infer.tensor import live_tensors
from triton_async.memory.buffer import live_buffers
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool


def write_model(
    root: Path,
    name: str,
    *,
    datatype: str = "TYPE_FP32",
    dims: str = "-1",
    max_batch_size: int = 0,
    delay_ms: int = 0,
    count: int = 1,
    labels: list[str] | None = None,
    more: str = "",
) -> None:
    """An identity model with inputs INPUT0..., outputs OUTPUT0...; `labels` of the outputs."""
    directory = root / name
    (directory / "1").mkdir(parents=True, exist_ok=True)
    if labels is not None:
        (directory / "labels.txt").write_text("\n".join(labels))
    label = 'label_filename: "labels.txt"' if labels is not None else ""
    inputs = "".join(f'input {{ name: "INPUT{i}" data_type: {datatype} dims: [{dims}] }}\n' for i in range(count))
    outputs = "".join(
        f'output {{ name: "OUTPUT{i}" data_type: {datatype} dims: [{dims}] {label} }}\n' for i in range(count)
    )
    (directory / "config.pbtxt").write_text(
        f'backend: "identity" max_batch_size: {max_batch_size}\n{inputs}{outputs}'
        f'parameters {{ key: "execute_delay_ms" value {{ string_value: "{delay_ms}" }} }}\n{more}'
    )


def live_objects() -> dict[str, int]:
    gc.collect()
    return {
        "request": live_requests(),
        "response": live_responses(),
        "batch": live_batches(),
        "tensor": live_tensors(),
        "lease": live_buffers(),
    }


class Running:
    """A started server. `url`: host and port; `call` runs a coroutine on its loop."""

    def __init__(self, backends: Backends | None = None, pools: Pools | None = None) -> None:
        self.backends = backends or BackendRegistry()
        self.pools = pools or Pools(SlabPool(1 << 24))
        self.server: InferenceServer
        self.endpoint: grpc_server.GrpcEndpoint
        self.loop: asyncio.AbstractEventLoop
        self.pool: SlabPool
        self.url = ""
        self.express = True
        self.started = threading.Event()
        self.stop: asyncio.Event
        self.exit_deadline_s = 5.0
        self.stopped_after_s = -1.0

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def request_stop(self) -> None:
        # The loop is closed when the server has stopped already.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.stop.set)

    async def main(self, root: Path, options: tuple[str, ...], express: bool, **how: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        settings = parse([f"--model-repository={root}", *options])
        reactor = Reactor()
        reactor.attach(self.loop)
        with Workers(4) as workers:
            self.pool = self.pools.host
            host = Host(self.loop, reactor, self.pools, self.backends, workers, settings.backend_config)
            self.server = InferenceServer(settings, host)
            await self.server.start()
            start = grpc_server.start if express else reference.start
            self.endpoint = await start(self.server, address="127.0.0.1", port=0, **how)
            self.express = express
            self.url = f"127.0.0.1:{self.endpoint.port}"
            self.started.set()
            await self.stop.wait()
            self.server.stop_accepting()
            began = time.monotonic()
            await self.endpoint.stop_accepting()
            await self.endpoint.close(self.exit_deadline_s)
            self.stopped_after_s = time.monotonic() - began
            await self.server.stop()
            reactor.detach()


@contextmanager
def serving(
    root: Path,
    *options: str,
    compression: str = "none",
    express: bool = True,
    pings: PingOptions | None = None,
    backends: Backends | None = None,
    pools: Pools | None = None,
    max_waiting: int = GRPC_MAX_STREAM_REQUESTS,
    **access: Any,
) -> Iterator[Running]:
    """Serves the repository, and checks at the end that nothing is left alive. `express`: by the server itself, not by
    grpclib's HTTP/2. `backends`, `pools` in place of the package's own. `access`: `gate`, `forwarded`.
    """
    before = live_objects()
    running = Running(backends, pools)
    how = {"response_compression": compression, "pings": pings or ping_options(), "max_waiting": max_waiting, **access}
    thread = threading.Thread(target=lambda: uvloop.run(running.main(root, options, express, **how)))
    thread.start()
    try:
        assert running.started.wait(20), "server did not start"
        yield running
    finally:
        if running.started.is_set():
            running.request_stop()
        thread.join(20)
    assert not thread.is_alive()
    # Another server of the same process may have finished something meanwhile.
    assert all(count <= before[kind] for kind, count in live_objects().items())


def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(f"not reached: {what}")
