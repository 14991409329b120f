"""Random traffic, cancellations, timeouts, priorities, failing batches and reloads: every request ends once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, Recorder, until

from triton_async.core.server import InferenceServer
from triton_async.errors import Unavailable
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse


def own(name: str, value: str) -> str:
    """One of the server's own parameters of dynamic batching."""
    return f'parameters {{ key: "dynamic_batching.{name}" value {{ string_value: "{value}" }} }} '


SETTINGS = [
    "dynamic_batching { }",
    "dynamic_batching { preserve_ordering: true }",
    "dynamic_batching { preferred_batch_size: [ 4, 6 ] max_queue_delay_microseconds: 300 "
    "default_queue_policy { max_queue_size: 40 allow_timeout_override: true default_timeout_microseconds: 2000 } }",
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 default_queue_policy { timeout_action: DELAY "
    "default_timeout_microseconds: 500 } max_queue_delay_microseconds: 100 }",
    "",
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 } " + own("max_queue_delay", "auto"),
    "dynamic_batching { preserve_ordering: true max_queue_delay_microseconds: 200 } " + own("max_queue_delay", "auto"),
    "dynamic_batching { preferred_batch_size: [ 2, 5 ] max_queue_delay_microseconds: 300 default_queue_policy "
    "{ max_queue_size: 40 } } " + own("strict_preferred_batch_size", "true"),
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 default_queue_policy { timeout_action: DELAY "
    "default_timeout_microseconds: 500 allow_timeout_override: true } } " + own("earliest_deadline_first", "true"),
    "dynamic_batching { default_queue_policy { allow_timeout_override: true } } "
    + own("earliest_deadline_first", "true") + own("max_queue_delay", "auto"),
]


class Traffic:
    """Sends numbered requests and notes how each one ends."""

    def __init__(self, server: InferenceServer, choose: random.Random) -> None:
        self.server = server
        self.choose = choose
        self.sink = Recorder(self.end)
        self.waiting: dict[int, InferRequest] = {}
        self.ends: Counter[int] = Counter()
        self.cancelled: set[int] = set()
        self.mistakes: list[str] = []
        self.sent = 0
        self.answered = 0

    def send(self) -> None:
        number, self.sent = self.sent, self.sent + 1
        shape = (self.choose.randint(0, 3), self.choose.choice([1, 1, 2]))
        timeout_us = self.choose.choice([0, 0, 100])
        made = request("m", np.full(shape, number), priority=self.choose.randint(0, 4), timeout_us=timeout_us)
        made.context = number
        try:
            self.server.submit(made, self.sink)
            self.waiting[number] = made
        except Unavailable:
            self.ends[number] += 1

    def cancel(self) -> None:
        if self.waiting:
            number = self.choose.choice(list(self.waiting))
            self.cancelled.add(number)
            self.ends[number] += 1
            self.server.cancel(self.waiting.pop(number))

    def end(self, response: InferResponse) -> None:
        number = response.request.context
        self.ends[number] += 1
        self.waiting.pop(number, None)
        if number in self.cancelled:
            self.mistakes.append(f"{number} was cancelled and answered")
        if response.error is None:
            self.answered += 1
            values = response.outputs[0].numpy()
            if values.shape != response.request.inputs[0].shape or not (values == number).all():
                self.mistakes.append(f"{number} was answered with {values}")
        self.sink.responses.clear()


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("seed", range(3))
def test_every_request_ends_exactly_once(tmp_path: Path, settings: str, seed: int) -> None:
    three = "instance_group { count: 3 kind: KIND_CPU } "
    directory = write_model(tmp_path, "m", max_batch_size=8, more=three + settings)
    choose = random.Random(seed)
    backend = GatedBackend()

    async def test() -> None:
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=m", backends=backend) as server:
            traffic = Traffic(server, choose)
            for step in range(600):
                action = choose.random()
                if action < 0.7:
                    traffic.send()
                elif action < 0.8:
                    traffic.cancel()
                elif action < 0.82:
                    (directory / "touched").write_text(str(step))
                    await server.load_model("m")
                elif action < 0.9:
                    backend.fail_next = True
                else:
                    await asyncio.sleep(0)
            await until(lambda: not traffic.waiting, "every request has ended")
            assert traffic.mistakes == []
            assert traffic.ends == dict.fromkeys(range(traffic.sent), 1)
            assert traffic.answered > 0

    run(test)
