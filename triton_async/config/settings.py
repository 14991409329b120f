"""Server settings from the command line: Triton's option names, syntax and messages; frozen when parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from triton_async.addresses import unix_path
from triton_async.config.access import (
    GRPC_PREFIX,
    AccessProblem,
    Pattern,
    Restrictions,
    parse_exempt,
    parse_pattern,
    parse_restrictions,
)
from triton_async.config.affinity import ANYWHERE, Affinity, AffinityProblem, parse_affinity
from triton_async.config.cache import CacheProblem, LibraryCache, RedisConfig, parse_cache
from triton_async.config.clouds import CloudProblem, SageMaker, VertexAi, take_clouds
from triton_async.config.endpoints import Listens, address_problem, safe_ports_problem, tls_problem
from triton_async.config.host_policy import HostPolicy, HostPolicyProblem, parse_host_policies
from triton_async.config.locations import LocationProblem, has_scheme, parse_location
from triton_async.config.metrics_config import MetricsConfig, MetricsProblem, parse_metrics
from triton_async.config.options import OPTIONS, Kind, Option, Scalar, Status, usage
from triton_async.config.processes import ProcessProblem, parse_count, parse_model_count, process_problem
from triton_async.config.trace_config import OPENTELEMETRY, TENSORS, TRITON, TraceConfig, TraceProblem, parse_trace

__all__ = ["Settings", "UsageError", "from_environment", "parse", "usage"]

GLOBAL = ""
DEFAULT_MAX_BATCH_SIZE = 4

_TRUE = frozenset(("true", "on", "1"))
_FALSE = frozenset(("false", "off", "0"))
_LARGEST_PORT = 65535
_INT = re.compile(r"[+-]?[0-9]{1,30}\Z", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?\Z", re.ASCII)

# In front of the names of options, in capitals and with underscores, as variables of the environment.
ENVIRONMENT = "TRITON_ASYNC_OPT_"

# Triton spells this one name with underscores in its message.
_CHOICE_NAMES = {"grpc-infer-response-compression-level": "grpc_infer_response_compression_level"}
# The options of tracing that --trace-config has replaced.
TRACE_LEGACY = ("trace-file", "trace-level", "trace-rate", "trace-count", "trace-log-frequency")


class UsageError(Exception):
    """A command line that cannot be used: print `usage()` and `message` and exit 1. Empty for --help."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _default(name: str) -> Any:
    return OPTIONS[name].default


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server was started with; each field is the option of the same name, with its unit."""

    id: str = _default("id")
    exit_timeout_secs: int = _default("exit-timeout-secs")
    drain_secs: int = _default("drain-secs")
    exit_grace_secs: int = _default("exit-grace-secs")
    listen_while_loading: bool = _default("listen-while-loading")
    # How many: 1 for none but the models' own.
    frontend_processes: int = 1
    # How many for Python models: 1 for none but the server's.
    model_processes: int = 1
    cpu_affinity: Affinity = ANYWHERE

    log_verbose: int = _default("log-verbose")
    log_info: bool = _default("log-info")
    log_warning: bool = _default("log-warning")
    log_error: bool = _default("log-error")
    log_format: str = _default("log-format")
    log_file: str = _default("log-file")
    log_access: bool = _default("log-access")

    model_repository: tuple[str, ...] = ()
    exit_on_error: bool = _default("exit-on-error")
    disable_auto_complete_config: bool = _default("disable-auto-complete-config")
    strict_readiness: bool = _default("strict-readiness")
    model_control_mode: str = _default("model-control-mode")
    repository_poll_secs: int = _default("repository-poll-secs")
    load_model: tuple[str, ...] = ()
    model_config_name: str = _default("model-config-name")
    model_load_thread_count: int = _default("model-load-thread-count")
    model_load_retry_count: int = _default("model-load-retry-count")
    model_namespacing: bool = _default("model-namespacing")

    allow_http: bool = _default("allow-http")
    http_address: str = _default("http-address")
    http_port: int = _default("http-port")
    max_in_flight_byte_size: int = _default("max-in-flight-byte-size")
    allow_loop_execution: bool = _default("allow-loop-execution")
    allow_page: bool = _default("allow-page")
    auto_queue_delay: bool = _default("auto-queue-delay")
    reuse_http_port: bool = _default("reuse-http-port")
    http_max_input_size: int = _default("http-max-input-size")
    http_use_ssl: bool = _default("http-use-ssl")
    # Implies http_use_ssl, as in Triton.
    http_use_ssl_mutual: bool = _default("http-use-ssl-mutual")
    http_server_cert: str = _default("http-server-cert")
    http_server_key: str = _default("http-server-key")
    http_root_cert: str = _default("http-root-cert")

    allow_grpc: bool = _default("allow-grpc")
    grpc_address: str = _default("grpc-address")
    grpc_port: int = _default("grpc-port")
    reuse_grpc_port: bool = _default("reuse-grpc-port")
    grpc_use_ssl: bool = _default("grpc-use-ssl")
    grpc_use_ssl_mutual: bool = _default("grpc-use-ssl-mutual")
    grpc_server_cert: str = _default("grpc-server-cert")
    grpc_server_key: str = _default("grpc-server-key")
    grpc_root_cert: str = _default("grpc-root-cert")
    grpc_max_response_pool_size: int = _default("grpc-max-response-pool-size")
    grpc_infer_response_compression_level: str = _default("grpc-infer-response-compression-level")
    grpc_keepalive_time: int = _default("grpc-keepalive-time")
    grpc_keepalive_timeout: int = _default("grpc-keepalive-timeout")
    grpc_keepalive_permit_without_calls: bool = _default("grpc-keepalive-permit-without-calls")
    grpc_http2_max_pings_without_data: int = _default("grpc-http2-max-pings-without-data")
    grpc_http2_min_recv_ping_interval_without_data: int = _default("grpc-http2-min-recv-ping-interval-without-data")
    grpc_http2_max_ping_strikes: int = _default("grpc-http2-max-ping-strikes")
    grpc_max_connection_age: int = _default("grpc-max-connection-age")
    grpc_max_connection_age_grace: int = _default("grpc-max-connection-age-grace")

    http_restricted_api: Restrictions = field(default_factory=_empty)
    grpc_restricted_protocol: Restrictions = field(default_factory=_empty)
    http_header_forward_pattern: Pattern | None = None
    grpc_header_forward_pattern: Pattern | None = None
    api_key_file: str = _default("api-key-file")
    api_key_exempt: frozenset[str] = frozenset()

    allow_metrics: bool = _default("allow-metrics")
    allow_gpu_metrics: bool = _default("allow-gpu-metrics")
    allow_cpu_metrics: bool = _default("allow-cpu-metrics")
    metrics_address: str = "0.0.0.0"
    metrics_port: int = _default("metrics-port")
    metrics_interval_ms: float = _default("metrics-interval-ms")
    # None: their endpoints are off.
    sagemaker: SageMaker | None = None
    vertex_ai: VertexAi | None = None

    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    trace: TraceConfig = field(default_factory=TraceConfig)

    backend_directory: str = _default("backend-directory")
    # Backend name ("" for all backends) -> setting -> value.
    backend_config: Mapping[str, Mapping[str, str]] = field(default_factory=_empty)
    rate_limit: str = _default("rate-limit")
    # Of the rate limiter: name -> GPU, or -1 for every one -> copies. Empty: as many as are needed.
    rate_limit_resource: Mapping[str, Mapping[int, int]] = field(default_factory=_empty)
    host_policy: Mapping[str, HostPolicy] = field(default_factory=_empty)
    # Of the response cache in this process, in bytes; 0: there is none.
    response_cache_byte_size: int = _default("response-cache-byte-size")
    # The response cache in a Redis server instead; without the credentials of the environment.
    redis_cache: RedisConfig | None = None
    repoagent_directory: str = _default("repoagent-directory")
    cache_directory: str = _default("cache-directory")
    # The response cache that is a library of `cache_directory` instead.
    library_cache: LibraryCache | None = None

    pinned_memory_pool_byte_size: int = _default("pinned-memory-pool-byte-size")
    # GPU -> bytes; DEVICE_POOL_NBYTES for a GPU that is not in it.
    cuda_memory_pool_byte_size: Mapping[int, int] = field(default_factory=_empty)
    min_supported_compute_capability: float = _default("min-supported-compute-capability")
    allow_client_shm: bool = _default("allow-client-shm")
    # GPU -> fraction of its memory that may be in use when a model starts to load.
    model_load_gpu_limit: Mapping[int, float] = field(default_factory=_empty)

    # One line for each option that was accepted without effect, or is deprecated.
    warnings: tuple[str, ...] = ()

    # What they were read from, for processes that are started with the same.
    arguments: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def default_max_batch_size(self) -> int:
        """--backend-config=default-max-batch-size: what a batchable model without max_batch_size gets."""
        text = self.backend_config.get(GLOBAL, {}).get("default-max-batch-size")
        return DEFAULT_MAX_BATCH_SIZE if text is None else int(text)


def parse(argv: Sequence[str], environ: Mapping[str, str] = MappingProxyType({})) -> Settings:
    """Settings of the arguments after the program name. UsageError (Triton's message) when they are bad. `environ`:
    what clouds say to a container.
    """
    given: dict[str, list[str]] = {}
    for option, text in _split(argv):
        given.setdefault(option.name, []).append(text)
    if "help" in given:
        raise UsageError("")
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for name, texts in given.items():
        option = OPTIONS[name]
        if option.nonempty and "" in texts:
            raise UsageError(f"Error: empty argument for --{name}")
        read = [_read(option, text) for text in texts]
        if option.status is Status.NO_EFFECT:
            warnings.append(f"--{name} has no effect: {option.note}")
        else:
            values[option.field] = tuple(read) if option.repeat else read[-1]
    return replace(_settings(values, warnings, environ), arguments=tuple(argv))


def from_environment(environ: Mapping[str, str]) -> list[str]:
    """Arguments that stand in the environment, as containers are configured: TRITON_ASYNC_OPT_HTTP_PORT=8080 for
    --http-port=8080; of an option that may be repeated a value on each line. To be put in front of those of the command
    line, which win. UsageError for a name that is no option.
    """
    found: list[str] = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT):
            continue
        name = variable.removeprefix(ENVIRONMENT).lower().replace("_", "-")
        option = OPTIONS.get(name)
        if option is None:
            near = get_close_matches(name, OPTIONS, n=1, cutoff=0.0)[0].upper().replace("-", "_")
            raise UsageError(f"Unknown variable {variable}; the nearest is {ENVIRONMENT}{near}")
        if option.kind is Kind.FLAG:
            found += [f"--{name}"] if _bool(option, text) else []
        else:
            values = [line for line in text.split("\n") if line] if option.repeat else [text]
            found += [f"--{name}={value}" for value in values]
    return found


def _split(argv: Sequence[str]) -> Iterator[tuple[Option, str]]:
    # getopt_long's forms.
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
        if not argument.startswith("--"):
            raise _unknown(argument.partition("=")[0])
        option = OPTIONS.get(name) or _abbreviated(name)
        if option.kind is Kind.FLAG:
            if equals:
                raise _bad(option, "the option does not take a value")
        elif not equals:
            if position == len(argv):
                raise _bad(option, "the option requires a value")
            text = argv[position]
            position += 1
        yield option, text


def _abbreviated(name: str) -> Option:
    """The one option that begins with `name`, as far as Triton has it: ours make nothing ambiguous."""
    meant = [option for option in OPTIONS.values() if option.name.startswith(name) and name]
    theirs = [option for option in meant if not option.ours]
    if len(theirs or meant) == 1:
        return (theirs or meant)[0]
    if not meant:
        raise _unknown(f"--{name}")
    names = ", ".join(f"--{option.name}" for option in meant)
    raise UsageError(f'Bad option: "--{name}".\nAmbiguous; it may be one of {names}')


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
        if not option.choices:
            return text
        for choice in option.choices:
            if choice.lower() == text.lower():  # Triton's words may be written in capitals, too
                return choice
        raise _bad(option, f"invalid argument for --{_CHOICE_NAMES.get(option.name, option.name)}")
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


def _once(paths: tuple[str, ...]) -> tuple[str, ...]:
    """One that is given twice is one, as in Triton: its models are not in two repositories."""
    found: dict[str, str] = {}
    for path in paths:
        found.setdefault(path.rstrip("/"), path)
    return tuple(found.values())


def _settings(values: dict[str, Any], warnings: list[str], environ: Mapping[str, str]) -> Settings:
    """Settings of the values of active options: pairs read, deprecated spellings folded in, rules checked."""
    values["model_repository"] = _once(values.pop("model_store", ()) + values.get("model_repository", ()))
    try:
        take_clouds(values, environ)
    except CloudProblem as wrong:
        raise UsageError(f"Error: {wrong}") from None
    if "strict_model_config" in values:
        warnings.append(
            "'--strict-model-config' has been deprecated! Please use '--disable-auto-complete-config' instead."
        )
        strict = values.pop("strict_model_config")
        if not strict and values.get("disable_auto_complete_config"):
            warnings.append(
                "Overriding deprecated '--strict-model-config' from False to True in favor of "
                "'--disable-auto-complete-config'!"
            )
        values["disable_auto_complete_config"] = values.get("disable_auto_complete_config", False) or strict
    http_address = values.get("http_address", OPTIONS["http-address"].default)
    if unix_path(http_address) is not None:
        http_address = OPTIONS["http-address"].default
    values.setdefault("metrics_address", http_address)
    share = values.pop("reuse_port", OPTIONS["reuse-port"].default)
    for service in ("http", "grpc"):
        values.setdefault(f"reuse_{service}_port", share)
        if problem := tls_problem(service, values):
            raise UsageError(problem)
    for name, least in (("exit_timeout_secs", 0), ("model_load_retry_count", 0), ("model_load_thread_count", 1)):
        values[name] = max(least, values.get(name, OPTIONS[name.replace("_", "-")].default))
    values["backend_config"] = _backend_config(values.get("backend_config", ()))
    values["cuda_memory_pool_byte_size"] = _int_pairs(
        OPTIONS["cuda-memory-pool-byte-size"], values.get("cuda_memory_pool_byte_size", ())
    )
    values["model_load_gpu_limit"] = _fractions(
        OPTIONS["model-load-gpu-limit"], values.get("model_load_gpu_limit", ())
    )
    values["host_policy"] = _host_policies(values.get("host_policy", ()))
    values["rate_limit_resource"] = _resources(values.get("rate_limit_resource", ()))
    if values["rate_limit_resource"] and values.get("rate_limit", "off") == "off":
        warnings.append("--rate-limit-resource has no effect without --rate-limit=execution_count")
    cache_texts = values.pop("cache_config", ())
    if cache_texts and "response_cache_byte_size" in values:
        raise UsageError(
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide one "
            "or the other."
        )
    if "response_cache_byte_size" in values:
        warnings.append("--response-cache-byte-size is deprecated: use --cache-config=local,size=<bytes>")
    if cache_texts:
        try:
            cache = parse_cache(cache_texts)
        except CacheProblem as error:
            raise _bad(OPTIONS["cache-config"], str(error)) from None
        values["response_cache_byte_size"], values["redis_cache"] = cache.local_nbytes, cache.redis
        values["library_cache"] = cache.library
        warnings += cache.warnings
    try:
        values["metrics"] = parse_metrics(values.pop("metrics_config", ()))
    except MetricsProblem as problem:
        raise _bad(OPTIONS["metrics-config"], str(problem)) from None
    values["trace"] = _trace_config(values, warnings)
    _divide(values)
    _read_access(values)
    settings = Settings(**values, warnings=tuple(warnings))
    _check_together(settings)
    return settings


def _divide(values: dict[str, Any]) -> None:
    """Puts what is said of cores and of processes in the place of its text."""
    try:
        values["cpu_affinity"] = affinity = parse_affinity(values.get("cpu_affinity", ()))
    except AffinityProblem as problem:
        raise _bad(OPTIONS["cpu-affinity"], str(problem)) from None
    option = OPTIONS["frontend-processes"]
    try:
        values["frontend_processes"] = fronts = parse_count(values.get("frontend_processes", "1"), affinity)
        option = OPTIONS["model-processes"]
        values["model_processes"] = parse_model_count(values.get("model_processes", "1"), fronts, affinity)
    except ProcessProblem as problem:
        raise _bad(option, str(problem)) from None


def _check_together(settings: Settings) -> None:
    if not settings.model_repository:
        raise UsageError("Error: --model-repository must be specified")
    for repository in settings.model_repository:
        if has_scheme(repository):
            try:
                parse_location(repository)
            except LocationProblem as error:
                raise UsageError(f"Error: --model-repository={repository}: {error}") from None
    if settings.load_model and settings.model_control_mode != "explicit":
        raise UsageError(
            "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well."
        )
    if "*" in settings.load_model and len(settings.load_model) > 1:
        raise UsageError("Error: Wildcard model name '*' must be the ONLY startup model if specified at all.")
    if settings.http_max_input_size <= 0:
        raise UsageError("Error: --http-max-input-size must be greater than 0.")
    if settings.grpc_max_response_pool_size <= 0:
        raise UsageError("Error: --grpc-max-response-pool-size must be greater than 0.")
    if (
        any(c.isspace() or c in "/\0" for c in settings.model_config_name)
        or settings.model_config_name == ".."
    ):
        raise _bad(OPTIONS["model-config-name"], "a config name holds no space and no path separator")
    front_ends = (
        (settings.allow_http, Listens("HTTP", settings.http_address, settings.http_port)),
        (settings.allow_grpc, Listens("GRPC", settings.grpc_address, settings.grpc_port)),
        (settings.sagemaker, Listens("Sagemaker", "0.0.0.0", settings.sagemaker.port if settings.sagemaker else 0)),
        (settings.vertex_ai, Listens("Vertex AI", "0.0.0.0", settings.vertex_ai.port if settings.vertex_ai else 0)),
        (settings.allow_metrics, Listens("metrics", settings.metrics_address, settings.metrics_port)),
    )
    listening = [where for allowed, where in front_ends if allowed]
    for where in listening:
        if unix_path(where.address) is None and not 0 <= where.port <= _LARGEST_PORT:
            option = OPTIONS["grpc-port" if where.name == "GRPC" else f"{where.name.lower().replace(' ', '-')}-port"]
            raise _bad(option, f"Provided option value is out of bound. Got {where.port}")
    if problem := address_problem(listening) or _beside_sagemaker(settings, listening) or process_problem(settings):
        raise UsageError(problem)


def _beside_sagemaker(settings: Settings, listening: list[Listens]) -> str | None:
    if settings.sagemaker is None or settings.sagemaker.safe_ports is None:
        return None
    (own,) = (where for where in listening if where.name == "Sagemaker")
    return safe_ports_problem(own, [where for where in listening if where is not own], settings.sagemaker.safe_ports)


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


def _host_policies(texts: Sequence[str]) -> Mapping[str, HostPolicy]:
    try:
        return parse_host_policies(texts)
    except HostPolicyProblem as problem:
        raise _bad(OPTIONS["host-policy"], str(problem)) from None


def _resources(texts: Sequence[str]) -> Mapping[str, Mapping[int, int]]:
    """`<name>:<count>[:<device>]` of each text; a later one for the same resource and device wins."""
    option = OPTIONS["rate-limit-resource"]
    found: dict[str, dict[int, int]] = {}
    for text in texts:
        name, *numbers = text.split(":")
        if not 1 <= len(numbers) <= 2 or not name:
            raise _bad(
                option,
                "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or "
                f"'<resource_name>:<count>'. Got {text}",
            )
        if not all(re.fullmatch("[0-9]{1,9}", number, re.ASCII) for number in numbers):
            raise _bad(option, f"count and device must be numbers from 0 to 999999999. Got {text}")
        found.setdefault(name, {})[int(numbers[1]) if len(numbers) == 2 else -1] = int(numbers[0])
    return MappingProxyType({name: MappingProxyType(counts) for name, counts in found.items()})


def _read_access(values: dict[str, Any]) -> None:
    """Puts what access options mean in the place of their texts."""
    option = "api-key-exempt"
    try:
        values["api_key_exempt"] = parse_exempt(option, values.get("api_key_exempt", ""))
        for option, prefix in (("http-restricted-api", ""), ("grpc-restricted-protocol", GRPC_PREFIX)):
            field_name = OPTIONS[option].field
            values[field_name] = parse_restrictions(option, values.get(field_name, ()), prefix)
        for option in ("http-header-forward-pattern", "grpc-header-forward-pattern"):
            field_name = OPTIONS[option].field
            values[field_name] = parse_pattern(option, values.get(field_name, ""))
    except AccessProblem as problem:
        raise _bad(OPTIONS[option], str(problem)) from None


def _trace_config(values: dict[str, Any], warnings: list[str]) -> TraceConfig:
    legacy = {name: values.pop(name.replace("-", "_")) for name in TRACE_LEGACY if name.replace("-", "_") in values}
    for name in legacy:
        warnings.append(f"--{name} is deprecated: use --trace-config")
    try:
        config = parse_trace(values.pop("trace_config", ()), legacy)
    except TraceProblem as problem:
        raise _bad(OPTIONS["trace-config"], str(problem)) from None
    if config.levels and config.mode == TRITON and not config.file:
        warnings.append("nothing is traced: the trace file name is not given (--trace-config=triton,file=<path>)")
    if config.levels & TENSORS and config.mode == OPENTELEMETRY:
        warnings.append("trace level TENSORS has no effect in trace mode opentelemetry: spans have no tensors")
        config = replace(config, levels=config.levels & ~TENSORS)
    return config


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
