"""What the model repositories hold, as the file system tells it. Blocks: never on the loop thread."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from triton_async.config.advice import NO_MODELS, repository_warnings
from triton_async.config.paths import is_directory, safe_name
from triton_async.errors import InternalError

log = logging.getLogger("triton_async.core")

# Changes when any file of a model does: relative path, size, mtime and inode of each.
Fingerprint = tuple[Any, ...]


class GivenFiles:
    """A model's directory made of what a load request has brought, for as long as versions of it are loaded. It is the
    process's own: nobody else may look into it. Blocking.
    """

    def __init__(self, name: str, contents: Mapping[str, bytes]) -> None:
        """`contents`: by paths that stay below the directory (config.paths.safe_relative). OSError."""
        self._root = Path(tempfile.mkdtemp(prefix="triton-async-"))
        #: Versions that are loaded from it, and the load that is on its way.
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


def scan(roots: Sequence[Path]) -> dict[str, list[Path]]:
    """All model directories: name -> the roots that have one of it. InternalError when a root cannot be read.

    A name that is no UTF-8 text could not be told to anybody, so such a directory is no model.
    """
    found: dict[str, list[Path]] = {}
    for root in roots:
        try:
            with os.scandir(root) as entries:
                names = [entry.name for entry in entries if _is_model_directory(entry)]
        except OSError as error:
            # Clients see the error, and where the repository lies is none of their business.
            log.error("failed to read model repository '%s': %s", root, error.strerror)
            raise InternalError(f"failed to read a model repository: {error.strerror}") from None
        for name in names:
            found.setdefault(name, []).append(root)
    return found


def survey(roots: Sequence[Path]) -> list[str]:
    """Lines for the log about what in the repositories can hardly be meant."""
    return [line for root in roots for line in repository_warnings(root)]


def find(roots: Sequence[Path], name: str) -> list[Path]:
    """The roots that have a directory of this name."""
    if not name or name in (".", "..", *NO_MODELS) or "/" in name:
        return []
    try:
        name.encode()
        return [root for root in roots if os.path.isdir(root / name)]
    except ValueError:  # a name that no file can have, or no answer could carry
        return []


def fingerprint(directory: Path) -> Fingerprint:
    """Of a model's directory."""
    rows: list[tuple[str, int, int, int]] = []
    _collect(str(directory), "", rows)
    return tuple(sorted(rows))


def _collect(directory: str, prefix: str, rows: list[tuple[str, int, int, int]]) -> None:
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        name = prefix + entry.name
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or gone by now
            continue
        rows.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
        if entry.is_dir(follow_symlinks=False):
            _collect(entry.path, f"{name}/", rows)


def _is_model_directory(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in NO_MODELS:
        return False
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return False
    return is_directory(entry)
