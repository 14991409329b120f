"""Completes a config from the model, as Triton does: backend from its files, tensors from the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from triton_async.config.ensemble import is_ensemble
from triton_async.config.ragged import is_ragged
from triton_async.config.versions import list_versions
from triton_async.errors import InternalError, InvalidArg


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the model: `datatype` a number of `datatypes`, `dims` all of them, -1 where dynamic."""

    name: str
    datatype: int
    dims: tuple[int, ...]
    # The model has a value for this input, e.g. a weight that may be replaced: no input unless a config names it.
    optional: bool = False
    # It may have any number of dimensions; `dims` say nothing.
    unranked: bool = False
    # TensorRT: its values decide the shapes of others.
    shape_tensor: bool = False


class Opened(Protocol):
    """A model that its backend has opened to look into it."""

    def close(self) -> None:
        """Lets go of what no load has taken. Blocking."""


@dataclass(frozen=True, slots=True)
class ModelIO:
    """Inputs and outputs of a model in its own order, as its backend found them.

    `max_batch_size`: the largest batch of a model that has one by itself (a TensorRT plan), 0 when that is none.
    `unbatched`: why the first dimensions are not those of one batch, although nothing is wrong with their sizes.
    `mixes_rows`: why a request's result depends on what it shares its batch with. "": no such reason is known.
    `check`: the backend's own comparison with a completed config, in place of `consistency`; raises ServerError.
    `complete`: the backend's own completion of a config, in place of `complete` below; its lines are for the log.
    ServerError: of the model, not of the config.
    `preferred_batch_size`: max_batch_size where neither config nor operator says one, 0 for the server's default.
    `opened`: what the backend may go on with when it loads this model; whoever has it closes it in the end.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int | None = None
    unbatched: str = ""
    mixes_rows: str = ""
    check: Callable[[Any], None] | None = None
    complete: Callable[[Any], list[str]] | None = field(default=None, compare=False)
    preferred_batch_size: int = 0
    opened: Opened | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Kind:
    backend: str
    platform: str
    filename: str
    # Triton takes a directory of this name for a model too.
    directory: bool = False
    aliases: tuple[str, ...] = ()
    # Of a backend that looks for its file itself, under one of these names; `filename` is "" then.
    found: tuple[str, ...] = ()


# In the order in which Triton looks for them.
_KINDS = (
    _Kind("tensorrt", "tensorrt_plan", "model.plan"),
    _Kind("tensorflow", "tensorflow_savedmodel", "model.savedmodel", directory=True),
    _Kind("tensorflow", "tensorflow_graphdef", "model.graphdef"),
    _Kind("onnxruntime", "onnxruntime_onnx", "model.onnx", directory=True),
    _Kind("openvino", "", "model.xml", directory=True),
    _Kind("pytorch", "pytorch_libtorch", "model.pt", aliases=("libtorch",)),
    _Kind("pytorch", "torch_aoti", "model.pt2"),
    _Kind("python", "", "model.py", directory=True),
    # Triton's FIL backend is never deduced; its files are known by their names all the same.
    _Kind("fil", "", "", found=("xgboost.json", "xgboost.ubj", "xgboost.model", "checkpoint.tl", "model.txt")),
)

# Names by which a model is found that says nothing of its backend, the most usual first.
MODEL_FILES = tuple(
    sorted((kind.filename for kind in _KINDS if kind.filename), key=lambda name: (name != "model.onnx", name))
)


def deduce(proto: Any, model_dir: Path, name: str) -> None:
    """Fills name, backend, platform and default_model_filename of `proto` from what it says and from the
    files of the first version directory. Happens even when auto-complete is disabled, as in Triton.
    """
    if not proto.name:
        proto.name = name
    if is_ensemble(proto):
        return
    kind = _by_config(proto)
    if kind is not None and kind.backend == "tensorflow" and not proto.platform:
        # Two platforms, one backend: the file's name tells, or what lies there.
        said = proto.default_model_filename
        found = _by_files(model_dir)
        if said:
            kind = next((other for other in _KINDS if other.filename == said), kind)
        elif found is not None and found.backend == kind.backend:
            kind = found
    if kind is None and not (proto.backend or proto.platform or proto.default_model_filename):
        kind = _by_files(model_dir)
    if kind is not None:
        proto.backend = proto.backend or kind.backend
        proto.platform = proto.platform or kind.platform
        # A PyTorch model that is Python code has its weights in the file that is the model otherwise.
        if not is_torch_code(proto):
            proto.default_model_filename = proto.default_model_filename or kind.filename
        return
    if not (proto.backend or proto.platform or proto.default_model_filename):
        _by_name(proto, name)


def is_torch_code(proto: Any) -> bool:
    """Whether it is a PyTorch model that is Python code, by a config whose backend is known."""
    return bool(proto.backend == "pytorch" and proto.runtime == "model.py")


def _by_config(proto: Any) -> _Kind | None:
    for kind in _KINDS:
        platforms = (kind.platform, *kind.aliases)
        if proto.backend:
            if proto.backend == kind.backend and (not proto.platform or proto.platform in platforms):
                return kind
        elif proto.platform:
            if proto.platform in platforms:
                return kind
        elif kind.filename and proto.default_model_filename == kind.filename:
            return kind
    return None


def _by_files(model_dir: Path) -> _Kind | None:
    versions = list_versions(model_dir)
    if not versions:
        return None
    directory = os.path.join(model_dir, str(versions[0]))
    try:
        held = os.listdir(directory)
    except OSError:
        return None
    for kind in _KINDS:
        for name in (*kind.found, kind.filename):
            path = os.path.join(directory, name)
            if name in held and (os.path.isfile(path) or (kind.directory and os.path.isdir(path))):
                return kind
    return None


def _by_name(proto: Any, name: str) -> None:
    # A directory `x.<backend>` names the backend of a model that says nothing else.
    _, dot, backend = name.partition(".")
    if not dot or not backend:
        raise InvalidArg(
            f"Invalid model name: Could not determine backend for model '{name}' with no backend in model "
            "configuration. Expected model name of the form 'model.<backend_name>'."
        )
    proto.backend = backend
    proto.default_model_filename = f"model.{backend}"


def complete(proto: Any, model_io: ModelIO, default_max_batch_size: int = 4) -> list[str]:
    """Fills what `proto` leaves out of max_batch_size, dynamic batching, inputs and outputs, and keeps what
    it says. Returns lines for the log. InvalidArg when max_batch_size is set and the model cannot batch.
    """
    warnings: list[str] = []
    given = [*proto.input, *proto.output]
    # Triton leaves a config alone that lists inputs and outputs; we still fill gaps within them.
    listed = bool(proto.input or proto.batch_input) and bool(proto.output)
    if model_io.max_batch_size is not None:
        warnings = _complete_fixed_batching(proto, model_io, model_io.max_batch_size)
    elif not (listed and all(io.dims for io in given)):
        warnings = _complete_batching(proto, model_io, default_max_batch_size)
    _complete_tensors(proto.input, model_io.inputs, proto.max_batch_size, not proto.batch_input)
    _complete_tensors(proto.output, model_io.outputs, proto.max_batch_size, not proto.batch_output)
    return warnings


def _complete_batching(proto: Any, model_io: ModelIO, default_max_batch_size: int) -> list[str]:
    warnings: list[str] = []
    tensors = (*(tensor for tensor in model_io.inputs if not tensor.optional), *model_io.outputs)
    if not all(tensor.dims and tensor.dims[0] == -1 for tensor in tensors):
        if proto.max_batch_size > 0 and not any(tensor.unranked for tensor in tensors):
            raise InvalidArg(
                f"autofill failed for model '{proto.name}': model does not support batching while non-zero "
                "max_batch_size is specified"
            )
        return warnings
    if proto.max_batch_size == 0 and default_max_batch_size > 0 and not _says_unbatched(proto, model_io):
        if model_io.unbatched:
            warnings.append(f"model '{proto.name}' is served without batching: {model_io.unbatched}")
            return warnings
        proto.max_batch_size = default_max_batch_size
        warnings.append(
            f"autofilled max_batch_size to {default_max_batch_size} for model '{proto.name}' since batching "
            "is supported but no max_batch_size is specified in model configuration. Must specify "
            "max_batch_size to utilize autofill with a larger max batch size"
        )
    if proto.max_batch_size > 1 and proto.WhichOneof("scheduling_choice") is None:
        if model_io.mixes_rows:
            warnings.append(
                f"dynamic batching is not switched on for model '{proto.name}': {model_io.mixes_rows}, so that answers "
                "would depend on the other requests in it. Write 'dynamic_batching { }' to have it all the same"
            )
        else:
            proto.dynamic_batching.SetInParent()
    return warnings


def unranked_inputs(proto: Any, model_io: ModelIO) -> frozenset[str]:
    """Inputs that take any number of dimensions, as neither model nor config says how many. `proto`: as written."""
    written = {io.name for io in proto.input if io.dims}
    return frozenset(tensor.name for tensor in model_io.inputs if tensor.unranked and tensor.name not in written)


def advice(proto: Any, model_io: ModelIO) -> list[str]:
    """Lines for the log about what a config asks for, and the model can hardly mean. `proto`: as it was written."""
    warnings = []
    if proto.max_batch_size > 0 and model_io.unbatched and not is_ragged(proto):
        warnings.append(
            f"model '{proto.name}' is configured for batches of {proto.max_batch_size}: {model_io.unbatched}. Set "
            "'max_batch_size: 0' and write all dimensions if its requests fail"
        )
    if proto.HasField("dynamic_batching") and model_io.mixes_rows and not is_ragged(proto):
        warnings.append(
            f"model '{proto.name}' is configured for dynamic batching: {model_io.mixes_rows}, so that answers depend "
            "on the other requests in it"
        )
    return warnings


def _complete_fixed_batching(proto: Any, model_io: ModelIO, largest: int) -> list[str]:
    """Of a model that knows its largest batch: Triton's TensorRT backend. The config's shapes decide when given."""
    warnings: list[str] = []
    ranks = {tensor.name: len(tensor.dims) for tensor in (*model_io.inputs, *model_io.outputs)}
    given = [
        len(shape) + 1 == ranks[io.name]
        for io in (*proto.input, *proto.output)
        if (shape := io.reshape.shape if io.HasField("reshape") else io.dims) and io.name in ranks
    ]
    if any(given) and not all(given):
        raise InternalError(
            f"unable to autofill for '{proto.name}', model tensor configurations are contradicting each other in "
            "terms of whether batching is supported"
        )
    if any(given) and largest == 0:
        raise InternalError(
            f"autofill failed for model '{proto.name}': model tensor shape configuration hints for dynamic batching "
            "but the underlying engine doesn't support batching."
        )
    if given and not any(given):
        if largest > 0:
            warnings.append(
                f"The specified dimensions in model config for {proto.name} hints that batching is unavailable"
            )
        largest = 0
    if proto.max_batch_size > largest:
        raise InternalError(
            f"autofill failed for model '{proto.name}': configuration specified max-batch {proto.max_batch_size} "
            f"but TensorRT engine only supports max-batch {largest}"
        )
    proto.max_batch_size = proto.max_batch_size or largest
    if proto.max_batch_size > 1 and proto.WhichOneof("scheduling_choice") is None:
        proto.dynamic_batching.SetInParent()
    return warnings


def _says_unbatched(proto: Any, model_io: ModelIO) -> bool:
    """Whether a tensor of the config is described with all dimensions of the model, the first included."""
    known = {tensor.name: tensor for tensor in (*model_io.inputs, *model_io.outputs)}
    for io in (*proto.input, *proto.output):
        tensor = known.get(io.name)
        dims = io.reshape.shape if io.HasField("reshape") else io.dims
        if tensor is not None and io.dims and len(dims) == len(tensor.dims):
            return True
    return False


def _complete_tensors(ios: Any, tensors: Iterable[TensorInfo], max_batch_size: int, may_add: bool) -> None:
    """Adds all `tensors` when `ios` is empty, else fills data_type and dims of those that lack them."""
    known = {tensor.name: tensor for tensor in tensors}
    if not ios and may_add:
        for name, tensor in known.items():
            if tensor.optional:
                continue
            io = ios.add(name=name)
            if tensor.shape_tensor:
                io.is_shape_tensor = True
    for io in ios:
        described = known.get(io.name)
        if described is None:
            continue
        if not io.data_type:
            io.data_type = described.datatype
        if not io.dims and not io.HasField("reshape"):
            _fill_dims(io, described, max_batch_size)


def _fill_dims(io: Any, tensor: TensorInfo, max_batch_size: int) -> None:
    ragged = "allow_ragged_batch" in io.DESCRIPTOR.fields_by_name and io.allow_ragged_batch
    if tensor.unranked or ragged:  # what requests have, the model does not say
        io.dims.append(-1)
        return
    # A fixed size of zero cannot be said in a config; as a variable size it can be sent.
    dims = [dim if dim > 0 else -1 for dim in tensor.dims]
    if max_batch_size > 0:
        dims = dims[1:]
    io.dims.extend(dims or [1])
    if not dims and max_batch_size > 0:
        io.reshape.SetInParent()
