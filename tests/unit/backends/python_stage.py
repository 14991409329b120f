"""A server without front-ends on a thread of its own, over Python models that a test writes."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

from triton_async.backends.registry import BackendRegistry
from triton_async.config.settings import parse
from triton_async.core.host import Host, Workers
from triton_async.core.inner import InnerRequests
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError, Unsupported
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.response import InferResponse, ResponseSink
from triton_async.infer.tensor import Tensor, from_numpy
from triton_async.memory.devices import Devices
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

SECONDS = 20.0

IO = """
    input { name: "IN" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
"""


def write(root: Path, name: str, code: str, config: str = IO, *, version: int = 1, **siblings: str) -> Path:
    """Writes a model. `code`: of model.py, `pb_utils` and `np` are imported; `siblings`: name of a module to its code.
    Without `backend` in `config` it is `python`.
    """
    directory = root / name
    folder = directory / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(
        "import numpy as np\nimport triton_python_backend_utils as pb_utils\n" + dedent(code)
    )
    for module, text in siblings.items():
        (folder / f"{module}.py").write_text(dedent(text))
    backend = "" if "backend:" in config else 'backend: "python"'
    (directory / "config.pbtxt").write_text(f"{backend}\n{config}")
    return directory


def body(lines: str) -> str:
    """A model whose `execute` has these lines for each request, with `x` of its input IN and `response` to be set."""
    inner = dedent(lines).strip().replace("\n", "\n            ")
    return f"""
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            {inner}
            responses.append(response)
        return responses
"""


IDENTITY = body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x)])")


def _no_devices() -> Devices:
    raise Unsupported("this server was made without GPU support")


class Collector(ResponseSink):
    """Queues the responses of one request, and None with its release."""

    def __init__(self) -> None:
        self.items: queue.Queue[InferResponse | None] = queue.Queue()

    def on_response(self, response: InferResponse) -> None:
        self.items.put(response)

    def on_released(self, request: Any) -> None:
        self.items.put(None)

    def all(self) -> list[InferResponse]:
        """Every response, once the last one and the release are there."""
        found: list[InferResponse] = []
        released = False
        while not released or not found or not found[-1].final:
            item = self.items.get(timeout=SECONDS)
            if item is None:
                released = True
            else:
                found.append(item)
        return found


class Stage:
    """The server, from other threads."""

    def __init__(self, root: Path, *options: str, open_devices: Callable[[], Devices] = _no_devices) -> None:
        self._open_devices = open_devices
        self._settings = parse([f"--model-repository={root}", *options])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.server: InferenceServer = self.run(self._start())

    async def _start(self) -> InferenceServer:
        self._reactor = Reactor()
        self._reactor.attach(self._loop)
        self.pools = Pools(SlabPool(1 << 24), self._open_devices)
        self._workers = Workers(4)
        self.backends = BackendRegistry(
            self._settings.backend_config, self.pools, self._settings.backend_directory,
            processes=self._settings.model_processes,
        )  # fmt: skip
        host = Host(
            self._loop, self._reactor, self.pools, self.backends, self._workers, self._settings.backend_config,
            metric_sources=(self.backends.families,),
        )  # fmt: skip
        server = InferenceServer(self._settings, host)
        self.backends.inference = self._inner = InnerRequests(server)
        await server.start()
        return server

    def run(self, coroutine: Any) -> Any:
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def call(self, function: Any, *arguments: Any) -> Any:
        """The result of a function that is called on the loop."""

        async def on_loop() -> Any:
            return function(*arguments)

        return self.run(on_loop())

    def send(self, request: InferRequest) -> Collector:
        """Begins a request."""
        collector = Collector()
        self.call(self.server.submit, request, collector)
        return collector

    def infer(self, request: InferRequest) -> dict[str, Any]:
        """Outputs by name of a request with one response. Raises its error."""
        (response,) = self.send(request).all()
        if response.error is not None:
            raise response.error
        return {tensor.name: tensor.numpy().copy() for tensor in response.outputs}

    def ask(self, model: str, values: Any, name: str = "IN") -> Any:
        """Output OUT of a model for this input."""
        return self.infer(request(model, **{name: np.asarray(values, np.float32)}))["OUT"]

    def error(self, to: InferRequest) -> ServerError:
        """The error of a request's only response."""
        (response,) = self.send(to).all()
        assert response.error is not None
        return response.error

    def reason(self, model: str) -> str:
        """Why a version of the model is not READY, as the index has it."""
        rows = self.run(self.server.repository_index())
        return next(row.get("reason", "") for row in rows if row["name"] == model)

    def statistics(self, model: str) -> dict[str, Any]:
        """Once everything that was answered is counted: the end of an execution comes behind its answers."""
        deadline = time.monotonic() + SECONDS
        while any(loaded.model.in_flight for _, loaded in self.server.repository.ready_versions(model)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        (entry,) = self.call(self.server.statistics, model)
        found: dict[str, Any] = entry
        return found

    def metrics(self, family: str) -> list[str]:
        """Lines of the page that begin with this."""
        page = b"".join(self.run(self.server.metrics_parts()))
        return [line for line in page.decode().splitlines() if line.startswith(family)]

    def end_instances(self, model: str) -> None:
        """Has the threads of a model's instances end, whatever requests are open: `drop` is all that is left to do."""
        ((_, loaded),) = self.server.repository.ready_versions(model)
        for instance in self.call(loaded.model.take_instances):
            ended = threading.Event()
            self.call(instance.stop, ended.set)
            assert ended.wait(SECONDS)

    def close(self) -> None:
        self.run(self.server.stop())
        self.drop()
        gc.collect()

    def drop(self) -> None:
        """Ends the loop, and all that is beside the models."""
        self.call(self._inner.close)
        self.backends.close()
        self.call(self._reactor.detach)
        self._workers.__exit__()
        self.pools.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def stage(root: Path, *options: str, open_devices: Callable[[], Devices] = _no_devices) -> Iterator[Stage]:
    """A server on the repository, which is stopped at the end."""
    made = Stage(root, *options, open_devices=open_devices)
    try:
        yield made
    finally:
        made.close()


def request(model: str, *wanted: str, **arrays: Any) -> InferRequest:
    """A request with these inputs and requested outputs; `of` makes its other fields."""
    inputs = [a if isinstance(a, Tensor) else from_numpy(name, np.asarray(a)) for name, a in arrays.items()]
    return InferRequest(model, inputs=inputs, outputs=[RequestedOutput(name) for name in wanted])


def of(made: InferRequest, **fields: Any) -> InferRequest:
    """The request, with these fields set."""
    for name, value in fields.items():
        setattr(made, name, value)
    return made
