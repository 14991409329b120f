"""Copies of models on this machine's disk: a folder of the process's own, one folder in it for each state of a model.

A copy is used by the versions that are loaded from it, and goes with the last of them. Folders of processes that were
killed go when the next one starts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from triton_async.cloud.stores import Object
from triton_async.config.locations import AZURE, GCS, S3
from triton_async.config.paths import safe_name

log = logging.getLogger("triton_async.cloud")

_PREFIX = "triton-async-cloud-"
_LOCK = "lock"
#: Where Triton's variables say that copies go.
VARIABLES = {
    S3: "TRITON_AWS_MOUNT_DIRECTORY",
    GCS: "TRITON_GCS_MOUNT_DIRECTORY",
    AZURE: "TRITON_AZURE_MOUNT_DIRECTORY",
}


class Copy:
    """A model as it was. `users`: versions that are loaded from it, and the load that is on its way. Loop thread, but
    for `remove`, which blocks.
    """

    def __init__(self, root: Path, name: str, fingerprint: tuple[object, ...], files: Mapping[str, Object]) -> None:
        self._root = root
        self.directory = root / name
        self.fingerprint = fingerprint
        self.files = files
        self.users = 1

    def remove(self) -> None:
        """Deletes it."""
        shutil.rmtree(self._root, ignore_errors=True)


class Copies:
    """All copies that a repository has. Any thread. OSError."""

    def __init__(self, directory: str) -> None:
        """`directory`: where the folder is made; "" for the system's temporary files."""
        parent = Path(directory or tempfile.gettempdir())
        _remove_stale(parent)
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._numbers = count(1)
        self._guard = threading.Lock()

    def begin(self, name: str) -> Path:
        """An empty folder, in which the copy of a model is made under the model's name."""
        with self._guard:
            number = next(self._numbers)
        root = self._root / f"{number}.part"
        (root / safe_name(name, "model name")).mkdir(parents=True)
        return root

    def finish(
        self, root: Path, name: str, fingerprint: tuple[object, ...], files: Mapping[str, Object]
    ) -> Copy:
        """What was begun is complete: `files` by their paths below the model."""
        done = root.with_suffix("")
        root.rename(done)
        return Copy(done, name, fingerprint, files)

    def free_nbytes(self) -> int:
        """Room on the disk."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def close(self) -> None:
        """Deletes them all. May be repeated."""
        shutil.rmtree(self._root, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_stale(parent: Path) -> None:
    """What processes have left that are no more: nobody holds its lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or being made
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed copies of models that an earlier server has left")
        except OSError:
            continue
        finally:
            os.close(lock)
