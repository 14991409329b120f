"""The model repositories: finds models, loads and unloads them, knows every version's state. Loop thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from triton_async.config.override import Override, parse_override
from triton_async.config.settings import Settings
from triton_async.core import files
from triton_async.core.ensembles import Ensembles, Serving
from triton_async.core.entries import TWO_REPOSITORIES, UNLOADED, ModelEntry, Row, VersionEntry, not_served
from triton_async.core.host import Host
from triton_async.core.idle_memory import IdleMemory
from triton_async.core.lifecycle import LoadedVersion, State, retire
from triton_async.core.loading import Loader, in_log, not_polled
from triton_async.core.looks import Looks
from triton_async.core.namespaces import Namespaces, There
from triton_async.core.polling import Poller
from triton_async.core.servable import Servable
from triton_async.core.together import LoadsTogether
from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError, Unavailable

log = logging.getLogger("triton_async.core")

T = TypeVar("T")

class ModelRepository:
    """All models of all --model-repository directories, by their keys (core.namespaces). `on_change(entry)` runs when
    the READY versions of a model, or whether it is settled, have changed. `serving`: what ensembles find the models of
    their steps by.
    """

    def __init__(
        self,
        settings: Settings,
        host: Host,
        on_change: Callable[[ModelEntry], None],
        serving: Serving,
    ) -> None:
        self.settings = settings
        self.host = host
        self._on_change = on_change
        self.roots = [host.open_root(path) for path in settings.model_repository]
        # What runs until it is done whoever asked for it: versions that leave, and looks at the file system.
        self._running: set[asyncio.Task[Any]] = set()
        self.looks = Looks(host, self.keep)
        self._stopping = False
        self._poller: Poller | None = None
        self.models: dict[str, ModelEntry] = {}
        # How often anything of them has changed that others can see.
        self.changes = 0
        self.namespaces = Namespaces(settings.model_namespacing, self.models, self.roots)
        # What a load was asked for and no directory is known of yet.
        self._wanted: WeakValueDictionary[str, ModelEntry] = WeakValueDictionary()
        self._unsettled: set[str] = set()
        self.ensembles = Ensembles(self, host, serving)
        self._loader = Loader(self, host, settings)
        self._idle_memory = IdleMemory(host)
        # The index made last, with what the directories were then; None once something has changed.
        self._index: tuple[Mapping[str, Sequence[files.Root]], list[Row]] | None = None

    # -- what is there -----------------------------------------------------------------------------

    async def scan(self, patient: bool = False) -> dict[str, list[files.Root]]:
        """Keys of all model directories, and the repositories that have them. ServerError when one can not be read, or
        does not answer, which the `patient` wait for.
        """
        return self.namespaces.by_key(await self.looks.scan(list(self.roots), patient))

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs what `stop` is to wait for."""
        task = self.host.loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # was told to whoever waited, or to the log

    def ready_models(self) -> Iterable[tuple[str, int, LoadedVersion]]:
        """READY versions by the key of the model, then version."""
        for key in sorted(self.models):
            for version, loaded in self.ready_versions(key):
                yield key, version, loaded

    def held_models(self) -> Iterable[Servable]:
        """Of all versions that may have requests, those on their way out among them."""
        for entry in self.models.values():
            for version in entry.versions.values():
                for held in (version.loaded, version.leaving):
                    if held is not None:
                        yield held.model

    def ready_versions(self, key: str) -> list[tuple[int, LoadedVersion]]:
        """READY versions of a model, ascending."""
        entry = self.models.get(key)
        if entry is None:
            return []
        found = [(version, entry.versions[version].loaded) for version in entry.ready()]
        return [(version, loaded) for version, loaded in found if loaded is not None]

    def all_ready(self) -> bool:
        """Triton's strict readiness: every model is settled, and what is READY can run."""
        return not self._unsettled and all(loaded.model.available for _, _, loaded in self.ready_models())

    def index(self, ready_only: bool, there: Mapping[str, Sequence[files.Root]] | None = None) -> list[Row]:
        """Rows of the repository index, sorted by name, with namespaces by repository before; not to be changed.
        `there`: what `scan` found, where models that have left are not listed once they are unloaded; only models that
        were loaded, or tried, when it is left out.
        """
        if ready_only or there is None:
            known = [row for key in self.namespaces.ordered(self.models) for row in self.models[key].index()]
            return [row for row in known if row.get("state") == State.READY.value] if ready_only else known
        # A long one is not made again while nothing changes.
        if self._index is None or self._index[0] != there:
            rows: list[Row] = []
            for key in self.namespaces.ordered({*self.models, *there}):
                entry = self.models.get(key)
                if entry is not None:
                    rows += entry.index() if key in there or not entry.gone() else []
                    continue
                _, name = self.namespaces.split(key)
                if len(there[key]) > 1:
                    rows.append({"name": name, "state": State.UNAVAILABLE.value, "reason": TWO_REPOSITORIES})
                else:
                    rows.append({"name": name})
            self._index = there, rows
        return self._index[1]

    def changed(self, entry: ModelEntry) -> None:
        """To be called after every change of an entry that others can see."""
        entry.rows = self._index = None
        self.changes += 1
        if entry.settled():
            self._unsettled.discard(entry.key)
        else:
            self._unsettled.add(entry.key)
        self._on_change(entry)
        if not self._stopping:
            self.ensembles.rejoin(entry.name)

    def knows(self, name: str, version: int) -> bool:
        """Whether a version (-1: any) of what the name means was ever loaded, or tried. InvalidArg: it means several.
        """
        entry = self.models.get(self.namespaces.resolve(name))
        return entry is not None and (version in entry.versions if version != -1 else bool(entry.versions))

    def explain(self, name: str, version: int) -> ServerError:
        """Why `name` (version -1: the latest) does not serve, in Triton's words and codes.

        A name nobody knows is NOT_FOUND, as measured on the real server: its INVALID_ARG is for namespaces only, where
        what was unloaded is NOT_FOUND.
        """
        try:
            entry = self.models.get(self.namespaces.resolve(name))
        except InvalidArg as error:
            return error
        if entry is None and self.namespaces.enabled:
            if any(known.name == name for known in self.models.values()):
                return NotFound(f"Identifier of model '{name}' is not found in global map")
            return InvalidArg(f"Request for unknown model: '{name}' is not found")
        return not_served(name, version, None if entry is None else entry.shown_versions())

    # -- folders of models that come and go --------------------------------------------------------

    def add_root(self, root: files.Root) -> None:
        """Has its models known."""
        self.roots.append(root)
        self._index = None

    async def remove_root(self, root: files.Root) -> None:
        """Forgets its models, once they are unloaded."""
        keys = [self.namespaces.key(root, name) for name in root.names()]
        for key in keys:
            entry = self.models.get(key)
            if entry is not None:
                await self._unload_locked(entry)
        await self.until_unloaded(root)
        self.roots.remove(root)
        for key in keys:
            entry = self.models.pop(key, None)
            if entry is not None:
                self.changed(entry)
                self._unsettled.discard(key)
        self._index = None

    async def until_unloaded(self, root: files.Root) -> None:
        """Waits until all versions of the models of a folder are freed."""
        keys = [self.namespaces.key(root, name) for name in root.names()]
        while any(
            version.loaded is not None or version.leaving is not None
            for key in keys if key in self.models
            for version in self.models[key].versions.values()
        ):  # fmt: skip
            if self._running:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0.01)

    # -- load and unload ---------------------------------------------------------------------------

    async def load_at_start(self) -> bool:
        """Loads what the control mode asks for; whether all of it is READY. InternalError when a repository cannot be
        read.
        """
        self._idle_memory.start()
        there = await self.scan(patient=True)
        for line in await self.looks.survey(self.roots):
            log.warning("%s", line)
        if self.settings.model_control_mode == "poll":
            return await self._poll_from(there)
        keys = list(there)
        if self.settings.model_control_mode == "explicit" and self.settings.load_model != ("*",):
            keys = []
            for name in set(self.settings.load_model):
                found = [key for key in there if name in (key, self.namespaces.split(key)[1])]
                if not found:
                    log.error("failed to poll model '%s': model not found in any model repository.", name)
                keys += found or [name]
        return await self.load_all(sorted(set(keys)), there)

    async def _poll_from(self, there: Mapping[str, list[files.Root]]) -> bool:
        self._poller = Poller(self, self.settings.repository_poll_secs)
        complete = await self._poller.begin(there)
        if self.settings.repository_poll_secs > 0:
            self.keep(self._poller.run())
        return complete

    async def load_all(
        self, keys: Sequence[str], there: There, ended: Callable[[str], object] = lambda key: None
    ) -> bool:
        """Loads models of a `scan`; whether all of them are READY. The log has why one is not. `ended(key)`: that of
        one has come to its end, but for the models that an ensemble asks.
        """
        return await LoadsTogether(self, keys, there, ended).run(2 * self.settings.model_load_thread_count)

    async def load_logged(self, key: str, roots: Sequence[files.Root] | None = None) -> bool:
        try:
            await self._load_alone(key, roots)
        except ServerError as error:
            log.error("%s", in_log(key, self.namespaces.split(key)[1], error.message.strip()))
            return False
        except Exception:  # that must not hold up the others
            log.exception("failed to load '%s'", key)
            return False
        return True

    async def _load_steps(self, key: str, there: There | None) -> None:
        """Loads what an ensemble asks, and what the ensembles among that ask. `there`: see `steps_of`."""
        tried = {key}
        new = [key]
        while new:
            new = sorted({step for key in new for step in self.ensembles.steps_of(key, there)} - tried)
            tried |= set(new)
            await asyncio.gather(*(self.load_logged(key) for key in new))

    async def load_by_request(self, name: str, parameters: dict[str, Any] | None) -> None:
        """The load API. ServerError in Triton's words when it is not allowed or fails; the log has a line of it."""
        try:
            await self._load_as_asked(name, parameters)
        except ServerError as error:
            log.warning("load of '%s' was refused: %s", name[:200], error.message.strip())
            raise

    async def _load_as_asked(self, name: str, parameters: dict[str, Any] | None) -> None:
        self._check_explicit()
        if not name.strip():
            raise InvalidArg("Model name cannot be empty. Please enter a valid name to deploy.")
        if (name.strip() == ".." or "/" in name or "\0" in name) and not self.namespaces.is_key(name):
            raise InvalidArg(
                f"invalid model name '{name[:200]}', model name must not contain path traversal characters"
            )
        override = None
        if parameters:
            try:
                override = await self.host.loop.run_in_executor(None, parse_override, parameters)
            except InvalidArg as error:
                raise InternalError(
                    f"failed to load '{name}', failed to poll from model repository: {error.message}"
                ) from None
        # The load outlives a caller that goes away: cancelled half-way it would leave an engine without an owner.
        await asyncio.shield(self._load_named(name, override))

    async def _load_named(self, name: str, override: Override | None) -> None:
        """What a client's name means: with namespaces the models of this name in all repositories that have one."""
        if not self.namespaces.enabled or self.namespaces.is_key(name):
            await self.load(name, override)
            return
        if override is not None and override.files:
            key = self.namespaces.resolve(name)
            await self.load(self.namespaces.key(None, name) if key == name else key, override)
            return
        roots = await self.looks.find(self.roots, name)
        keys = [self.namespaces.key(root, name) for root in dict.fromkeys(roots)]
        if not keys:
            raise InternalError(f"failed to load '{name}', failed to poll from model repository")
        await self.unload_gone(set(self.namespaces.meant(name)) - set(keys))
        problems = await asyncio.gather(*(self.load(key, override) for key in keys), return_exceptions=True)
        for problem in problems:
            if problem is not None:
                raise problem

    async def unload_by_request(self, name: str, unload_dependents: bool) -> None:
        """The unload API; returns when the model takes no more requests. Unknown names are fine.

        `unload_dependents`: with an ensemble go the models of its steps that were loaded as such, and that no
        other ensemble asks.
        """
        self._check_explicit()
        for entry in [*self.models.values(), *self._wanted.values()] if self.namespaces.enabled else ():
            if entry.name == name:
                await self._unload_with(entry, unload_dependents)
        known = self.models.get(name) or self._wanted.get(name)
        if known is not None:
            await self._unload_with(known, unload_dependents)

    async def _unload_with(self, entry: ModelEntry, dependents: bool) -> None:
        steps = self.ensembles.steps_of(entry.key) if dependents else ()
        await self._unload_locked(entry)
        for step in steps:
            known = self.models.get(step)
            if known is not None and not known.asked_for and not self.ensembles.users_of(step):
                await self._unload_with(known, dependents)

    async def unload_gone(self, keys: Iterable[str]) -> None:
        """Takes models out of service whose directories are gone."""
        await asyncio.gather(*(self._unload_locked(self.models[key]) for key in keys))

    async def _unload_locked(self, entry: ModelEntry) -> None:
        async with entry.lock.held():
            if entry.key in self.models:
                self._unload(entry)

    def check_running(self) -> None:
        """Unavailable behind `stop`. Any thread."""
        if self._stopping:
            raise Unavailable("Server exiting")

    def _check_explicit(self) -> None:
        if self.settings.model_control_mode != "explicit":
            raise Unavailable("explicit model load / unload is not allowed if polling is enabled")

    async def load(self, key: str, override: Override | None = None) -> None:
        """Loads or reloads a model, and the models of an ensemble's steps; returns at once when nothing has changed.
        The old version serves until the new one is ready, and goes on when the load fails. ServerError in Triton's
        words. `override`: what a request brings for it; the next load without is one of the repository's model again.
        """
        served = self.models.get(key)
        was_ready = served is not None and bool(served.ready())
        await self._load_alone(key, override=override)
        entry = self.models[key]
        entry.asked_for = entry.asked_for or not was_ready
        if entry.ensemble is not None:
            await self._load_steps(key, await self.scan() if self.namespaces.enabled else None)
            self.ensembles.join_loaded(entry)

    async def _load_alone(
        self, key: str, roots: Sequence[files.Root] | None = None, override: Override | None = None
    ) -> None:
        """`load` without the steps of an ensemble, which is left to be joined to them. `roots`: the repositories that
        have the model, where they are known.
        """
        self.check_running()
        namespace, name = self.namespaces.split(key)
        entry = self.models.get(key) or self._wanted.setdefault(key, ModelEntry(name, key, namespace))
        async with entry.lock.held():
            self.check_running()
            if override is not None and override.files:
                await self._load_given(entry, override)
                return
            try:
                if roots is None:
                    roots = await self.looks.find(self.namespaces.roots_of(key), name)
            except ServerError as error:
                raise not_polled(name, error.message) from None
            if not roots and key not in self.models:
                raise InternalError(f"failed to load '{name}', failed to poll from model repository")
            if key not in self.models:
                self.models[key] = entry
                self.changed(entry)
            if len(roots) != 1:
                reason = TWO_REPOSITORIES if roots else "the model's directory is gone"
                raise self._loader.not_polled(entry, reason, reason)
            root = roots[0]
            if override is None and entry.ready() and (
                await self.looks.at(root, root.fingerprint, name) == entry.fingerprint
            ):
                return
            await self._load_retried(entry, partial(self._fetch, root, entry), override)

    async def _fetch(self, root: files.Root, entry: ModelEntry) -> files.ModelFiles:
        try:
            return root.fetch(entry.name) if root.local else await self.host.loading(root.fetch, entry.name)
        except ServerError as error:
            raise self._loader.not_polled(entry, error.as_status(), error.message) from error

    async def _load_retried(
        self, entry: ModelEntry, fetch: Callable[[], Coroutine[Any, Any, files.ModelFiles]], override: Override | None
    ) -> None:
        for attempt in range(self.settings.model_load_retry_count + 1):
            try:
                given = await fetch()
                try:
                    await self._loader.load(entry, given, override)
                finally:
                    await self.leave_files(given)
                break
            except ServerError as error:
                if attempt == self.settings.model_load_retry_count:
                    raise
                log.warning("the load of '%s' is tried again: %s", entry.key, error.message.strip())
        if override is not None:
            entry.fingerprint = ()  # what is loaded is not what the repository has

    async def _load_given(self, entry: ModelEntry, override: Override) -> None:
        """From a directory of what the request has brought alone."""
        if entry.key not in self.models:
            self.models[entry.key] = entry
            self.changed(entry)
        await self._load_retried(
            entry, lambda: self.host.looking(files.GivenFiles, entry.name, override.files), override
        )

    def _unload(self, entry: ModelEntry) -> None:
        self.ensembles.forget(entry)
        entry.asked_for = False
        for version in entry.versions:
            self.unload_version(entry, version)
        if not entry.versions:
            entry.reason, entry.polled = "", False
        entry.fingerprint = ()
        self.changed(entry)

    def unload_version(self, entry: ModelEntry, version: int) -> None:
        state = entry.versions[version]
        loaded, state.loaded = state.loaded, None
        if loaded is None:
            if state.state is not State.UNLOADING:
                state.state, state.reason = State.UNAVAILABLE, UNLOADED
            return
        state.state, state.reason, state.leaving = State.UNLOADING, "", loaded
        self.retire(loaded, entry, state)

    async def leave_files(self, given: files.ModelFiles | None) -> None:
        """A version, or a load, has no more to do with them."""
        if given is not None:
            given.users -= 1
            if given.users == 0 and not isinstance(given, files.LocalFiles):
                await self.host.unloading(given.remove)

    def retire(
        self, loaded: LoadedVersion, entry: ModelEntry | None = None, state: VersionEntry | None = None
    ) -> None:
        def tell(reason: str) -> None:
            if state is not None and entry is not None and state.leaving is loaded:
                state.reason = reason
                self.changed(entry)

        async def run() -> None:
            try:
                await retire(self.host, loaded, tell)
                await self.leave_files(loaded.files)
            except Exception:
                log.exception("a model version could not be freed")
            if state is not None and state.leaving is loaded:
                state.leaving = None
                if state.state is State.UNLOADING:
                    state.state, state.reason = State.UNAVAILABLE, UNLOADED
            if entry is not None:
                self.changed(entry)
                log.info("successfully unloaded '%s' version %d", entry.key, loaded.version)

        self.keep(run())

    async def stop(self) -> None:
        """Unloads everything, loads on their way included; returns when all of it is freed. No load begins any more."""
        self._stopping = True
        self._idle_memory.stop()
        self.host.warm_ups.stop()
        self.close_roots()
        if self._poller is not None:
            self._poller.stop()
        await asyncio.gather(*(self._unload_locked(entry) for entry in [*self.models.values(), *self._wanted.values()]))
        while self._running:
            await asyncio.wait(self._running)

    def close_roots(self) -> None:
        """Gives up what is being fetched, and deletes copies of models. May be repeated."""
        for root in self.roots:
            root.close()

    async def poll_now(self) -> None:
        """Looks at the repositories at once, in poll mode, and waits for the loads. ServerError."""
        if self._poller is None:
            raise Unavailable("polling is disabled")
        await self._poller.follow()

    def look_in(self, roots: Sequence[files.Root]) -> None:
        """Models are found in these from now on; those that were loaded stay."""
        self.roots[:] = roots
        self._index = None

    def in_flight(self) -> int:
        """Requests that loaded models still hold."""
        return sum(loaded.model.in_flight for _, _, loaded in self.ready_models())
