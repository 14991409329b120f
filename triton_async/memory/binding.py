"""Binds the calling thread to cores, and what it allocates to a NUMA node (Linux)."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

# Numbers of the system call set_mempolicy, which libc has no function for, by machine.
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
# Of <linux/mempolicy.h>.
_DEFAULT, _BIND = 0, 2
_WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)


def bind(cores: Iterable[int], node: int) -> None:
    """Has the thread run on `cores` (none: as before), and get memory of a NUMA node (-1: as before). OSError."""
    cores = list(cores)
    if cores:
        os.sched_setaffinity(0, cores)
    if node >= 0:
        words = (ctypes.c_ulong * (node // _WORD_BITS + 1))()
        words[node // _WORD_BITS] = 1 << (node % _WORD_BITS)
        # The kernel takes one bit less than it is told of.
        _set_mempolicy(_BIND, words, len(words) * _WORD_BITS + 1)


def bind_process(cores: Iterable[int]) -> None:
    """Has all threads of the process run on `cores`, and those that they will start. OSError."""
    cores = list(cores)
    moved: set[str] = set()
    while left := set(os.listdir("/proc/self/task")) - moved:
        for thread in left:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), cores)
        moved |= left


@contextmanager
def bound(cores: Iterable[int], node: int) -> Iterator[None]:
    """`bind` for a while. Not for a thread that has a memory policy of its own."""
    before = os.sched_getaffinity(0)
    try:
        bind(cores, node)
        yield
    finally:
        os.sched_setaffinity(0, before)
        if node >= 0:
            with suppress(OSError):  # it could not be set either
                _set_mempolicy(_DEFAULT, None, 0)


def _set_mempolicy(mode: int, words: ctypes.Array[ctypes.c_ulong] | None, n_bits: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None:
        raise OSError(0, f"memory policies are not known on {platform.machine()}")
    if libc.syscall(ctypes.c_long(number), ctypes.c_int(mode), words, ctypes.c_ulong(n_bits)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
