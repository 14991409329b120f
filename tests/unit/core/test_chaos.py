"""Random traffic, cancellations, timeouts, priorities, failing batches and reloads: every request ends once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from gated_backend import GatedBackend, Recorder, until

from triton_async.errors import NotFound, Unavailable
from triton_async.infer.response import InferResponse

SETTINGS = [
    "dynamic_batching { }",
    "dynamic_batching { preserve_ordering: true }",
    "dynamic_batching { preferred_batch_size: [ 4, 6 ] max_queue_delay_microseconds: 300 "
    "default_queue_policy { max_queue_size: 40 allow_timeout_override: true default_timeout_microseconds: 2000 } }",
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 default_queue_policy { timeout_action: DELAY "
    "default_timeout_microseconds: 500 } max_queue_delay_microseconds: 100 }",
    "",
]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
@pytest.mark.parametrize("seed", range(3))
def test_every_request_ends_exactly_once(tmp_path: Path, settings: str, seed: int) -> None:
    three = "instance_group { count: 3 kind: KIND_CPU } "
    directory = write_model(tmp_path, "m", max_batch_size=8, more=three + settings)
    choose = random.Random(seed)
    backend = GatedBackend()
    ends: Counter[int] = Counter()
    cancelled: set[int] = set()
    late: list[int] = []
    wrong: list[int] = []

    async def test() -> None:
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=m", backends=backend) as server:
            waiting: dict[int, Any] = {}

            def end(response: InferResponse) -> None:
                number = response.request.context
                ends[number] += 1
                if number in cancelled:
                    late.append(number)
                waiting.pop(number, None)
                if response.error is None:
                    values = response.outputs[0].numpy()
                    if values.shape != response.request.inputs[0].shape or not (values == number).all():
                        wrong.append(number)
                sink.responses.clear()

            sink = Recorder(end)
            sent = 0
            refused = 0
            for step in range(600):
                action = choose.random()
                if action < 0.7:
                    shape = (choose.randint(0, 3), choose.choice([1, 1, 2]))
                    made = request("m", np.full(shape, sent), priority=choose.randint(0, 4),
                                   timeout_us=choose.choice([0, 0, 100]))  # fmt: skip
                    made.context = sent
                    try:
                        server.submit(made, sink)
                        waiting[sent] = made
                    except (Unavailable, NotFound):
                        refused += 1
                        ends[sent] += 1
                    sent += 1
                elif action < 0.8 and waiting:
                    number = choose.choice(list(waiting))
                    cancelled.add(number)
                    ends[number] += 1
                    server.cancel(waiting.pop(number))
                elif action < 0.82:
                    (directory / "touched").write_text(str(step))
                    await server.load_model("m")
                elif action < 0.9:
                    backend.fail_next = True
                else:
                    await asyncio.sleep(0)
            await until(lambda: not waiting, "every request has ended")
            assert (late, wrong) == ([], [])
            assert ends == dict.fromkeys(range(sent), 1)
            assert refused < sent

    run(test)
