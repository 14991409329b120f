"""What the answers of a model version depend on, as a digest: the same wherever the same files are served. Blocking:
load threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from triton_async.config.model_config import ModelConfig
from triton_async.core.defines import CACHE_IDENTITY_NBYTES

_CHUNK_NBYTES = 1 << 20
_DIGEST_NBYTES = 16
# Directories below that of a model; also where links lead in circles.
_MOST_DEPTH = 16

# Path below the model's directory, size, mtime and inode.
_Row = tuple[str, int, int, int]


class ModelFiles:
    """The files of one version as they are before it is loaded: its own, and those of the model that are no other
    version's. Hidden ones are left out, and what Python leaves there.
    """

    def __init__(self, directory: Path, version: int) -> None:
        self._directory = directory
        self._version = str(version)
        self._rows = self._list()

    def digest(self, config: ModelConfig) -> bytes:
        """Of the files and the completed config. b"" where it would not be sure, or take too long: the files have
        changed since, cannot be read, or are many bytes of a model that has no response cache.
        """
        if not self._rows:
            return b""
        total = sum(nbytes for _, nbytes, _, _ in self._rows)
        if total > CACHE_IDENTITY_NBYTES and not config.proto.response_cache.enable:
            return b""
        digest = digest_of(config, self._version)
        try:
            for name, nbytes, _, _ in self._rows:
                digest.update(f"{len(name)}:{name}:{nbytes}:".encode("utf-8", "surrogateescape"))
                with open(self._directory / name, "rb") as file:
                    while chunk := file.read(_CHUNK_NBYTES):
                        digest.update(chunk)
        except OSError:
            return b""
        return digest.digest() if self._list() == self._rows else b""

    def _list(self) -> tuple[_Row, ...]:
        """Nothing where not all of it can be seen."""
        try:
            return tuple(sorted(_walk(str(self._directory), "", self._version, 0)))
        except OSError:
            return ()


def digest_of(config: ModelConfig, version: str) -> blake2b:
    """A digest that begins with the name, the version and the completed config of a model."""
    text = config.proto.SerializeToString(deterministic=True)
    head = f"{len(config.name)}:{config.name}:{version}:{len(text)}:".encode()
    return blake2b(head + text, digest_size=_DIGEST_NBYTES)


def _walk(directory: str, prefix: str, version: str, depth: int) -> Iterator[_Row]:
    if depth > _MOST_DEPTH:
        raise OSError("too deep")
    with os.scandir(directory) as entries:
        found = list(entries)
    for entry in found:
        name = entry.name
        if name.startswith(".") or name == "__pycache__":
            continue
        if entry.is_dir():
            if depth > 0 or not name.isdigit() or name == version:
                yield from _walk(entry.path, f"{prefix}{name}/", version, depth + 1)
            continue
        status = entry.stat()
        yield prefix + name, status.st_size, status.st_mtime_ns, status.st_ino
