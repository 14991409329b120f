"""What a model may ask of its server besides inference: the log, metrics, other models. Bound to one instance each."""

from __future__ import annotations

import os
import sys
from contextvars import copy_context
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Callable, Sequence

from .channel import COUNTER, ERROR, GAUGE, HISTOGRAM, INFO, VERBOSE, WARNING, Refused
from .forks import REFUSAL, is_fork
from .tensors import TritonModelException

if TYPE_CHECKING:
    from .context import Context


class _LogLevel(IntEnum):
    """`Logger.LogLevel`."""

    INFO = INFO
    WARNING = WARNING
    ERROR = ERROR
    VERBOSE = VERBOSE


class _MetricKind(IntEnum):
    """`MetricFamily.MetricKind`."""

    COUNTER = COUNTER
    GAUGE = GAUGE
    HISTOGRAM = HISTOGRAM


class Logger:
    """Writes to the server's log, with the line of the model that does."""

    _context: Context
    LogLevel: type[_LogLevel] = _LogLevel
    INFO = _LogLevel.INFO
    WARNING = _LogLevel.WARNING
    ERROR = _LogLevel.ERROR
    VERBOSE = _LogLevel.VERBOSE

    @classmethod
    def log(cls, message: str, level: _LogLevel = _LogLevel.INFO) -> None:
        if type(level) is not _LogLevel:
            raise TypeError("log(): incompatible function arguments: level must be one of Logger.LogLevel")
        cls._write(level, message)

    @classmethod
    def log_info(cls, message: str) -> None:
        cls._write(INFO, message)

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls._write(WARNING, message)

    @classmethod
    def log_error(cls, message: str) -> None:
        cls._write(ERROR, message)

    @classmethod
    def log_verbose(cls, message: str) -> None:
        cls._write(VERBOSE, message)

    @classmethod
    def _write(cls, level: int, message: str) -> None:
        if not isinstance(message, str):
            raise TypeError("log(): incompatible function arguments: message must be a str")
        if is_fork():
            sys.stderr.write(message + "\n")
            return
        frame = sys._getframe(2)
        cls._context.channel.log(level, message, os.path.basename(frame.f_code.co_filename), frame.f_lineno)


class MetricFamily:
    """Metrics of one name, which live as long as this object and its metrics do."""

    _context: Context
    MetricKind: type[_MetricKind] = _MetricKind
    COUNTER = _MetricKind.COUNTER
    GAUGE = _MetricKind.GAUGE
    HISTOGRAM = _MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: _MetricKind) -> None:
        if not isinstance(name, str) or not isinstance(description, str) or type(kind) is not _MetricKind:
            raise TypeError(
                "__init__(): incompatible constructor arguments. The following argument types are supported:\n"
                "    1. c_python_backend_utils.MetricFamily(name: str, description: str, kind: MetricKind)"
            )
        self._handle: Any = None
        # Whether the family is still there, for its metrics.
        self._alive = [True]
        self._handle = _asked("Error when creating MetricFamily: ", self._context.channel.metric_family,
                              name, description, int(kind))  # fmt: skip

    def Metric(self, labels: dict[str, str] | None = None, buckets: Sequence[float] | None = None) -> Metric:
        """A metric with these labels; `buckets`, of a histogram, are upper bounds in ascending order."""
        metric = Metric.__new__(Metric)
        metric._channel = self._context.channel
        metric._alive = self._alive
        metric._handle = None
        bounds = None if buckets is None else tuple(float(bound) for bound in buckets)
        metric._handle = _asked("Error when creating Metric: ", self._context.channel.metric,
                                self._handle, dict(labels or {}), bounds)  # fmt: skip
        return metric

    def __del__(self) -> None:
        handle = self.__dict__.get("_handle")
        if handle is not None:
            self._alive[0] = False
            self._context.channel.drop_family(handle)


class Metric:
    """One metric of a family; made by `MetricFamily.Metric`."""

    __slots__ = ("_alive", "_channel", "_handle")

    _alive: list[bool]
    _channel: Any
    _handle: Any

    def __init__(self) -> None:
        raise TypeError("Metric: No constructor defined! Use MetricFamily.Metric().")

    def increment(self, value: float) -> None:
        self._do(self._channel.metric_increment, value)

    def set(self, value: float) -> None:
        self._do(self._channel.metric_set, value)

    def observe(self, value: float) -> None:
        self._do(self._channel.metric_observe, value)

    def value(self) -> float:
        found: float = self._do(self._channel.metric_value)
        return found

    def _do(self, operation: Callable[..., Any], *value: float) -> Any:
        if not self._alive[0]:
            raise TritonModelException(
                "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' "
                "object should be deleted AFTER its corresponding 'Metric' objects have been deleted."
            )
        return _asked("", operation, self._handle, *[float(number) for number in value])

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self._channel.drop_metric(handle)


class ModelControl:
    """load_model, unload_model and is_model_ready of one instance."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Of the load of this model: what threads of its own ask for meanwhile is for that, too.
        self._load = copy_context()

    def load_model(self, model_name: str, config: str = "", files: dict[str, bytes] | None = None) -> None:
        """Loads a model of the repository, or again, and waits. `config`: JSON in place of its file. `files`: contents
        by path, "file:<version>/<name>".
        """
        self._check("load_model", model_name)
        parameters: dict[str, Any] = {"config": config} if config else {}
        for path, content in (files or {}).items():
            parameters[path if path.startswith("file:") else f"file:{path}"] = bytes(content)
        self._ask(self._failed("load"), self._context.channel.load_model, model_name, parameters)

    def unload_model(self, model_name: str, unload_dependents: bool = False) -> None:
        """Takes a model out of service, without waiting for its end."""
        self._check("unload_model", model_name)
        self._ask(self._failed("unload"), self._context.channel.unload_model, model_name, bool(unload_dependents))

    def is_model_ready(self, model_name: str, model_version: str = "") -> bool:
        """Whether a model takes requests; an unknown one does not."""
        self._check("is_model_ready", model_name)
        if not isinstance(model_version, str):
            raise TypeError("is_model_ready(): incompatible function arguments: model_version must be a str")
        if model_version and not model_version.isdigit():
            raise TritonModelException(f"failed to get model version from specified version string '{model_version}'")
        version = int(model_version) if model_version else -1
        ready: bool = _asked(
            "Failed to check the readiness of the model: ", self._context.channel.is_model_ready, model_name, version
        )
        return ready

    def _check(self, function: str, name: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{function}(): incompatible function arguments: model_name must be a str")
        if not (self._context.executing or self._context.initializing):
            raise TritonModelException(f"{function}() is only supported during 'initialize' and 'execute'.")

    def _ask(self, before: str, function: Callable[..., Any], *arguments: Any) -> None:
        self._load.copy().run(_asked, before, function, *arguments)

    def _failed(self, what: str) -> str:
        return (
            f"Failed to {what} model: Failed to process the request for model '{self._context.instance}', message: "
        )


def _asked(before: str, function: Callable[..., Any], *arguments: Any) -> Any:
    if is_fork():
        raise TritonModelException(before + REFUSAL)
    try:
        return function(*arguments)
    except Refused as error:
        raise TritonModelException(before + error.message) from None
