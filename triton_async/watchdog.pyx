"""Ends a process that was told to stop and does not, whatever its threads do. csrc/watchdog.h."""

from libc.stdint cimport int64_t

from contextlib import contextmanager

cdef extern from "watchdog.h" nogil:
    int ta_watchdog_start(const int *signals, int count, int64_t limit_ns, int64_t again_ns)
    void ta_watchdog_stop()

cdef extern from "errno.h":
    int errno

cdef enum:
    MAX_SIGNALS = 4


@contextmanager
def watching(signals, double limit_s, double again_s):
    """Under it, behind the first of `signals` the process ends with status 1 after `limit_s` seconds, behind a second
    one after `again_s`, where it has not ended by itself. The handlers that are there get the signals as before.

    Main thread; ValueError for more than 4 signals, OSError when the system refuses, or it is watched already.
    """
    cdef int[MAX_SIGNALS] numbers
    cdef int count = 0
    if len(signals) > MAX_SIGNALS:
        raise ValueError(f"more than {MAX_SIGNALS} signals")
    for number in signals:
        numbers[count] = number
        count += 1
    if ta_watchdog_start(numbers, count, <int64_t>(limit_s * 1e9), <int64_t>(again_s * 1e9)) < 0:
        raise OSError(errno, "the watchdog could not be started")
    try:
        yield
    finally:
        with nogil:
            ta_watchdog_stop()
