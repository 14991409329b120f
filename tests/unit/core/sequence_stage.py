"""A sequence batcher on a clock that only the test moves, and a model that adds up what each sequence sends."""

from __future__ import annotations

from typing import Any

import numpy as np
from compiled import load

from triton_async import datatypes
from triton_async.config.sequences import Control, ControlKind, SequenceBatching, State
from triton_async.core.injection import Injection
from triton_async.core.sequences import SequenceBatcher
from triton_async.infer.batch import Batch
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor, from_numpy

steps = load("sequence_steps")

FP32, INT32, BOOL = (datatypes.from_name(name) for name in ("FP32", "INT32", "BOOL"))
START, END = 1, 2
SECOND = 10**9
CONTROLS = (
    Control("READY", ControlKind.READY, BOOL, (False, True)),
    Control("START", ControlKind.START, INT32, (0, 1)),
    Control("END", ControlKind.END, FP32, (-1.0, 7.0)),
)


class Stage:
    """`id_type`: name of the correlation id's type, "" for none. `more`: of SequenceBatching."""

    def __init__(self, rows: int = 4, instances: int = 1, *, oldest: bool = False, candidates: int = 0,
                 id_type: str = "UINT64", pads: bool = False, queued: int = 0, backlog: int = 0, **more: Any) -> None:
        controls = CONTROLS
        if id_type:
            controls += (Control("CORRID", ControlKind.CORRID, datatypes.from_name(id_type)),)
        batching = SequenceBatching(
            oldest, candidates or max(rows, 1), more.pop("idle_us", 1_000_000), controls=controls,
            states=(State("SUM_IN", "SUM_OUT", FP32, (1,), (1,)),), **more,
        )  # fmt: skip
        specs = [TensorSpec(control.name, control.datatype, [1]) for control in controls]
        self.model = ModelSignature(
            "m", 1, [TensorSpec("A", FP32, [-1])], [TensorSpec("B", FP32, [1])], rows, False,
            [*specs, TensorSpec("SUM_IN", FP32, [1])], [TensorSpec("SUM_OUT", FP32, [1])],
        )  # fmt: skip
        shape = (1, 1) if rows else (1,)
        injection = Injection(self.model, batching, [from_numpy("SUM_IN", np.zeros(shape, np.float32))])
        self.instances = [object() for _ in range(instances)]
        self.batcher = SequenceBatcher(self.model, batching, injection, self.instances, pads, queued, backlog)
        self.rows = rows
        self.now_ns = SECOND

    def request(self, sequence: int | str, flags: int = 0, value: float = 1.0, *, width: int = 1, rows: int = 1,
                **more: int) -> InferRequest:
        shape = (rows, width) if self.rows else (width,)
        made = InferRequest(
            "m", inputs=[from_numpy("A", np.full(shape, value, np.float32))], sequence_id=sequence, flags=flags, **more
        )
        self.model.validate(made)
        return made

    def send(self, sequence: int | str, flags: int = 0, value: float = 1.0, **more: int) -> InferRequest:
        made = self.request(sequence, flags, value, **more)
        self.batcher.enqueue(made, self.now_ns)
        steps.check(self.batcher)
        return made

    def take(self, instance: int = 0, idle: bool = True) -> Batch | None:
        found = self.batcher.take(self.instances[instance], idle, self.now_ns)
        steps.check(self.batcher)
        return found

    def take_rows(self, instance: int = 0) -> list[InferRequest | None]:
        """The requests of the next batch, by row; none for none."""
        found = self.take(instance)
        return [] if found is None else steps.rows_of(found)

    def injected(self, request: InferRequest) -> dict[str, Any]:
        """What the model gets beside the client's inputs, each as its one element."""
        return {name: array.reshape(-1)[0] for name, array in steps.injected(self.batcher, request).items()}

    def answer(self, request: InferRequest) -> float:
        """Runs one request: the sum of what its sequence has sent so far, which is its new state."""
        state = self.injected(request)["SUM_IN"]
        total = np.asarray(state + request.inputs[0].numpy().reshape(-1)[0], np.float32).reshape(
            (1, 1) if self.rows else (1,)
        )
        response = self.end(request, [from_numpy("B", total), from_numpy("SUM_OUT", total)])
        assert isinstance(response, InferResponse)
        assert [output.name for output in response.outputs] == ["B"]
        return float(total.reshape(-1)[0])

    def end(self, request: InferRequest, outputs: list[Tensor]) -> Any:
        """A step is over, with these outputs: the response that its client gets, or the error about it."""
        found = steps.answer(self.batcher, request, outputs, self.now_ns)
        steps.check(self.batcher)
        return found

    def run(self) -> list[float]:
        """Takes and answers all that can run."""
        sums = []
        while True:
            found = [request for instance in range(len(self.instances)) for request in self.take_rows(instance)]
            if not found:
                return sums
            sums += [self.answer(request) for request in found if request is not None]

    def wait(self, us: int) -> list[InferRequest]:
        """Lets time pass; what is refused then."""
        self.now_ns += us * 1000
        found = self.batcher.expire(self.now_ns)
        steps.check(self.batcher)
        return found
