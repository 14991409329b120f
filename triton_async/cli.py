"""The command `triton-async`, also installed as `tritonserver`: reads the command line and does what it asks for.

Light to import: what the server needs comes in with the call.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

# Containers' commands name the real server's program behind ours.
_PROGRAMS = ("triton-async", "tritonserver")
# Objects made, less those freed, between two collections while modules are imported, which make what stays; Python's
# own is 700, with which looking for garbage takes 4 % of the time.
_IMPORTING_GC_THRESHOLD = 10_000
# What scripts made for the real server wait for: its ports open when all models are loaded.
_AS_TRITONSERVER = ("--listen-while-loading=false",)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a clean shutdown by signal, or when a command found nothing wrong; 1 else (Triton's)."""
    # Until the server has handlers of its own, who stops it wants no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_descriptors()
    given = list(sys.argv[1:] if argv is None else argv)
    program = os.path.basename(sys.argv[0])
    if argv is None:
        # Python models must not take the server's options for theirs: Triton's see none.
        del sys.argv[1:]
    if given and os.path.basename(given[0]) in _PROGRAMS:
        program = os.path.basename(given.pop(0))
    if given and given[0] in _COMMANDS:
        return _COMMANDS[given[0]](given[1:])
    return _serve(given, _AS_TRITONSERVER if program == _PROGRAMS[1] else ())


def _serve(argv: Sequence[str], first: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> int:
    """`first`: options that those of the environment and of `argv` go before."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_IMPORTING_GC_THRESHOLD, *thresholds[1:])
    from triton_async import app, logs
    from triton_async.config.settings import UsageError, from_environment, parse, usage

    gc.set_threshold(*thresholds)
    try:
        settings = parse([*first, *from_environment(environ), *argv], environ)
    except UsageError as error:
        # As short as what has to be mended; all options are a page that hides it.
        _say(f"{error.message}\nSee triton-async --help for all options" if error.message else usage())
        return 1
    try:
        logs.configure(
            verbose=settings.log_verbose,
            info=settings.log_info,
            warning=settings.log_warning,
            error=settings.log_error,
            log_format=settings.log_format,
            file=settings.log_file,
            access_lines=settings.log_access,
        )
    except OSError as error:
        _say(f"failed to open log file '{settings.log_file}': {error.strerror}")
        return 1
    return app.run(settings)


def _check(argv: Sequence[str]) -> int:
    from triton_async.inspection import check

    return _printed(check, argv)


def _config(argv: Sequence[str]) -> int:
    from triton_async.inspection import config

    return _printed(config, argv)


def _printed(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The status of a command that prints; 1 when its reader has gone, as `head` does once it has enough."""
    try:
        status = command(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left goes nowhere: the interpreter would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _sagemaker(argv: Sequence[str]) -> int:
    from triton_async.config.clouds import CloudProblem
    from triton_async.config.sagemaker_serve import serve_arguments

    gpus = "/proc/driver/nvidia/gpus"
    try:
        arguments, environ = serve_arguments(os.environ, len(os.listdir(gpus)) if os.path.isdir(gpus) else 0)
    except CloudProblem as problem:
        _say(f"error: {problem}")
        return 1
    return _serve([*arguments, *argv], environ=environ)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"check": _check, "config": _config, "serve": _sagemaker}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _open_standard_descriptors() -> None:
    """Opens those that were closed when the process began, so that no socket or file gets one of their numbers."""
    for fd, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(fd)
            continue
        except OSError:
            # The lowest number that is free is this one: those below are open.
            os.open(os.devnull, os.O_RDWR)
            stream = os.fdopen(fd, mode, closefd=False)
        if fd == 0:
            sys.stdin = stream
        elif fd == 1:
            sys.stdout = stream
        else:
            sys.stderr = stream


if __name__ == "__main__":
    sys.exit(main())
