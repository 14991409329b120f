"""Huge pages under memory that is in use already (Linux 6.1 and later; elsewhere nothing happens).

What one request touches of a server lies all over its heap. A request that arrives alone finds few of these pages'
addresses in the processor's tables: with 4 KiB pages looking them up is a twentieth of what it costs.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from triton_async.defines import HUGE_PAGES_MAX_NBYTES

_NBYTES = 2 << 20
_PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")
_PAGES = _NBYTES // _PAGE_NBYTES
# Of <linux/mman.h>: now, not when the kernel comes by.
_MADV_COLLAPSE = 25
_SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"
# The heap, and anonymous memory that only this process sees: first address, behind the last one.
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 +(?:\[heap\])?$", re.MULTILINE)


def collapse(most_nbytes: int = HUGE_PAGES_MAX_NBYTES) -> int:
    """Puts a huge page under each 2 MiB of the process's own memory of which three quarters or more are in use, as far
    as `most_nbytes` go. Contents stay, other threads go on. Returns how many bytes that are.

    Any thread; lets go of the GIL; takes about half a millisecond for each page. A system that says `never` is obeyed.
    """
    with suppress(OSError):
        if "[never]" in _read(_SETTING):
            return 0
        libc = ctypes.CDLL(None)
        done = 0
        for address in _candidates(_read("/proc/self/maps")):
            if done + _NBYTES > most_nbytes:
                break
            if _is_used(libc, address) and not _madvise(libc, address):
                done += _NBYTES
        return done
    return 0


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _candidates(maps: str) -> Iterator[int]:
    for first, behind in _MAPPING.findall(maps):
        start = -(-int(first, 16) // _NBYTES) * _NBYTES
        yield from range(start, int(behind, 16) // _NBYTES * _NBYTES, _NBYTES)


def _is_used(libc: ctypes.CDLL, address: int) -> bool:
    resident = (ctypes.c_ubyte * _PAGES)()
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(_NBYTES), resident):
        return False  # given back meanwhile
    return sum(page & 1 for page in resident) * 4 >= _PAGES * 3


def _madvise(libc: ctypes.CDLL, address: int) -> int:
    return int(libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(_NBYTES), ctypes.c_int(_MADV_COLLAPSE)))
