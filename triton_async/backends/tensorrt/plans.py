"""Built plans on disk, by what they were built from. Load threads only, of any number of processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from triton_async import defines
from triton_async.errors import InvalidArg

log = logging.getLogger("triton_async.tensorrt")

# An entry: this, the key, the SHA-256 of the content and its length, then the content.
_MAGIC = b"triton-async plan 1\n"
_HEADER_NBYTES = len(_MAGIC) + 32 + 32 + 8

PLAN = ".plan"
KERNELS = ".kernels"
_LOCK = ".lock"
_NEW = ".new"
_ENTRIES = (PLAN, KERNELS, PLAN + _NEW, KERNELS + _NEW)

_CHUNK_NBYTES = 1 << 24


class PlanCache:
    """A directory of entries `<key>.plan`, and `<key>.kernels` for what the library compiled while a plan ran.

    A plan is native code: nobody else may be able to write here, and an entry that is not what was stored is not used.
    Every path goes through the open directory, so that nobody can put another in its place.
    """

    def __init__(self, directory: Path, limit_nbytes: int) -> None:
        """Makes the directory. InvalidArg when it cannot be made or written, or others may write to it."""
        self._limit_nbytes = limit_nbytes
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory = os.open(directory.resolve(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArg(f"the plan cache directory cannot be used: {error.strerror}") from None
        try:
            _check_owner(os.fstat(self._directory), "the plan cache directory")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the directory back. No other call may be under way."""
        os.close(self._directory)

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The plan stored under `key` (hexadecimal), else what `make` returns, which is stored.

        Of several that ask for a key at a time, in this process and others, one makes it and the others wait. Raises
        what `make` raises; a cache that cannot be written is only a line in the log.
        """
        with self._locked(key):
            found = self._read(key, PLAN)
            if found is not None:
                return found
            made = make()
            self._store(key, PLAN, made)
            return made

    def read_kernels(self, key: str) -> bytes | None:
        """What `store_kernels` stored, or None."""
        return self._read(key, KERNELS)

    def store_kernels(self, key: str, content: bytes) -> None:
        """Keeps `content` beside the plan of `key`."""
        with self._locked(key):
            self._store(key, KERNELS, content)

    def _read(self, key: str, suffix: str) -> bytes | None:
        name = key + suffix
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the plan cache entry '%s' cannot be read: %s", name, error.strerror)
            return None
        try:
            content = _verified(descriptor, key)
        except (OSError, InvalidArg) as error:
            log.warning("the plan cache entry '%s' is not used: %s", name, error)
            return None
        finally:
            os.close(descriptor)
        with suppress(OSError):  # by the time of its use the oldest are dropped first
            os.utime(name, dir_fd=self._directory, follow_symlinks=False)
        return content

    def _store(self, key: str, suffix: str, content: bytes) -> None:
        if len(content) + _HEADER_NBYTES > self._limit_nbytes:
            log.warning("a plan of %d bytes is larger than the plan cache may become", len(content))
            return
        name = key + suffix
        new = name + _NEW
        try:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=self._directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(new, flags, 0o600, dir_fd=self._directory), "wb") as file:
                file.write(_MAGIC + bytes.fromhex(key) + hashlib.sha256(content).digest())
                file.write(len(content).to_bytes(8, "little"))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            log.warning("a plan could not be stored in the plan cache: %s", error.strerror)
            with suppress(OSError):
                os.unlink(new, dir_fd=self._directory)
            return
        self._shrink(key)

    def _shrink(self, kept: str) -> None:
        """Drops the least recently used entries but `kept` until the limit is kept, unless they are in use."""
        entries: dict[str, tuple[float, int]] = {}
        for name in self._names():
            key, dot, suffix = name.partition(".")
            if dot + suffix in _ENTRIES:
                with suppress(OSError):
                    status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                    latest, nbytes = entries.get(key, (0.0, 0))
                    entries[key] = max(latest, status.st_mtime), nbytes + status.st_size
        total = sum(nbytes for _, nbytes in entries.values())
        for key, (_, nbytes) in sorted(entries.items(), key=lambda item: item[1]):
            if total <= self._limit_nbytes:
                return
            if key != kept and self._drop(key):
                total -= nbytes

    def _names(self) -> list[str]:
        # A descriptor of its own: the position in a directory belongs to the open file, which threads share.
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)

    def _drop(self, key: str) -> bool:
        descriptor = self._open_lock(key)
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for suffix in (*_ENTRIES, _LOCK):
                with suppress(FileNotFoundError):
                    os.unlink(key + suffix, dir_fd=self._directory)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        log.info("dropped plan %s… from the plan cache", key[:12])
        return True

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Alone with `key`, among threads and processes; alone with nothing where locks cannot be made."""
        descriptor = self._acquire(key)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _acquire(self, key: str) -> int | None:
        while True:
            descriptor = self._open_lock(key)
            if descriptor is None:
                return None
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                        raise
                    log.info("plan %s… is being built elsewhere; waiting for it", key[:12])
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                log.warning("the plan cache cannot be locked: %s", error.strerror)
                os.close(descriptor)
                return None
            # Who dropped the entry meanwhile has unlinked the file that was waited for.
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)

    def _open_lock(self, key: str) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(key + _LOCK, flags, 0o600, dir_fd=self._directory)
        except OSError as error:
            log.warning("the plan cache cannot be locked: %s", error.strerror)
            return None


def default_directory() -> Path:
    """The user's own: under XDG_CACHE_HOME, or ~/.cache. RuntimeError when the user has no home."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "triton-async" / "tensorrt"


def cache_key(*parts: str) -> str:
    """Key of a plan made from what the parts say."""
    digest = hashlib.sha256(_MAGIC)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def read_model(path: Path, what: str) -> bytes:
    """Content of a plan or ONNX file. InvalidArg, naming `what` and no path."""
    try:
        with os.fdopen(_open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > defines.PLAN_MAX_NBYTES:
                raise InvalidArg(f"failed to read {what}: it is larger than {defines.PLAN_MAX_NBYTES} bytes")
            return file.read()
    except OSError as error:
        raise InvalidArg(f"failed to read {what}: {error.strerror}") from None


def file_digest(path: Path, what: str) -> str:
    """SHA-256 of a file, read in pieces. InvalidArg, naming `what` and no path."""
    digest = hashlib.sha256()
    try:
        with os.fdopen(_open_regular(path), "rb") as file:
            while piece := file.read(_CHUNK_NBYTES):
                digest.update(piece)
    except OSError as error:
        raise InvalidArg(f"failed to read {what}: {error.strerror}") from None
    return digest.hexdigest()


def _open_regular(path: Path) -> int:
    # A FIFO or device would block or never end: open without waiting and look first.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.geteuid():
        raise InvalidArg(f"{what} belongs to another user: plans found there would be run as code")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidArg(f"{what} may be written by others (chmod go-w): plans found there would be run as code")


def _verified(descriptor: int, key: str) -> bytes:
    """Content of an entry. InvalidArg when it is not what was stored under `key`."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArg("it is not a regular file")
    _check_owner(status, "it")
    with open(descriptor, "rb", closefd=False) as file:
        header = file.read(_HEADER_NBYTES)
        digest = header[-40:-8]
        nbytes = int.from_bytes(header[-8:], "little")
        if len(header) != _HEADER_NBYTES or not header.startswith(_MAGIC + bytes.fromhex(key)):
            raise InvalidArg("it is not an entry of this key")
        if nbytes != status.st_size - _HEADER_NBYTES:
            raise InvalidArg("its length is not the one that was stored")
        content = file.read(nbytes)
    if len(content) != nbytes or hashlib.sha256(content).digest() != digest:
        raise InvalidArg("its content is not what was stored")
    return content
