"""The one place that decides whether a name or relative path from outside may touch the file system."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from triton_async.errors import InvalidArg

_SEPARATORS = re.compile(r"[/\\\0]")

# How the text begins that Git leaves in the place of a large file that was not fetched, and what to say of it.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_ADVICE = "it is a Git LFS pointer in the place of the file: run 'git lfs pull' in the repository"


def safe_name(name: str, what: str) -> str:
    """`name` when it is one plain path component. InvalidArg (naming `what`) when it could lead elsewhere."""
    if not name:
        raise InvalidArg(f"{what} cannot be empty")
    if name in (".", "..") or _SEPARATORS.search(name):
        raise InvalidArg(f"{what} '{_shown(name)}' must not contain path traversal characters")
    return name


def safe_relative(relative: str, what: str) -> str:
    """`relative` when it stays below where it begins. InvalidArg when it is absolute, or has `..` or NUL."""
    parts = relative.split("/")
    if not relative or "\0" in relative or relative.startswith("/") or "\\" in relative or ".." in parts:
        raise InvalidArg(
            f"{what} '{_shown(relative)}' must be a relative path that stays within its directory"
        )
    return relative


def safe_join(root: Path, relative: str, what: str) -> Path:
    """Path of `relative`, which a config or a request brings, under `root`; it need not exist. InvalidArg as above.

    Links in the repository are its owner's and may lead anywhere: models, configs and labels kept in a cache, a
    ConfigMap, a store of contents.
    """
    return root.joinpath(safe_relative(relative, what))


def read_bounded(path: Path, what: str, limit: int) -> bytes:
    """Content of a regular file of at most `limit` bytes. Else InvalidArg, naming `what` and no path."""
    try:
        # A FIFO or device would block or never end: open without waiting and look first.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InvalidArg(f"failed to open {what}: {getattr(error, 'strerror', None) or 'bad name'}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidArg(f"failed to read {what}: it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InvalidArg(f"failed to read {what}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise InvalidArg(f"failed to read {what}: it is larger than {limit} bytes")
    if content.startswith(_LFS_POINTER):
        raise InvalidArg(f"failed to read {what}: {_LFS_ADVICE}")
    return content


def check_readable(path: Path, what: str) -> None:
    """InvalidArg, naming `what`, for a regular file that cannot be read, or is not what it stands for."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return
        with path.open("rb", buffering=0) as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise InvalidArg(f"failed to open {what}: {error.strerror}") from None
    if start == _LFS_POINTER:
        raise InvalidArg(f"failed to read {what}: {_LFS_ADVICE}")


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a directory, or a link to one. Not, where that cannot be told."""
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _shown(text: str) -> str:
    return text.replace("\0", "\\0")[:200]
