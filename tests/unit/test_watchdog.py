"""The watchdog ends a process that was told to stop and does not, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from triton_async.watchdog import watching

# So far behind the first a signal is a second wish, and not the same one told twice.
ANOTHER_S = 0.5

ROOT = str(Path(sys.modules["triton_async"].__file__ or "").resolve().parent.parent)

# Holds the GIL in C, as an engine might: no thread of Python runs meanwhile.
HANG = """
import ctypes, signal, sys, time
from triton_async.watchdog import watching
signal.signal(signal.SIGTERM, lambda number, frame: None)
with watching([signal.SIGTERM], {limit}, {again}):
    print("ready", flush=True)
    while True:
        ctypes.PyDLL(None).sleep(60)
"""


def started(program: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": ROOT}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("limit", "again", "signals", "text"), [
    (0.5, 60, 1, "Exit timeout expired and the event loop does not answer"),
    (60, 0.3, 2, "a second signal to stop came and the event loop does not answer"),
])  # fmt: skip
def test_a_process_that_hangs_is_ended(limit: float, again: float, signals: int, text: str) -> None:
    process = started(HANG.format(limit=limit, again=again))
    for number in range(signals):
        time.sleep(ANOTHER_S * number)
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert text in errors


def test_one_signal_leaves_the_time_it_was_given() -> None:
    process = started(HANG.format(limit=60, again=0.1))
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    process.kill()
    process.communicate()


def test_a_console_that_is_full_does_not_hold_it_up() -> None:
    program = HANG.format(limit=0.3, again=60).replace(
        'print("ready"', 'import os; os.set_blocking(2, False); os.write(2, bytes(1 << 20)); print("ready"'
    )
    process = started(program)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1
    process.communicate()


def test_handlers_get_their_signals_and_come_back() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with watching([signal.SIGUSR1], 60, 60):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)  # the same wish
            time.sleep(ANOTHER_S)
            os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(OSError, match="watchdog could not be started"), watching([signal.SIGUSR2], 1, 1):
                pass
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1] * 3
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_was_set_meanwhile_stays() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append("first"))
    try:
        with watching([signal.SIGUSR1], 60, 60):
            signal.signal(signal.SIGUSR1, lambda number, frame: seen.append("second"))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == ["second"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_too_many_signals_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 4"), watching([1] * 5, 1, 1):
        pass
