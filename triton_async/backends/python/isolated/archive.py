"""Unpacks archives of environments, which are as little trusted as a request: no entry gets out of its directory, and
there is a bound to everything that an entry can make us do."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from triton_async.backends.python.defines import ARCHIVE_HEADER_NBYTES, ARCHIVE_MAX_ENTRIES, ARCHIVE_MAX_NBYTES
from triton_async.errors import InvalidArg

_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK)  # fmt: skip
_PIECE_NBYTES = 1 << 20


class _Entry(tarfile.TarInfo):
    """An entry whose extended headers, which are read as a whole, have a bound."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: Any, errors: Any) -> _Entry:
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in _HEADERS and not 0 <= entry.size <= ARCHIVE_HEADER_NBYTES:
            raise InvalidArg(f"it has a header of {entry.size} bytes, at most {ARCHIVE_HEADER_NBYTES} are taken")
        return entry


def unpack(archive: Path, into: Path) -> None:
    """Unpacks a tar archive, compressed or not, into an empty directory. InvalidArg with the reason, which follows
    well on "the archive can not be unpacked: "; what was written until then stays."""
    try:
        with tarfile.open(archive, "r|*", tarinfo=_Entry) as tar:
            _unpack(tar, into)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InvalidArg(f"it is no whole tar archive ({error})") from None
    except OSError as error:
        raise InvalidArg(error.strerror or str(error)) from None


def _unpack(tar: tarfile.TarFile, into: Path) -> None:
    left = ARCHIVE_MAX_NBYTES
    for count, entry in enumerate(tar):
        tar.members.clear()  # type: ignore[attr-defined]
        if count >= ARCHIVE_MAX_ENTRIES:
            raise InvalidArg(f"it has more than {ARCHIVE_MAX_ENTRIES} entries")
        left -= entry.size
        if left < 0:
            raise InvalidArg(f"it holds more than {ARCHIVE_MAX_NBYTES} bytes")
        name = _inside(entry.name, "an entry")
        path = into / name
        if entry.isdir():
            _make_directory(into, name)
            continue
        _make_directory(into, name.parent)
        if path.is_symlink() or path.is_file():
            path.unlink()
        if entry.isreg():
            content = tar.extractfile(entry)
            assert content is not None
            _write(content, path, entry.mode)
        elif entry.issym():
            _check_target(name, entry.linkname)
            path.symlink_to(entry.linkname)
        elif entry.islnk():
            source = into / _inside(entry.linkname, "the target of a link")
            _check_directory(into, source.parent)
            if not source.is_file() or source.is_symlink():
                raise InvalidArg(f"the hard link '{name}' is to no file before it")
            os.link(source, path)
        else:
            raise InvalidArg(f"the entry '{name}' is neither a file nor a directory nor a link")


# The name of an entry, without what leads out of the directory.
def _inside(name: str, what: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InvalidArg(f"{what} '{name[:200]}' leads out of the archive")
    return path


# Makes a directory and those above it. None of them may be a link: what a name says is where the entry is.
def _make_directory(into: Path, name: PurePosixPath) -> None:
    directory = into / name
    if not directory.is_dir():
        if directory.is_symlink() or directory.exists():
            raise InvalidArg(f"'{name}' is a directory and something else")
        if name.parts:
            _make_directory(into, name.parent)
        directory.mkdir()
    _check_directory(into, directory)


def _check_directory(into: Path, directory: Path) -> None:
    if os.path.realpath(directory) != str(Path(os.path.realpath(into)) / directory.relative_to(into)):
        raise InvalidArg(f"the directory '{directory.relative_to(into)}' is reached through a link")


# A link may lead up from where it is, but not out, and not up again behind a name, which may be a link itself.
def _check_target(name: PurePosixPath, target: str) -> None:
    path = PurePosixPath(target)
    ups = 0
    for part in path.parts:
        if part != "..":
            break
        ups += 1
    if not target or path.is_absolute() or ".." in path.parts[ups:] or ups > len(name.parent.parts) or "\0" in target:
        raise InvalidArg(f"the link '{name}' leads out of the archive")


def _write(content: IO[bytes], path: Path, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
    with os.fdopen(descriptor, "wb") as file:
        while piece := content.read(_PIECE_NBYTES):
            file.write(piece)
        os.fchmod(descriptor, (mode & 0o755) | 0o600)
