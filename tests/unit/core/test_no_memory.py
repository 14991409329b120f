"""A batch for which there is no memory: its requests are answered, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from memory_limit import little_memory

from triton_async.config.model_config import DynamicBatching
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.queue import RequestQueue
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

FP32 = 11
# A batch has room for every input of every request: with so many inputs 2,000 requests take 128 MB.
INPUTS, REQUESTS = 2_000, 2_000


def test_a_batch_that_cannot_be_made_leaves_its_requests_behind() -> None:
    inputs = [TensorSpec("INPUT0", FP32, [-1])]
    inputs += [TensorSpec(f"X{i}", FP32, [1], optional=True) for i in range(INPUTS)]
    model = ModelSignature("m", 1, inputs, [TensorSpec("OUTPUT0", FP32, [-1])], REQUESTS)
    made = DynamicBatcher(model, RequestQueue(), DynamicBatching())
    sent = []
    for _ in range(REQUESTS):
        sent.append(InferRequest("m", inputs=[from_numpy("INPUT0", np.zeros((1, 1), np.float32))]))
        model.validate(sent[-1])
        made.enqueue(sent[-1], 0)
    with little_memory(32 << 20), pytest.raises(MemoryError):
        made.take(None, True, 0)
    assert made.queue.size == 0
    assert made.take_lost() == sent
    assert made.take_lost() == []
    assert made.take(None, True, 0) is None


# A full batch is made while its last request is submitted, another when the instance has run the one before.
@pytest.mark.parametrize("count", [REQUESTS, REQUESTS - 1])
@pytest.mark.parametrize("ordered", [False, True])
def test_every_request_of_such_a_batch_is_answered(tmp_path: Path, ordered: bool, count: int) -> None:
    optional = "".join(
        f'input {{ name: "X{i}" data_type: TYPE_FP32 dims: 1 optional: true }}\n' for i in range(INPUTS)
    )
    batching = f"dynamic_batching {{ preserve_ordering: {str(ordered).lower()} }}"
    write_model(tmp_path, "m", max_batch_size=REQUESTS, delay_ms=1000, more=optional + batching)

    async def test() -> None:
        async with running(tmp_path) as server:
            first = asyncio.ensure_future(server.infer(request("m", [[1.0]])))
            await asyncio.sleep(0.05)
            with little_memory(32 << 20):
                others = [asyncio.ensure_future(server.infer(request("m", [[2.0]]))) for _ in range(count)]
                assert (await first).error is None
                answers = await asyncio.gather(*others, return_exceptions=True)
            errors = [answer if isinstance(answer, Exception) else answer.error for answer in answers]
            assert all(isinstance(error, InternalError) for error in errors)
            assert "no memory" in str(errors[0])
            assert (await server.infer(request("m", [[3.0]]))).error is None
            assert server.statistics("m")[0]["inference_count"] == 2

    run(test)
