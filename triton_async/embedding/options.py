"""Options given as keyword arguments: those of the command line, read by the same parser."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from triton_async import logs
from triton_async.config.options import OPTIONS, Kind
from triton_async.config.settings import Settings, UsageError, parse
from triton_async.errors import InvalidArg

# Naming where a front-end listens asks for it; without that no port is opened.
_FRONT_ENDS = {
    "allow_http": ("http_port", "http_address", "reuse_http_port"),
    "allow_grpc": ("grpc_port", "grpc_address", "reuse_grpc_port"),
    "allow_metrics": ("metrics_port", "metrics_address"),
}


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Settings of keyword arguments: `http_port=8000` means --http-port=8000, a sequence gives an option repeatedly, a
    mapping as `name=value`. Front-ends are off unless they are asked for. InvalidArg.
    """
    given = dict(options)
    for allowed, names in _FRONT_ENDS.items():
        given.setdefault(allowed, any(name in given for name in names))
    argv: list[str] = []
    for field, value in given.items():
        option = OPTIONS.get(field.replace("_", "-"))
        if option is None or field == "help":
            raise InvalidArg(f"unknown option '{field}' of a server in process")
        if value is None:
            continue
        if option.kind is Kind.FLAG:
            if not isinstance(value, bool):
                raise InvalidArg(f"option '{field}' is True or False")
            argv += [f"--{option.name}"] if value else []
            continue
        argv += [f"--{option.name}={text}" for text in _texts(field, value, option.repeat)]
    try:
        settings = parse(argv)
    except UsageError as error:
        raise InvalidArg(" ".join(error.message.split())) from None
    if settings.log_format != OPTIONS["log-format"].default and not settings.log_file:
        raise InvalidArg("log_format needs log_file: without it lines go to the handlers of logging")
    return settings


def _texts(field: str, value: Any, repeat: bool) -> list[str]:
    if isinstance(value, Mapping) and repeat:
        return [f"{key}={_text(field, one)}" for key, one in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)) and repeat:
        return [_text(field, one) for one in value]
    return [_text(field, value)]


def _text(field: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise InvalidArg(f"option '{field}' can not be of type {type(value).__name__}")


def handler(settings: Settings) -> logging.Handler | None:
    """What writes --log-file, if there is one. OSError when it cannot be opened."""
    return logs.file_handler(settings.log_file, settings.log_format) if settings.log_file else None


@contextmanager
def logged(settings: Settings, own: logging.Handler | None) -> Iterator[None]:
    """Under it the package's log is as the options say: with `own`, which is closed behind it, and without one with the
    handlers that the program has.
    """
    logger = logging.getLogger("triton_async")
    before = (logger.level, logger.propagate, logs.settings(), logs.access.on)
    ours = own is not None
    handler = own or logging.NullHandler()
    logger.addHandler(handler)
    try:
        wanted = {
            "log_file": settings.log_file, "log_info": settings.log_info, "log_warning": settings.log_warning,
            "log_error": settings.log_error, "log_verbose_level": settings.log_verbose,
            "log_format": settings.log_format,
        }  # fmt: skip
        logs.update(wanted)
        # The levels of a program that says nothing of ours stay: its handlers would get more than it wants.
        said = ours or settings.log_access or any(before[2][name] != value for name, value in wanted.items())
        logger.setLevel(_lowest(settings) if said else before[0])
        logger.propagate = before[1] and not ours
        logs.access.on = settings.log_access
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logs.update(before[2])
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logs.access.on = before[3]


def _lowest(settings: Settings) -> int:
    """The level from which on lines are wanted."""
    if settings.log_verbose:
        return logging.DEBUG
    wanted = (
        (settings.log_info or settings.log_access, logging.INFO), (settings.log_warning, logging.WARNING),
        (settings.log_error, logging.ERROR),
    )  # fmt: skip
    return next((level for allowed, level in wanted if allowed), logging.CRITICAL)
