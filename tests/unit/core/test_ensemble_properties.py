"""Whatever ensembles are made of and whatever happens to their requests: every one ends once, with its own values.

Each model adds its inputs, with its own factor, so that the answer of an ensemble is known from its graph.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ensemble_stage import EnsembleStage
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_stage import Execution
from puppet_stage import Sink

from triton_async.errors import InvalidArg, ServerError
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.tensor import from_numpy


@dataclass
class Asked:
    """A client's request of so many rows, the first of which has this value; `outputs`: what it asks for."""

    request: InferRequest
    sink: Sink
    rows: int
    first: float
    outputs: list[str]
    cancelled: bool = False


@dataclass
class Play:
    """A random graph of models, of which one may be decoupled, and what dice do with requests to it."""

    seed: int
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.stage = EnsembleStage()
        self.asked: list[Asked] = []
        self.running: list[tuple[str, int, Any]] = []
        self.number = 0
        # By the request of the decoupled step: how many responses it has got.
        self.sent: dict[InferRequest, int] = {}
        self.make_graph()

    def make_graph(self) -> None:
        """Tensor -> how it comes about: (model, tensors)."""
        self.made: dict[str, tuple[str, list[str]]] = {}
        names = ["in"]
        steps = []
        self.decoupled = ""
        count = self.dice.randint(1, 6)
        for index in range(count):
            takes = [self.dice.choice(names) for _ in range(self.dice.randint(1, 2))]
            model = f"m{index}"
            decoupled = not self.decoupled and self.dice.random() < 0.2
            if decoupled:
                self.decoupled = model
            self.stage.add_model(
                model, ["X", "Z"][: len(takes)], decoupled=decoupled, instances=self.dice.randint(1, 2),
                batching=self.dice.random() < 0.5,
            )  # fmt: skip
            steps.append((model, dict(zip(["X", "Z"], takes, strict=False)), {"Y": f"t{index}"}))
            self.made[f"t{index}"] = (model, takes)
            names.append(f"t{index}")
        read = {name for _, takes in self.made.values() for name in takes}
        self.outputs = [name for name in self.made if name not in read or self.dice.random() < 0.3]
        self.dice.shuffle(steps)
        limit = self.dice.choice([0, 0, 1, 2])
        self.ensemble = self.stage.add_ensemble(
            "e", ["in"], self.outputs, steps, scheduling=f"max_inflight_requests: {limit}" if limit else ""
        )

    def value(self, tensor: str, first: float, response: int) -> float:
        """What a tensor is in the n-th response, of a request whose rows begin with `first`."""
        if tensor == "in":
            return first
        model, takes = self.made[tensor]
        total = sum(self.value(name, first, response) for name in takes) * 2 + int(model[1:])
        return total + (1000 * response if model == self.decoupled else 0)

    def behind(self, tensor: str) -> bool:
        """Whether it is made of responses of the decoupled model."""
        if tensor == "in":
            return False
        model, takes = self.made[tensor]
        return model == self.decoupled or any(self.behind(name) for name in takes)

    # -- moves -------------------------------------------------------------------------------------

    def step(self) -> None:
        move = self.dice.random()
        if move < 0.3:
            self.send()
        elif move < 0.6:
            self.begin()
        elif move < 0.9:
            self.go_on()
        elif self.asked:
            self.cancel()

    def send(self) -> None:
        self.number += 1
        rows = self.dice.randint(1, 3)
        first = float(self.number * 10)
        chosen: list[str] = []
        if self.dice.random() < 0.5:
            chosen = self.dice.sample(self.outputs, self.dice.randint(1, len(self.outputs)))
        values = np.float32([[first + row] for row in range(rows)])
        request = InferRequest(
            "e", inputs=[from_numpy("in", values)], outputs=[RequestedOutput(name) for name in chosen]
        )
        sink = Sink()
        self.stage.server.submit(request, sink)
        assert not sink.responses, "never inside submit"
        outputs = [name for name in self.outputs if not chosen or name in chosen]
        self.asked.append(Asked(request, sink, rows, first, outputs))
        self.stage.turn()

    def begin(self) -> bool:
        busy = {(name, i) for name, i, _ in self.running}
        free = [
            (name, i)
            for name, puppets in self.stage.puppets.items()
            for i, held in enumerate(puppets)
            if (name, i) not in busy and held.waiting
        ]
        if not free:
            return False
        name, i = self.dice.choice(free)
        batch = self.stage.puppets[name][i].begin()
        if batch is None:
            self.stage.turn()
        else:
            self.running.append((name, i, Execution(self.stage, name, i, batch)))
        return True

    def go_on(self) -> bool:
        """An execution answers some of its requests, or all and ends."""
        if not self.running:
            return False
        entry = self.dice.choice(self.running)
        name, _, execution = entry
        factories = list(execution.factories)
        self.dice.shuffle(factories)
        for factory in factories:
            if factory.finished:
                continue
            if name == self.decoupled:
                self.stream(factory)
            elif self.dice.random() < 0.03:
                factory.send([], error=InvalidArg(f"{name} fails"), final=True)
            else:
                self.say(name, factory, 0, True)
            if self.dice.random() < 0.3:
                break
        if all(factory.finished for factory in factories):
            self.running.remove(entry)
            for factory in factories:
                factory.release()
            execution.over()
        else:
            self.stage.turn()
        return True

    def stream(self, factory: Any) -> None:
        number = self.sent.get(factory.request, 0)
        if number == 3 or self.dice.random() < 0.2:
            factory.send([], final=True)
            return
        self.say(self.decoupled, factory, number, number == 2 and self.dice.random() < 0.5)
        self.sent[factory.request] = number + 1

    def say(self, name: str, factory: Any, number: int, final: bool) -> None:
        total = sum(tensor.numpy() for tensor in factory.inputs) * 2 + int(name[1:])
        if name == self.decoupled:
            total = total + 1000 * number
        factory.send([from_numpy("Y", np.asarray(total, np.float32))], final=final)

    def cancel(self) -> None:
        asked = self.dice.choice(self.asked)
        open_ = not any(response.final for response in asked.sink.responses)
        self.stage.server.cancel(asked.request)
        self.stage.turn()
        if open_ and not asked.cancelled and not any(response.final for response in asked.sink.responses):
            asked.cancelled = True

    # -- what must hold ----------------------------------------------------------------------------

    def finish(self) -> None:
        while self.begin() or self.go_on():
            pass
        for asked in self.asked:
            self.check(asked)
        assert [model.in_flight for model in self.stage.models.values()] == [0] * len(self.stage.models)
        assert self.ensemble.in_flight == 0
        for asked in self.asked:
            asked.sink.responses.clear()
        self.sent.clear()
        self.stage.close()

    def check(self, asked: Asked) -> None:
        responses = asked.sink.responses
        assert asked.sink.releases == 1
        assert not any(response.final for response in responses[:-1])
        if asked.cancelled:
            assert not responses or not responses[-1].final
        else:
            assert responses[-1].final
        errors = [response.error for response in responses if response.error is not None]
        assert len(errors) <= 1
        if errors:
            assert isinstance(errors[0], ServerError)
            assert errors[0].message.startswith("in ensemble 'e', m")
            assert responses[-1].error is errors[0]
        streamed = any(self.behind(name) for name in asked.outputs)
        full = [response for response in responses if response.error is None and (response.outputs or not streamed)]
        if not streamed and not asked.cancelled and not errors:
            assert len(full) == 1
        for number, response in enumerate(full):
            assert [tensor.name for tensor in response.outputs] == asked.outputs
            for tensor in response.outputs:
                expected = [self.value(tensor.name, asked.first + row, number) for row in range(asked.rows)]
                assert tensor.numpy().reshape(-1).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(5, 60))
def test_every_request_ends_once_with_its_own_values(seed: int, moves: int) -> None:
    play = Play(seed)
    for _ in range(moves):
        play.step()
    play.finish()


@pytest.mark.parametrize("seed", range(40))
def test_long_plays(seed: int) -> None:
    play = Play(seed)
    for _ in range(150):
        play.step()
    play.finish()
