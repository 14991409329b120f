"""Ensembles over models whose instances the test moves, on a clock that the test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from google.protobuf import text_format
from inner_stage import Execution, InnerStage
from puppet_stage import Sink, puppet

from triton_async.config.model_config import DynamicBatching, freeze
from triton_async.config.normalise import normalise
from triton_async.config.validate import validate_config
from triton_async.config.validate_io import validate_io
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.cache import LocalCache
from triton_async.core.ensemble import Ensemble
from triton_async.core.ensembles import Serving
from triton_async.core.linking import Target, link
from triton_async.core.model import Model
from triton_async.core.queue import RequestQueue
from triton_async.datatypes import from_name
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.protos import ModelConfig as ModelConfigProto

FP32 = from_name("FP32")
# A step: the model, its inputs and outputs mapped to the ensemble's tensors.
StepOf = tuple[str, Mapping[str, str], Mapping[str, str]]


def config_text(
    name: str, inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[StepOf], *, batch: int = 4,
    scheduling: str = "", more: str = "",
) -> str:  # fmt: skip
    """The config of an ensemble of FP32[-1] tensors; an input `x?` is optional."""
    lines = [f'name: "{name}" platform: "ensemble" max_batch_size: {batch} {more}']
    for tensor in inputs:
        optional = "optional: true" if tensor.endswith("?") else ""
        lines.append(f'input {{ name: "{tensor.rstrip("?")}" data_type: TYPE_FP32 dims: -1 {optional} }}')
    lines += [f'output {{ name: "{tensor}" data_type: TYPE_FP32 dims: -1 }}' for tensor in outputs]
    lines.append(f"ensemble_scheduling {{ {scheduling}")
    for model, takes, gives in steps:
        maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in takes.items()]
        maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in gives.items()]
        lines.append(f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}')
    return "\n".join([*lines, "}"])


def parsed(text: str) -> Any:
    proto = text_format.Parse(text, ModelConfigProto())
    normalise(proto)
    validate_config(proto)
    validate_io(proto)
    return freeze(proto)


class EnsembleStage(InnerStage):
    """Models of `ins` and `outs` that answer by request or by batch, and ensembles of them."""

    def add_model(
        self, name: str, ins: Sequence[str] = ("X",), outs: Sequence[str] = ("Y",), *, instances: int = 1,
        decoupled: bool = False, batch: int = 4, batching: bool = True, by_request: bool = True,
        queue: RequestQueue | None = None, cache: LocalCache | None = None,
    ) -> Model:  # fmt: skip
        inputs = [TensorSpec(tensor.rstrip("?"), FP32, (-1,), None, tensor.endswith("?")) for tensor in ins]
        signature = ModelSignature(
            name, 1, inputs, [TensorSpec(tensor, FP32, (-1,)) for tensor in outs], batch, decoupled
        )
        self.puppets[name] = [
            puppet.Puppet(f"{name}_{i}", self.reactor, self.pool, lambda device: None).made(
                puppet.PuppetEngine(f"{name}_{i}", by_request), self.clock
            )
            for i in range(instances)
        ]
        dynamic = DynamicBatching() if batching else None
        self.models[name] = Model(
            self.reactor, signature, SimpleNamespace(dynamic_batching=dynamic, sequences=None), self.puppets[name],
            DynamicBatcher(signature, queue or RequestQueue(), dynamic), None, cache,
        )  # fmt: skip
        puppet.serve(self.server, self.models[name])
        return self.models[name]

    def add_ensemble(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[StepOf], *,
        cache: LocalCache | None = None, **more: Any,
    ) -> Ensemble:  # fmt: skip
        config = parsed(config_text(name, inputs, outputs, steps, **more))
        latest, versions = self.serving()
        linked = link(config, {}, [Target(latest[model].signature) for model, _, _ in steps])
        ensemble = Ensemble(
            self.reactor, linked.signature(1), linked.config, linked.flow,
            Serving(latest, versions, self.server.trace_step), None, cache,
        )
        puppet.serve(self.server, ensemble)
        return ensemble

    def tensors(self, **values: Any) -> list[Any]:
        return [from_numpy(name, np.asarray(value, np.float32)) for name, value in values.items()]

    def ask_for(self, name: str, *, outputs: Sequence[str] = (), more: Mapping[str, Any] | None = None,
                **values: Any) -> tuple[InferRequest, Sink]:  # fmt: skip
        """A client's request with tensors of these values, and who hears of it."""
        request = InferRequest(
            name, inputs=self.tensors(**values), outputs=[RequestedOutput(output) for output in outputs], **more or {}
        )
        sink = Sink()
        self.server.submit(request, sink)
        self.turn()
        return request, sink

    def run(self, name: str, instance: int = 0) -> Execution:
        return Execution(self, name, instance)

    def answer(self, name: str, instance: int = 0, function: Any = None) -> list[InferRequest]:
        """Has the next execution of a model end: every output is `function` of its inputs, by default their sum."""
        execution = self.run(name, instance)
        requests = list(execution.requests)
        self.end(execution, function)
        return requests

    def end(self, execution: Execution, function: Any = None) -> None:
        """Answers what is not answered yet, and ends."""
        for factory in execution.factories:
            if not factory.finished:
                factory.send(outputs_of(factory, function))
            factory.release()
        execution.over()

    def serving(self) -> tuple[dict[str, Any], dict[tuple[str, int], Any]]:
        found: tuple[dict[str, Any], dict[tuple[str, int], Any]] = puppet.serving(self.server)
        return found


def outputs_of(factory: Any, function: Any = None) -> list[Any]:
    arrays = {tensor.name: tensor.numpy() for tensor in factory.inputs if tensor is not None}
    result = (function or (lambda **given: sum(given.values())))(**arrays)
    return [from_numpy(spec.name, np.asarray(result, np.float32).copy()) for spec in factory.signature.outputs]


def by_name(response: Any) -> dict[str, list[float]]:
    assert response.error is None, response.error
    return {tensor.name: tensor.numpy().reshape(-1).tolist() for tensor in response.outputs}
