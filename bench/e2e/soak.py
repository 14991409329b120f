"""Half an hour of mixed traffic with every valid answer verified: python -m bench.e2e.soak.

Fails for a wrong answer, for memory that has grown by 2 % since the server was warm, and for a descriptor that is left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests import soak
from tests.conformance import servers

GROWTH = 0.02


def main() -> None:
    """Prints what was done, and the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--values", type=int, default=soak.SIZES[-1], help="of the largest tensors")
    options = parser.parse_args()
    soak.SIZES = (*soak.SIZES[:-1], options.values)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        soak.write_models(models)
        command = servers.ours_command(models, *soak.OPTIONS)
        with servers.running("triton-async", command, servers.ours_env(), Path(folder) / "log") as server:
            at = soak.Server(server.process.pid, f"127.0.0.1:{server.http_port}", f"127.0.0.1:{server.grpc_port}")
            found = soak.soak(at, options.minutes * 60)
    print(f"{options.minutes:g} minutes: {dict(found.done)}, {len(found.wrong)} wrong")
    print(
        f"{found.warm_nbytes / 1e6:.1f} MB when warm, {found.end_nbytes / 1e6:.1f} MB at the end "
        f"({100 * found.growth:+.2f} %), {found.descriptors_left} descriptors left"
    )
    for line in found.wrong[:20]:
        print(f"  {line}")
    sys.exit(bool(found.wrong or found.growth >= GROWTH or found.descriptors_left))


if __name__ == "__main__":
    main()
