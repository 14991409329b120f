"""A backend whose loads and batches wait until the test lets them go, so that no test depends on time."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance, PythonInstance
from triton_async.infer.response import InferResponse, ResponseSink
from triton_async.infer.tensor import Tensor

PATIENCE_S = 60


class Recorder(ResponseSink):
    """Keeps what it is given; `react` is called with each response too."""

    def __init__(self, react: Callable[[InferResponse], None] | None = None) -> None:
        self.responses: list[InferResponse] = []
        self.react = react

    def on_response(self, response: InferResponse) -> None:
        self.responses.append(response)
        if self.react is not None:
            self.react(response)


class Gate:
    """Where work stops until it is let go. Open at first."""

    def __init__(self) -> None:
        self.shut = False
        self._lock = threading.Lock()
        self._waiting: queue.Queue[threading.Event] = queue.Queue()

    def pass_through(self) -> None:
        """Of the working thread."""
        with self._lock:
            if not self.shut:
                return
            event = threading.Event()
            self._waiting.put(event)
        assert event.wait(PATIENCE_S)

    async def arrival(self) -> threading.Event:
        """The next piece of work that stands at the gate; `set` lets it go."""
        return await asyncio.to_thread(self._waiting.get, True, PATIENCE_S)

    def open(self) -> None:
        with self._lock:
            self.shut = False
            while not self._waiting.empty():
                self._waiting.get().set()


class GatedInstance(PythonInstance):
    def __init__(self, backend: GatedBackend, name: str, context: LoadContext) -> None:
        super().__init__(name, context.pool)
        self.backend = backend

    def run(self, inputs: list[Tensor | None]) -> list[Any]:
        arrays = [None if item is None else item.numpy().copy() for item in inputs]
        self.backend.batches.append(arrays)
        self.backend.run_gate.pass_through()
        if self.backend.fail_next:
            self.backend.fail_next = False
            raise RuntimeError("told to fail")
        return arrays

    def close(self) -> None:
        self.backend.closed.append(self.name)
        self.backend.meet("instance close")


class GatedModel(LoadedModel):
    def __init__(self, backend: GatedBackend, context: LoadContext) -> None:
        self.backend = backend
        self.context = context

    def create_instance(self, name: str, group: object, device_id: int) -> ModelInstance:
        self.backend.meet(f"create {name}")
        return GatedInstance(self.backend, name, self.context)

    def close(self) -> None:
        self.backend.closed.append(f"model {self.context.version}")
        self.backend.meet("close")


class GatedBackend(Backend):
    """Also the registry of itself: every backend name is this one. `troubles`: what to raise, by place."""

    name = "gated"

    def __init__(self) -> None:
        self.run_gate = Gate()
        self.load_gate = Gate()
        self.batches: list[Any] = []
        self.closed: list[str] = []
        self.fail_next = False
        self.troubles: dict[str, BaseException] = {}

    def get(self, name: str, place: object = None) -> Backend:
        return self

    def meet(self, place: str) -> None:
        if place in self.troubles:
            raise self.troubles[place]

    def inspect(self, path: object, proto: object) -> None:
        self.meet("inspect")

    def load(self, context: LoadContext) -> LoadedModel:
        self.load_gate.pass_through()
        self.meet(f"load {context.config.name}")
        return GatedModel(self, context)


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that is on its way."""
    for _ in range(PATIENCE_S * 500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"not reached: {what}")
