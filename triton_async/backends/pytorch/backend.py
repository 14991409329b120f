"""The backend and its loaded models: what is decided before the first batch."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.device.instance import DeviceInstance
from triton_async.backends.device.options import slot_options
from triton_async.backends.pytorch.archive import Kind, kind_of, open_archive, read_program
from triton_async.backends.pytorch.calls import Binding, Caller
from triton_async.backends.pytorch.engine import CudaMemory, TorchEngine
from triton_async.backends.pytorch.exported import CompiledProgram, ExportedProgram
from triton_async.backends.pytorch.instance import DeviceQueue, PyTorchInstance
from triton_async.backends.pytorch.library import Library
from triton_async.backends.pytorch.naming import bind_inputs, bind_outputs
from triton_async.backends.pytorch.options import model_options
from triton_async.backends.pytorch.program import Port, Program
from triton_async.backends.pytorch.script import ScriptProgram
from triton_async.backends.pytorch.tensors import BYTES, Converter
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.consistency import check_against_model
from triton_async.config.model_config import InstanceGroup, InstanceKind
from triton_async.config.sequences import with_injected
from triton_async.errors import InvalidArg, ServerError, Unsupported

_logger = logging.getLogger(__name__)


class PyTorchBackend(Backend):
    """PyTorch on CPU and GPU. Holds the library from the first model on. Any thread."""

    name = "pytorch"
    assembles = frozenset(("allow_ragged_batch", "batch_input", "batch_output", "padding"))

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None

    @property
    def kinds(self) -> tuple[InstanceKind, ...]:
        """Kinds of instances: GPU where PyTorch was built for CUDA. Loads PyTorch, and not CUDA."""
        if self.gpu_problem:
            return (InstanceKind.CPU, InstanceKind.MODEL)
        return (InstanceKind.GPU, InstanceKind.CPU, InstanceKind.MODEL)

    @property
    def gpu_problem(self) -> str:
        """Why there are no instances on GPUs, "" when there can be."""
        try:
            torch = self._loaded().torch
        except ServerError as error:
            return error.message
        return "" if torch.version.cuda else f"PyTorch {torch.__version__} was built without CUDA"

    def inspect(self, path: Path, proto: Any) -> ModelIO | None:
        """Inputs and outputs of an exported program, in the names of the config where it has some.

        None for the other kinds, which do not say what they take: InvalidArg when the config does not either.
        """
        path = _model_file(path)
        torch = self._loaded().torch
        reader = open_archive(torch, path, proto.name)
        kind = kind_of(reader, path, proto.name)
        if kind is Kind.EXPORTED:
            return _described(proto, *read_program(torch, reader, proto.name))
        for what, ios in (("input", proto.input), ("output", proto.output)):
            if not ios or not all(io.data_type and (io.dims or io.HasField("reshape")) for io in ios):
                raise InvalidArg(
                    f"model configuration must contain at least one {what}, with name, data_type and dims, for "
                    f"'{proto.name}': auto-complete is not supported for {kind.value}, which does not say what it "
                    f"{'takes' if what == 'input' else 'returns'}"
                )
        return None

    def load(self, context: LoadContext) -> LoadedModel:
        """A copy of the model, checked against its config."""
        return PyTorchModel(self._loaded(), context)

    def _loaded(self) -> Library:
        with self._lock:
            if self._library is None:
                self._library = Library(self.cores)
            return self._library


class PyTorchModel(LoadedModel):
    """One version. Each instance has a copy of the model, which may have state, unless ENABLE_WEIGHT_SHARING."""

    def __init__(self, library: Library, context: LoadContext) -> None:
        self._library = library
        self._context = context
        self._path = _model_file(context.path)
        self._lock = threading.Lock()
        self._programs: dict[str | None, Program] = {}
        config = context.config
        self._options = model_options(config)
        if self._options.inter_op_threads:
            library.set_inter_op_threads(config.name, self._options.inter_op_threads)
        if any(group.kind is InstanceKind.GPU for group in config.instance_groups):
            self.input_pool = context.pools.pinned()
        # The first instance takes the copy that the config is checked with.
        first = config.instances()[0]
        device = _device(config.instance_groups[first.group].kind, first.device)
        library.claim(self, config.name, self._options.switches)
        try:
            self._programs[device] = self._load(device)
            self._binding = Binding(config, self._programs[device], Converter(library.torch).dtypes)
            results = self._programs[device].results
            if results is not None and any(port.dims is not None for port in results):
                model_io = _described(config.proto, self._programs[device].arguments, results)
                check_against_model(with_injected(config.proto), model_io)
        except BaseException:
            self.close()
            raise
        for line in (*self._options.warnings, *self._binding.warnings):
            _logger.warning("%s", line)

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance with a copy of the model, or with the one of its device."""
        device = _device(group.kind, device_id)
        with self._lock:
            program = self._programs.get(device)
            if program is None:
                program = self._load(device)
                if self._options.share_weights:
                    self._programs[device] = program
            elif not self._options.share_weights:
                del self._programs[device]
        torch, options = self._library.torch, self._options
        caller = Caller(torch, program, self._binding, options, self._library.threads)
        pool = self._context.pool
        if group.kind is not InstanceKind.GPU or device is None:
            return PyTorchInstance(name, pool, caller, Converter(torch))
        converter = Converter(torch, device)
        torch.cuda.synchronize(device)  # the weights were brought there on another stream
        if BYTES in {io.datatype for io in (*self._binding.inputs, *self._binding.outputs)}:
            return PyTorchInstance(name, pool, caller, converter, DeviceQueue(torch, device, options.clean_cache))
        engine = TorchEngine(caller, converter, CudaMemory(torch, device), options.clean_cache)
        return self._on_device(name, engine, device_id)

    def _on_device(self, name: str, engine: TorchEngine, device_id: int) -> ModelInstance:
        context = self._context
        return DeviceInstance(
            name, engine, context.signature, context.pools.devices, device_id, slot_options(context.config),
            context.pool, pinned_pool=context.pools.pinned(), memory=context.pools.device(device_id),
        )  # fmt: skip

    def close(self) -> None:
        """Drops the copies that no instance took, and the process-wide settings."""
        self._programs.clear()
        self._library.release(self)

    def _load(self, device: str | None) -> Program:
        torch, name = self._library.torch, self._context.config.name
        reader = open_archive(torch, self._path, name)
        kind = kind_of(reader, self._path, name)
        with self._library.loading, torch.inference_mode(self._options.inference_mode):
            if kind is Kind.SCRIPT:
                return ScriptProgram(torch, self._path, name, device)
            if kind is Kind.EXPORTED:
                return ExportedProgram(torch, reader, self._path, name, device)
            batching = self._context.config.max_batch_size > 0
            return CompiledProgram(torch, reader, self._path, name, device, batching=batching)


def _device(kind: InstanceKind, device_id: int) -> str | None:
    # KIND_MODEL leaves the model where its file says.
    return {InstanceKind.GPU: f"cuda:{device_id}", InstanceKind.CPU: "cpu"}.get(kind)


def _model_file(path: Path) -> Path:
    # Triton's second choice where the config names no file.
    other = path.with_suffix(".pt2")
    return other if path.name == "model.pt" and not path.exists() and other.exists() else path


def _described(proto: Any, arguments: tuple[Port, ...], results: tuple[Port, ...]) -> ModelIO:
    """Arguments and results of an exported program, those of the config in its names."""
    proto = with_injected(proto) if proto.input and proto.output else proto
    program = Program()
    program.arguments = tuple(port for port in arguments if port.path)
    program.results = results
    warnings: list[str] = []
    inputs = {place: port.name for place, port in enumerate(program.arguments)}
    if proto.input:
        names = [io.name for io in proto.input]
        inputs.update(zip(bind_inputs(proto.name, names, program, warnings), names, strict=True))
    outputs = {place: port.name for place, port in enumerate(results)}
    if proto.output:
        names = [io.name for io in proto.output]
        outputs.update(zip(bind_outputs(proto.name, names, program, warnings), names, strict=True))
    for port in program.arguments:
        if not port.datatype:
            raise Unsupported(f"unsupported datatype for input '{port.name}' for model '{proto.name}'")
    return ModelIO(
        tuple(TensorInfo(inputs[i], port.datatype, port.dims or ()) for i, port in enumerate(program.arguments)),
        tuple(
            TensorInfo(outputs[i], port.datatype, port.dims)
            for i, port in enumerate(results)
            if port.dims is not None and port.datatype
        ),
    )
