"""Loads versions of Python models whose instances are in worker processes. Load threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from triton_async.backends.base import InferenceService, LoadContext
from triton_async.backends.python.defines import WORKER_MEMORY_NBYTES, WORKER_RESPONSE_CREDITS
from triton_async.backends.python.isolated.environments import OWN, Environments
from triton_async.backends.python.isolated.placement import Alone, Home, ModelProcesses
from triton_async.backends.python.isolated.supervisor import WorkerOptions
from triton_async.backends.python.isolated.workers import IsolatedModel, Workers, complete_config
from triton_async.backends.python.isolated.zygote import Zygote
from triton_async.backends.python.options import PythonOptions
from triton_async.backends.python.worker.loader import Source
from triton_async.config.config_json import config_json
from triton_async.config.model_config import InstanceGroup, ModelConfig
from triton_async.memory.slab import SlabPool


class IsolatedModels:
    """Of one backend. `settings`: its --backend-config. `metrics`: metrics.CustomMetrics. `processes`: where those go
    that are in none of their own, None where the server's is the only one.
    """

    def __init__(
        self, settings: Mapping[str, str], metrics: Any, workers: Workers, processes: ModelProcesses | None = None
    ) -> None:
        self._metrics = metrics
        self._workers = workers
        self._processes = processes
        self._environments = Environments(settings.get("environment-cache-directory", ""))

    def load(  # noqa: PLR0917
        self,
        context: LoadContext,
        options: PythonOptions,
        source: Source,
        search: list[str] | None,
        arguments: Callable[[str, InstanceGroup, int], Mapping[str, str]],
        inference: InferenceService | None,
    ) -> IsolatedModel:
        """A version. `source`: its files; `search`: see Loader; `arguments`: of `initialize`, by an instance's name,
        group and device. ServerError.
        """
        config, sequences = context.config, context.config.sequences
        version_dir = _directory(context.path)
        start = {
            **_start(source, search, config.name, context.version, version_dir),
            "decoupled": config.decoupled,
            "output_names": [output.name for output in config.outputs],
            "state_names": [] if sequences is None else [state.output_name for state in sequences.states],
            "reschedules": sequences is not None and sequences.iterative,
        }
        model = IsolatedModel(
            self._workers,
            self._home(options, version_dir.parent, config),
            context.pool,
            _worker_options(start, source, options),
            arguments,
            int(options.execution_limit_s * 1e9),
            inference,
            self._metrics,
        )
        model.unload_limit_s = options.unload_limit_s
        return model

    def complete(self, proto: Any, path: Path, options: PythonOptions, source: Source, search: list[str] | None) -> Any:
        """The config as `auto_complete_config` completes it, a dict, or None. ServerError."""
        version_dir = _directory(path)
        number = int(version_dir.name) if version_dir.name.isdigit() else 1
        start = _start(source, search, proto.name, number, version_dir)
        zygote = self._zygote(options, version_dir.parent, proto.name)
        text = json.dumps(config_json(proto))
        return complete_config(self._workers, zygote, SlabPool(0), _worker_options(start, source, options), text)

    def _home(self, options: PythonOptions, model_directory: Path, config: ModelConfig) -> Home:
        if options.process is None:
            return Alone(self._zygote(options, model_directory, config.name))
        assert self._processes is not None
        return self._processes.home(config.name, options.process, len(config.instances()))

    def _zygote(self, options: PythonOptions, model_directory: Path, model: str) -> Zygote:
        if options.process is not None and self._processes is not None:
            return self._processes.zygote
        environment = OWN
        if options.environment:
            environment = self._environments.find(options.environment, model_directory, model)
        return self._workers.zygote(environment.interpreter, environment.home)


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent


# What worker/process.py is told; see there.
def _start(source: Source, search: list[str] | None, model: str, version: int, version_dir: Path) -> dict[str, Any]:
    return {
        "path": str(source.path), "search": search, "model": model, "version": version, "model_dir": str(version_dir),
        "decoupled": False, "output_names": [], "state_names": [], "reschedules": False,
        "credits": WORKER_RESPONSE_CREDITS,
    }  # fmt: skip


def _worker_options(start: Mapping[str, Any], source: Source, options: PythonOptions) -> WorkerOptions:
    limit = options.memory_limit_nbytes
    code = source.kept.pack()
    return WorkerOptions(start, code, limit, shared_nbytes=min(WORKER_MEMORY_NBYTES, limit or WORKER_MEMORY_NBYTES))
