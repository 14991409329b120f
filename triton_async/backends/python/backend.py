"""The `python` backend, and those that are a `model.py` in the backend directory: loads versions, makes instances."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from triton_async import importing
from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.python.affinity import is_neutral
from triton_async.backends.python.instance import PythonModelInstance
from triton_async.backends.python.isolated.models import IsolatedModels
from triton_async.backends.python.isolated.placement import ModelProcesses
from triton_async.backends.python.isolated.workers import Workers
from triton_async.backends.python.local import LocalChannel
from triton_async.backends.python.metrics import CustomMetrics
from triton_async.backends.python.options import PythonOptions, check_settings, read_options
from triton_async.backends.python.worker import api, kept, loader
from triton_async.backends.python.worker.channel import Channel
from triton_async.backends.python.worker.context import Context
from triton_async.backends.python.worker.loader import Source
from triton_async.backends.python.worker.runner import ModelFailure, Runner, line_buffered
from triton_async.config.autocomplete import ModelIO
from triton_async.config.config_json import config_json
from triton_async.config.model_config import InstanceGroup, InstanceKind, ModelConfig
from triton_async.config.taken_over import take_over
from triton_async.errors import NotFound, Unavailable, from_code
from triton_async.infer.signature import ModelSignature
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.python")

MODEL_FILE = "model.py"
_ENVIRONMENT = "EXECUTION_ENV_PATH"


class Found:
    """What `inspect` hands to `load`: the version's files, compiled."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def close(self) -> None:
        """Nothing is held open."""


class PythonBackend(Backend):
    """Models that are a `model.py`."""

    name = "python"
    assembles = frozenset(("allow_ragged_batch",))
    gets_requests = True
    kinds = (InstanceKind.CPU, InstanceKind.MODEL, InstanceKind.GPU)
    prefers_cpu = True

    def __init__(self) -> None:
        self._file: Path | None = None
        self._origin = self
        self._lock = threading.Lock()
        self._processes: tuple[Workers, ModelProcesses | None] | None = None
        self._isolated_models: IsolatedModels | None = None
        self._closed = False
        self.metrics = CustomMetrics()
        self._checked = False
        line_buffered()
        api.install()
        loader.imports = importing.lock

    def based_on(self, name: str, file: Path) -> PythonBackend:
        """The Python-based backend of this name, whose models all are what `file` makes of their files."""
        backend = _PythonBased()
        backend.name = name
        backend._file = file
        backend._origin = self
        backend.metrics = self.metrics
        return backend

    def families(self, name: str = "") -> Iterable[Any]:
        """The models' metrics, and those of model processes."""
        if name:
            return self.metrics.families(name)
        processes = None if self._processes is None else self._processes[1]
        return [*self.metrics.families(), *(() if processes is None else processes.families())]

    def close(self) -> None:
        """Ends the processes that its models were in, and what heard them."""
        with self._lock:
            self._closed = True
            made = self._processes
        if made is not None:
            workers, processes = made
            if processes is not None:
                processes.close()
            workers.close()

    def inspect(self, path: Path, proto: Any) -> ModelIO | None:
        self._check_settings()
        if self._file is not None:
            proto.runtime = proto.runtime or MODEL_FILE
        source = self._source(path, proto.name)
        return ModelIO(
            (), (), check=_takes_any, complete=lambda config: self._complete(source, path, config), opened=Found(source)
        )

    def load(self, context: LoadContext) -> LoadedModel:
        self._check_settings()
        options = self._options(context.config.name, context.config.parameters)
        if options.isolated or options.process is not None:
            return self._load_isolated(context, options)
        source = context.opened.source if isinstance(context.opened, Found) else None
        return PythonModel(
            self, context, source or self._source(context.path, context.config.name), options
        )

    def _load_isolated(self, context: LoadContext, options: PythonOptions) -> LoadedModel:
        config, path = context.config, context.path
        text = json.dumps(config_json(config.proto))
        directory = (path if path.is_dir() else path.parent).parent

        def of_instance(name: str, group: InstanceGroup, device: int) -> dict[str, str]:
            return arguments(config, text, context.version, directory, name, group.kind, device)

        source = context.opened.source if isinstance(context.opened, Found) else self._source(path, config.name)
        return self._isolated.load(context, options, source, self.search(path), of_instance, self.inference)

    @property
    def _isolated(self) -> IsolatedModels:
        workers, processes = self._origin._workers()
        with self._lock:
            if self._isolated_models is None:
                self._isolated_models = IsolatedModels(self.settings, self.metrics, workers, processes)
            return self._isolated_models

    # One reader, and the same model processes, for all backends that are made of this one.
    def _workers(self) -> tuple[Workers, ModelProcesses | None]:
        with self._lock:
            if self._closed:
                raise Unavailable("Server exiting")
            if self._processes is None:
                workers = Workers(self.watcher)
                several = self.processes > 1
                self._processes = workers, ModelProcesses(self.processes, workers.reader) if several else None
            return self._processes

    def _options(self, model: str, parameters: Mapping[str, str]) -> PythonOptions:
        if self._file is not None and _ENVIRONMENT not in parameters:
            # What lies beside a Python-based backend is for all of its models. Their configs do not tell clients where.
            environment = self._file.with_name(f"pb_exec_env_{MODEL_FILE}.tar.gz")
            if environment.is_file():
                parameters = {**parameters, _ENVIRONMENT: str(environment.absolute())}
        return read_options(model, parameters, self.settings, self.processes)

    def _check_settings(self) -> None:
        if not self._checked:
            for note in check_settings(self.settings):
                log.warning("%s", note)
            self._checked = True

    def _source(self, path: Path, model: str) -> Source:
        file = self._file or (path / MODEL_FILE if path.is_dir() else path)
        if not file.is_file():
            raise NotFound(f"Python model file not found in '{file.parent.name}' of model '{model}'")
        try:
            found = kept.read(file, [Path(place) for place in self.search(path) or (file.parent, file.parent.parent)])
        except OSError as error:
            raise NotFound(f"the file of Python model '{model}' can not be read: {error.strerror}") from None
        if not found.complete:
            log.warning(
                "model '%s' has more Python files, or other files beside them, than are kept from its load on: when an "
                "instance is started again, it reads the others as they are then", model,
            )  # fmt: skip
        return Source(str(file), found)

    def search(self, path: Path) -> list[str] | None:
        """Where modules of a model are looked for: of a Python-based backend, beside its file first."""
        if self._file is None:
            return None
        return [str(self._file.parent), str(path if path.is_dir() else path.parent)]

    def _complete(self, source: Source, path: Path, proto: Any) -> list[str]:
        """Runs `auto_complete_config`, in modules of its own, and takes over what it may decide."""
        parameters = {name: value.string_value for name, value in proto.parameters.items()}
        options = self._options(proto.name, parameters)
        if options.isolated or options.process is not None:
            completed = self._isolated.complete(proto, path, options, source, self.search(path))
            if completed is not None:
                take_over(proto, completed, "auto_complete_config")
            return []
        version_dir = path if path.is_dir() else path.parent
        channel = LocalChannel(_NO_SIGNATURE, _NO_POOL, None, self.metrics)
        number = int(version_dir.name) if version_dir.name.isdigit() else 1
        context = Context(cast("Channel", channel), proto.name, number, proto.name, str(version_dir), False)
        runner = Runner(source, context, self.search(path))
        try:
            runner.load()
            completed = runner.auto_complete(json.dumps(config_json(proto)))
        except ModelFailure as failure:
            raise from_code(failure.code, failure.message) from None
        finally:
            runner.close()
            channel.close()
        if completed is not None:
            take_over(proto, completed, "auto_complete_config")
        return []


# Of the time before there is a model.
_NO_SIGNATURE = ModelSignature("", 0, [], [])
_NO_POOL = SlabPool(0)


class _PythonBased(PythonBackend):
    """Its metrics are those of the Python backend, which shows them."""

    def families(self, name: str = "") -> Iterable[Any]:
        return ()


class PythonModel(LoadedModel):
    """One version. Its instances share the compiled files, and nothing else."""

    thread_bound = True

    def __init__(self, backend: PythonBackend, context: LoadContext, source: Source, options: PythonOptions) -> None:
        self._options = options
        self._backend = backend
        self._context = context
        self._source = source
        self._config = json.dumps(config_json(context.config.proto))

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        context = self._context
        path = context.path
        version_dir = path if path.is_dir() else path.parent
        sequences = context.config.sequences
        channel = LocalChannel(
            context.signature, context.pool, self._backend.inference, self._backend.metrics,
            sequences is not None and sequences.iterative,
        )  # fmt: skip
        known = Context(
            cast("Channel", channel), context.config.name, context.version, name, str(version_dir),
            context.config.decoupled,
        )
        runner = Runner(self._source, known, self._backend.search(path))
        try:
            runner.load()
            runner.initialize(arguments(context.config, self._config, context.version, version_dir.parent, name,
                                        group.kind, device_id))  # fmt: skip
        except ModelFailure as failure:
            runner.close()
            channel.close()
            log.error("failed to initialize model instance '%s': %s", name, failure.message)
            raise from_code(failure.code, failure.message) from None
        return PythonModelInstance(name, runner, channel, self._options.gpu_inputs, self._is_unbound(group))

    # Whether any thread may run its instances. What is on a GPU is bound to its thread.
    def _is_unbound(self, group: InstanceGroup) -> bool:
        if group.kind is InstanceKind.GPU:
            return False
        if self._options.any_thread is not None:
            return self._options.any_thread
        return is_neutral(self._source.compiled)

    def close(self) -> None:
        # Models are full of cycles, which the server's own heap holds on to, where that is out of collection: it is in
        # processes of our own, since the start. Others may hold servers that end, which must not stay for ever.
        frozen = gc.get_freeze_count() > 0
        gc.unfreeze()
        gc.collect()
        if frozen:
            gc.freeze()


def arguments(  # noqa: PLR0917
    config: ModelConfig, text: str, version: int, directory: Path, instance: str, kind: InstanceKind, device: int
) -> dict[str, str]:
    """What `initialize` gets. `text`: the config as JSON; `directory`: of the model."""
    return {
        "model_config": text,
        "model_instance_kind": kind.name,
        "model_instance_name": instance,
        "model_instance_device_id": str(device),
        "model_repository": str(directory),
        "model_version": str(version),
        "model_name": config.name,
    }


def _takes_any(proto: Any) -> None:
    """A Python model has no inputs and outputs of its own to compare with."""
