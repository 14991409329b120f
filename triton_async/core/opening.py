"""The load threads' part of a load: from a model's directory to versions whose engines are made. Blocking.

It goes as far as it can in one step: between two, a load waits for the loop, and the loop for the load's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.config.advice import directory_warnings, no_version
from triton_async.config.autocomplete import ModelIO, Opened
from triton_async.config.ensemble import EnsembleStep
from triton_async.config.labels import read_labels
from triton_async.config.load import ConfigFile, check_model_file, complete_config, model_path, read, select_versions
from triton_async.config.model_config import Instance, ModelConfig, TensorConfig, host_policies
from triton_async.config.place import ModelPlace
from triton_async.config.settings import Settings
from triton_async.config.versions import look
from triton_async.core.agents import AgentRun
from triton_async.core.files import Fingerprint, fingerprint
from triton_async.core.host import LOADING, Host, as_server_error
from triton_async.core.identity import ModelFiles
from triton_async.core.initial_states import read_initial_states
from triton_async.core.instances import Instance as Runner
from triton_async.core.placement import check_backend, find_gpus, gpus_in_use
from triton_async.core.planning import check_assembly, make_plan, without_ignored
from triton_async.core.warmup_samples import Sample, read_samples
from triton_async.errors import InvalidArg, ServerError, Unsupported
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor
from triton_async.memory.binding import bound

log = logging.getLogger("triton_async.core")


class Closable(Protocol):
    """What `close_all` takes."""

    def close(self) -> None: ...


@dataclass(slots=True)
class OpenVersion:
    """A version that is loaded and runs nothing yet: to be started, or closed. `engines`: of all its instances, in
    order, where the model does not bind them to their threads. `samples`: what they run before the version is ready.
    `begun`: when, in seconds of time.monotonic.
    """

    version: int
    signature: ModelSignature
    loaded: LoadedModel
    engines: list[ModelInstance]
    samples: list[Sample]
    begun: float
    # States that sequences begin with, in the order of the config.
    initial_states: list[Tensor] = field(default_factory=list)
    # For a response cache that others share; None: there is none.
    files: ModelFiles | None = None

    def close(self) -> None:
        """Frees the engines and what they share. Blocking."""
        close_all([*self.engines, *parts_of(self.loaded)])


@dataclass(slots=True)
class OpenEnsemble:
    """An ensemble that is to be joined to the models of its steps. `labels`: of its outputs, by name. `begun`: when,
    in seconds of time.monotonic.
    """

    config: ModelConfig
    versions: tuple[int, ...]
    labels: dict[str, tuple[str, ...]]
    begun: float

    @property
    def steps(self) -> tuple[EnsembleStep, ...]:
        """What it asks."""
        return () if self.config.ensemble is None else self.config.ensemble.steps


@dataclass(slots=True)
class OpenModel:
    """A model as far as one step gets. `versions`: what the policy serves, ascending, maybe nothing. `config`: or why
    there is none. `newest`: the last of the versions, or why that could not be loaded; None while it is still to be.
    `ensemble`: in the place of versions. `looked_into`: there is no config because of what is in the last version.
    """

    fingerprint: Fingerprint
    versions: tuple[int, ...]
    config: ModelConfig | ServerError | None = None
    newest: OpenVersion | ServerError | None = None
    ensemble: OpenEnsemble | None = None
    looked_into: bool = False
    # Who is told what becomes of the load, and where the files are; always set behind `open_model`.
    agents: AgentRun = field(default_factory=lambda: AgentRun(Path()))


class Inspection:
    """The `inspect` of a config: asks the backend, and keeps what that has opened. `begun`: when, in seconds. `failed`:
    the backend could make nothing of the version.
    """

    def __init__(self, host: Host, place: ModelPlace) -> None:
        self._host = host
        self._backends: dict[str, Backend] = {}
        self.place = place
        self.begun = time.monotonic()
        self.opened: Opened | None = None
        self.failed = False

    def __call__(self, backend: str, path: Path, proto: Any) -> ModelIO | None:
        engine = self.backend(backend)
        engine.prepare()
        # What is opened here may be what is loaded, with threads of its own.
        with _placed(self._host, proto):
            model_io: ModelIO | None = self._of_version(engine.inspect, path, proto)
        if model_io is None:
            return None
        self.opened = model_io.opened
        if model_io.complete is None:
            return model_io
        return replace(model_io, complete=partial(self._of_version, _complete, self._host, model_io.complete))

    def backend(self, name: str) -> Backend:
        """Looked for once: the folders that may have a library of it are files, too."""
        found = self._backends.get(name)
        if found is None:
            found = self._backends[name] = self._host.backends.get(name, self.place)
        return found

    def _of_version(self, look: Callable[..., Any], *arguments: Any) -> Any:
        self.failed = True
        found = look(*arguments)
        self.failed = False
        return found

    def close(self) -> None:
        """Lets go of what no load has taken."""
        if self.opened is not None:
            self.opened.close()


def open_model(
    host: Host,
    settings: Settings,
    name: str,
    directory: Path,
    on_versions: Callable[[tuple[int, ...]], object],
    *,
    given: ConfigFile | None = None,
    keeps: Callable[[ModelConfig, int, Fingerprint], bool] = lambda config, version, found: False,
) -> OpenModel:
    """Reads the model in `directory`, and loads its newest version. `on_versions` hears of the versions before any of
    them is touched. `given`: a config in place of the file's. `keeps`: whether a version that serves need not be loaded
    for this config, and for these files. ServerError when the config file cannot be read.
    """
    found = fingerprint(directory)
    auto_complete = not settings.disable_auto_complete_config
    file = read(directory, name, auto_complete=auto_complete, config_name=settings.model_config_name, given=given)
    agents = AgentRun(directory)
    agents.begin(file.proto, host.agents)
    try:
        return _opened_by(host, settings, name, agents, file, found, on_versions, given, keeps)
    except BaseException:
        agents.fail()
        raise


def _opened_by(  # noqa: PLR0917
    host: Host, settings: Settings, name: str, agents: AgentRun, file: ConfigFile, found: Fingerprint,
    on_versions: Callable[[tuple[int, ...]], object], given: ConfigFile | None,
    keeps: Callable[[ModelConfig, int, Fingerprint], bool],
) -> OpenModel:  # fmt: skip
    """From where its agents have the model."""
    directory, auto_complete = agents.directory, not settings.disable_auto_complete_config
    if agents:
        file = read(directory, name, auto_complete=auto_complete, config_name=settings.model_config_name, given=given)
    held, others = look(directory)
    for line in directory_warnings(directory, held, others):
        log.warning("%s (model '%s')", line, name)
    model = OpenModel(found, select_versions(file, held), agents=agents)
    if not model.versions:
        log.error("model '%s' has no version to serve: %s", name, no_version(directory))
        return model
    on_versions(model.versions)
    newest = model.versions[-1]
    place = ModelPlace(directory, newest, file.proto.runtime)
    inspection = Inspection(host, place)
    try:
        config = complete_config(
            file, directory, name, inspect=inspection, version=newest, auto_complete=auto_complete,
            default_max_batch_size=settings.default_max_batch_size,
            find_gpus=lambda backend, named: find_gpus(inspection.backend(backend), host.open_devices, named),
        )  # fmt: skip
        model.config = config
        if config.ensemble is not None:
            if agents:
                raise Unsupported(f"repository agents that are libraries are not for ensembles, as '{name}' is one")
            for version in model.versions:
                log.info("loading: %s:%d", name, version)
            labels = {io.name: read_labels(directory, io.label_filename) for io in config.outputs if io.label_filename}
            model.ensemble = OpenEnsemble(config, model.versions, labels, inspection.begun)
            return model
        backend = inspection.backend(config.backend)
        check_backend(backend, config, host.open_devices)
        check_assembly(backend, config)
        # A version on a GPU is loaded by itself: its memory is told from what the GPU had in use before.
        if not gpus_in_use(config) and (agents or not keeps(config, newest, found)):
            model.newest = _opened(host, config, newest, directory, inspection)
    except Exception as error:
        model.config = as_server_error(error, LOADING, open_model, directory.parent)
        model.looked_into = inspection.failed
    finally:
        inspection.close()
    return model


def _opened(
    host: Host, config: ModelConfig, version: int, directory: Path, inspection: Inspection
) -> OpenVersion | ServerError:
    try:
        return open_version(host, config, version, directory, inspection)
    except Exception as error:
        return as_server_error(error, LOADING, open_version, directory.parent)


def open_version(
    host: Host, config: ModelConfig, version: int, directory: Path, inspection: Inspection | None = None
) -> OpenVersion:
    """Loads a version, and makes its engines where that may be done here. Nothing is left behind when it fails.

    `inspection`: of this version, when it was the one to complete the config from.
    """
    log.info("loading: %s:%d", config.name, version)
    begun, opened = (time.monotonic(), None) if inspection is None else (inspection.begun, inspection.opened)
    settings = {**host.backend_config.get("", {}), **host.backend_config.get(config.backend, {})}
    place = ModelPlace(directory, version, config.proto.runtime)
    path = model_path(config.proto, directory, version)
    if inspection is not None and inspection.place == place:  # and what there was to find of it has been looked at
        backend = inspection.backend(config.backend)
    else:
        backend = host.backends.get(config.backend, place)
        check_model_file(config.proto, directory, path)
    strategies = host.strategies
    strategy = None if strategies is None else strategies.strategy(config, place)
    config = without_ignored(backend, config)
    files = ModelFiles(directory, version) if host.cache is not None and host.cache.remote else None
    signature = make_signature(config, version, directory)
    initial_states = read_initial_states(config, directory)
    samples = read_samples(config, signature, directory)
    context = LoadContext(
        config, version, path, signature, host.pool, settings, host.pools, opened, strategy is not None
    )  # fmt: skip
    backend.prepare()
    with _placed(host, config.proto):
        loaded = backend.load(context)
    model = OpenVersion(version, signature, loaded, [], samples, begun, initial_states, files)
    try:
        if strategies is not None and strategy is not None:
            loaded.batch_rule = strategies.batch_rule(strategy, config, signature, place)
        model.engines = [] if on_own_threads(host, config, loaded) else make_engines(config, loaded, config.instances())
    except BaseException:
        model.close()
        raise
    return model


def on_own_threads(host: Host, config: ModelConfig, loaded: LoadedModel) -> bool:
    """Whether the engine of each instance is made on the instance's own thread."""
    return loaded.thread_bound or bool(host.cores) or bool(host.policies_of(config))


def _complete(host: Host, complete: Callable[[Any], list[str]], proto: Any) -> list[str]:
    with _placed(host, proto):
        return complete(proto)


@contextmanager
def _placed(host: Host, proto: Any) -> Iterator[None]:
    """What instances share, threads of engines among it, is made where they run, if they have one place."""
    named = host_policies(proto) if host.policies else set()
    policy = host.policies.get(next(iter(named))) if len(named) == 1 else None
    try:
        with nullcontext() if policy is None else bound(policy.cpu_cores, policy.numa_node):
            yield
    except OSError as error:
        if policy is None:
            raise
        raise InvalidArg(f"host policy '{named.pop()}' can not be applied: {error.strerror}") from None


def make_engines(config: ModelConfig, loaded: LoadedModel, specs: Iterable[Instance]) -> list[ModelInstance]:
    """Of instances, where they may be made here. Nothing is left behind when one fails."""
    engines: list[ModelInstance] = []
    try:
        for spec in specs:
            engines.append(engine_maker(config, loaded, spec)())
    except BaseException:
        close_all(engines)
        raise
    return engines


def make_signature(config: ModelConfig, version: int, model_dir: Path) -> ModelSignature:
    """Signature of a version; reads the labels files."""

    states = {state.output_name for state in config.sequences.states} if config.sequences is not None else set()

    def spec(tensor: TensorConfig, kept: bool = False) -> TensorSpec:
        labels = read_labels(model_dir, tensor.label_filename) if tensor.label_filename else ()
        return TensorSpec(
            tensor.name, tensor.datatype, tensor.dims, tensor.reshape, tensor.optional, labels, tensor.any_rank, kept
        )

    return ModelSignature(
        config.name,
        version,
        [spec(tensor) for tensor in config.inputs],
        [spec(tensor, tensor.name in states) for tensor in config.outputs],
        config.max_batch_size,
        config.decoupled,
        [spec(tensor) for tensor in config.engine_inputs[len(config.inputs) :]],
        [spec(tensor) for tensor in config.engine_outputs[len(config.outputs) :]],
        make_plan(config),
    )


def active_instances(config: ModelConfig) -> list[Instance]:
    """The instances that take requests, in the order in which they are made. Passive ones are there too, and take none.
    """
    return [spec for spec in config.instances() if not spec.passive]


def engine_maker(config: ModelConfig, loaded: LoadedModel, spec: Instance) -> Callable[[], ModelInstance]:
    """What makes the engine of an instance."""
    group = config.instance_groups[spec.group]
    return lambda: loaded.create_instance(spec.name, group, spec.device)


def parts_of(loaded: LoadedModel) -> list[Closable]:
    """What is to be closed of a version, behind its instances."""
    return [loaded] if loaded.batch_rule is None else [loaded.batch_rule, loaded]


def close_all(parts: Iterable[Closable]) -> None:
    """Closes one after the other, engines that take long at once. What one raises goes to the log: the others are to be
    freed all the same.
    """
    parts = list(parts)
    for part in parts:
        if isinstance(part, (Runner, ModelInstance)):
            part.begin_to_close()
    for part in parts:
        try:
            part.close()
        except Exception:
            log.exception("a part of a model could not be closed properly")
