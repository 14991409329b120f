"""Server settings from the command line: Triton's option names, syntax and messages; frozen when parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from triton_async.config.endpoints import UNIX, Listens, address_problem, tls_problem
from triton_async.config.options import OPTIONS, Kind, Option, Scalar, Status, usage
from triton_async.defines import MIN_COMPUTE_CAPABILITY, PINNED_POOL_NBYTES

__all__ = ["Settings", "UsageError", "parse", "usage"]

GLOBAL = ""
DEFAULT_MAX_BATCH_SIZE = 4

_TRUE = frozenset(("true", "on", "1"))
_FALSE = frozenset(("false", "off", "0"))
_INT = re.compile(r"[+-]?[0-9]{1,30}\Z", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?\Z", re.ASCII)

# Values that Triton knows and this release refuses, with what is missing.
_NOT_BUILT_VALUES = {
    ("model-control-mode", "poll"): "polling the repository",
    ("rate-limit", "execution_count"): "the rate limiter",
}
# Triton spells this one name with underscores in its message.
_CHOICE_NAMES = {"grpc-infer-response-compression-level": "grpc_infer_response_compression_level"}
_METRIC_SETTINGS = ("counter_latencies", "histogram_latencies", "summary_latencies", "summary_quantiles")


class UsageError(Exception):
    """A command line that cannot be used: print `usage()` and `message` and exit 1. Empty for --help."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server was started with; each field is the option of the same name, with its unit."""

    id: str = "triton"
    exit_timeout_secs: int = 30

    log_verbose: int = 0
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_format: str = "default"
    log_file: str = ""

    model_repository: tuple[str, ...] = ()
    exit_on_error: bool = True
    disable_auto_complete_config: bool = False
    strict_readiness: bool = True
    model_control_mode: str = "none"
    load_model: tuple[str, ...] = ()
    model_config_name: str = ""
    model_load_thread_count: int = 4
    model_load_retry_count: int = 0

    allow_http: bool = True
    http_address: str = "0.0.0.0"
    http_port: int = 8000
    reuse_http_port: bool = False
    http_max_input_size: int = 1 << 26
    http_use_ssl: bool = False
    # Implies http_use_ssl, as in Triton.
    http_use_ssl_mutual: bool = False
    http_server_cert: str = ""
    http_server_key: str = ""
    http_root_cert: str = ""

    allow_grpc: bool = True
    grpc_address: str = "0.0.0.0"
    grpc_port: int = 8001
    reuse_grpc_port: bool = False
    grpc_use_ssl: bool = False
    grpc_use_ssl_mutual: bool = False
    grpc_server_cert: str = ""
    grpc_server_key: str = ""
    grpc_root_cert: str = ""
    grpc_infer_response_compression_level: str = "none"
    grpc_keepalive_time: int = 7_200_000
    grpc_keepalive_timeout: int = 20_000
    grpc_keepalive_permit_without_calls: bool = False
    grpc_http2_max_pings_without_data: int = 2
    grpc_http2_min_recv_ping_interval_without_data: int = 300_000
    grpc_http2_max_ping_strikes: int = 2
    grpc_max_connection_age: int = 0
    grpc_max_connection_age_grace: int = 0

    allow_metrics: bool = True
    allow_gpu_metrics: bool = True
    allow_cpu_metrics: bool = True
    metrics_address: str = "0.0.0.0"
    metrics_port: int = 8002
    metrics_interval_ms: float = 2000.0
    counter_latencies: bool = True

    backend_directory: str = "/opt/tritonserver/backends"
    # Backend name ("" for all backends) -> setting -> value.
    backend_config: Mapping[str, Mapping[str, str]] = field(default_factory=_empty)
    rate_limit: str = "off"

    pinned_memory_pool_byte_size: int = PINNED_POOL_NBYTES
    # GPU -> bytes; DEVICE_POOL_NBYTES for a GPU that is not in it.
    cuda_memory_pool_byte_size: Mapping[int, int] = field(default_factory=_empty)
    min_supported_compute_capability: float = MIN_COMPUTE_CAPABILITY
    allow_client_shm: bool = False
    # GPU -> fraction of its memory that may be in use when a model starts to load.
    model_load_gpu_limit: Mapping[int, float] = field(default_factory=_empty)

    # One line for each option that was accepted without effect, or is deprecated.
    warnings: tuple[str, ...] = ()

    @property
    def default_max_batch_size(self) -> int:
        """--backend-config=default-max-batch-size: what a batchable model without max_batch_size gets."""
        text = self.backend_config.get(GLOBAL, {}).get("default-max-batch-size")
        return DEFAULT_MAX_BATCH_SIZE if text is None else int(text)


def parse(argv: Sequence[str]) -> Settings:
    """Settings of the arguments after the program name. UsageError (Triton's message) when they are bad."""
    given: dict[str, list[str]] = {}
    for option, text in _split(argv):
        given.setdefault(option.name, []).append(text)
    if "help" in given:
        raise UsageError("")
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for name, texts in given.items():
        option = OPTIONS[name]
        read = [_read(option, text) for text in texts]
        _check_built(option, read)
        if option.status is Status.NO_EFFECT:
            warnings.append(f"--{name} has no effect: {option.note}")
        elif option.status is Status.ACTIVE:
            values[option.field] = tuple(read) if option.repeat else read[-1]
    return _settings(values, warnings)


def _split(argv: Sequence[str]) -> Iterator[tuple[Option, str]]:
    # getopt_long's forms, but for abbreviated names: those are as good as typing errors.
    position = 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        if not argument.startswith("-") or argument in ("-", "--"):
            rest = argv[position:]
            if argument == "--":
                if not rest:
                    return
                argument = rest[0]
            raise UsageError(f"Unexpected argument: {argument}")
        name, equals, text = argument.removeprefix("--").partition("=")
        option = OPTIONS.get(name) if argument.startswith("--") else None
        if option is None:
            raise _unknown(argument.partition("=")[0])
        if option.kind is Kind.FLAG:
            if equals:
                raise _bad(option, "the option does not take a value")
        elif not equals:
            if position == len(argv):
                raise _bad(option, "the option requires a value")
            text = argv[position]
            position += 1
        yield option, text


def _unknown(argument: str) -> UsageError:
    name = argument.lstrip("-")
    near = get_close_matches(name, OPTIONS, n=1, cutoff=0.0)
    return UsageError(
        f'Bad option: "{argument}".\nUnknown option; the nearest is --{near[0] if near else "help"}'
    )


def _bad(option: Option, reason: str) -> UsageError:
    return UsageError(f'Bad option: "--{option.name}".\n{reason}')


def _read(option: Option, text: str) -> Scalar:
    """The value of `text`, or UsageError with Triton's message."""
    if option.kind is Kind.FLAG:
        return True
    if option.kind is Kind.BOOL:
        return _bool(option, text)
    if option.kind is Kind.FLOAT:
        return _float(option, text)
    if option.kind is Kind.STRING:
        if option.choices and text not in option.choices:
            raise _bad(option, f"invalid argument for --{_CHOICE_NAMES.get(option.name, option.name)}")
        return text
    if option.kind is Kind.LEVEL and text.lower() in _TRUE | _FALSE:
        return int(text.lower() in _TRUE)
    return _int(option, text)


def _bool(option: Option, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise _bad(option, f"invalid value for bool option: {text}")


def _int(option: Option, text: str) -> int:
    if not _INT.match(text):
        raise _bad(option, f"Invalid option value. Got {text}")
    value = int(text)
    if not option.low <= value <= option.high:
        raise _bad(option, f"Provided option value is out of bound. Got {text}")
    return value


def _float(option: Option, text: str) -> float:
    if not _FLOAT.match(text):
        raise _bad(option, f"Invalid option value. Got {text}")
    value = float(text)
    if not option.low <= value <= option.high:
        raise _bad(option, f"Provided option value is out of bound. Got {text}")
    return value


def _check_built(option: Option, values: Sequence[Scalar]) -> None:
    if option.status is Status.NOT_BUILT:
        for value in values:
            if value != option.default or option.repeat:
                raise _bad(option, f"not supported yet: {option.note} is not part of this release")
    for value in values:
        missing = _NOT_BUILT_VALUES.get((option.name, str(value)))
        if missing:
            raise _bad(option, f"'{value}' is not supported yet: {missing} is not part of this release")


def _settings(values: dict[str, Any], warnings: list[str]) -> Settings:
    """Settings of the values of active options: pairs read, deprecated spellings folded in, rules checked."""
    values["model_repository"] = values.pop("model_store", ()) + values.get("model_repository", ())
    if "strict_model_config" in values:
        warnings.append("--strict-model-config is deprecated: use --disable-auto-complete-config")
        strict = values.pop("strict_model_config")
        values["disable_auto_complete_config"] = values.get("disable_auto_complete_config", False) or strict
    http_address = values.get("http_address", OPTIONS["http-address"].default)
    if http_address.startswith(UNIX):
        http_address = OPTIONS["http-address"].default
    values.setdefault("metrics_address", http_address)
    for service in ("http", "grpc"):
        if problem := tls_problem(service, values):
            raise UsageError(problem)
    values["exit_timeout_secs"] = max(
        0, values.get("exit_timeout_secs", OPTIONS["exit-timeout-secs"].default)
    )
    values["model_load_retry_count"] = max(0, values.get("model_load_retry_count", 0))
    threads = values.get("model_load_thread_count", OPTIONS["model-load-thread-count"].default)
    values["model_load_thread_count"] = max(1, threads)
    values["backend_config"] = _backend_config(values.get("backend_config", ()))
    values["cuda_memory_pool_byte_size"] = _int_pairs(
        OPTIONS["cuda-memory-pool-byte-size"], values.get("cuda_memory_pool_byte_size", ())
    )
    values["model_load_gpu_limit"] = _fractions(
        OPTIONS["model-load-gpu-limit"], values.get("model_load_gpu_limit", ())
    )
    metrics = _metrics_config(values.pop("metrics_config", ()))
    values["counter_latencies"] = metrics.get("counter_latencies", True)
    settings = Settings(**values, warnings=tuple(warnings))
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if not settings.model_repository:
        raise UsageError("Error: --model-repository must be specified")
    if settings.load_model and settings.model_control_mode != "explicit":
        raise UsageError(
            "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well."
        )
    if settings.http_max_input_size <= 0:
        raise UsageError("Error: --http-max-input-size must be greater than 0.")
    if (
        any(c.isspace() or c in "/\0" for c in settings.model_config_name)
        or settings.model_config_name == ".."
    ):
        raise _bad(OPTIONS["model-config-name"], "a config name holds no space and no path separator")
    front_ends = (
        (settings.allow_http, Listens("HTTP", settings.http_address, settings.http_port)),
        (settings.allow_grpc, Listens("GRPC", settings.grpc_address, settings.grpc_port)),
        (settings.allow_metrics, Listens("metrics", settings.metrics_address, settings.metrics_port)),
    )
    if problem := address_problem([where for allowed, where in front_ends if allowed]):
        raise UsageError(problem)


def _backend_config(texts: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """`[<backend>,]<setting>=<value>` -> {backend: {setting: value}}; settings of all backends under ""."""
    option = OPTIONS["backend-config"]
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        head, equals, value = text.partition("=")
        backend, comma, setting = head.partition(",")
        if not comma:
            backend, setting = GLOBAL, head
        elif not backend:
            raise _bad(
                option,
                "No backend specified. --backend-config option format is <backend name>,<setting>=<value> or "
                f"<setting>=<value>. Got {text}",
            )
        if not equals or not setting or not value:
            raise _bad(
                option, f"--backend-config option format is '<backend name>,<setting>=<value>'. Got {text}"
            )
        if (
            not comma
            and setting == "default-max-batch-size"
            and not re.fullmatch("[0-9]{1,9}", value, re.ASCII)
        ):
            raise _bad(option, f"Invalid option value. Got {text}")
        found.setdefault(backend, {})[setting] = value
    return MappingProxyType({name: MappingProxyType(settings) for name, settings in found.items()})


def _metrics_config(texts: Sequence[str]) -> dict[str, bool]:
    option = OPTIONS["metrics-config"]
    found: dict[str, bool] = {}
    for text in texts:
        setting, equals, value = text.partition("=")
        if not equals or not setting or not value:
            raise _bad(option, f"--metrics-config option format is <setting>=<value>. Got {text}")
        if setting not in _METRIC_SETTINGS:
            near = get_close_matches(setting, _METRIC_SETTINGS, n=1, cutoff=0.0)
            raise _bad(option, f"unknown setting '{setting}'; the nearest is {near[0]}")
        if setting == "summary_quantiles" or (_bool(option, value) and setting != "counter_latencies"):
            raise _bad(option, f"'{setting}' is not supported yet: only counter_latencies is")
        found[setting] = _bool(option, value)
    return found


def _int_pairs(option: Option, texts: Sequence[str]) -> Mapping[int, int]:
    """`<integer>:<integer>` of each text; a later one for the same key wins, as in Triton."""
    found: dict[int, int] = {}
    for text, first, second in _pairs(option, texts):
        if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
            raise _bad(option, f"Invalid option value. Got {text}")
        if len(first) > 9 or len(second) > 18:
            raise _bad(option, f"Provided option value is out of bound. Got {text}")
        found[int(first)] = int(second)
    return MappingProxyType(found)


def _fractions(option: Option, texts: Sequence[str]) -> Mapping[int, float]:
    """`<device_id>:<fraction>` of each text, fractions from 0 to 1; a later one for the same device wins."""
    found: dict[int, float] = {}
    for text, first, second in _pairs(option, texts):
        if not re.fullmatch("[0-9]{1,9}", first, re.ASCII) or not _FLOAT.match(second):
            raise _bad(option, f"Invalid option value. Got {text}")
        if not 0.0 <= float(second) <= 1.0:
            raise _bad(option, f"Provided option value is out of bound. Got {text}")
        found[int(first)] = float(second)
    return MappingProxyType(found)


def _pairs(option: Option, texts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each text with what stands before and behind its one colon."""
    for text in texts:
        first, colon, second = text.partition(":")
        if not colon or ":" in second:
            raise _bad(
                option,
                "Cannot parse pair option due to incorrect number of inputs."
                f"--<pair option> argument requires format <first>:<second>. Found: {text}",
            )
        yield text, first, second
