"""What a library asks of others, read from its file: whether its code can tell on which thread it runs, or wait."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Of ELF files for 64 bits, the lower byte first.
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<QQ")
_NEEDED_FILE = struct.Struct("<HHIII")
_NEEDED_VERSION = struct.Struct("<IHHII")
_THREAD_LOCAL_SEGMENT = 7
_SYMBOLS, _DYNAMICS = 11, 6
_VERSIONS, _NEEDED_VERSIONS = 0x6FFFFFFF, 0x6FFFFFFE
_NEEDS_LIBRARY = 1
_Section = tuple[int, ...]

# What may be linked with. Nothing of them runs that is not called.
_LIBRARIES = frozenset((
    "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libtritonserver.so", "libpthread.so.0", "libdl.so.2",
    "librt.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
))  # fmt: skip
# By library, what of it neither waits nor depends on the thread, nor changes anything of that.
_HARMLESS = {
    "libc.so.6": re.compile(
        r"(__)?(v?sn?printf|(mem|stp|str(?!error|signal|coll|xfrm|tok))[a-z]+|qsort|bsearch|abs|labs|ldexp|frexp|modf|atoi|atol|atoll|atof)(_chk)?"
        r"|malloc|calloc|realloc|reallocarray|free|aligned_alloc|posix_memalign|malloc_usable_size"
        r"|__isoc\w+_(strto\w+|sscanf)|sscanf|clock_gettime|gettimeofday|time|abort|__stack_chk_fail|__assert_fail"
        r"|__cxa_finalize|__cxa_atexit|__errno_location|__ctype_(b|tolower|toupper)_loc|is(?!atty|astream)[a-z]+|to(lower|upper)"
        r"|_?_?_?(sig)?(set|long)jmp(_chk)?|__(is(nan|inf)|finite|signbit|fpclassify)[fl]?"
    ),
    "libm.so.6": re.compile(r"(?!fe(set|enable|disable|hold|update))\w+"),
    "libgcc_s.so.1": re.compile(r"(?!.*emutls)\w+"),
    "libstdc++.so.6": re.compile(
        r"(?!.*(thread|mutex|condition|future|once|latch|semaphore|barrier|atomic|guard_acquire|buf|stream|file|random"
        r"|locale|clock|timezone|tzdb))(?!_ZNS[iod]|_ZSt\dw?c(in|out|err|log))\w+"
        r"|_ZNSt6chrono3_V212st\w+_clock3nowEv"
    ),
    "": re.compile(
        r"TRITONBACKEND_\w+|_ITM_\w+|__gmon_start__|__cxa_finalize"
        r"|TRITONSERVER_(Error|Message|Parameter|BufferAttributes|Log|Metric|DataType|MemoryType|InstanceGroup|Api"
        r"|StringTo)\w*"
    ),
}  # fmt: skip


class Imports(NamedTuple):
    """What a library needs. `symbols`: of each its name, and the file it has to come from, "" where any will do; None
    where the rest says enough: large libraries have very many.
    """

    libraries: frozenset[str]
    symbols: frozenset[tuple[str, str]] | None
    thread_local: bool


def imports_of(path: Path) -> Imports:
    """OSError, or ValueError for what is no such file, or lacks the tables that are looked at."""
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        try:
            return _read(file)
        except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
            raise ValueError(f"not an ELF file that can be read: {error}") from None


def _read(file: mmap.mmap) -> Imports:
    if file[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not an ELF file of 64 bits")
    fields = _HEADER.unpack_from(file)
    segments, sections = fields[4], fields[5]
    n_segments, n_sections = fields[9], fields[11]
    kinds = [_SEGMENT.unpack_from(file, segments + i * _SEGMENT.size)[0] for i in range(n_segments)]
    table = [_SECTION.unpack_from(file, sections + i * _SECTION.size) for i in range(n_sections)]
    by_kind = {section[1]: section for section in table}
    if _SYMBOLS not in by_kind or _DYNAMICS not in by_kind:
        raise ValueError("no table of symbols")
    libraries = frozenset(_libraries(file, by_kind[_DYNAMICS], table))
    thread_local = _THREAD_LOCAL_SEGMENT in kinds
    if thread_local or not libraries <= _LIBRARIES:
        return Imports(libraries, None, thread_local)
    symbols = by_kind[_SYMBOLS]
    names = table[symbols[6]][4]
    files = dict(_version_files(file, by_kind[_NEEDED_VERSIONS], table)) if _NEEDED_VERSIONS in by_kind else {}
    found = set()
    for i in range(1, symbols[5] // _SYMBOL.size):
        name, _, _, defined, _, _ = _SYMBOL.unpack_from(file, symbols[4] + i * _SYMBOL.size)
        if not defined:
            version = struct.unpack_from("<H", file, by_kind[_VERSIONS][4] + 2 * i)[0] if files else 0
            found.add((_text(file, names + name), files.get(version & 0x7FFF, "")))
    return Imports(libraries, frozenset(found), thread_local)


# Which file each number of a version comes from.
def _version_files(file: mmap.mmap, section: _Section, table: list[_Section]) -> Iterator[tuple[int, str]]:
    names, at = table[section[6]][4], section[4]
    for _ in range(section[7]):
        _, count, name, first, next_file = _NEEDED_FILE.unpack_from(file, at)
        version_at = at + first
        for _ in range(count):
            _, _, number, _, next_version = _NEEDED_VERSION.unpack_from(file, version_at)
            yield number, _text(file, names + name)
            if not next_version:
                break
            version_at += next_version
        if not next_file:
            return
        at += next_file


def _libraries(file: mmap.mmap, section: _Section, table: list[_Section]) -> Iterator[str]:
    names = table[section[6]][4]
    for at in range(section[4], section[4] + section[5], _DYNAMIC.size):
        kind, value = _DYNAMIC.unpack_from(file, at)
        if kind == _NEEDS_LIBRARY:
            yield _text(file, names + value)


def _text(file: mmap.mmap, at: int) -> str:
    return file[at : file.find(b"\0", at)].decode()


def minds_threads(path: Path) -> str | None:
    """Why the library's code may notice on which thread it is called, or wait for another one there; None: it can do
    neither. It has nothing of its own for each thread, and calls nothing that waits, or that tells threads apart."""
    try:
        imports = imports_of(path)
    except (OSError, ValueError) as error:
        return f"its file says nothing: {error}"
    if imports.thread_local:
        return "it has thread-local variables"
    for library in sorted(imports.libraries - _LIBRARIES):
        return f"it needs {library}"
    for name, file in sorted(imports.symbols or ()):
        harmless = _HARMLESS.get(file)
        if harmless is None or harmless.fullmatch(name) is None:
            return f"it calls {name}"
    return None
