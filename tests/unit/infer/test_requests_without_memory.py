"""Engines that answer by request get all requests of a batch, or, without memory for that, none."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from compiled import load

from triton_async.backends import base
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy

pytest.importorskip("_testcapi")
REQUESTS = 8


class Engine(base.RequestInstance):  # type: ignore[name-defined,misc]
    """Drops what it gets. Not in Python, whose calls leak their arguments where there is no memory for a frame."""

    execute_factories = len


def all_or_none() -> None:
    driver = load("no_memory")
    signature = ModelSignature("m", 1, [TensorSpec("x", 11, (-1,))], [TensorSpec("y", 11, (-1,))], REQUESTS)
    engine = Engine("m_0")
    failures = 0
    for at in range(1, 100):
        requests = [
            InferRequest("m", inputs=[from_numpy("x", np.zeros((1, 1), np.float32))]) for _ in range(REQUESTS)
        ]
        failed, by_request, told = driver.submit(engine, signature, requests, at)
        # All are answered and released, by whoever has them.
        assert (failed, by_request, told) in ((True, False, 0), (False, True, 2 * REQUESTS)), at
        failures += failed
    assert failures > REQUESTS


def test_all_or_none() -> None:
    # In a process of its own: Python's own lists leak what they are made of, where there is no memory for them.
    process = multiprocessing.get_context("spawn").Process(target=all_or_none)
    process.start()
    process.join(60)
    assert process.exitcode == 0
