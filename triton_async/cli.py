"""The command `triton-async`: reads the command line and runs the server until a signal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from triton_async import app, logs
from triton_async.config.settings import UsageError, parse, usage


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a clean shutdown by signal, 1 for anything else (Triton's)."""
    try:
        settings = parse(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(usage(), file=sys.stderr)
        if error.message:
            print(error.message, file=sys.stderr)
        return 1
    try:
        logs.configure(
            verbose=settings.log_verbose,
            info=settings.log_info,
            warning=settings.log_warning,
            error=settings.log_error,
            log_format=settings.log_format,
            file=settings.log_file,
        )
    except OSError as error:
        print(f"failed to open log file: {error.strerror}", file=sys.stderr)
        return 1
    return app.run(settings)


if __name__ == "__main__":
    sys.exit(main())
