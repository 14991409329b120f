"""From the directory of a model to its frozen config: read, deduce, complete, validate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_async.config import pbtxt
from triton_async.config.advice import missing_file, no_model_file, no_version
from triton_async.config.autocomplete import ModelIO, advice, complete, deduce, is_torch_code, unranked_inputs
from triton_async.config.batching import check_batching_needs
from triton_async.config.consistency import check_against_model
from triton_async.config.device_options import unused_device_options, validate_graph_specs
from triton_async.config.labels import read_labels
from triton_async.config.model_config import ModelConfig, freeze, version_policy
from triton_async.config.normalise import normalise, normalise_instances
from triton_async.config.padding import padding_problems
from triton_async.config.paths import check_readable, safe_join
from triton_async.config.placement import FindGpus, Gpus, may_use_gpus, names_gpus, no_gpus
from triton_async.config.ragged import ragged_problems
from triton_async.config.sequences import state_problems, with_injected, without_injected
from triton_async.config.settings import DEFAULT_MAX_BATCH_SIZE
from triton_async.config.unsupported import refuse_unsupported, unsupported, unsupported_fields
from triton_async.config.validate import config_problems, validate_config, validate_instances, validate_name
from triton_async.config.validate_io import io_problems
from triton_async.config.versions import list_versions
from triton_async.config.warmup import check_warm_up
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable
from triton_async.protos import ModelConfig as ModelConfigProto

# Backends whose models are one file, or one folder, of a name that is known: names, and those taken in their place.
_OF_ONE_FILE: dict[str, dict[str, str]] = {
    "onnxruntime": {}, "openvino": {"model.xml": "model.onnx"}, "pytorch": {"model.pt": "model.pt2"},
    "tensorflow": {},
}

# Of PyTorch models that are Python code: what is taken in the place of a named file.
_TORCH_CODE = ("model.py", "model.pt")

# Backend name, path of the model (file or directory), config so far -> what the model has; None when the
# backend cannot tell: the config then stays as written.
Inspect = Callable[[str, Path, Any], ModelIO | None]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a model's config file says, before anything is completed. `filename`: None when there is none. `unbatched`:
    it says `max_batch_size: 0`, which a message cannot tell from saying nothing.
    """

    proto: Any
    filename: str | None = None
    unbatched: bool = False


def load(
    model_dir: Path,
    name: str,
    *,
    inspect: Inspect,
    version: int | None = None,
    auto_complete: bool = True,
    config_name: str = "",
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    find_gpus: FindGpus = no_gpus,
) -> ModelConfig:
    """The complete, valid, frozen config of the model in `model_dir`: `read`, then `complete_config`."""
    file = read(model_dir, name, auto_complete=auto_complete, config_name=config_name)
    return complete_config(
        file, model_dir, name, inspect=inspect, version=version, auto_complete=auto_complete,
        default_max_batch_size=default_max_batch_size, find_gpus=find_gpus,
    )  # fmt: skip


def read(
    model_dir: Path, name: str, *, auto_complete: bool = True, config_name: str = "", given: ConfigFile | None = None
) -> ConfigFile:
    """The config file of the model in `model_dir`, which is known as `name`, with what needs no look into the
    model filled in. InvalidArg when it cannot be read, or breaks a rule that is about no tensor.

    `auto_complete` False is --disable-auto-complete-config, `config_name` is --model-config-name. `given`: what to use
    in place of any file. Blocks on file I/O.
    """
    filename = pbtxt.find(model_dir, config_name) if given is None else None
    if given is not None:
        proto, unbatched = ModelConfigProto(), given.unbatched
        proto.CopyFrom(given.proto)
    elif filename is None:
        if not auto_complete:
            raise InvalidArg(
                f"failed to open text file for read {name}/{pbtxt.FILENAME}: No such file or directory: it must be "
                "there and complete when auto-complete is disabled"
            )
        proto, unbatched = ModelConfigProto(), False
    else:
        proto, unbatched = pbtxt.read(model_dir, filename)
    try:
        if proto.name == model_dir.name:  # also where the repository has another name for it
            proto.name = name
        validate_name(proto, name)
        proto.name = name
        if not unsupported(proto):
            _deduce(proto, model_dir, name)
            normalise(proto)
            validate_config(proto)
    except ServerError as error:
        raise _in_file(error, filename) from None
    return ConfigFile(proto, filename, unbatched)


def complete_config(
    file: ConfigFile,
    model_dir: Path,
    name: str,
    *,
    inspect: Inspect,
    version: int | None = None,
    auto_complete: bool = True,
    default_max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    find_gpus: FindGpus = no_gpus,
) -> ModelConfig:
    """The complete, valid, frozen config of the model whose config file was read; takes over its `proto`.

    `version`: whose files to inspect; the highest that the version policy selects by default.
    Blocks on file I/O, on `find_gpus` and on `inspect`: call it on a loading thread. Raises InvalidArg or
    Unsupported, whose message names the config file, and whatever ServerError the two raise.
    """
    proto, filename = file.proto, file.filename
    ensemble = proto.HasField("ensemble_scheduling")
    try:
        refuse_unsupported(proto)
        _check_tensors(proto, complete=ensemble or not auto_complete)
    except ServerError as error:
        raise _in_file(error, filename) from None
    if ensemble:
        return _complete_ensemble(proto, model_dir, filename)
    gpus = find_gpus(proto.backend, names_gpus(proto)) if may_use_gpus(proto) else Gpus()
    try:
        normalise_instances(proto, gpus.usable, gpus.cpu_first, gpus.preferred)
        validate_instances(proto, gpus)
        path = model_path(proto, model_dir, version)
        check_model_file(proto, model_dir, path)
    except ServerError as error:
        raise _in_file(error, filename) from None
    model_io = inspect(proto.backend, path, proto)
    warnings: list[str] = []
    if auto_complete and model_io is not None and model_io.complete is not None:
        warnings = model_io.complete(proto)
    try:
        if model_io is not None:
            seen = without_injected(model_io, proto)
            warnings += advice(proto, model_io)
        any_rank = frozenset[str]()
        if auto_complete and model_io is not None:
            if model_io.complete is None:
                any_rank = unranked_inputs(proto, seen)
                if model_io.preferred_batch_size and default_max_batch_size == DEFAULT_MAX_BATCH_SIZE:
                    default_max_batch_size = model_io.preferred_batch_size
                warnings += complete(proto, seen, 0 if file.unbatched else default_max_batch_size)
            normalise(proto)
            validate_config(proto)
        _check_tensors(proto)
        validate_graph_specs(proto)
        check_batching_needs(proto)
        check_warm_up(proto)
        if model_io is not None:
            if model_io.check is None:
                check_against_model(with_injected(proto), model_io)
            else:
                model_io.check(with_injected(proto))
        _check_labels(proto, model_dir)
    except InternalError:
        # What the model's own code raised while it was asked: the file has no part in it.
        raise
    except ServerError as error:
        raise _in_file(error, filename) from None
    return freeze(proto, [*warnings, *unused_device_options(proto)], () if proto.max_batch_size else any_rank)


def _complete_ensemble(proto: Any, model_dir: Path, filename: str | None) -> ModelConfig:
    try:
        check_batching_needs(proto)
        _check_labels(proto, model_dir)
    except ServerError as error:
        raise _in_file(error, filename) from None
    return freeze(proto)


def _check_tensors(proto: Any, complete: bool = True) -> None:
    for problem in _tensor_problems(proto, complete):
        raise problem


def _tensor_problems(proto: Any, complete: bool) -> Iterator[InvalidArg]:
    """What is wrong with inputs, outputs, states, and what is made of them. Not `complete`: as in `io_problems`."""
    yield from io_problems(proto, complete)
    yield from ragged_problems(proto, complete)
    yield from padding_problems(proto, complete)
    yield from state_problems(proto)


def _check_labels(proto: Any, model_dir: Path) -> None:
    for output in proto.output:
        if output.label_filename:
            read_labels(model_dir, output.label_filename)


def mistakes(model_dir: Path, name: str, *, auto_complete: bool = True, config_name: str = "") -> list[ServerError]:
    """All that can be told to be wrong with a model's config file without a look into the model. Blocking."""
    filename = pbtxt.find(model_dir, config_name)
    try:
        if filename is None:
            read(model_dir, name, auto_complete=auto_complete)
            return []
        proto, _ = pbtxt.read(model_dir, filename)
        found: list[ServerError] = []
        validate_name(proto, name)
    except ServerError as error:
        return [error if filename is None else _in_file(error, filename)]
    proto.name = name
    found += unsupported_fields(proto)
    if not found:
        try:
            _deduce(proto, model_dir, name)
        except ServerError as error:
            found.append(error)
        normalise(proto)
        found += config_problems(proto)
    found += _tensor_problems(proto, complete=not auto_complete)
    return [_in_file(error, filename) for error in found]


def select_versions(file: ConfigFile, held: tuple[int, ...]) -> tuple[int, ...]:
    """Versions that the model's policy serves of those that its directory holds, ascending."""
    return version_policy(file.proto).select(held)


def model_path(proto: Any, model_dir: Path, version: int | None = None) -> Path:
    """Path of the model of a version; it need not exist (some backends need none). InvalidArg when the policy
    serves no version, or default_model_filename leaves the version's directory.
    """
    if version is None:
        served = version_policy(proto).select(list_versions(model_dir))
        if not served:
            raise InvalidArg(
                f"at least one version must be available under the version policy of model '{proto.name}'"
            )
        version = served[-1]
    what = f"default_model_filename of model '{proto.name}'"
    directory = model_dir / str(version)
    if not proto.default_model_filename:
        return directory
    return safe_join(directory, proto.default_model_filename, what)


def check_model_file(proto: Any, model_dir: Path, path: Path) -> None:
    """ServerError, saying what lies there, when the model's file is not at `path`, or cannot be read. Backends that
    need no file, or look for several, say themselves what they miss.
    """
    if os.path.lexists(path):
        check_readable(path, f"'{path.relative_to(model_dir.parent)}'")
        return
    others = _OF_ONE_FILE.get(proto.backend)
    if others is None:
        return
    if is_torch_code(proto):
        version = model_dir / path.relative_to(model_dir).parts[0]
        instead = [version / name for name in _TORCH_CODE]
    else:
        instead = [path.with_name(others.get(path.name, path.name))]
    if not any(os.path.lexists(other) for other in instead):
        raise Unavailable(missing_file(model_dir, path, proto.backend))


def _deduce(proto: Any, model_dir: Path, name: str) -> None:
    try:
        deduce(proto, model_dir, name)
    except InvalidArg as error:
        versions = list_versions(model_dir)
        where = no_model_file(model_dir, versions[0]) if versions else no_version(model_dir)
        raise InvalidArg(f"{error.message} {where}") from None


def _in_file(error: ServerError, filename: str | None) -> ServerError:
    # Triton's text first, so that what looks for it still finds it.
    return error if filename is None else type(error)(f"{error.message} (in {filename})")
