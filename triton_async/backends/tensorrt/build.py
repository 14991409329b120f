"""Builds a plan from an ONNX model. Blocking, minutes for large models: load threads only."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_async.backends.tensorrt.api import Library, created
from triton_async.backends.tensorrt.check import configured_dims
from triton_async.backends.tensorrt.options import MAX_SHAPES, MIN_SHAPES, OPT_SHAPES, BuildParameters, ShapeRange
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.errors import InternalError, InvalidArg, Unsupported
from triton_async.infer.signature import format_dims

log = logging.getLogger("triton_async.tensorrt")

# Seconds between two lines about the progress of one build.
PROGRESS_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """An input of a parsed model: all of its dims, -1 where dynamic."""

    name: str
    dims: tuple[int, ...]
    shape_tensor: bool = False


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a plan is to become. `profiles`: dims of every dynamic input, () when there is none; the rest as in
    BuildParameters."""

    profiles: tuple[Mapping[str, ShapeRange], ...]
    level: int
    workspace_nbytes: int
    precision: str


class Network:
    """A parsed ONNX model, ready to be built. One thread at a time."""

    def __init__(self, library: Library, onnx: bytes, path: Path, precision: str = "") -> None:
        """`path`: where external data is looked for; `onnx`: the bytes that are parsed, read from there before.

        `precision`: what the builder may choose besides what the model says; Unsupported where it cannot be told so.
        """
        self._library = library
        trt = library.trt
        with library.lock, library.messages.listening() as heard:
            self.builder = created(trt.Builder, library.logger)
            if self.builder is None:
                raise InternalError(f"unable to create TensorRT builder: {heard.error()}")
            self.network = self.builder.create_network(_network_flags(library, precision))
            self._parser = trt.OnnxParser(self.network, library.logger)
            if not self._parser.parse(onnx, str(path)):
                reasons = [str(self._parser.get_error(index)) for index in range(self._parser.num_errors)]
                text = "; ".join(reasons) or heard.error()
                raise InvalidArg(f"failed to parse ONNX model: {text.replace(f'{path.parent}/', '')[:1000]}")
            if not self.network.num_outputs:
                raise InvalidArg("failed to parse ONNX model: it has no outputs")

    def inputs(self) -> tuple[NetworkInput, ...]:
        network = self.network
        tensors = [network.get_input(index) for index in range(network.num_inputs)]
        return tuple(NetworkInput(t.name, tuple(t.shape), bool(t.is_shape_tensor)) for t in tensors)

    def model_io(self) -> ModelIO:
        """Inputs and outputs for auto-complete. Unsupported for a datatype that no request can carry."""
        network = self.network

        def info(tensor: Any, is_input: bool) -> TensorInfo:
            shape_tensor = is_input and bool(tensor.is_shape_tensor)
            dims = tuple(tensor.shape)
            return TensorInfo(
                tensor.name, self._library.datatype(tensor.dtype, tensor.name), dims, shape_tensor=shape_tensor
            )

        return ModelIO(
            tuple(info(network.get_input(index), True) for index in range(network.num_inputs)),
            tuple(info(network.get_output(index), False) for index in range(network.num_outputs)),
        )

    def build(self, options: BuildOptions, name: str, on_device: bool) -> bytes:
        """The plan. `name`: of the model, for the log; `on_device`: for the current GPU, where the library can also
        build for GPUs that are not there. InternalError with TensorRT's reason."""
        library = self._library
        config = self.builder.create_builder_config()
        _configure(config, library, options)
        if on_device and library.is_rtx:
            _target_current(config, library)
        for profile in options.profiles:
            config.add_optimization_profile(self._profile(profile))
        started = time.monotonic()
        log.info("building a TensorRT plan of model '%s' with %s %s", name, library.name, library.version)
        monitor = _make_monitor(library, name)
        if monitor is not None and hasattr(config, "progress_monitor"):
            config.progress_monitor = monitor
        with library.messages.listening() as heard:
            plan = self.builder.build_serialized_network(self.network, config)
            if plan is None:
                raise InternalError(f"unable to build TensorRT plan of model '{name}': {heard.error()}")
        log.info("built the plan of model '%s': %d bytes in %.1f s", name, plan.nbytes, time.monotonic() - started)
        return bytes(memoryview(plan))

    def _profile(self, shapes: Mapping[str, ShapeRange]) -> Any:
        profile = self.builder.create_optimization_profile()
        for name, found in shapes.items():
            profile.set_shape(name, found.minimum, found.optimum, found.maximum)
        return profile


def resolve_profiles(
    inputs: Sequence[NetworkInput], proto: Any, parameters: BuildParameters
) -> tuple[Mapping[str, ShapeRange], ...]:
    """The shapes of every dynamic input in every profile: what the parameters say, else what follows from the config.

    From the config: batches of 1 to max_batch_size, best for the largest preferred batch size, and dims that the
    config fixes. InvalidArg, naming the input, when a size stays open.
    """
    for name in sorted({name for profile in parameters.profiles for name in profile} - {one.name for one in inputs}):
        raise InvalidArg(
            f"model '{proto.name}': '{MIN_SHAPES}' names '{name}', which is no input; there are: "
            f"{', '.join(sorted(one.name for one in inputs))}"
        )
    profiles: list[Mapping[str, ShapeRange]] = []
    for given in parameters.profiles or ({},):
        made = {}
        for one in inputs:
            if one.shape_tensor:
                raise Unsupported(
                    f"model '{proto.name}': input '{one.name}' is a shape tensor; build the plan with trtexec and "
                    "serve it as model.plan"
                )
            if one.name in given:
                made[one.name] = _checked(given[one.name], one, proto)
            elif -1 in one.dims:
                made[one.name] = _from_config(one, proto)
        profiles.append(made)
    return tuple(profiles) if any(profiles) else ()


def _checked(found: ShapeRange, one: NetworkInput, proto: Any) -> ShapeRange:
    fits = len(found.minimum) == len(one.dims) and all(
        dim in (-1, low) and dim in (-1, high)
        for dim, low, high in zip(one.dims, found.minimum, found.maximum, strict=False)
    )
    if not fits:
        raise InvalidArg(
            f"model '{proto.name}': '{MIN_SHAPES}', '{OPT_SHAPES}' and '{MAX_SHAPES}' of input '{one.name}' must have "
            f"its {len(one.dims)} dimensions, and the sizes that the model fixes: {format_dims(one.dims)}"
        )
    return found


def _from_config(one: NetworkInput, proto: Any) -> ShapeRange:
    io = next((io for io in proto.input if io.name == one.name), None)
    if io is None:
        raise InvalidArg(f"expected configuration for input '{one.name}' for {proto.name}")
    wanted = configured_dims(io)
    sizes: list[tuple[int, int, int]] = []
    if proto.max_batch_size > 0:
        largest = proto.max_batch_size
        preferred = [size for size in proto.dynamic_batching.preferred_batch_size if size <= largest]
        sizes.append((1, max(preferred, default=largest), largest))
    sizes += [(dim, dim, dim) for dim in wanted]
    if len(sizes) != len(one.dims):
        raise InvalidArg(
            f"model '{proto.name}', tensor '{one.name}': the model expects {len(one.dims)} dimensions (shape "
            f"{format_dims(one.dims)}) but the model configuration specifies {len(sizes)} dimensions"
        )
    fixed = [(dim, dim, dim) if dim != -1 else size for dim, size in zip(one.dims, sizes, strict=True)]
    if any(size[0] == -1 for size in fixed):
        raise InvalidArg(
            f"input '{one.name}' of model '{proto.name}' has variable dimensions {format_dims(wanted)}: a plan needs "
            f"their range, by the parameters '{MIN_SHAPES}', '{OPT_SHAPES}' and '{MAX_SHAPES}'"
        )
    minimum, optimum, maximum = zip(*fixed, strict=True)
    return ShapeRange(minimum, optimum, maximum)


def _network_flags(library: Library, precision: str) -> int:
    flags = library.optional("NetworkDefinitionCreationFlag")
    strongly = getattr(flags, "STRONGLY_TYPED", None)
    batch = getattr(flags, "EXPLICIT_BATCH", None)
    needed = "FP16" if precision == "FP32" else precision
    if precision and not hasattr(library.trt.BuilderFlag, needed):
        raise Unsupported(
            f"parameter 'precision_mode' is {precision}, but {library.name} {library.version} computes in the "
            "datatypes of the ONNX model: convert the model to that precision"
        )
    chosen = 0 if batch is None else 1 << int(batch)
    # Without a precision the datatypes of the model hold, as they do in versions that know nothing else.
    if strongly is not None and not precision:
        chosen |= 1 << int(strongly)
    return chosen


def _configure(config: Any, library: Library, options: BuildOptions) -> None:
    trt = library.trt
    if options.workspace_nbytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_nbytes)
    if options.level >= 0:
        config.builder_optimization_level = options.level
    if options.precision and options.precision != "FP32":
        config.set_flag(getattr(trt.BuilderFlag, options.precision))


def _target_current(config: Any, library: Library) -> None:
    config.num_compute_capabilities = 1
    with library.messages.listening() as heard:
        if not config.set_compute_capability(library.trt.ComputeCapability.CURRENT, 0):
            log.warning("%s cannot build for this GPU (%s); building for those it knows", library.name, heard.error())
            config.num_compute_capabilities = 0


def _make_monitor(library: Library, name: str) -> Any:
    base = library.optional("IProgressMonitor")
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self._steps: dict[str, int] = {}
            self._next = time.monotonic() + PROGRESS_INTERVAL_S

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + PROGRESS_INTERVAL_S
                steps = self._steps.get(phase, 0)
                log.info("building the plan of model '%s': %s, %d of %d", name, phase, step + 1, steps)
            return True

    return Monitor()
