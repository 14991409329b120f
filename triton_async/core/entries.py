"""What the server knows of each model of its repositories: states of versions, rows of the index. Loop thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from triton_async.core import files
from triton_async.core.lifecycle import LoadedVersion, State
from triton_async.core.model_lock import ModelLock
from triton_async.core.opening import OpenEnsemble
from triton_async.errors import NotFound, ServerError, Unavailable

UNLOADED = "unloaded"
TWO_REPOSITORIES = "model appears in two or more repositories"

# One version in the repository index, with the keys of the repository extension; absent ones are unknown.
Row = Mapping[str, str]


@dataclass(slots=True)
class VersionEntry:
    """One version in the index. `loaded` is set while READY, and while an older load still serves; `leaving` is the
    load that UNLOADING waits for.
    """

    state: State
    reason: str = ""
    loaded: LoadedVersion | None = None
    leaving: LoadedVersion | None = None


@dataclass(slots=True, weakref_slot=True)
class ModelEntry:
    """A model that was loaded, or tried. `key`: see core.namespaces; the name where it has no namespace. `fingerprint`
    of its files when they were last loaded. `polled`: its config was read once; Triton knows no others but for their
    state.
    """

    name: str
    key: str
    namespace: str = ""
    versions: dict[int, VersionEntry] = field(default_factory=dict)
    # Why it has no version at all: a config that cannot be used.
    reason: str = ""
    fingerprint: files.Fingerprint = ()
    polled: bool = False
    # What is to be joined to the models of its steps, again and again as these come and go; of an ensemble that is
    # wanted. `joining`: a load of it is on its way, which will do so.
    ensemble: OpenEnsemble | None = None
    # It was loaded for its own sake, not as the step of an ensemble, and so does not go with one.
    asked_for: bool = False
    joining: bool = False
    lock: ModelLock = field(init=False)
    # Its part of the index, made when the index is asked for after a change.
    rows: list[Row] | None = None

    def __post_init__(self) -> None:
        self.lock = ModelLock(self.key)

    def ready(self) -> list[int]:
        """READY versions, ascending."""
        return sorted(v for v, entry in self.versions.items() if entry.state is State.READY)

    def wanted(self) -> bool:
        """Whether it was loaded, or tried, and not unloaded since."""
        if self.ensemble is not None or not self.versions:
            return self.ensemble is not None or bool(self.reason)
        return any(
            version.state is not State.UNLOADING and version.reason != UNLOADED for version in self.versions.values()
        )

    def gone(self) -> bool:
        """Whether there is nothing to say of it but that it was there."""
        return not self.wanted() and all(version.state is State.UNAVAILABLE for version in self.versions.values())

    def shown_versions(self) -> Collection[int] | None:
        """Those that clients are told of; None: they are told that there is no such model."""
        return self.versions if self.versions or (self.polled and self.ensemble is None) else None

    def settled(self) -> bool:
        """Whether every known version is READY or unloaded, and there is one, unless its config was never read. A
        version on its way out counts as unloaded, so that a rolling update does not make the server unready.
        """
        fine = (State.READY, State.UNLOADING)
        versions = self.versions.values()
        if not versions:
            return not self.polled
        return all(entry.state in fine or entry.reason == UNLOADED for entry in versions)

    def index(self) -> list[Row]:
        """Its rows of the index."""
        if self.rows is None:
            self.rows = [_row(self.name, version, entry) for version, entry in sorted(self.versions.items())]
            if not self.rows and self.reason:
                self.rows = [{"name": self.name, "state": State.UNAVAILABLE.value, "reason": self.reason}]
            elif not self.rows:
                self.rows = [{"name": self.name}]
        return self.rows


def not_served(name: str, version: int, shown: Collection[int] | None) -> ServerError:
    """Why a version (-1: the latest) does not serve, in Triton's words. `shown`: versions that clients are told of."""
    if shown is None:
        return NotFound(f"Request for unknown model: '{name}' is not found")
    if version == -1:
        return NotFound(f"Request for unknown model: '{name}' has no available versions")
    if version not in shown:
        return NotFound(f"Request for unknown model: '{name}' version {version} is not found")
    return Unavailable(f"Request for unknown model: '{name}' version {version} is not at ready state")


def _row(name: str, version: int, entry: VersionEntry) -> Row:
    row = {"name": name, "version": str(version), "state": entry.state.value}
    return {**row, "reason": entry.reason} if entry.reason else row
