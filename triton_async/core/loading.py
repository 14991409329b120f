"""From a model's files to its READY versions: swaps loads in, and keeps what need not be loaded anew. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from triton_async.config.model_config import ModelConfig
from triton_async.config.override import Override
from triton_async.config.settings import Settings
from triton_async.core import files
from triton_async.core.ensembles import Ensembles
from triton_async.core.entries import ModelEntry, VersionEntry
from triton_async.core.host import LOADING, Host
from triton_async.core.lifecycle import (
    LoadedVersion,
    State,
    Update,
    apply_update,
    drop_update,
    fits_in_place,
    load_version,
    prepare_update,
    retire,
    start_version,
)
from triton_async.core.opening import OpenModel, open_model
from triton_async.errors import InternalError, InvalidArg, ServerError

log = logging.getLogger("triton_async.core")

T = TypeVar("T")


class Models(Protocol):
    """What the repository is asked of its models."""

    ensembles: Ensembles

    def check_running(self) -> None: ...

    def changed(self, entry: ModelEntry) -> None: ...

    def unload_version(self, entry: ModelEntry, version: int) -> None: ...

    def retire(self, loaded: LoadedVersion) -> None: ...


class Loader:
    """Of the models of a repository. Who calls it holds the model's lock."""

    def __init__(self, models: Models, host: Host, settings: Settings) -> None:
        self._models = models
        self._host = host
        self._settings = settings

    def not_polled(self, entry: ModelEntry, reason: str, message: str) -> ServerError:
        """What to raise for a model that can not be read; its `reason` goes to the index."""
        entry.reason = reason
        self._models.changed(entry)
        return not_polled(entry.name, message)

    async def load(self, entry: ModelEntry, given: files.ModelFiles, override: Override | None) -> None:
        """Makes the model's versions READY from its files, in the place of what served: each is loaded, or brought to
        its new instances where nothing else has changed. `override`: what a request has sent instead. ServerError, in
        Triton's words; what served goes on then.
        """
        directory = given.directory

        def on_versions(versions: tuple[int, ...]) -> None:
            self._host.loop.call_soon_threadsafe(self._begin, entry, versions)

        try:
            found = await self._host.loading(
                partial(
                    self._open, given=None if override is None else override.config, keeps=partial(self._keeps, entry)
                ),
                self._host, self._settings, entry.name, directory, on_versions,
            )  # fmt: skip
        except ServerError as error:
            raise self.not_polled(entry, error.as_status(), error.message) from error
        try:
            await self._take(entry, given, found)
        finally:
            if found.agents:
                await self._host.loading(found.agents.complete if found.agents.users else found.agents.fail)

    # Load thread, which may have been waited for until the server stopped.
    def _open(self, *arguments: Any, **more: Any) -> OpenModel:
        self._models.check_running()
        return open_model(*arguments, **more)

    async def _take(self, entry: ModelEntry, given: files.ModelFiles, found: OpenModel) -> None:
        # Of a copy, that of what it was made from.
        fingerprint = found.fingerprint if isinstance(given, files.LocalFiles) else given.fingerprint
        entry.polled = True
        if not found.versions:
            reason = f"at least one version must be available under the version policy of model '{entry.name}'"
            entry.reason = f"Invalid argument: {reason}"
            self._models.changed(entry)
            raise InvalidArg(f"load failed for model '{entry.name}': {reason}\n")
        if found.ensemble is not None:
            self._models.ensembles.opened(entry, found.ensemble)
            entry.fingerprint = fingerprint
            return
        self._models.ensembles.forget(entry)
        config = found.config
        if isinstance(config, ModelConfig):
            for warning in config.warnings:
                log.warning("%s", warning)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("config of '%s' as it is served: %s", entry.key, config.proto)
            failed = await self._bring(entry, config, given, found)
        else:
            assert config is not None
            blamed = found.versions[-1:] if found.looked_into else found.versions
            for version in found.versions[: -len(blamed)]:
                self._left_out(entry, version)
            failed = {version: self._failed(entry, version, config) for version in blamed}
        if failed:
            text = "".join(f"version {v} is at UNAVAILABLE state: {reason};\n" for v, reason in failed.items())
            raise InvalidArg(f"load failed for model '{entry.name}': {text}")
        entry.fingerprint = fingerprint
        # Versions that the policy no longer serves go once the new ones are there.
        left = set(entry.versions) - set(found.versions)
        for version in left:
            self._models.unload_version(entry, version)
        if left:
            self._models.changed(entry)

    def _begin(self, entry: ModelEntry, versions: tuple[int, ...]) -> None:
        for version in versions:
            known = entry.versions.setdefault(version, VersionEntry(State.LOADING))
            if known.state is not State.READY:
                known.state, known.reason = State.LOADING, ""
        self._models.changed(entry)

    def _keeps(self, entry: ModelEntry, config: ModelConfig, version: int, found: files.Fingerprint) -> bool:
        """Any thread, while the model is locked."""
        known = entry.versions.get(version)
        if known is None or known.loaded is None or known.state is not State.READY:
            return False
        return fits_in_place(self._host, known.loaded, config, files.of_version(found, version))

    async def _bring(
        self, entry: ModelEntry, config: ModelConfig, given: files.ModelFiles, found: OpenModel
    ) -> dict[int, str]:
        """Brings all versions to their config and files at once, or, where one of them fails, none; why which failed.
        Not to be cancelled.
        """
        kept = {}
        for version in found.versions if not found.agents else ():
            newest = found.newest if version == found.versions[-1] else None
            served = entry.versions[version].loaded
            if newest is None and served and self._keeps(entry, config, version, found.fingerprint):
                kept[version] = served
        new = [version for version in found.versions if version not in kept]
        outcomes = await _outcomes([self._make(config, version, found) for version in new])
        made = {v: loaded for v, loaded in zip(new, outcomes, strict=True) if isinstance(loaded, LoadedVersion)}
        problems = {v: error for v, error in zip(new, outcomes, strict=True) if isinstance(error, BaseException)}
        updates: list[Update] = []
        if not problems:
            preparing = [prepare_update(self._host, loaded, config, found.agents.directory) for loaded in kept.values()]
            ends = await _outcomes(preparing)
            updates = [update for update in ends if isinstance(update, Update)]
            problems = {v: error for v, error in zip(kept, ends, strict=True) if isinstance(error, BaseException)}
        if problems:
            await self._give_up(entry, made, updates)
            failed = {
                version: self._failed(entry, version, problem if isinstance(problem, ServerError) else
                                      InternalError(f"{type(problem).__name__} {LOADING}"))
                for version, problem in problems.items()
            }  # fmt: skip
            for problem in problems.values():
                if not isinstance(problem, ServerError):
                    raise problem
            return failed
        for update in updates:
            apply_update(self._host, update)
        for version, loaded in made.items():
            self._serve(entry, version, loaded, given, found)
        return {}

    async def _make(self, config: ModelConfig, version: int, found: OpenModel) -> LoadedVersion:
        opened = found.newest if version == found.versions[-1] else None
        if isinstance(opened, ServerError):
            raise opened
        if opened is None:
            return await load_version(self._host, config, version, found.agents.directory)
        return await start_version(self._host, config, opened)

    async def _give_up(self, entry: ModelEntry, made: Mapping[int, LoadedVersion], updates: Iterable[Update]) -> None:
        """Frees what a load has made that has failed, while its files are there."""
        for version in made:
            self._left_out(entry, version)
        if made:
            self._models.changed(entry)
        ends = [retire(self._host, loaded) for loaded in made.values()]
        ends += [drop_update(self._host, update) for update in updates]
        for problem in await _outcomes(ends):
            if problem is not None:
                log.error("a version of '%s' could not be freed", entry.key, exc_info=problem)

    def _serve(
        self, entry: ModelEntry, version: int, loaded: LoadedVersion, given: files.ModelFiles, found: OpenModel
    ) -> None:
        loaded.files = given
        loaded.contents = files.of_version(found.fingerprint, version)
        given.users += 1
        if found.agents:
            loaded.agents = found.agents
            found.agents.users += 1
            found.agents.remaining += 1
        state = entry.versions[version]
        old = state.loaded
        if old is not None:
            loaded.follow(old)
        state.state, state.reason, state.loaded = State.READY, "", loaded
        self._models.changed(entry)
        if old is not None:
            self._models.retire(old)
        log.info("successfully loaded '%s' version %d", entry.key, version)

    def _left_out(self, entry: ModelEntry, version: int) -> None:
        """Notes that a version is not loaded because of another one; an older load that still serves goes on."""
        state = entry.versions[version]
        if state.loaded is None:
            state.state, state.reason = State.UNAVAILABLE, "unloaded"

    def _failed(self, entry: ModelEntry, version: int, error: ServerError) -> str:
        """Notes why a version did not load; an older load that still serves goes on. Returns the reason."""
        state = entry.versions[version]
        if state.loaded is None:
            state.state, state.reason = State.UNAVAILABLE, error.as_status()
            self._models.changed(entry)
        log.error("failed to load '%s' version %d: %s", entry.key, version, error.as_status())
        return error.as_status()


async def _outcomes(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    """What each of them returns, or raises. They go on together; the one that most models have needs no task."""
    if len(calls) != 1:
        return await asyncio.gather(*calls, return_exceptions=True) if calls else []
    try:
        return [await calls[0]]
    except Exception as error:
        return [error]


def in_log(key: str, name: str, message: str) -> str:
    """Of a load that has failed, in the words of Triton's log; each version has a line of its own before."""
    polled = not_polled(name, "").message
    if message.startswith(polled):
        return f"Poll failed for model directory '{key}': {message.removeprefix(polled)}"
    return message if message.startswith("load failed for model") else f"failed to load '{key}': {message}"


def not_polled(name: str, message: str) -> InternalError:
    """Of a load, in Triton's words."""
    return InternalError(f"failed to load '{name}', failed to poll from model repository: {message}")
