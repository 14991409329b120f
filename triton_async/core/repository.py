"""The model repositories: finds models, loads and unloads them, knows every version's state. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triton_async.config.load import load as load_config
from triton_async.config.load import select_versions
from triton_async.config.model_config import ModelConfig
from triton_async.config.settings import Settings
from triton_async.core.lifecycle import Host, LoadedVersion, State, load_version, retire, run_blocking
from triton_async.core.model import Model
from triton_async.core.placement import check_backend, find_gpus
from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError, Unavailable, Unsupported

log = logging.getLogger("triton_async.core")

UNLOADED = "unloaded"
TWO_REPOSITORIES = "model appears in two or more repositories"


@dataclass(slots=True)
class VersionEntry:
    """One version in the index. `loaded` is set while READY, and while an older load still serves; `leaving` is the
    load that UNLOADING waits for.
    """

    state: State
    reason: str = ""
    loaded: LoadedVersion | None = None
    leaving: LoadedVersion | None = None


@dataclass(slots=True)
class ModelEntry:
    """A model that was loaded, or tried. `fingerprint` of its files when they were last loaded."""

    name: str
    versions: dict[int, VersionEntry] = field(default_factory=dict)
    # Why it has no version at all: a config that cannot be used.
    reason: str = ""
    fingerprint: tuple[Any, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def ready(self) -> list[int]:
        """READY versions, ascending."""
        return sorted(v for v, entry in self.versions.items() if entry.state is State.READY)


class ModelRepository:
    """All models of all --model-repository directories. `on_change` runs when the set of READY versions does."""

    def __init__(self, settings: Settings, host: Host, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._host = host
        self._on_change = on_change
        self._roots = [Path(root) for root in settings.model_repository]
        self._retiring: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.models: dict[str, ModelEntry] = {}

    # -- what is there -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of all model directories, sorted. InternalError when a repository cannot be read.

        A name that is no UTF-8 text could not be told to anybody, so such a directory is no model.
        """
        found: set[str] = set()
        for root in self._roots:
            try:
                found.update(entry.name for entry in root.iterdir() if _is_model_directory(entry))
            except OSError as error:
                # Clients see the error, and where the repository lies is none of their business.
                log.error("failed to read model repository '%s': %s", root, error.strerror)
                raise InternalError(f"failed to read a model repository: {error.strerror}") from None
        return sorted(found)

    def ready_models(self) -> Iterable[tuple[str, int, LoadedVersion]]:
        """READY versions by model name, then version."""
        for name in sorted(self.models):
            entry = self.models[name]
            for version in entry.ready():
                loaded = entry.versions[version].loaded
                assert loaded is not None
                yield name, version, loaded

    def all_ready(self) -> bool:
        """Triton's strict readiness: every known version READY or unloaded, and every model has one.

        A version on its way out counts as unloaded, so that a rolling update does not make the server unready.
        """
        fine = (State.READY, State.UNLOADING)
        for entry in self.models.values():
            if not entry.versions:
                return False
            for version in entry.versions.values():
                if version.state not in fine and version.reason != UNLOADED:
                    return False
        return True

    def index(self, ready_only: bool) -> list[dict[str, str]]:
        """Rows of the repository index, sorted by name."""
        rows: list[dict[str, str]] = []
        names = set(self.models) if ready_only else set(self.models) | set(self.names())
        for name in sorted(names):
            entry = self.models.get(name)
            if entry is None:
                row = {"name": name}
                if len(self._directories(name)) > 1:
                    row |= {"state": State.UNAVAILABLE.value, "reason": TWO_REPOSITORIES}
                rows.append(row)
                continue
            if not entry.versions and not ready_only:
                rows.append({"name": name, "state": State.UNAVAILABLE.value, "reason": entry.reason})
            for version, state in sorted(entry.versions.items()):
                if ready_only and state.state is not State.READY:
                    continue
                row = {"name": name, "version": str(version), "state": state.state.value}
                if state.reason:
                    row["reason"] = state.reason
                rows.append(row)
        return rows

    def knows(self, name: str, version: int) -> bool:
        """Whether a version (-1: any) was ever loaded, or tried."""
        entry = self.models.get(name)
        return entry is not None and (version in entry.versions if version != -1 else bool(entry.versions))

    def explain(self, name: str, version: int) -> ServerError:
        """Why `name` (version -1: the latest) does not serve, in Triton's words and codes.

        A name nobody knows is NOT_FOUND, as measured on the real server: its INVALID_ARG is for namespaces only.
        """
        entry = self.models.get(name)
        if entry is None or not entry.versions:
            return NotFound(f"Request for unknown model: '{name}' is not found")
        if version == -1:
            return NotFound(f"Request for unknown model: '{name}' has no available versions")
        if version not in entry.versions:
            return NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return Unavailable(f"Request for unknown model: '{name}' version {version} is not at ready state")

    # -- load and unload ---------------------------------------------------------------------------

    async def load_at_start(self) -> bool:
        """Loads what the control mode asks for; whether all of it is READY."""
        names = self.names()
        if self._settings.model_control_mode == "explicit":
            wanted = self._settings.load_model
            names = names if wanted == ("*",) else sorted(set(wanted))
        results = await asyncio.gather(*(self._load_logged(name) for name in names))
        return all(results)

    async def _load_logged(self, name: str) -> bool:
        try:
            await self.load(name)
        except ServerError as error:
            log.error("failed to load '%s': %s", name, error.message.strip())
            return False
        return True

    async def load_by_request(self, name: str, parameters: dict[str, Any] | None) -> None:
        """The load API. ServerError in Triton's words when it is not allowed or fails."""
        self._check_explicit()
        if not name.strip():
            raise InvalidArg("Model name cannot be empty. Please enter a valid name to deploy.")
        if ".." in name or "/" in name or "\0" in name:
            raise InvalidArg(
                f"invalid model name '{name}', model name must not contain path traversal characters"
            )
        if parameters:
            raise Unsupported(
                f"load parameter '{next(iter(parameters))[:100]}' is not supported by this server yet: models "
                "load from their repository as they are"
            )
        # The load outlives a caller that goes away: cancelled half-way it would leave an engine without an owner.
        await asyncio.shield(self.load(name))

    async def unload_by_request(self, name: str, unload_dependents: bool) -> None:
        """The unload API; returns when the model takes no more requests. Unknown names are fine.

        `unload_dependents` asks for models that only an ensemble uses; there are no ensembles yet, so it adds none.
        """
        self._check_explicit()
        entry = self.models.get(name)
        if entry is not None:
            await self._unload_locked(entry)

    async def _unload_locked(self, entry: ModelEntry) -> None:
        async with entry.lock:
            self._unload(entry)

    def _check_running(self) -> None:
        if self._stopping:
            raise Unavailable("Server exiting")

    def _check_explicit(self) -> None:
        if self._settings.model_control_mode != "explicit":
            raise Unavailable("explicit model load / unload is not allowed if polling is enabled")

    async def load(self, name: str) -> None:
        """Loads or reloads a model; returns at once when nothing has changed. The old version serves until the
        new one is ready, and goes on when the load fails. ServerError in Triton's words."""
        self._check_running()
        directories = self._directories(name)
        if not directories and name not in self.models:
            raise InternalError(f"failed to load '{name}', failed to poll from model repository")
        entry = self.models.setdefault(name, ModelEntry(name))
        async with entry.lock:
            self._check_running()
            if len(directories) != 1:
                entry.reason = TWO_REPOSITORIES if directories else "the model's directory is gone"
                raise InternalError(
                    f"failed to load '{name}', failed to poll from model repository: {entry.reason}"
                )
            fingerprint = await run_blocking(self._host, _fingerprint, directories[0])
            if entry.ready() and fingerprint == entry.fingerprint:
                return
            for attempt in range(self._settings.model_load_retry_count + 1):
                try:
                    await self._load_files(entry, directories[0])
                    break
                except ServerError:
                    if attempt == self._settings.model_load_retry_count:
                        raise
            entry.fingerprint = fingerprint

    async def _load_files(self, entry: ModelEntry, directory: Path) -> None:
        try:
            versions = await run_blocking(self._host, self._select_versions, entry.name, directory)
        except ServerError as error:
            entry.reason = error.as_status()
            raise InternalError(
                f"failed to load '{entry.name}', failed to poll from model repository: {error.message}"
            ) from error
        if not versions:
            reason = f"at least one version must be available under the version policy of model '{entry.name}'"
            entry.reason = f"Invalid argument: {reason}"
            raise InvalidArg(f"load failed for model '{entry.name}': {reason}\n")
        for version in versions:
            known = entry.versions.setdefault(version, VersionEntry(State.LOADING))
            if known.state is not State.READY:
                known.state, known.reason = State.LOADING, ""
        try:
            config = await run_blocking(self._host, self._read_config, entry.name, directory, versions[-1])
        except ServerError as error:
            failed = {version: self._failed(entry, version, error) for version in versions}
        else:
            for warning in config.warnings:
                log.warning("%s", warning)
            reasons = await asyncio.gather(
                *(self._load_one(entry, config, version, directory) for version in versions)
            )
            failed = {v: reason for v, reason in zip(versions, reasons, strict=True) if reason}
        # Versions that the policy no longer serves go once the new ones are there.
        if not failed:
            for version in set(entry.versions) - set(versions):
                self._unload_version(entry, version)
        self._on_change()
        if failed:
            text = "".join(f"version {v} is at UNAVAILABLE state: {reason};\n" for v, reason in failed.items())
            raise InvalidArg(f"load failed for model '{entry.name}': {text}")

    async def _load_one(self, entry: ModelEntry, config: ModelConfig, version: int, directory: Path) -> str:
        """Loads one version and swaps it in; the reason when it fails, else ''."""
        log.info("loading: %s:%d", entry.name, version)
        try:
            loaded = await load_version(self._host, config, version, directory)
        except ServerError as error:
            return self._failed(entry, version, error)
        state = entry.versions[version]
        old = state.loaded
        state.state, state.reason, state.loaded = State.READY, "", loaded
        self._on_change()
        if old is not None:
            self._retire(old)
        log.info("successfully loaded '%s' version %d", entry.name, version)
        return ""

    def _failed(self, entry: ModelEntry, version: int, error: ServerError) -> str:
        """Notes why a version did not load; an older load that still serves goes on. Returns the reason."""
        state = entry.versions[version]
        if state.loaded is None:
            state.state, state.reason = State.UNAVAILABLE, error.as_status()
        log.error("failed to load '%s' version %d: %s", entry.name, version, error.as_status())
        return error.as_status()

    def _select_versions(self, name: str, directory: Path) -> tuple[int, ...]:
        settings = self._settings
        return select_versions(
            directory,
            name,
            auto_complete=not settings.disable_auto_complete_config,
            config_name=settings.model_config_name,
        )

    def _read_config(self, name: str, directory: Path, version: int) -> ModelConfig:
        settings = self._settings
        backends = self._host.backends
        config = load_config(
            directory,
            name,
            inspect=lambda backend, path, proto: backends.get(backend).inspect(path, proto),
            version=version,
            auto_complete=not settings.disable_auto_complete_config,
            config_name=settings.model_config_name,
            default_max_batch_size=settings.default_max_batch_size,
            find_gpus=lambda backend: find_gpus(backends.get(backend), self._host.open_devices),
        )
        check_backend(backends.get(config.backend), config, self._host.open_devices)
        return config

    def _unload(self, entry: ModelEntry) -> None:
        for version in entry.versions:
            self._unload_version(entry, version)
        entry.fingerprint = ()
        self._on_change()

    def _unload_version(self, entry: ModelEntry, version: int) -> None:
        state = entry.versions[version]
        loaded, state.loaded = state.loaded, None
        if loaded is None:
            if state.state is not State.UNLOADING:
                state.state, state.reason = State.UNAVAILABLE, UNLOADED
            return
        state.state, state.leaving = State.UNLOADING, loaded
        self._retire(loaded, entry, state)

    def _retire(
        self, loaded: LoadedVersion, entry: ModelEntry | None = None, state: VersionEntry | None = None
    ) -> None:
        async def run() -> None:
            try:
                await retire(self._host, loaded)
            finally:
                if state is not None and state.leaving is loaded:
                    state.leaving = None
                    if state.state is State.UNLOADING:
                        state.state, state.reason = State.UNAVAILABLE, UNLOADED
            if entry is not None:
                log.info("successfully unloaded '%s' version %d", entry.name, loaded.version)

        task = asyncio.get_running_loop().create_task(run())
        self._retiring.add(task)
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a model version could not be freed", exc_info=task.exception())

    async def stop(self) -> None:
        """Unloads everything, loads on their way included; returns when all of it is freed. No load begins any more."""
        self._stopping = True
        await asyncio.gather(*(self._unload_locked(entry) for entry in self.models.values()))
        while self._retiring:
            await asyncio.wait(self._retiring)

    def in_flight(self) -> int:
        """Requests that loaded models still hold."""
        return sum(loaded.model.in_flight for _, _, loaded in self.ready_models())

    def tables(self) -> tuple[dict[str, Model], dict[tuple[str, int], Model]]:
        """(name -> the highest READY version, (name, version) -> that version) for the request path."""
        latest: dict[str, Model] = {}
        versions: dict[tuple[str, int], Model] = {}
        for name, version, loaded in self.ready_models():
            latest[name] = versions[name, version] = loaded.model
        return latest, versions

    def _directories(self, name: str) -> list[Path]:
        if not name or name in (".", "..") or "/" in name:
            return []
        try:
            name.encode()
            return [root / name for root in self._roots if (root / name).is_dir()]
        except (OSError, ValueError):  # a name that no file can have, or no answer could carry
            return []


def _is_model_directory(path: Path) -> bool:
    try:
        path.name.encode()
        return path.is_dir() and not path.name.startswith(".")
    except (OSError, UnicodeEncodeError):
        return False


def _fingerprint(directory: Path) -> tuple[Any, ...]:
    """Changes when any file of the model does: relative path, size and mtime of each. Blocking."""
    rows = []
    for path in sorted(directory.rglob("*")):
        try:
            found = path.stat()
        except OSError:
            continue
        rows.append((str(path.relative_to(directory)), found.st_size, found.st_mtime_ns, found.st_ino))
    return tuple(rows)
