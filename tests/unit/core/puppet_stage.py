"""A model whose instances the test moves, on a clock that the test sets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvloop
from compiled import load

from triton_async.config.model_config import DynamicBatching
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.model import Model
from triton_async.core.queue import RequestQueue
from triton_async.core.reactor import Reactor
from triton_async.datatypes import from_name
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse, ResponseSink
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool

# Far behind what the machine's clock will say, so that the timer never goes off by itself.
START_NS = 1 << 61

puppet = load("puppet")


class Sink(ResponseSink):
    """What a front-end sees of one request."""

    def __init__(self) -> None:
        self.responses: list[InferResponse] = []
        self.releases = 0

    def on_response(self, response: InferResponse) -> None:
        self.responses.append(response)

    def on_released(self, request: object) -> None:
        self.releases += 1


class Stage:
    """One model and its loop. Close it at the end."""

    def __init__(
        self,
        *,
        instances: int = 1,
        by_request: bool = False,
        decoupled: bool = False,
        batching: DynamicBatching | None = None,
        max_batch_size: int = 4,
    ) -> None:
        self.loop = uvloop.new_event_loop()
        self.clock = puppet.MadeUpClock(START_NS)
        self.reactor = Reactor(self.clock)
        self.reactor.attach(self.loop)
        spec = from_name("FP32")
        signature = ModelSignature(
            "m", 1, [TensorSpec("IN", spec, (-1,))], [TensorSpec("OUT", spec, (-1,))], max_batch_size, decoupled
        )
        pool = SlabPool(1 << 20)
        self.engines = [puppet.PuppetEngine(f"m_0_{i}", by_request) for i in range(instances)]
        self.puppets = [
            puppet.Puppet(f"m_0_{i}", self.reactor, pool, lambda device: None).made(engine, self.clock)
            for i, engine in enumerate(self.engines)
        ]
        queue = RequestQueue()
        if batching is not None:
            queue = RequestQueue(
                batching.default_policy, batching.priority_levels, batching.default_priority_level,
                batching.priority_policies,
            )  # fmt: skip
        scheduler = DynamicBatcher(signature, queue, batching)
        self.model = Model(
            self.reactor, signature, SimpleNamespace(dynamic_batching=batching, sequences=None), self.puppets, scheduler
        )

    def close(self) -> None:
        self.turn()
        self.reactor.detach()
        self.loop.close()

    def turn(self) -> None:
        """Lets everything that is due happen."""
        self.reactor._on_timer()  # type: ignore[attr-defined]
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    def wait(self, ns: int) -> None:
        self.clock.ns += ns
        self.turn()

    def request(self, *values: float, **more: Any) -> InferRequest:
        array = np.asarray(values, np.float32).reshape(-1, 1)
        return InferRequest("m", inputs=[from_numpy("IN", array)], **more)

    def submit(self, request: InferRequest) -> Sink:
        sink = Sink()
        puppet.submit(self.model, request, sink, self.clock.ns)
        return sink

    def cancel(self, request: InferRequest) -> None:
        puppet.cancel(self.model, request, self.clock.ns)


def values_of(response: InferResponse) -> list[float]:
    assert response.error is None, response.error
    return list(response.outputs[0].numpy().reshape(-1))


def echo(factory: Any, *, final: bool = True) -> None:
    """Answers with the inputs."""
    factory.send([from_numpy("OUT", factory.inputs[0].numpy().copy())], final=final)
