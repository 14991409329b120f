"""What the model repositories hold, as the file system tells it. Blocks: never on the loop thread."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from triton_async.config.advice import NO_MODELS, repository_warnings
from triton_async.config.paths import is_directory, safe_name
from triton_async.config.pbtxt import FILENAME
from triton_async.config.versions import is_version
from triton_async.errors import InternalError, InvalidArg, NotFound

log = logging.getLogger("triton_async.core")

# Changes when any file of a model does: relative path, size, mtime and inode of each.
Fingerprint = tuple[Any, ...]


class ModelFiles(Protocol):
    """What a model is loaded from. `fingerprint`: of it in its repository, () where it is not there. `users`: versions
    that are loaded from it, and the load that is on its way; loop thread.
    """

    @property
    def directory(self) -> Path: ...

    @property
    def fingerprint(self) -> Fingerprint: ...

    users: int

    def remove(self) -> None:
        """Nobody uses it any more. Blocking."""


class Root(Protocol):
    """A model repository. All of it blocks, and raises ServerError; not for the loop thread, unless it is `local`,
    whose `fetch` is free.
    """

    @property
    def local(self) -> bool: ...

    def names(self) -> Iterable[str]:
        """Of all models."""

    def survey(self) -> list[str]:
        """Lines for the log about what can hardly be meant."""

    def has(self, name: str) -> bool:
        """Whether there is a model of this name."""

    def fingerprint(self, name: str) -> Fingerprint:
        """Of a model."""

    def fingerprints(self, names: Iterable[str]) -> Mapping[str, Fingerprint]:
        """Of several."""

    def fetch(self, name: str) -> ModelFiles:
        """What to load a model from."""

    def close(self) -> None:
        """Nothing is asked any more; what is being fetched is given up. Any thread; does not block for long."""


class LocalFiles:
    """A model's directory in a repository, which is the owner's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.users = 1

    @property
    def fingerprint(self) -> Fingerprint:
        """Blocking."""
        return fingerprint(self.directory)

    def remove(self) -> None:
        """It stays."""


class LocalRoot:
    """A directory of models."""

    local = True

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Of its directories. A name that is no UTF-8 text could not be told to anybody, so such a directory is no
        model.
        """
        try:
            with os.scandir(self.path) as entries:
                return [entry.name for entry in entries if _is_model_directory(entry)]
        except OSError as error:
            # Clients see the error, and where the repository lies is none of their business.
            log.error("failed to read model repository '%s': %s", self.path, error.strerror)
            raise InternalError(f"failed to read a model repository: {error.strerror}") from None

    def survey(self) -> list[str]:
        """What in it is no model, and whether it is no repository."""
        return repository_warnings(self.path)

    def has(self, name: str) -> bool:
        """Whether it has a directory of this name."""
        try:
            return os.path.isdir(self.path / name)
        except ValueError:  # a name that no file can have
            return False

    def fingerprint(self, name: str) -> Fingerprint:
        """Of a model's directory."""
        return fingerprint(self.path / name)

    def fingerprints(self, names: Iterable[str]) -> dict[str, Fingerprint]:
        """Of several."""
        return {name: self.fingerprint(name) for name in names}

    def fetch(self, name: str) -> LocalFiles:
        """The model's directory."""
        return LocalFiles(self.path / name)

    def close(self) -> None:
        """Nothing to do."""


class RenamedRoot:
    """A repository some of whose models are known by names of their own. A name that is given hides the folder of this
    name.
    """

    def __init__(self, root: Root, names: Mapping[str, str]) -> None:
        """`names`: folder -> name. InvalidArg when two have one name, or one is no name of a model."""
        self._root = root
        self._names = {folder: safe_name(name, "model name") for folder, name in names.items()}
        self._folders = {name: folder for folder, name in self._names.items()}
        if len(self._folders) < len(self._names):
            raise InvalidArg("several models of the repository are given one name")

    @property
    def local(self) -> bool:
        """See Root."""
        return self._root.local

    def __str__(self) -> str:
        return str(self._root)

    def _folder(self, name: str) -> str | None:
        folder = self._folders.get(name)
        return folder or (None if name in self._names else name)

    def _existing(self, name: str) -> str:
        folder = self._folder(name)
        if folder is None:
            raise NotFound(f"model '{name}' has another name in its repository")
        return folder

    def names(self) -> list[str]:
        """See Root."""
        folders = list(self._root.names())
        given = [self._names[folder] for folder in folders if folder in self._names]
        return given + [folder for folder in folders if folder not in self._names and folder not in given]

    def survey(self) -> list[str]:
        """See Root."""
        return self._root.survey()

    def has(self, name: str) -> bool:
        """See Root."""
        folder = self._folder(name)
        return folder is not None and self._root.has(folder)

    def fingerprint(self, name: str) -> Fingerprint:
        """See Root."""
        return self._root.fingerprint(self._existing(name))

    def fingerprints(self, names: Iterable[str]) -> dict[str, Fingerprint]:
        """See Root."""
        folders = {self._existing(name): name for name in names}
        return {folders[folder]: found for folder, found in self._root.fingerprints(folders).items()}

    def fetch(self, name: str) -> ModelFiles:
        """See Root."""
        return self._root.fetch(self._existing(name))

    def close(self) -> None:
        """See Root."""
        self._root.close()


class GivenFiles:
    """A model's directory made of what a load request has brought, for as long as versions of it are loaded. It is the
    process's own: nobody else may look into it. Blocking.
    """

    fingerprint: Fingerprint = ()

    def __init__(self, name: str, contents: Mapping[str, bytes]) -> None:
        """`contents`: by paths that stay below the directory (config.paths.safe_relative). OSError."""
        self._root = Path(tempfile.mkdtemp(prefix="triton-async-"))
        self.users = 1
        self.directory = self._root / safe_name(name, "model name")
        try:
            self.directory.mkdir()
            for path, content in contents.items():
                file = self.directory / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Deletes it."""
        shutil.rmtree(self._root, ignore_errors=True)


def scan(roots: Sequence[Root]) -> dict[str, list[Root]]:
    """All models: name -> the roots that have one of it. ServerError when a root cannot be read."""
    found: dict[str, list[Root]] = {}
    for root in roots:
        for name in root.names():
            found.setdefault(name, []).append(root)
    return found


def survey(roots: Sequence[Root]) -> list[str]:
    """Lines for the log about what in the repositories can hardly be meant."""
    return [line for root in roots for line in root.survey()]


def find(roots: Sequence[Root], name: str) -> list[Root]:
    """The roots that have a model of this name."""
    if not name or name in (".", "..", *NO_MODELS) or "/" in name or "\0" in name:
        return []
    try:
        name.encode()
    except ValueError:  # that no answer could carry
        return []
    return [root for root in roots if root.has(name)]


def fingerprint(directory: Path) -> Fingerprint:
    """Of a model's directory, and of those that links in it lead to."""
    rows: list[tuple[str, int, int, int]] = []
    try:
        status = os.stat(directory)
    except OSError:
        return ()
    _collect(str(directory), "", rows, {(status.st_dev, status.st_ino)})
    return tuple(sorted(rows))


def of_version(found: Fingerprint, version: int) -> Fingerprint:
    """What of a model's directory matters to a version that is loaded: not the config, nor the other versions."""

    def matters(path: str) -> bool:
        first, _, _ = path.partition("/")
        return first not in (FILENAME, "configs") and (not is_version(first) or int(first) == version)

    return tuple(row for row in found if matters(row[0]))


def _collect(
    directory: str, prefix: str, rows: list[tuple[str, int, int, int]], known: set[tuple[int, int]]
) -> None:
    """`known`: directories, by device and inode, that were begun: links may lead in circles. A version has all of its
    files, though it shares them with another.
    """
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        name = prefix + entry.name
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or gone by now
            continue
        rows.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
        place = status.st_dev, status.st_ino
        if stat.S_ISDIR(status.st_mode) and place not in known:
            begun = known if prefix else set(known)
            begun.add(place)
            _collect(entry.path, f"{name}/", rows, begun)


def _is_model_directory(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in NO_MODELS:
        return False
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return False
    return is_directory(entry)
