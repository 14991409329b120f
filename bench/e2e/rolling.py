"""Rolling restarts behind nginx and HAProxy, a million requests: python -m bench.e2e.rolling.

Two replicas are restarted in turn while clients ask over HTTP and gRPC; fails when a request was lost or ran twice.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.conformance import servers
from tests.rolling import installed, roll

_OPTIONS = {"nginx": ("--listen-while-loading=false",), "haproxy": ("--listen-while-loading=true",)}


def main() -> None:
    """Prints what became of the requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="in all, over both protocols and proxies")
    parser.add_argument("--proxy", choices=sorted(_OPTIONS), action="append")
    options = parser.parse_args()
    bad = False
    proxies = options.proxy or sorted(_OPTIONS)
    for name in proxies:
        if installed(name) is None:
            sys.exit(f"{name} is not installed")
        count = options.requests // (2 * len(proxies))
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            arguments = ("--drain-secs=1", *_OPTIONS[name])
            found = roll(name, count, Path(folder), arguments, servers.ours_env(), limit_s=7200)
        print(f"{name}: answered {found.answered}, lost {len(found.lost)}, doubled {found.doubled}, "
              f"{found.restarts} restarts, {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        for line in found.lost[:20]:
            print(f"  {line}")
        bad = bad or bool(found.lost or found.doubled)
    sys.exit(bad)


if __name__ == "__main__":
    main()
