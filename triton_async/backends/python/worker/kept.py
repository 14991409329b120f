"""The Python files of a model version as they were when it was loaded: what its instances run, whatever becomes of the
files meanwhile. The server reads them, workers get them in a memory file.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from pathlib import Path
from typing import Any, Iterator, Sequence

# Bytes of Python files, directory entries that are looked at for them, and directories below each other: what large
# packages have, and what looking at takes a tenth of a second.
MOST_NBYTES = 1 << 24
MOST_ENTRIES = 100_000
MOST_DEPTH = 16

# In place of a file's path.
_TOO_DEEP = "/too deep"

# Where a file's text begins, its bytes, and when it was written.
_Row = Sequence[int]


class Kept:
    """`rows`: by path. `natives`: paths of modules that are no text, which are known to be there. `text`: of all files.
    `complete`: whether these are all. Never changes.
    """

    def __init__(
        self, rows: dict[str, _Row], natives: Sequence[str] = (), text: Any = b"", complete: bool = True
    ) -> None:
        self.rows = rows
        self.complete = complete
        self._natives = frozenset(natives)
        self._text = text
        self._directories = {str(above) for path in [*rows, *natives] for above in Path(path).parents}

    def text(self, path: str) -> bytes | None:
        """What is in a file."""
        row = self.rows.get(path)
        return None if row is None else bytes(self._text[row[0] : row[0] + row[1]])

    def is_file(self, path: Path) -> bool:
        """Whether there was such a file of code."""
        return str(path) in self.rows or str(path) in self._natives

    def has_modules(self, place: Path) -> bool:
        """Whether it was a directory with such files."""
        return str(place) in self._directories

    def pack(self) -> bytes:
        """For `unpack`."""
        head = json.dumps({"rows": self.rows, "natives": list(self._natives)}).encode()
        return head + b"\n" + bytes(self._text)


def unpack(descriptor: int) -> Kept:
    """What a file has that `pack` has made the content of."""
    content = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    end = content.find(b"\n")
    head = json.loads(content[:end])
    shift = end + 1
    rows: dict[str, _Row] = {}
    for path, (start, nbytes, written) in head["rows"].items():
        rows[path] = (start + shift, nbytes, written)
    return Kept(rows, head["natives"], content)


def read(file: Path, search: Sequence[Path]) -> Kept:
    """Those of a version. `file`: its `model.py`; `search`: where its modules are looked for. Directories there whose
    names are numbers are other versions, and hold no modules. OSError when `file` cannot be read.
    """
    text = bytearray()
    rows: dict[str, _Row] = {}
    natives: list[str] = []
    complete = _take(file, rows, text)
    seen = 0
    for directory in search:
        for path in _walk(str(directory), 0):
            seen += 1
            if seen > MOST_ENTRIES or len(text) > MOST_NBYTES:
                return Kept(rows, natives, bytes(text), complete=False)
            if path.endswith(".py") and path not in rows:
                try:
                    complete &= _take(Path(path), rows, text)
                except OSError:  # who imports it is told
                    continue
            elif path == _TOO_DEEP:
                complete = False
            elif path.endswith(".so"):
                natives.append(path)
    return Kept(rows, natives, bytes(text), complete)


# False where it is too large.
def _take(path: Path, rows: dict[str, _Row], text: bytearray) -> bool:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return True
        if len(text) + status.st_size > 2 * MOST_NBYTES:
            return False
        content = file.read()
    rows[str(path)] = (len(text), len(content), status.st_mtime_ns)
    text += content
    return True


# Files below a directory, those at its top first, with "" for what else there is, and _TOO_DEEP for what is not shown.
def _walk(directory: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    below = []
    for entry in found:
        try:
            if entry.is_dir():
                below.append(entry)
                yield ""
            else:
                yield entry.path if entry.is_file() else ""
        except OSError:
            continue
    if depth >= MOST_DEPTH:
        if below:
            yield _TOO_DEEP
        return
    for entry in below:
        name = entry.name
        if not ((depth == 0 and name.isdigit()) or name.startswith(".") or name == "__pycache__"):
            yield from _walk(entry.path, depth + 1)
