"""The commands `check` and `config`: what a server would say of a repository, or make of a model, without serving.

Models are opened as for serving, one after the other on the calling thread, and closed again; nothing listens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format

from triton_async.composition import fetched, make_backends, make_pools, open_root
from triton_async.config.advice import no_version
from triton_async.config.ensemble import EnsembleStep
from triton_async.config.load import mistakes
from triton_async.config.model_config import ModelConfig
from triton_async.config.settings import Settings, UsageError, parse, usage
from triton_async.core import files
from triton_async.core.entries import TWO_REPOSITORIES
from triton_async.core.host import LOADING, Host, Workers, as_server_error
from triton_async.core.linking import Target, link
from triton_async.core.native_agents import NativeAgents
from triton_async.core.opening import (
    OpenModel,
    OpenVersion,
    close_all,
    engine_maker,
    make_signature,
    open_model,
    open_version,
)
from triton_async.core.reactor import Reactor
from triton_async.errors import InvalidArg, ServerError
from triton_async.infer.signature import ModelSignature


@dataclass(slots=True)
class Report:
    """What was found. Lines are printed as they come."""

    models: int = 0
    errors: int = 0
    warnings: int = 0
    _told: set[str] = field(default_factory=set)

    def error(self, where: str, text: str) -> None:
        """A mistake: the model, or the repository, would not be served."""
        self.errors += self._tell(f"{where}: error: {text.strip()}")

    def warning(self, where: str, text: str) -> None:
        """What can hardly be meant."""
        self.warnings += self._tell(f"{where}: warning: {text.strip()}")

    def _tell(self, line: str) -> bool:
        new = line not in self._told
        if new:
            self._told.add(line)
            print(line)
        return new


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that was opened; `failed`: why versions of it do not load."""

    directory: Path
    config: ModelConfig
    versions: tuple[int, ...]
    failed: list[tuple[int, ServerError]]


def _check_ensembles(opened: Mapping[str, _Opened], tell: Callable[[str, str], None]) -> None:
    """Joins the ensembles among `opened` to their steps, those that are asked before those that ask; tells of those
    that do not fit.
    """
    signatures = {
        name: {version: make_signature(model.config, version, model.directory) for version in model.versions}
        for name, model in opened.items()
        if model.config.ensemble is None
    }
    left = {name: model for name, model in opened.items() if model.config.ensemble is not None}
    while left:
        able = [
            name
            for name, model in left.items()
            if not any(step.model_name in left for step in _steps_of(model.config))
        ]
        if not able:
            for model in left.values():
                tell(str(model.directory), f"circular dependency between ensembles: {', '.join(left)}")
            return
        for name in able:
            model = left.pop(name)
            try:
                linked = link(model.config, {}, [_target(name, step, signatures) for step in _steps_of(model.config)])
            except InvalidArg as error:
                tell(str(model.directory), error.message)
            else:
                signatures[name] = {version: linked.signature(version) for version in model.versions}


def _steps_of(config: ModelConfig) -> tuple[EnsembleStep, ...]:
    """Of an ensemble; none for a model."""
    return () if config.ensemble is None else config.ensemble.steps


def _target(name: str, step: EnsembleStep, signatures: Mapping[str, Mapping[int, ModelSignature]]) -> Target:
    versions = signatures.get(step.model_name)
    if not versions:
        raise InvalidArg(f"ensemble {name} contains models that are not available or ambiguous: {step.model_name}")
    version = max(versions) if step.model_version == -1 else step.model_version
    if version not in versions:
        raise InvalidArg(
            f"ensemble '{name}' depends on '{step.model_name}' whose required version {version} is not loaded."
        )
    return Target(versions[version])


class _Warnings(logging.Handler):
    """Keeps what the server would log as warnings while a model is opened."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.levelno == logging.WARNING:
            self.lines.append(record.getMessage())


def check(argv: Sequence[str]) -> int:
    """`triton-async check <repository> ... [options]`: prints all mistakes. 0 when no model has an error, else 1."""
    try:
        settings = _settings(argv, "a repository")
    except UsageError as error:
        return _usage(error)
    report = Report()
    roots = _roots(settings, report)
    try:
        _check_all(settings, roots, report)
    finally:
        for root in roots:
            root.close()
    print(f"{report.models} models, {report.errors} errors, {report.warnings} warnings")
    return 1 if report.errors else 0


def _check_all(settings: Settings, roots: Sequence[files.Root], report: Report) -> None:
    with _host(settings) as host:
        # By namespace, where these count: an ensemble's steps are those of its own repository first.
        opened: dict[str, dict[str, _Opened]] = {}
        for name, found in sorted(_models(roots, report).items()):
            report.models += 1
            if len(found) > 1 and not settings.model_namespacing:
                report.error(name, f"{TWO_REPOSITORIES}: {', '.join(map(str, found))}. Rename or remove all but one")
            for root in found:
                try:
                    directory = root.fetch(name).directory
                except ServerError as error:
                    report.error(name, error.message)
                    continue
                checked = _check_model(host, settings, name, directory, report)
                if checked is not None:
                    opened.setdefault(str(root) if settings.model_namespacing else "", {})[name] = checked
        names = Counter(name for models in opened.values() for name in models)
        for models in opened.values():
            others = {
                name: model
                for space in opened.values() if space is not models
                for name, model in space.items() if names[name] == 1
            }  # fmt: skip
            _check_ensembles({**others, **models}, report.error)


def _roots(settings: Settings, report: Report) -> list[files.Root]:
    """The repositories that can be looked at."""
    roots: list[files.Root] = []
    for place in settings.model_repository:
        try:
            root = open_root(place)
            for line in root.survey():
                report.warning("repository", line)
        except ServerError as error:
            report.error(place, error.message)
            continue
        if root.local and not os.path.isdir(place):
            report.error(place, "it is no directory: give the folder that holds the models' folders")
        else:
            roots.append(root)
    return roots


def config(argv: Sequence[str]) -> int:
    """`triton-async config <model directory> [options]`: prints the completed config as text. 1 when there is none."""
    try:
        settings = _settings(argv, "the directory of one model")
    except UsageError as error:
        return _usage(error)
    if len(settings.model_repository) != 1:
        return _usage(UsageError("Error: config takes the directory of one model"))
    directory = Path(settings.model_repository[0]).resolve()
    if not directory.is_dir():
        return _usage(UsageError(f"Error: '{directory}' is no directory: give that of a model"))
    with _host(settings) as host, _listening() as warnings:
        found = _open(host, settings, directory.name, directory)
        completed = found if isinstance(found, ServerError) else found.config
    if isinstance(completed, ServerError):
        print(f"{directory}: error: {completed.message.strip()}", file=sys.stderr)
        return 1
    for line in dict.fromkeys((*warnings, *completed.warnings)):
        print(f"# {line}")
    if not completed.max_batch_size:
        # Text format leaves out zeros, and this one says something.
        print("max_batch_size: 0")
    print(text_format.MessageToString(completed.proto, use_short_repeated_primitives=True), end="")
    return 0


def _settings(argv: Sequence[str], what: str) -> Settings:
    """Settings of the places in front, and of the server's options behind them."""
    given = list(argv)
    places: list[str] = []
    while given and not given[0].startswith("-"):
        places.append(given.pop(0))
    if not places and "--help" not in given:
        raise UsageError(f"Error: {what} must be given")
    return parse([*(f"--model-repository={place}" for place in places), *given])


def _usage(error: UsageError) -> int:
    print(error.message or usage(), file=sys.stderr)
    return 1


def _models(roots: Sequence[files.Root], report: Report) -> dict[str, list[files.Root]]:
    try:
        return files.scan(roots)
    except ServerError as error:
        report.error("repository", error.message)
        return {}


def _check_model(host: Host, settings: Settings, name: str, directory: Path, report: Report) -> _Opened | None:
    where = str(directory)
    wrong = mistakes(
        directory, name, auto_complete=not settings.disable_auto_complete_config,
        config_name=settings.model_config_name,
    )  # fmt: skip
    for error in wrong:
        report.error(where, error.message)
    with _listening() as warnings:
        found = None if wrong else _open(host, settings, name, directory)
    for line in warnings:
        report.warning(where, line)
    if isinstance(found, ServerError):
        report.error(where, found.message)
    elif found is not None:
        for line in found.config.warnings:
            report.warning(where, line)
        for version, problem in found.failed:
            report.error(f"{where}/{version}", problem.message)
        return found
    return None


def _open(host: Host, settings: Settings, name: str, directory: Path) -> _Opened | ServerError:
    """A model that has a config, or why it has none. Every version is tried."""
    try:
        model = open_model(host, settings, name, directory, lambda _: None)
    except Exception as error:
        return as_server_error(error, LOADING, open_model, directory.parent)
    try:
        return _tried(host, name, model)
    finally:
        model.agents.fail()


def _tried(host: Host, name: str, model: OpenModel) -> _Opened | ServerError:
    directory = model.agents.directory
    if not model.versions:
        return InvalidArg(_no_version(name, directory))
    if not isinstance(model.config, ModelConfig):
        assert model.config is not None
        return model.config
    failed: list[tuple[int, ServerError]] = []
    if model.ensemble is not None:
        return _Opened(directory, model.config, model.versions, failed)
    for version in model.versions:
        opened = model.newest if version == model.versions[-1] else None
        try:
            if isinstance(opened, ServerError):
                raise opened
            _try_instances(model.config, opened or open_version(host, model.config, version, directory))
        except Exception as error:
            failed.append((version, as_server_error(error, LOADING, open_version, directory.parent)))
    return _Opened(directory, model.config, model.versions, failed)


def _no_version(name: str, directory: Path) -> str:
    return f"at least one version must be available under the version policy of model '{name}': {no_version(directory)}"


def _try_instances(config: ModelConfig, opened: OpenVersion) -> None:
    engines = []
    try:
        if opened.loaded.thread_bound:
            for spec in config.instances():
                engines.append(engine_maker(config, opened.loaded, spec)())
    finally:
        close_all(engines)
        opened.close()


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Warnings that are logged meanwhile; nothing of the log is printed."""
    handler = _Warnings()
    logger = logging.getLogger("triton_async")
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield handler.lines
    finally:
        logger.handlers[:], logger.propagate = before


@contextmanager
def _host(settings: Settings) -> Iterator[Host]:
    pools = make_pools(settings)
    loop = asyncio.new_event_loop()
    try:
        with Workers(1) as workers:
            backends = make_backends(settings, pools)
            agents = NativeAgents(settings.repoagent_directory, fetched)
            yield Host(loop, Reactor(), pools, backends, workers, settings.backend_config, strategies=backends,
                       agents=agents)  # fmt: skip
            agents.close()
    finally:
        loop.close()
        pools.close()
