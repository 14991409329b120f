"""Models that ask each other, whose instances the test moves, on a clock that the test sets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvloop
from compiled import load
from core_harness import no_devices
from puppet_stage import START_NS, Sink

from triton_async.backends.base import InferenceCall
from triton_async.backends.registry import BackendRegistry
from triton_async.config.model_config import DynamicBatching, Instance, InstanceGroup, InstanceKind, Resource
from triton_async.config.settings import parse
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.host import Host, Workers
from triton_async.core.inner import InnerRequests
from triton_async.core.limited_model import LimitedModel
from triton_async.core.limiter import RateLimiter
from triton_async.core.model import Model
from triton_async.core.queue import RequestQueue
from triton_async.core.reactor import Reactor
from triton_async.core.server import InferenceServer
from triton_async.datatypes import from_name
from triton_async.errors import ServerError
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

puppet = load("puppet")


class Call(InferenceCall):
    """What a model hears of a request of its own."""

    def __init__(self, *, decoupled: bool = False, counts_reads: bool = False, askers: Any = None) -> None:
        self.decoupled = decoupled
        self.counts_reads = counts_reads
        self.askers = askers
        self.responses: list[InferResponse] = []
        self.refusals: list[ServerError] = []
        self.releases = 0
        self.handle: Any = None

    def responded(self, response: InferResponse) -> None:
        assert not self.refusals
        assert not any(earlier.final for earlier in self.responses)
        self.responses.append(response)

    def refused(self, error: ServerError) -> None:
        assert not self.refusals
        assert not any(earlier.final for earlier in self.responses)
        self.refusals.append(error)

    def released(self) -> None:
        self.releases += 1

    @property
    def over(self) -> bool:
        return bool(self.refusals) or any(response.final for response in self.responses)


class InnerStage:
    """A server of puppet models. Close it at the end."""

    def __init__(self, granted: dict[str, dict[int, int]] | None = None) -> None:
        self.loop = uvloop.new_event_loop()
        self.clock = puppet.MadeUpClock(START_NS)
        self.reactor = Reactor(self.clock)
        self.reactor.attach(self.loop)
        self.pool = SlabPool(1 << 20)
        self.limiter = RateLimiter(self.reactor, granted)
        self.workers = Workers(1)
        host = Host(
            self.loop, self.reactor, Pools(self.pool, no_devices), BackendRegistry(), self.workers, {}
        )  # fmt: skip
        self.server = InferenceServer(parse(["--model-repository=/nowhere"]), host)
        self.inner = InnerRequests(self.server)
        self.models: dict[str, Model] = {}
        self.puppets: dict[str, list[Any]] = {}

    def add(
        self, name: str, instances: int = 1, *, decoupled: bool = False, batching: DynamicBatching | None = None,
        needs: dict[str, int] | None = None, priority: int = 0, device: int = 0,
    ) -> None:
        """`needs`: resources that an execution needs; a name in capitals is a global one."""
        spec = from_name("FP32")
        signature = ModelSignature(
            name, 1, [TensorSpec("IN", spec, (-1,))], [TensorSpec("OUT", spec, (-1,))], 4, decoupled
        )
        self.puppets[name] = [
            puppet.Puppet(f"{name}_{i}", self.reactor, self.pool, lambda device: None).made(
                puppet.PuppetEngine(f"{name}_{i}", True), self.clock
            )
            for i in range(instances)
        ]
        parts = (
            self.reactor, signature, SimpleNamespace(dynamic_batching=batching, sequences=None), self.puppets[name],
            DynamicBatcher(signature, RequestQueue(), batching),
        )  # fmt: skip
        if needs is None:
            self.models[name] = Model(*parts)
        else:
            resources = tuple(Resource(resource, resource.isupper(), count) for resource, count in needs.items())
            group = InstanceGroup(name, InstanceKind.CPU, instances, resources=resources, priority=priority)
            specs = [Instance(f"{name}_{i}", InstanceKind.CPU, device, False, 0, "") for i in range(instances)]
            claims = self.limiter.add(specs, [group], f"model '{name}'")
            self.models[name] = LimitedModel(*parts)
            self.models[name].limit(self.limiter, claims)
        puppet.serve(self.server, self.models[name])

    def close(self) -> None:
        self.turn()
        for held in [held for puppets in self.puppets.values() for held in puppets]:
            while held.waiting:
                assert held.begin() is None, "all else has ended"
                self.turn()
            held.engine_object().given_up.clear()
        self.inner.close()
        self.reactor.detach()
        self.loop.close()
        with self.workers:
            pass

    def turn(self) -> None:
        self.reactor._on_timer()  # type: ignore[attr-defined]
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    def request(self, name: str, value: float = 1, **more: Any) -> InferRequest:
        return InferRequest(name, inputs=[from_numpy("IN", np.float32([[value]]))], **more)

    def send(self, name: str, value: float = 1, **more: Any) -> Sink:
        """A client's request."""
        sink = Sink()
        self.server.submit(self.request(name, value, **more), sink)
        return sink

    def begin(self, name: str, instance: int = 0) -> Execution:
        """The next execution of an instance."""
        return Execution(self, name, instance)

    def ask(self, name: str, call: Call | None = None, caller: Any = None, **more: Any) -> Call:
        """An inner request that the loop has heard of."""
        call = call or Call()
        call.handle = self.inner.submit(self.request(name, **more), call, caller)
        self.turn()
        return call


class Execution:
    """A batch that an instance has begun."""

    def __init__(self, stage: InnerStage, name: str, instance: int, batch: Any = None) -> None:
        self.stage = stage
        self.puppet = stage.puppets[name][instance]
        self.batch = batch or self.puppet.begin()
        while self.batch is None:  # it was taken back
            stage.turn()
            self.batch = self.puppet.begin()
        self.factories = self.puppet.factories(self.batch)
        self.requests = puppet.requests_of(self.batch)

    def ask(self, name: str, **more: Any) -> Call:
        """An inner request that the execution waits for, and which is cancelled with its requests."""
        return self.stage.ask(name, Call(askers=self.requests, **more))

    def end(self) -> None:
        """Answers everything and lets go."""
        for factory in self.factories:
            if not factory.finished:
                factory.send([from_numpy("OUT", factory.inputs[0].numpy().copy())])
            factory.release()
        self.over()

    def over(self) -> None:
        """The execution ends, whatever its requests do."""
        self.puppet.end(self.batch)
        self.batch = None
        self.requests = []
        self.stage.turn()
