"""The table of command-line options: every `tritonserver` option, its default, and what it does here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from triton_async import defines

Scalar = str | int | float | bool
UNSET: Scalar = ""


class Kind(Enum):
    """How the text of a value is read."""

    FLAG = ""
    BOOL = "boolean"
    INT = "integer"
    FLOAT = "float"
    STRING = "string"
    # Integer, or true (1) and false (0), as --log-verbose.
    LEVEL = "integer or boolean"


class Status(Enum):
    """What giving the option does."""

    ACTIVE = 0
    # Accepted with a warning: it tunes machinery that this server does not have.
    NO_EFFECT = 1


@dataclass(frozen=True, slots=True)
class Option:
    """One row. `repeat`: may be given several times. `note`: why it has no effect. `nonempty`: the
    empty text is no value. `ours`: `tritonserver` does not have it.
    """

    name: str
    kind: Kind
    default: Scalar
    help: str
    status: Status = Status.ACTIVE
    repeat: bool = False
    choices: tuple[str, ...] = ()
    low: int = -(2**31)
    high: int = 2**31 - 1
    form: str = ""
    note: str = ""
    nonempty: bool = False
    ours: bool = False

    @property
    def field(self) -> str:
        """Name of the value in `Settings`."""
        return self.name.replace("-", "_")

    @property
    def synopsis(self) -> str:
        """The form of the value as usage prints it, e.g. `<integer>`."""
        return self.form or (f"<{self.kind.value}>" if self.kind.value else "")


def _text(name: str, default: str, text: str, **more: object) -> Option:
    return Option(name, Kind.STRING, default, text, **more)  # type: ignore[arg-type]


def _int(name: str, default: int, text: str, **more: object) -> Option:
    return Option(name, Kind.INT, default, text, **more)  # type: ignore[arg-type]


def _bool(name: str, default: bool, text: str, **more: object) -> Option:
    return Option(name, Kind.BOOL, default, text, **more)  # type: ignore[arg-type]


def _port(name: str, default: int, text: str) -> Option:
    # The range is that of a port only where the front-end is on, as in Triton.
    return _int(name, default, text)


def _tuning(name: str, default: int, note: str) -> Option:
    return _int(name, default, "Accepted for compatibility.", status=Status.NO_EFFECT, note=note)


def _tls(service: str, name: str, ours: bool) -> tuple[Option, ...]:
    return (
        _bool(f"{service}-use-ssl", False, f"Serve {name} over TLS, with the certificate and key below.", ours=ours),
        _bool(
            f"{service}-use-ssl-mutual",
            False,
            f"The same, and clients must show a certificate that --{service}-root-cert vouches for.",
            ours=ours,
        ),
        _text(
            f"{service}-server-cert", "", "PEM file: certificate of the server, intermediate ones behind it.", ours=ours
        ),
        _text(f"{service}-server-key", "", "PEM file: private key of the certificate, without a password.", ours=ours),
        _text(f"{service}-root-cert", "", "PEM file: certificates that those of clients must lead to.", ours=ours),
    )


_ONE_LOOP = "one event loop serves all connections"
_NO_PROXY_POOL = "requests are not pooled here"

SERVER = (
    Option("help", Kind.FLAG, False, "Print usage."),
    _text("id", "triton", "Name of this server in its metadata."),
    _int("exit-timeout-secs", 30, "Seconds to let inferences in flight finish on exit."),
    _int(
        "drain-secs",
        0,
        "Seconds, before those of --exit-timeout-secs, in which a server that was told to end serves on but is not "
        "ready, for load balancers to notice; connections close behind their next answer.",
        low=0,
        ours=True,
    ),
    _int(
        "exit-grace-secs",
        1,
        "Seconds of --exit-timeout-secs, at most half of it, in which a server that ends is no longer ready but still "
        "accepts, and tells each client to go elsewhere.",
        low=0,
        ours=True,
    ),
    _bool(
        "listen-while-loading",
        True,
        "Open the ports before models are loaded, but for shared ones: the server is live then, and not ready. As "
        "tritonserver the ports open when all models are loaded, unless this says otherwise.",
        ours=True,
    ),
    _text(
        "frontend-processes",
        "1",
        "Processes that share the ports, read requests and write answers, each on a core of its own; the models are in "
        "another one. auto: one for every two cores, or for each core that --cpu-affinity gives them. 1: the models' "
        "own process does it all.",
        form="<integer>|auto",
        ours=True,
    ),
    _text(
        "cpu-affinity",
        "none",
        "The cores that the server runs on, 0-3,8 or node<NUMA node>; with front-ends: or models: before them those of "
        "one part, and the other gets the rest, or what the option says when it is given again. none: any.",
        repeat=True,
        form="none|[front-ends:|models:]<cores>",
        ours=True,
    ),
    _bool(
        "reuse-port",
        False,
        "Let several servers share the HTTP port and the gRPC port, where the options of each do not say otherwise.",
        ours=True,
    ),
)

LOGGING = (
    Option("log-verbose", Kind.LEVEL, 0, "Verbosity; 0 is off.", low=0),
    _bool("log-info", True, "Log informational messages."),
    _bool("log-warning", True, "Log warnings."),
    _bool("log-error", True, "Log errors."),
    _text(
        "log-format",
        "default",
        "Form of time and severity in log lines; json: an object on each line.",
        choices=("default", "ISO8601", "json"),
    ),
    _bool("log-access", False, "Log a line for each answered request.", ours=True),
    _text("log-file", "", "Write the log to this file instead of standard error."),
)

REPOSITORY = (
    _text(
        "model-repository",
        "",
        "Directory of models, or a place in object storage: s3://, gs:// or as://. May be repeated.",
        repeat=True,
        nonempty=True,
    ),
    _text("model-store", "", "Same as --model-repository.", repeat=True, nonempty=True),
    _bool("exit-on-error", True, "Exit when something fails during start, such as a model."),
    Option(
        "disable-auto-complete-config",
        Kind.FLAG,
        False,
        "Do not complete model configs from the models: every config.pbtxt must say all that is required.",
    ),
    _bool(
        "strict-readiness", True, "Ready only when every model is available; else when the server answers."
    ),
    _text(
        "model-control-mode",
        "none",
        "none: load all models at start. poll: the same, then follow changes of the repositories. explicit: load and "
        "unload by --load-model and by request.",
        choices=("none", "poll", "explicit"),
    ),
    _int(
        "repository-poll-secs",
        15,
        "Seconds between two looks at the repositories in poll mode; 0 for none.",
    ),
    _text(
        "load-model",
        "",
        "Model to load at start in explicit mode, * for all. May be repeated.",
        repeat=True,
        nonempty=True,
    ),
    _text(
        "model-config-name",
        "",
        "Use configs/<name>.pbtxt of a model, when it is there, for config.pbtxt.",
        nonempty=True,
    ),
    _int("model-load-thread-count", defines.MODEL_LOAD_THREADS, "Models loaded at the same time."),
    _int("model-load-retry-count", 0, "How often a load that failed is tried again."),
    _bool(
        "model-namespacing",
        False,
        "Serve models of one name from several repositories; ensembles take those of their own repository first.",
    ),
    _text(
        "model-processes",
        "1",
        "Processes that Python models are spread over, so that they compute on several cores; the parameter "
        "MODEL_PROCESS of a model says which. auto: one for each core that front-ends leave. 1: they are in the "
        "server's process.",
        form="<integer>|auto",
        ours=True,
    ),
    _bool(
        "enable-peer-access",
        True,
        "Accepted for compatibility.",
        status=Status.NO_EFFECT,
        note="no copies between GPUs are made",
    ),
)

HTTP = (
    _bool("allow-http", True, "Listen for HTTP."),
    _text("http-address", "0.0.0.0", "Address of the HTTP server, or unix:<path> for a socket file."),
    _port("http-port", 8000, "Port of the HTTP server."),
    _int(
        "max-in-flight-byte-size",
        0,
        "Bytes of requests that the server holds before it refuses further ones; 0 for half of the memory that it may "
        "use.",
        low=0,
        high=2**63 - 1,
        ours=True,
    ),
    _bool(
        "allow-loop-execution",
        True,
        "Run executions of some microseconds on the event loop's own thread, where the shapes of requests bound their "
        "time: waking another thread takes longer.",
        ours=True,
    ),
    _bool(
        "allow-page",
        True,
        "Answer / of the HTTP port with a page: models, a form to try each, plots. It can do what its reader may do "
        "over HTTP, and nothing else.",
        ours=True,
    ),
    _bool(
        "auto-queue-delay",
        False,
        "Find out how long a batch is held back for more requests, for models with dynamic batching whose config says "
        "nothing of that.",
        ours=True,
    ),
    _bool("reuse-http-port", False, "Let several servers share the HTTP port."),
    _text(
        "http-header-forward-pattern", "",
        "Headers with this regular expression in their names become parameters of inference requests.",
    ),
    _tuning("http-thread-count", 8, _ONE_LOOP),
    _int(
        "http-max-input-size",
        defines.HTTP_MAX_INPUT_NBYTES,
        "Largest HTTP request body in bytes.",
        high=2**63 - 1,
    ),
    *_tls("http", "HTTP", ours=True),
    _text(
        "http-restricted-api",
        "",
        "<api>,...:<header>=<value>: calls of these categories must show the header. May be repeated.",
        repeat=True,
        form="<<string>:<string>=<string>>",
    ),
)

GRPC = (
    _bool("allow-grpc", True, "Listen for gRPC."),
    _text("grpc-address", "0.0.0.0", "Address of the gRPC server, or unix:<path> for a socket file."),
    _port("grpc-port", 8001, "Port of the gRPC server."),
    _bool("reuse-grpc-port", False, "Let several servers share the gRPC port."),
    _text(
        "grpc-header-forward-pattern", "",
        "Metadata with this regular expression in their names become parameters of inference requests.",
    ),
    _tuning("grpc-infer-thread-count", 2, _ONE_LOOP),
    _tuning("grpc-infer-cq-count", 1, _ONE_LOOP),
    _tuning("grpc-infer-allocation-pool-size", 8, _NO_PROXY_POOL),
    _int(
        "grpc-max-response-pool-size",
        2**31 - 1,
        "Responses of one stream that may wait for its client before the model that sends more is held back; never "
        "more than 256.",
    ),
    *_tls("grpc", "gRPC", ours=False),
    _text(
        "grpc-infer-response-compression-level",
        "none",
        "Compression of gRPC responses.",
        choices=("none", "low", "medium", "high"),
    ),
    _int("grpc-keepalive-time", 7_200_000, "Milliseconds without traffic after which a ping is sent."),
    _int("grpc-keepalive-timeout", 20_000, "Milliseconds to wait for the answer to a ping."),
    _bool("grpc-keepalive-permit-without-calls", False, "Send keepalive pings when there is no call."),
    _int(
        "grpc-http2-max-pings-without-data", 2, "Pings sent when there is nothing else to send; 0 any number."
    ),
    _int(
        "grpc-http2-min-recv-ping-interval-without-data",
        300_000,
        "Milliseconds that clients must leave between pings when they send nothing else.",
    ),
    _int(
        "grpc-http2-max-ping-strikes",
        2,
        "Pings that come too early before the connection ends; 0 any number.",
    ),
    _int(
        "grpc-max-connection-age", 0, "Milliseconds after which a connection is asked to end; 0 never.", low=0
    ),
    _int("grpc-max-connection-age-grace", 0, "Milliseconds for its calls to finish then; 0 any time.", low=0),
    _text(
        "grpc-restricted-protocol",
        "",
        "<protocol>,...:<key>=<value>: calls of these categories must show triton-grpc-protocol-<key>. May be "
        "repeated.",
        repeat=True,
        form="<<string>:<string>=<string>>",
    ),
)

ACCESS = (
    _text(
        "api-key-file",
        "",
        "File of keys, one a line: calls over HTTP, gRPC and of metrics must show one. Read again when it changes.",
        ours=True,
        nonempty=True,
    ),
    _text(
        "api-key-exempt",
        "",
        "Categories, with commas between them, that need no key: health, metrics and those of --http-restricted-api.",
        ours=True,
    ),
)

CLOUD = (
    _bool("allow-sagemaker", False, "Listen for SageMaker's calls, at 0.0.0.0."),
    _port("sagemaker-port", 8080, "Port of the SageMaker server."),
    _text(
        "sagemaker-safe-port-range", "", "Ports that the SageMaker server may have.", form="<<integer>-<integer>>"
    ),
    _tuning("sagemaker-thread-count", 8, _ONE_LOOP),
    _bool("allow-vertex-ai", False, "Listen for Vertex AI's calls, at 0.0.0.0; true where AIP_MODE is PREDICTION."),
    _port("vertex-ai-port", 8080, "Port of the Vertex AI server; by default that of AIP_HTTP_PORT."),
    _tuning("vertex-ai-thread-count", 8, _ONE_LOOP),
    _text("vertex-ai-default-model", "", "Model that predictions are asked of where no header says otherwise."),
)

METRICS = (
    _bool("allow-metrics", True, "Serve metrics."),
    _bool("allow-gpu-metrics", True, "Serve metrics of GPUs."),
    _bool("allow-cpu-metrics", True, "Serve metrics of CPU and memory."),
    _text(
        "metrics-address",
        "",
        "Address of the metrics server, or unix:<path>; by default the HTTP address unless that is a socket file.",
    ),
    _port("metrics-port", 8002, "Port of the metrics server."),
    Option(
        "metrics-interval-ms",
        Kind.FLOAT,
        2000.0,
        "Milliseconds between two polls of CPU and GPU metrics.",
        low=0,
    ),
    _text(
        "metrics-config",
        "",
        "counter_latencies=<boolean>: cumulative times of requests. summary_latencies=<boolean>: quantiles of the last "
        "minute, summary_quantiles=<quantile>:<error>,...: which. histogram_latencies=<boolean>: times to first "
        "responses. phase_histograms=<boolean>: a histogram for each phase of requests, "
        "phase_buckets=<microseconds>,...: its upper bounds. May be repeated.",
        repeat=True,
        form="<<string>=<string>>",
    ),
)

TRACE = (
    _text(
        "trace-config",
        "",
        "level=OFF|TIMESTAMPS|TENSORS, rate=<n>: one of n requests, count=<n>, mode=triton|opentelemetry; "
        "triton,file=<path>, triton,log-frequency=<traces to a file>; opentelemetry,url=<url>, "
        "opentelemetry,resource=<name>=<value>, opentelemetry,bsp_…=<n>. May be repeated.",
        repeat=True,
        form="<[<string>,]<string>=<string>>",
    ),
    _text("trace-file", "", "DEPRECATED: --trace-config=triton,file=<path>."),
    _text("trace-level", "", "DEPRECATED: --trace-config=level=<level>. May be repeated.", repeat=True),
    _int("trace-rate", 1000, "DEPRECATED: --trace-config=rate=<n>."),
    _int("trace-count", -1, "DEPRECATED: --trace-config=count=<n>."),
    _int("trace-log-frequency", 0, "DEPRECATED: --trace-config=triton,log-frequency=<n>."),
)

BACKEND = (
    _text("backend-directory", "/opt/tritonserver/backends", "Directory of backends outside the package."),
    _text(
        "backend-config",
        "",
        "A setting of one backend, or of all (default-max-batch-size). May be repeated.",
        repeat=True,
        form="<[<string>,]<string>=<string>>",
    ),
    _text(
        "repoagent-directory",
        "/opt/tritonserver/repoagents",
        "Directory of repository agents that are libraries: <name>/libtritonrepoagent_<name>.so.",
    ),
    _text(
        "cache-config",
        "",
        "The response cache of models whose config enables it: in this process, local,size=<bytes>; in a Redis server, "
        "redis,host=<name> and redis,port=<n>, with user, password, db and more; in a library, its name and settings.",
        repeat=True,
        form="<<string>,<string>=<string>>",
    ),
    _text(
        "cache-directory",
        "/opt/tritonserver/caches",
        "Directory of response caches that are libraries: <name>/libtritoncache_<name>.so.",
    ),
    _int("response-cache-byte-size", 0, "Deprecated: --cache-config=local,size=<bytes>.", low=0, high=2**63 - 1),
    _text(
        "rate-limit",
        "off",
        "execution_count: an execution begins when the resources of its instance_group's rate_limiter are free, those "
        "first that had their turn least often, times their priority. off: at once.",
        choices=("off", "execution_count"),
    ),
    _text(
        "rate-limit-resource",
        "",
        "<name>:<count>[:<device>]: copies of a resource on a device, or on each; of a global one, in all. Where none "
        "is given, there are as many as the instance needs that needs most. May be repeated.",
        repeat=True,
        form="<<string>:<integer>:<integer>>",
    ),
)

MEMORY = (
    _int(
        "pinned-memory-pool-byte-size",
        defines.PINNED_POOL_NBYTES,
        "Bytes of pinned host memory, taken when the first GPU model loads; 0 for none.",
        low=0,
        high=2**63 - 1,
    ),
    _text(
        "cuda-memory-pool-byte-size",
        "",
        f"Bytes of memory to take on a GPU when its first model loads, {defines.DEVICE_POOL_NBYTES} unless given. "
        "May be repeated.",
        repeat=True,
        form="<<integer>:<integer>>",
    ),
    _text(
        "cuda-virtual-address-size",
        "",
        "Accepted for compatibility.",
        status=Status.NO_EFFECT,
        repeat=True,
        form="<<integer>:<integer>>",
        note="growable memory is not supported yet",
    ),
    Option(
        "min-supported-compute-capability",
        Kind.FLOAT,
        defines.MIN_COMPUTE_CAPABILITY,
        "Lowest compute capability of GPUs to use.",
        low=0,
    ),
    _tuning("buffer-manager-thread-count", 0, "instance threads copy by themselves"),
    _text(
        "host-policy",
        "",
        "Where instances of a host policy run: <policy>,cpu-cores=<first>-<last>, and whose memory they get: "
        "<policy>,numa-node=<node>. Without one of its own an instance has the policy cpu, model or gpu_<device>.",
        repeat=True,
        form="<<string>,<string>=<string>>",
    ),
    _text(
        "model-load-gpu-limit",
        "",
        "Load no model on a GPU that has more than this fraction of its memory in use. May be repeated.",
        repeat=True,
        form="<<device_id>:<fraction>>",
    ),
    _bool("allow-client-shm", False, "Let clients register shared memory regions (of GPUs: CUDA IPC)."),
)

DEPRECATED = (_bool("strict-model-config", False, "DEPRECATED: true is --disable-auto-complete-config."),)

GROUPS: tuple[tuple[str, tuple[Option, ...]], ...] = (
    ("Server", SERVER),
    ("Logging", LOGGING),
    ("Model Repository", REPOSITORY),
    ("HTTP", HTTP),
    ("GRPC", GRPC),
    ("Access", ACCESS),
    ("Sagemaker and Vertex", CLOUD),
    ("Metrics", METRICS),
    ("Tracing", TRACE),
    ("Backend, Cache and Rate Limiter", BACKEND),
    ("Memory/Device Management", MEMORY),
    ("DEPRECATED", DEPRECATED),
)

OPTIONS: dict[str, Option] = {option.name: option for _, rows in GROUPS for option in rows}


def usage() -> str:
    """The text of --help, from the table."""
    lines = [
        "Usage: triton-async [options]",
        "       triton-async check <repository> [<repository> ...] [options]    names all mistakes, serves nothing",
        "       triton-async config <model directory> [options]    prints the model's config, completed",
        "       triton-async serve [options]    what SageMaker starts: options from its SAGEMAKER_* variables",
    ]
    for title, rows in GROUPS:
        lines += ["", f"{title}:"]
        for option in rows:
            lines.append(f"  --{option.name} {option.synopsis}".rstrip())
            shown = (
                ""
                if option.default == UNSET or option.kind is Kind.FLAG
                else f" Default is {_shown(option)}."
            )
            lines.append(f"\t{option.help}{shown}")
            if option.choices:
                lines.append(f"\tOne of {', '.join(option.choices)}.")
            if option.status is Status.NO_EFFECT:
                lines.append(f"\tHas no effect: {option.note}.")
    return "\n".join(lines) + "\n"


def _shown(option: Option) -> str:
    return str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
