"""The backend and its loaded models: what is decided before the first batch."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from triton_async import datatypes
from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.openvino.instance import OpenVINOInstance, bind
from triton_async.backends.openvino.library import Library
from triton_async.backends.openvino.options import Options, model_options
from triton_async.backends.openvino.ports import model_io, needs_batch, reshape_to_config, set_batch
from triton_async.config.autocomplete import ModelIO
from triton_async.config.consistency import check_against_model
from triton_async.config.model_config import InstanceGroup, ModelConfig
from triton_async.config.sequences import with_injected
from triton_async.errors import InvalidArg
from triton_async.protos import ModelConfig as ModelConfigProto

_logger = logging.getLogger(__name__)

# Names of precisions as OpenVINO's properties have them; "dynamic": each operator in that of the model.
_EXACT = ("f32", "dynamic")


class OpenVINOBackend(Backend):
    """OpenVINO on the CPU. Holds the library from the first model on. Any thread."""

    name = "openvino"
    assembles = frozenset(("padding",))

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None

    def inspect(self, path: Path, proto: Any) -> ModelIO | None:
        """Inputs and outputs of the model, with the batch and the dims that the config asks for."""
        proto = ModelConfigProto() if proto is None else proto
        library = self.loaded()
        options = _options(proto, self.settings, self.cores)
        opened = OpenedModel(library, _model_file(path), proto.name, options)
        found = prepare(library, opened.read(), with_injected(proto), options).model_io
        return replace(found, opened=opened, check=lambda proto: check(proto, found))

    def load(self, context: LoadContext) -> LoadedModel:
        """The compiled model, checked against its config."""
        library, config = self.loaded(), context.config
        options = _options(config.proto, context.backend_config, self.cores)
        path = _model_file(context.path)
        opened = context.opened
        model = opened.take(path, options) if isinstance(opened, OpenedModel) else None
        if model is None:
            model = library.read(library.core(config.name, options.extension), path, config.name)
        prepared = prepare(library, model, with_injected(config.proto), options)
        check(with_injected(config.proto), prepared.model_io)
        return OpenVINOModel(library, context, options, prepared)

    def loaded(self) -> Library:
        """The library, imported at the first call. Unavailable."""
        with self._lock:
            if self._library is None:
                self._library = Library()
            return self._library


class OpenedModel:
    """The model as it was read, not yet reshaped. One load may take it."""

    def __init__(self, library: Library, path: Path, name: str, options: Options) -> None:
        self._made_of = path, options.extension
        self._model = library.read(library.core(name, options.extension), path, name)

    def read(self) -> Any:
        """A copy of the model, which may be reshaped; weights are shared."""
        return self._model.clone()

    def take(self, path: Path, options: Options) -> Any:
        """The model, when it was read from this file with these extensions and is still there."""
        model, self._model = self._model, None
        return model if self._made_of == (path, options.extension) else None

    def close(self) -> None:
        """Drops the model when no load took it."""
        self._model = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model with the shapes that its config asks for. `rows`: the rows of every batch, 0 for any number."""

    model: Any
    model_io: ModelIO
    rows: int = 0


def prepare(library: Library, model: Any, proto: Any, options: Options) -> Prepared:
    """Gives `model` the batch dimension, and the dims, that the config wants. ServerError, naming the model."""
    largest = proto.max_batch_size
    if options.reshape:
        reshape_to_config(library.openvino, model, proto)
    rows = largest if largest > 0 and (options.skip_dynamic_batch or options.pad) else 0
    batch = largest > 0 and (rows > 0 or needs_batch(model, largest))
    if batch:
        set_batch(library.openvino, model, proto.name, rows or 1, largest)
    return Prepared(model, model_io(model, proto, batch), rows)


class OpenVINOModel(LoadedModel):
    """One version: a compiled model, which all instances share. Each has an infer request of its own."""

    thread_bound = False
    counts_instances = True

    def __init__(self, library: Library, context: LoadContext, options: Options, prepared: Prepared) -> None:
        """Compiles a model that was checked against its config. ServerError."""
        self._context = context
        config = context.config
        core = library.core(config.name, options.extension)
        self._compiled = library.compile(core, prepared.model, config.name, options.properties)
        self._binding = bind(library.openvino, self._compiled, config, prepared.rows, options)
        for line in (*options.warnings, *_advice(config, prepared.model_io)):
            _logger.warning("%s", line)
        self._log(library, config, options)

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance with an infer request of the shared model."""
        return OpenVINOInstance(name, self._context.pool, self._compiled, self._binding)

    def close(self) -> None:
        """Drops the compiled model."""
        self._compiled = None

    def _log(self, library: Library, config: ModelConfig, options: Options) -> None:
        found = {key: self._compiled.get_property(key) for key in _LOGGED}
        precision = found.pop("INFERENCE_PRECISION_HINT").get_type_name()
        told = ", ".join(f"{key} {value}" for key, value in found.items())
        _logger.info(
            "model '%s': OpenVINO %s on the CPU, inference precision %s%s, %s", config.name, library.version, precision,
            "" if precision in _EXACT else " (INFERENCE_PRECISION f32 gives exact results)", told,
        )  # fmt: skip
        if options.precision and options.precision != precision:
            _logger.warning(
                "model '%s': inference precision %s was asked for, OpenVINO runs it in %s on this processor",
                config.name, options.precision, precision,
            )  # fmt: skip


_LOGGED = ("INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS")


def _options(proto: Any, settings: Any, cores: int) -> Options:
    parameters = {key: value.string_value for key, value in proto.parameters.items()}
    instances = sum(group.count for group in proto.instance_group) or 1
    return model_options(proto.name, parameters, settings, instances, cores)


def _model_file(path: Path) -> Path:
    # A folder of the model's name holds it, as in Triton's other backends; ONNX where there is no IR.
    if path.is_dir():
        path = path / "model.xml"
    other = path.with_suffix(".onnx")
    return other if path.name == "model.xml" and not path.exists() and other.exists() else path


def check(proto: Any, found: ModelIO) -> None:
    """`check_against_model`, with the parameter that may help. `proto`: with what sequences add."""
    try:
        check_against_model(proto, found)
    except InvalidArg as error:
        if "dimensions" not in error.message or "RESHAPE_IO_LAYERS" in proto.parameters:
            raise
        raise InvalidArg(
            f"{error.message}. Set the parameter RESHAPE_IO_LAYERS to YES to give the model these dims"
        ) from None


def _advice(config: ModelConfig, found: ModelIO) -> list[str]:
    double = datatypes.from_name("FP64")
    names = [tensor.name for tensor in (*found.inputs, *found.outputs) if tensor.datatype == double]
    if not names:
        return []
    return [f"model '{config.name}': OpenVINO computes FP64 as FP32 on CPUs: '{names[0]}' has the precision of FP32"]
