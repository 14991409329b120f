"""A model repository in object storage, as core sees it. Blocking; any thread but the loop's."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from triton_async.cloud.copies import VARIABLES, Copies, Copy
from triton_async.cloud.defines import CHANGES, MAX_OBJECTS, PARALLEL, PART_NBYTES
from triton_async.cloud.stores import Changed, Object, Store, open_store
from triton_async.config.advice import NO_MODELS
from triton_async.config.locations import parse_location
from triton_async.config.paths import safe_name, safe_relative
from triton_async.config.versions import is_version
from triton_async.errors import InternalError, InvalidArg, Unavailable

log = logging.getLogger("triton_async.cloud")

Fingerprint = tuple[Any, ...]


class CloudRoot:
    """One --model-repository at `s3://`, `gs://` or `as://`."""

    local = False

    def __init__(self, url: str) -> None:
        """Makes no call. LocationProblem; ServerError for credentials that cannot be used; OSError where there is no
        room for copies.
        """
        self.location = parse_location(url)
        self._store: Store = open_store(self.location)
        self._copies = Copies(os.environ.get(VARIABLES[self.location.scheme], ""))
        self._stopped = threading.Event()
        # What was copied last of each model, while something is loaded from it.
        self._last: WeakValueDictionary[str, Copy] = WeakValueDictionary()

    def __str__(self) -> str:
        return self.location.url

    def names(self) -> list[str]:
        """Of all models. ServerError."""
        return [name for name in self._store.folders(self.location.prefix) if _may_be_model(name)]

    def survey(self) -> list[str]:
        """Lines for the log about what can hardly be meant."""
        return [] if self.names() else [f"no models found at {self}: a model has objects below <model>/<version>/"]

    def has(self, name: str) -> bool:
        """Whether there is an object of a model. ServerError."""
        if not _may_be_model(name):
            return False
        return next(self._store.objects(self._path(name)), None) is not None

    def fingerprint(self, name: str) -> Fingerprint:
        """Another one when any object of the model is. ServerError."""
        return _fingerprint(_relative(self._store.objects(self._path(name)), self._path(name)))

    def fingerprints(self, names: Iterable[str]) -> dict[str, Fingerprint]:
        """Of several. What cannot be told of one is its fingerprint, so that a load is tried, and says why."""
        wanted = set(names)
        found: dict[str, dict[str, Object]] = {name: {} for name in wanted}
        prefix = self.location.prefix
        try:
            for path, one in _relative(self._store.objects(prefix), prefix).items():
                name, slash, rest = path.partition("/")
                if slash and name in found:
                    found[name][rest] = one
        except InvalidArg:  # of one model's objects; the others are fine
            return {name: self._fingerprint_or_reason(name) for name in wanted}
        return {name: _fingerprint(files) for name, files in found.items()}

    def _fingerprint_or_reason(self, name: str) -> Fingerprint:
        try:
            return self.fingerprint(name)
        except InvalidArg as error:
            return (error.message,)

    def fetch(self, name: str) -> Copy:
        """A copy of the model as it is now; what has not changed since the last copy is not fetched. ServerError."""
        for _ in range(CHANGES):
            try:
                return self._fetch(name)
            except Changed:
                continue
            except OSError as error:
                log.error("a copy of %s could not be made: %s", self.location.shown(self._path(name)), error)
                raise InternalError(
                    f"{self.location.shown(self._path(name))}: it could not be written to this machine's disk: "
                    f"{error.strerror}"
                ) from None
        raise Unavailable(
            f"{self.location.shown(self._path(name))}: the model has changed while it was read, {CHANGES} times in a "
            "row: load it again when it is complete"
        )

    def _fetch(self, name: str) -> Copy:
        path = self._path(name)
        where = self.location.shown(path)
        listed = _relative(self._store.objects(path), path)
        files, folders = _layout(listed, where)
        last = self._last.get(name)
        root = self._copies.begin(name)
        try:
            directory = root / name
            for folder in sorted(folders):
                (directory / folder).mkdir(parents=True, exist_ok=True)
            missing = {}
            for relative, one in files.items():
                if not (last is not None and last.files.get(relative) == one and _link(last, directory, relative)):
                    missing[relative] = one
            needed = sum(one.nbytes for one in missing.values())
            if needed > (free := self._copies.free_nbytes()):
                raise Unavailable(
                    f"{where}: {needed} bytes are to be fetched, and the folder for copies has room for {free}: set "
                    f"{VARIABLES[self.location.scheme]} to one with more"
                )
            self._download(missing, directory)
            copy = self._copies.finish(root, name, _fingerprint(listed), files)
        except BaseException:
            Copy(root, name, (), {}).remove()
            raise
        if missing:
            log.info("fetched %d of %d objects of %s, %d bytes", len(missing), len(files), where, needed)
        self._last[name] = copy
        return copy

    def _download(self, files: Mapping[str, Object], directory: Path) -> None:
        failed = threading.Event()

        def fetch(part: tuple[str, Object, int, int]) -> None:
            relative, one, start, stop = part
            descriptor = os.open(directory / relative, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

            def write(piece: Any, at: int) -> None:
                if failed.is_set() or self._stopped.is_set():
                    raise Unavailable("Server exiting")
                os.pwrite(descriptor, piece, at)

            try:
                if stop > start:
                    self._store.read(one, start, stop, write)
            except BaseException:
                failed.set()
                raise
            finally:
                os.close(descriptor)

        with ThreadPoolExecutor(PARALLEL, "fetch") as executor:
            fetching = [executor.submit(fetch, part) for part in _parts(files)]
            try:
                # The first that failed, not one that was given up for it.
                for one in as_completed(fetching):
                    one.result()
            finally:
                for one in fetching:
                    one.cancel()

    def close(self) -> None:
        """Ends fetches that are on their way, and deletes all copies."""
        self._stopped.set()
        self._copies.close()

    def _path(self, name: str) -> str:
        return f"{self.location.prefix}/{name}" if self.location.prefix else name


def _may_be_model(name: str) -> bool:
    """Whether a name may be a model's; what could lead elsewhere is none."""
    try:
        safe_name(name, "model name").encode()
    except (InvalidArg, UnicodeEncodeError):
        return False
    return not name.startswith(".") and name not in NO_MODELS


def _relative(objects: Iterable[Object], folder: str) -> dict[str, Object]:
    """Objects by their paths below a folder, which lead nowhere else. InvalidArg."""
    found: dict[str, Object] = {}
    for one in objects:
        if one.path == folder:  # that stands for the folder
            continue
        if len(found) == MAX_OBJECTS:
            raise InvalidArg(f"'{folder}' has more than {MAX_OBJECTS} objects")
        relative = one.path.removeprefix(f"{folder}/") if folder else one.path
        if relative == one.path and folder:
            raise InvalidArg(f"the storage listed an object that is not in '{folder}'")
        found[safe_relative(relative, "the name of an object")] = one
    return found


def _fingerprint(files: Mapping[str, Object]) -> Fingerprint:
    return tuple(sorted((path, one.nbytes, one.tag) for path, one in files.items()))


def _layout(listed: Mapping[str, Object], where: str) -> tuple[dict[str, Object], set[str]]:
    """Files and folders of a model. An object without bytes stands for a folder where others lie below it, and where a
    version is expected: storages have no folders, and that is how empty ones are made. InvalidArg.
    """
    folders = {str(parent) for path in listed for parent in Path(path).parents}
    files: dict[str, Object] = {}
    for path, one in listed.items():
        if one.nbytes == 0 and (path in folders or ("/" not in path and is_version(path))):
            folders.add(path)
        elif path in folders:
            raise InvalidArg(f"{where}/{path}: there is an object of this name, and there are objects below it")
        else:
            files[path] = one
    return files, folders


def _parts(files: Mapping[str, Object]) -> Iterator[tuple[str, Object, int, int]]:
    """What one call fetches, of all files; of an empty file nothing."""
    for relative, one in files.items():
        for start in range(0, max(one.nbytes, 1), PART_NBYTES):
            yield relative, one, start, min(start + PART_NBYTES, one.nbytes)


def _link(last: Copy, directory: Path, relative: str) -> bool:
    """Takes a file from the copy before. Whether that is still there."""
    try:
        os.link(last.directory / relative, directory / relative)
    except OSError:
        return False
    return True
