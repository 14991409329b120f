"""The ensembles that are wanted: joined to the models of their steps as these come and go. Loop thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Protocol

from triton_async.config.ensemble import EnsembleStep
from triton_async.config.validate import check_cache
from triton_async.core.ensemble import Ensemble
from triton_async.core.entries import UNLOADED, ModelEntry, VersionEntry
from triton_async.core.host import Host
from triton_async.core.identity import digest_of
from triton_async.core.lifecycle import LoadedVersion, State
from triton_async.core.linking import Link, Target, link
from triton_async.core.namespaces import Namespaces, There
from triton_async.core.opening import OpenEnsemble
from triton_async.core.phases import latencies_of
from triton_async.core.servable import Servable
from triton_async.defines import MAX_ENSEMBLE_NESTING
from triton_async.errors import InvalidArg, ServerError
from triton_async.infer.request import InferRequest

log = logging.getLogger("triton_async.core")


class Models(Protocol):
    """What the repository is asked of its models, which it has by their keys."""

    models: dict[str, ModelEntry]
    namespaces: Namespaces

    def changed(self, entry: ModelEntry) -> None: ...

    def unload_version(self, entry: ModelEntry, version: int) -> None: ...

    def retire(self, loaded: LoadedVersion) -> None: ...


@dataclass(frozen=True, slots=True)
class Serving:
    """Who serves, by name or key, and by that and the version: the server's own. `trace_step` begins the trace of the
    request of a step, which goes to that model.
    """

    latest: dict[str, Servable]
    versions: dict[tuple[str, int], Servable]
    trace_step: Callable[[InferRequest, Servable], None]


class Ensembles:
    """Those whose config was read and that were not unloaded: READY while all steps are there and fit."""

    def __init__(self, repository: Models, host: Host, serving: Serving) -> None:
        self._repository = repository
        self._host = host
        self._serving = serving
        # Name of a model -> keys of the ensembles that ask for it.
        self._users: dict[str, set[str]] = {}
        # Key of an ensemble -> what it was joined as, while it is READY.
        self._links: dict[str, tuple[OpenEnsemble, Link]] = {}

    # -- which there are ---------------------------------------------------------------------------

    def steps_of(self, key: str, there: There | None = None) -> tuple[str, ...]:
        """Keys of the models that an ensemble asks, where these are not ambiguous; none for what is no ensemble.
        `there`: what the repositories hold, to find by it what is not loaded yet.
        """
        found = (self._repository.namespaces.step(key, name, there) for name in self._names_of(key))
        return tuple(step for step in found if step)

    def candidates_of(self, key: str, there: There) -> set[str]:
        """Keys of all models that an ensemble could mean: which one it asks is known when all of them are."""
        names = self._names_of(key)
        return {found for name in names for found in self._repository.namespaces.candidates(name, there)}

    def _names_of(self, key: str) -> list[str]:
        """Names of the models that it asks."""
        entry = self._repository.models.get(key)
        if entry is None or entry.ensemble is None:
            return []
        return list(dict.fromkeys(step.model_name for step in entry.ensemble.steps))

    def users_of(self, key: str) -> list[str]:
        """Keys of the ensembles that ask a model."""
        users = sorted(self._users.get(self._repository.namespaces.split(key)[1], ()))
        return [user for user in users if key in self.steps_of(user)]

    def opened(self, entry: ModelEntry, ensemble: OpenEnsemble) -> None:
        """The config of an ensemble was read; a `join_loaded` or `join_all` follows. The old one goes on until then."""
        old = entry.ensemble
        self._note(entry, ensemble)
        entry.joining = True
        if old is None:
            # What had the name was a model.
            for version in set(entry.versions) - set(ensemble.versions):
                self._repository.unload_version(entry, version)

    def forget(self, entry: ModelEntry) -> None:
        """It is wanted no more, or has become a model."""
        self._note(entry, None)
        self._links.pop(entry.key, None)
        entry.joining = False

    def _note(self, entry: ModelEntry, ensemble: OpenEnsemble | None) -> None:
        for name in self._names_of(entry.key):
            self._users[name].discard(entry.key)
            if not self._users[name]:
                del self._users[name]
        entry.ensemble = ensemble
        for name in self._names_of(entry.key):
            self._users.setdefault(name, set()).add(entry.key)

    # -- joining -----------------------------------------------------------------------------------

    def join_loaded(self, entry: ModelEntry) -> None:
        """Ends the load of one. InvalidArg in Triton's words when it does not fit; a READY one then goes on."""
        for key in self._behind(entry.key):
            self._repository.models[key].joining = False
        reason = self._join_behind(entry)
        if reason:
            raise InvalidArg(f"load failed for model '{entry.name}': {reason}\n")

    def join_all(self, keys: Container[str]) -> bool:
        """Ends loads of several models; whether all of these are READY. The log says why one is not."""
        entries = [entry for key, entry in sorted(self._repository.models.items()) if entry.joining and key in keys]
        for entry in entries:
            entry.joining = False
        reasons = {entry.key: self._join_behind(entry) for entry in entries}
        for key, reason in reasons.items():
            if reason:
                log.error("failed to load '%s': %s", key, reason)
        return not any(reasons.values())

    def rejoin(self, name: str) -> None:
        """A model of this name has come, gone or changed: so do the ensembles that ask for it."""
        for user in sorted(self._users.get(name, ())):
            entry = self._repository.models[user]
            if not entry.joining:
                self._join(entry)

    def _behind(self, key: str) -> list[str]:
        """Keys: the ensemble and those that it asks, those that are asked before those that ask them; each once."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        left = [(key, False)]
        while left:
            at, through = left.pop()
            if through:
                found[at] = None
            elif at not in seen and self.steps_of(at):
                seen.add(at)
                left.append((at, True))
                left += [(step, False) for step in self.steps_of(at)]
        return list(found)

    def _join_behind(self, entry: ModelEntry) -> str:
        """Joins it behind those that it asks. The reason when it does not serve as it should, else ''."""
        for key in self._behind(entry.key):
            other = self._repository.models[key]
            if other is not entry and not other.ready():
                self._join(other)
        return self._join(entry)

    def _join(self, entry: ModelEntry) -> str:
        """Brings the state of an ensemble up to date; the reason when it does not serve as its config says, else ''."""
        ensemble = entry.ensemble
        if ensemble is None:
            return UNLOADED
        try:
            self._check_nesting(entry.key)
            linked = link(ensemble.config, ensemble.labels, [self._target(entry, step) for step in ensemble.steps])
        except InvalidArg as error:
            return self._left(entry, ensemble, error.message)
        known = self._links.get(entry.key)
        if known is not None and known[0] is ensemble and known[1].key == linked.key and entry.ready():
            return ""
        return self._serve(entry, ensemble, linked)

    def _target(self, entry: ModelEntry, step: EnsembleStep) -> Target:
        served: Servable | None
        key = self._repository.namespaces.step(entry.key, step.model_name)
        if step.model_version == -1:
            served = self._serving.latest.get(key)
        else:
            served = self._serving.versions.get((key, step.model_version))
        if served is None:
            raise InvalidArg(self._missing(entry.name, key, step))
        namespace = self._repository.models[key].namespace
        return Target(served.signature, served.input_pool, served.number, served.identity, key, namespace)

    def _check_nesting(self, key: str) -> None:
        """InvalidArg for an ensemble that asks itself, or others that are nested too deep."""
        came: dict[str, str] = {}
        level = [key]
        for _ in range(MAX_ENSEMBLE_NESTING):
            above, level = level, []
            for at in above:
                for step in self.steps_of(at):
                    if step == key:
                        way = " -> ".join(self._repository.models[one].name for one in _way(came, key, at))
                        raise InvalidArg(f"circular dependency between ensembles: {way}")
                    if step not in came and self.steps_of(step):
                        came[step] = at
                        level.append(step)
            if not level:
                return
        name = self._repository.models[key].name
        raise InvalidArg(f"ensemble '{name}' asks ensembles that are nested more than {MAX_ENSEMBLE_NESTING} deep")

    def _missing(self, name: str, key: str, step: EnsembleStep) -> str:
        """Why the model of a step, if one has this key, does not serve, in Triton's words."""
        model = step.model_name
        entry = self._repository.models.get(key)
        if entry is None or not (entry.versions or entry.ensemble is not None):
            return f"ensemble {name} contains models that are not available or ambiguous: {model}"
        if entry.ensemble is not None and not entry.ready():
            return f"ensemble '{name}' depends on '{model}' which is not valid. Model '{model}' failed with error: " + (
                entry.reason or UNLOADED
            )
        if entry.ready():
            return f"ensemble '{name}' depends on '{model}' whose required version {step.model_version} is not loaded."
        text = f"ensemble '{name}' depends on '{model}' which has no loaded version."
        failed = [
            f"version {version} is at UNAVAILABLE state: {known.reason};"
            for version, known in sorted(entry.versions.items())
            if known.reason not in ("", UNLOADED)
        ]
        return f"{text} Model '{model}' loading failed with error: {' '.join(failed)}" if failed else text

    def _left(self, entry: ModelEntry, ensemble: OpenEnsemble, reason: str) -> str:
        """It does not fit what there is."""
        known = self._links.get(entry.key)
        if known is not None and known[0] is not ensemble and entry.ready():
            # A new config that does not fit: the old one goes on, if that does.
            self._note(entry, known[0])
            self._join(entry)
            return reason
        self._links.pop(entry.key, None)
        before = entry.reason, len(entry.versions)
        was_ready = entry.ready()
        if was_ready:
            log.warning("'%s' is not served while it does not fit the models of its steps: %s", entry.key, reason)
            for version in entry.versions:
                self._repository.unload_version(entry, version)
        elif any(version.state is State.LOADING for version in entry.versions.values()):
            entry.versions.clear()
        entry.reason = reason
        if was_ready or before != (reason, len(entry.versions)):
            self._repository.changed(entry)
        return reason

    def _serve(self, entry: ModelEntry, ensemble: OpenEnsemble, linked: Link) -> str:
        """Makes all versions READY, in the place of older ones."""
        problems: list[str] = []
        gone = set(entry.versions) - set(ensemble.versions)
        for version in ensemble.versions:
            state = entry.versions.setdefault(version, VersionEntry(State.LOADING))
            try:
                check_cache(linked.config.proto)
            except ServerError as error:
                if state.loaded is None:
                    state.state, state.reason = State.UNAVAILABLE, error.as_status()
                problems.append(f"version {version} is at UNAVAILABLE state: {error.as_status()};")
                continue
            old = state.loaded
            state.state, state.reason = State.READY, ""
            state.loaded = LoadedVersion(
                version, self._make(linked, version), None, time.monotonic() - ensemble.begun
            )
            if old is not None:
                state.loaded.follow(old)
                self._repository.retire(old)
            log.info("successfully loaded '%s' version %d", entry.key, version)
        for version in gone:
            self._repository.unload_version(entry, version)
        entry.reason = "".join(problems)
        if not problems:
            self._links[entry.key] = ensemble, linked
        self._repository.changed(entry)
        return entry.reason

    def _make(self, linked: Link, version: int) -> Ensemble:
        cache = self._host.cache if linked.config.proto.response_cache.enable else None
        made = Ensemble(
            self._host.reactor, linked.signature(version), linked.config, linked.flow, self._serving,
            linked.input_pool, cache, _identity(linked, version),
        )  # fmt: skip
        made.statistics.latencies = latencies_of(made.config, self._host.measured, cache is not None)
        return made


def _identity(linked: Link, version: int) -> bytes:
    """What its answers depend on; b"" where that is not known of a step."""
    if not all(linked.steps):
        return b""
    digest = digest_of(linked.config, str(version))
    for identity in linked.steps:
        digest.update(identity)
    return digest.digest()


def _way(came: Mapping[str, str], first: str, last: str) -> list[str]:
    """From the first ensemble to the last, and back."""
    way = [first, last]
    while way[-1] != first:
        way.append(came[way[-1]])
    return way[::-1]
