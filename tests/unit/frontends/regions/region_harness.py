"""A real server with both front-ends on a thread of its own, over GPUs of the fake driver, for real clients."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_cuda_sync
import numpy as np
import reference
import tritonclient.grpc
import tritonclient.http
import uvloop
from fake_cuda_sync import Allocation, Devices
from gated_backend import GatedBackend
from grpc_harness import until, write_model
from pings import ping_options
from tritonclient.utils import InferenceServerException

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance, PythonInstance
from triton_async.backends.registry import BackendRegistry
from triton_async.config.model_config import InstanceGroup, InstanceKind
from triton_async.config.settings import parse
from triton_async.core.host import Host, Workers
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.frontends.grpc import server as grpc_server
from triton_async.frontends.http import server as http_server
from triton_async.infer.tensor import Tensor, make
from triton_async.memory.pools import Pools
from triton_async.memory.regions import RegionRegistry
from triton_async.memory.slab import SlabPool

__all__ = [
    "NO_UINT", "Client", "Server", "at_once", "code", "described", "floats", "serving", "told", "until", "with_own",
    "write_model",
]  # fmt: skip

WAIT_S = 20
ENGINE_NBYTES = 1 << 16
CODES = {"http": {"INVALID_ARGUMENT": "400", "NOT_FOUND": "404", "INTERNAL": "500", "ALREADY_EXISTS": "400"}}
NO_UINT = "attempt to access JSON non-unsigned-integer as unsigned-integer"


class GpuInstance(PythonInstance):
    """Leaves its outputs, which are its inputs, in GPU memory."""

    def __init__(self, name: str, context: LoadContext, server: Server) -> None:
        super().__init__(name, context.pool)
        self.context = context
        self.server = server

    def run(self, inputs: list[Tensor | None]) -> list[Any]:
        (sent,) = inputs
        assert sent is not None
        data = np.frombuffer(sent, np.uint8) if sent.nbytes else np.empty(0, np.uint8)
        if self.server.break_output:
            data = data ^ 0xFF
        self.server.engine.array()[: data.size] = data
        lease = self.server.regions.acquire("engine", 0, max(data.size, 1))
        spec = self.context.signature.outputs[0]
        return [make(spec.name, spec.datatype, sent.shape, lease, 0, data.size)]


class GpuBackend(Backend):
    name = "gpu"

    def __init__(self, server: Server) -> None:
        self.server = server

    def load(self, context: LoadContext) -> LoadedModel:
        server = self.server

        class Loaded(LoadedModel):
            def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
                if group.kind is InstanceKind.GPU:
                    server.gpus.use(device_id)
                return GpuInstance(name, context, server)

        return Loaded()


class PlacedBackend(GpuBackend):
    name = "placed"
    kinds = (InstanceKind.GPU,)  # type: ignore[assignment]


class Server:
    """A started server. `gpus` and `regions` are what it has of CUDA."""

    def __init__(self, gpus: Devices, enabled: bool) -> None:
        self.gpus = gpus
        self.regions = RegionRegistry((lambda: gpus) if enabled else None)
        self.gated = GatedBackend()
        self.built_in = BackendRegistry()
        self.break_output = False
        self.engine: Allocation
        self.server: InferenceServer
        self.loop: asyncio.AbstractEventLoop
        self.http_port = 0
        self.grpc_port = 0
        self.started = threading.Event()
        self.stop: asyncio.Event

    def get(self, name: str, place: object = None) -> Backend:
        """Of the backend registry: the package's own, and those of the tests."""
        if name == "gated":
            return self.gated
        made = {"gpu": GpuBackend, "placed": PlacedBackend}.get(name)
        return made(self) if made else self.built_in.get(name)

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    async def main(self, root: Path, express: bool, options: tuple[str, ...]) -> None:
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        settings = parse([f"--model-repository={root}", *options])
        reactor = Reactor()
        reactor.attach(self.loop)
        with Workers(4) as workers:
            pools = Pools(SlabPool(1 << 24), lambda: self.gpus)
            host = Host(self.loop, reactor, pools, self, workers, settings.backend_config, regions=self.regions)
            self.server = InferenceServer(settings, host)
            assert await self.server.start()
            http = await http_server.start(
                self.server, address="127.0.0.1", port=0, max_input_nbytes=1 << 24, express=express
            )
            start_grpc = grpc_server.start if express else reference.start
            grpc = await start_grpc(self.server, address="127.0.0.1", port=0, pings=ping_options())
            self.http_port, self.grpc_port = http.port, grpc.port
            self.started.set()
            await self.stop.wait()
            await asyncio.gather(http.close(5), grpc.close(5))
            await self.server.stop()
            reactor.detach()

    # -- raw HTTP ----------------------------------------------------------------------------------

    def ask(self, path: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
        """Status and parsed body of one exchange; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}/v2/{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text else None


@contextmanager
def serving(root: Path, *options: str, express: bool, enabled: bool = True) -> Iterator[Server]:
    """Serves the repository; at the end no lease and no region is left."""
    with fake_cuda_sync.devices(2) as gpus:
        running = Server(gpus, enabled)
        thread = threading.Thread(target=lambda: uvloop.run(running.main(root, express, options)))
        thread.start()
        try:
            assert running.started.wait(WAIT_S), "server did not start"
            if enabled:
                running.engine = gpus.share(ENGINE_NBYTES)
                running.call(running.server.register_cuda_region("engine", running.engine.handle, 0, ENGINE_NBYTES))
            yield running
        finally:
            running.gated.run_gate.open()
            if running.started.is_set():
                running.loop.call_soon_threadsafe(running.stop.set)
            thread.join(WAIT_S)
        assert not thread.is_alive()
        assert running.regions.leases == 0


def told(error: InferenceServerException) -> tuple[str, str]:
    """(status, message) of what a client raises."""
    return str(error.status()).removeprefix("StatusCode."), error.message()


class Client:
    """tritonclient of one protocol, as far as both are alike."""

    def __init__(self, server: Server, protocol: str) -> None:
        self.server = server
        self.protocol = protocol
        if protocol == "http":
            self.module: Any = tritonclient.http
            self.triton = self.module.InferenceServerClient(f"127.0.0.1:{server.http_port}", concurrency=8)
        else:
            self.module = tritonclient.grpc
            self.triton = self.module.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")

    def register(self, name: str, nbytes: int, device: int = 0) -> Allocation:
        """New device memory under a name."""
        allocation = self.server.gpus.share(nbytes, device)
        self.triton.register_cuda_shared_memory(name, allocation.raw_handle, device, nbytes)
        return allocation

    def status(self, name: str = "") -> dict[str, tuple[int, int]]:
        """name -> (device, bytes), without the engine's own region."""
        found = self.triton.get_cuda_shared_memory_status(name)
        if self.protocol == "http":
            rows = [(row["name"], row["device_id"], row["byte_size"]) for row in found]
        else:
            rows = [(key, row.device_id, row.byte_size) for key, row in found.regions.items()]
        return {key: (device, nbytes) for key, device, nbytes in rows if key != "engine"}

    def input(self, shape: list[int], region: str, nbytes: int, offset: int = 0, datatype: str = "FP32") -> Any:
        found = self.module.InferInput("INPUT0", shape, datatype)
        found.set_shared_memory(region, nbytes, offset=offset)
        return found

    def values(self, array: np.ndarray, datatype: str = "FP32") -> Any:
        found = self.module.InferInput("INPUT0", list(array.shape), datatype)
        found.set_data_from_numpy(array)
        return found

    def output(self, region: str = "", nbytes: int = 0, offset: int = 0, name: str = "OUTPUT0") -> Any:
        found = self.module.InferRequestedOutput(name)
        if region:
            found.set_shared_memory(region, nbytes, offset=offset)
        return found

    def infer(self, model: str, *inputs: Any, outputs: list[Any] | None = None) -> Any:
        return self.triton.infer(model, list(inputs), outputs=outputs)

    def refusal(self, call: Any, *arguments: Any, **more: Any) -> tuple[str, str]:
        """(status, message) of the error that a call raises."""
        try:
            call(*arguments, **more)
        except InferenceServerException as error:
            return told(error)
        raise AssertionError("not refused")

    def close(self) -> None:
        self.triton.close()
        # It closes once more when it is collected, which its greenlets resent on another thread.
        self.triton.close = lambda: None


def code(client: Client, name: str) -> str:
    return CODES.get(client.protocol, {}).get(name, name)


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 0.5


def described(client: Client, result: Any) -> dict[str, Any]:
    """Everything that the response says of OUTPUT0."""
    output = result.get_output("OUTPUT0")
    if client.protocol == "http":
        return dict(output)
    response = result.get_response()
    assert not response.raw_output_contents[[o.name for o in response.outputs].index("OUTPUT0")]
    return {"name": output.name, "datatype": output.datatype, "shape": list(output.shape), **output.parameters}


def at_once(client: Client, *calls: Any) -> list[Any]:
    """What each call gives, or the refusal that it raises, each with a connection of its own."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(functools.partial(with_own, client), calls))


def with_own(client: Client, call: Any) -> Any:
    """One such call; for other threads, as the HTTP client serves the one that made it."""
    own = Client(client.server, client.protocol)
    try:
        return call(own)
    except InferenceServerException as error:
        return told(error)
    finally:
        own.close()
