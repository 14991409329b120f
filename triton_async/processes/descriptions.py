"""Models as the model process describes them to front-end processes: what these need to read requests, to write answers
and to say what a model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from triton_async import protos
from triton_async.config.config_json import config_json
from triton_async.core.repository import ModelRepository
from triton_async.infer.signature import ModelSignature, TensorSpec


def _tensor(spec: TensorSpec) -> list[Any]:
    reshape = None if spec.reshape is None else list(spec.reshape)
    return [
        spec.name, spec.datatype, list(spec.dims), reshape, spec.optional, list(spec.labels), spec.any_rank
    ]  # fmt: skip


def _spec(told: list[Any]) -> TensorSpec:
    name, datatype, dims, reshape, optional, labels, any_rank = told
    return TensorSpec(name, datatype, dims, reshape, optional, labels, any_rank)


@dataclass(frozen=True, slots=True)
class _Serialised:
    """A config as bytes, made once for each load."""

    number: int
    told: dict[str, Any]


class Describer:
    """Of one repository."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository
        self._known: dict[tuple[str, int], _Serialised] = {}

    def names(self) -> set[str]:
        """Models that clients are told of."""
        return {name for name, entry in self._repository.models.items() if entry.shown_versions() is not None}

    def describe(self, name: str) -> dict[str, Any]:
        """One of them."""
        shown = self._repository.models[name].shown_versions()
        return {
            "shown": sorted(shown or ()),
            "ready": [
                self._version(name, version, loaded) for version, loaded in self._repository.ready_versions(name)
            ],
        }

    def _version(self, name: str, version: int, loaded: Any) -> dict[str, Any]:
        model = loaded.model
        known = self._known.get((name, version))
        if known is None or known.number != model.number:
            signature = model.signature
            n_in, n_out = len(signature.client_inputs), len(signature.client_outputs)
            told = {
                "number": model.number, "version": version, "config": model.config.proto.SerializeToString(),
                "platform": model.config.platform_or_backend, "max_batch_size": signature.max_batch_size,
                "decoupled": signature.decoupled,
                "inputs": [_tensor(spec) for spec in signature.inputs[:n_in]],
                "injected_inputs": [_tensor(spec) for spec in signature.inputs[n_in:]],
                "outputs": [_tensor(spec) for spec in signature.outputs[:n_out]],
                "injected_outputs": [_tensor(spec) for spec in signature.outputs[n_out:]],
            }  # fmt: skip
            known = self._known[name, version] = _Serialised(model.number, told)
        return known.told


class RemoteConfig:
    """A model's config as front-ends show it; the fields and methods of ModelConfig that they use."""

    def __init__(self, serialised: bytes, platform: str) -> None:
        self.proto = protos.message("inference.ModelConfig")()
        self.proto.ParseFromString(serialised)
        self.platform_or_backend = platform

    def json(self) -> dict[str, Any]:
        """Triton's JSON form."""
        return config_json(self.proto)


def signature_of(name: str, told: dict[str, Any]) -> ModelSignature:
    """The signature that `Describer.describe` tells of one version."""
    return ModelSignature(
        name, told["version"], [_spec(one) for one in told["inputs"]], [_spec(one) for one in told["outputs"]],
        told["max_batch_size"], told["decoupled"], [_spec(one) for one in told["injected_inputs"]],
        [_spec(one) for one in told["injected_outputs"]],
    )  # fmt: skip
