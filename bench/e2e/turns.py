"""The server with a note of its longest turns: python -m bench.e2e.turns FILE OPTION...

FILE gets a line every quarter of a second: a time of the monotonic clock, and the most processor time, in milliseconds,
that the loop's thread took between two looks since the last line. Looks are a millisecond apart where nothing keeps the
loop from them, so it is the longest step, and at most a millisecond more; time for which other threads or processes had
the processor is not in it.
"""

from __future__ import annotations

import sys
import time

from triton_async import cli, loop_lag

_LOOK_S = 0.001
_LINE_S = 0.25


def watch(loop: loop_lag.LoopLag, path: str) -> None:
    """Begins with the server's own look at how late its loop is."""
    events = loop._loop
    last_s = time.thread_time()
    worst_s = 0.0
    line_s = time.monotonic() + _LINE_S

    def look() -> None:
        nonlocal last_s, worst_s, line_s
        worst_s = max(worst_s, time.thread_time() - last_s)
        if time.monotonic() >= line_s:
            line_s = time.monotonic() + _LINE_S
            with open(path, "a") as file:
                file.write(f"{time.monotonic():.3f} {1e3 * worst_s:.2f}\n")
            worst_s = 0.0
        last_s = time.thread_time()
        events.call_later(_LOOK_S, look)

    look()


def worst(path: str, begin_s: float, end_s: float) -> float:
    """The most milliseconds in a line between two times."""
    with open(path) as file:
        found = [tuple(map(float, line.split())) for line in file if line.endswith("\n")]
    return max((worst_ms for at_s, worst_ms in found if begin_s <= at_s <= end_s + _LINE_S), default=0.0)


def main() -> int:
    """`triton_async.cli.main` behind the file's name."""
    path = sys.argv.pop(1)
    start = loop_lag.LoopLag.start

    def started(loop: loop_lag.LoopLag) -> None:
        start(loop)
        watch(loop, path)

    loop_lag.LoopLag.start = started  # type: ignore[method-assign]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
