"""The command line: Triton's syntax, messages and defaults."""

from __future__ import annotations

import dataclasses
import re

import pytest

from triton_async.config.metrics_config import MetricsConfig
from triton_async.config.options import GROUPS, OPTIONS, Status, usage
from triton_async.config.settings import Settings, UsageError, _split, from_environment, parse
from triton_async.defines import METRICS_MAX_BUCKETS, METRICS_MAX_QUANTILES

REPOSITORY = "--model-repository=/models"

# Options that `tritonserver` does not have.
OURS = {
    "http-use-ssl", "http-use-ssl-mutual", "http-server-cert", "http-server-key", "http-root-cert", "log-access",
    "api-key-file", "api-key-exempt",
    "allow-loop-execution", "exit-grace-secs", "max-in-flight-byte-size", "drain-secs", "listen-while-loading",
    "reuse-port", "auto-queue-delay",
    "allow-page", "frontend-processes", "model-processes", "cpu-affinity",
}  # fmt: skip

# Every option of `tritonserver`.
KNOWN = re.split(
    r"\s+",
    """help id exit-timeout-secs log-verbose log-info log-warning log-error log-format log-file
model-repository
model-store exit-on-error disable-auto-complete-config strict-model-config strict-readiness model-control-mode
repository-poll-secs load-model model-config-name model-load-thread-count model-load-retry-count
model-namespacing enable-peer-access allow-http http-address http-port reuse-http-port
http-header-forward-pattern http-thread-count http-max-input-size http-restricted-api allow-grpc grpc-address
grpc-port reuse-grpc-port grpc-header-forward-pattern grpc-infer-thread-count grpc-infer-allocation-pool-size
grpc-infer-cq-count
grpc-max-response-pool-size grpc-use-ssl grpc-use-ssl-mutual grpc-server-cert grpc-server-key grpc-root-cert
grpc-infer-response-compression-level grpc-keepalive-time grpc-keepalive-timeout
grpc-keepalive-permit-without-calls grpc-http2-max-pings-without-data
grpc-http2-min-recv-ping-interval-without-data grpc-http2-max-ping-strikes grpc-max-connection-age
grpc-max-connection-age-grace grpc-restricted-protocol allow-sagemaker sagemaker-port
sagemaker-safe-port-range sagemaker-thread-count allow-vertex-ai vertex-ai-port vertex-ai-thread-count
vertex-ai-default-model allow-metrics allow-gpu-metrics allow-cpu-metrics metrics-address metrics-port
metrics-interval-ms metrics-config trace-config trace-file trace-level trace-rate trace-count
trace-log-frequency cache-config cache-directory response-cache-byte-size rate-limit rate-limit-resource
pinned-memory-pool-byte-size cuda-memory-pool-byte-size cuda-virtual-address-size
min-supported-compute-capability buffer-manager-thread-count host-policy model-load-gpu-limit
allow-client-shm backend-directory backend-config repoagent-directory""",
)


# Options whose fields hold something that is made of their text.
READ = (
    "metrics-address", "http-header-forward-pattern", "grpc-header-forward-pattern", "api-key-exempt",
    "frontend-processes", "model-processes", "cpu-affinity",
)  # fmt: skip


def settings(*argv: str) -> Settings:
    return parse([REPOSITORY, *argv])


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(argv)
    return caught.value.message


def test_every_triton_option_is_known() -> None:
    assert set(OPTIONS) == set(KNOWN) | OURS
    assert {option.name for option in OPTIONS.values() if option.ours} == OURS
    assert len(OPTIONS) == sum(len(rows) for _, rows in GROUPS)


def test_defaults_of_settings_are_those_of_the_table() -> None:
    defaults = settings()
    assert dataclasses.replace(defaults, model_repository=()) == Settings()
    for option in OPTIONS.values():
        plain = option.status is Status.ACTIVE and not option.repeat and option.name not in READ
        if plain and hasattr(defaults, option.field):
            assert getattr(defaults, option.field) == option.default, option.name


@pytest.mark.parametrize("argv", [["--http-port=9000"], ["--http-port", "9000"]])
def test_values_follow_an_equals_sign_or_stand_alone(argv: list[str]) -> None:
    assert settings(*argv).http_port == 9000


def test_words_may_be_written_in_capitals() -> None:
    found = settings(
        "--model-control-mode=Explicit", "--rate-limit=EXECUTION_COUNT", "--trace-config=mode=Triton",
        "--grpc-infer-response-compression-level=None", "--log-format=Iso8601",
    )  # fmt: skip
    assert (found.model_control_mode, found.rate_limit, found.trace.mode) == ("explicit", "execution_count", "triton")
    assert (found.grpc_infer_response_compression_level, found.log_format) == ("none", "ISO8601")


def test_the_last_of_a_repeated_single_option_wins() -> None:
    assert settings("--id=a", "--id=b").id == "b"


def test_a_value_that_looks_like_an_option_is_a_value() -> None:
    assert settings("--id", "--http-port").id == "--http-port"


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("On", True), ("1", True), ("FALSE", False), ("off", False), ("0", False)],
)
def test_booleans(text: str, value: bool) -> None:
    assert settings(f"--exit-on-error={text}").exit_on_error is value


def test_log_verbose_takes_numbers_and_booleans() -> None:
    assert settings("--log-verbose=2").log_verbose == 2
    assert settings("--log-verbose=true").log_verbose == 1
    assert settings("--log-verbose=false").log_verbose == 0


def test_repositories_and_models_repeat() -> None:
    argv = ["--model-store=/a", "--model-repository", "/b", "--model-control-mode=explicit"]
    got = parse([*argv, "--load-model=x", "--load-model=y"])
    assert set(got.model_repository) == {"/a", "/b"}
    assert got.load_model == ("x", "y")


def test_backend_config_is_grouped_by_backend() -> None:
    got = settings(
        "--backend-config=default-max-batch-size=16",
        "--backend-config=onnxruntime,enable-global-threadpool=1",
        "--backend-config=onnxruntime,x=a=b,c",
    )
    assert got.default_max_batch_size == 16
    assert dict(got.backend_config["onnxruntime"]) == {"enable-global-threadpool": "1", "x": "a=b,c"}
    assert settings().default_max_batch_size == 4


def test_metrics_listen_where_http_does_unless_told_otherwise() -> None:
    assert settings("--http-address=127.0.0.1").metrics_address == "127.0.0.1"
    assert settings("--metrics-address=::1").metrics_address == "::1"


def test_strict_model_config_is_the_old_name_of_disabling_auto_complete() -> None:
    got = settings("--strict-model-config=true")
    assert got.disable_auto_complete_config
    assert "deprecated" in got.warnings[0]
    assert not settings("--strict-model-config=false").disable_auto_complete_config
    assert settings("--disable-auto-complete-config").disable_auto_complete_config


def test_options_without_meaning_here_are_accepted_with_one_warning_each() -> None:
    got = settings("--http-thread-count=4", "--http-thread-count=5", "--buffer-manager-thread-count=2")
    assert len(got.warnings) == 2
    assert "--http-thread-count has no effect" in got.warnings[0]


def test_pools_and_metrics_settings() -> None:
    got = settings(
        "--cuda-memory-pool-byte-size=0:5",
        "--cuda-memory-pool-byte-size=0:7",
        "--metrics-config=counter_latencies=false",
        "--metrics-config=histogram_latencies=false",
    )
    assert dict(got.cuda_memory_pool_byte_size) == {0: 7}
    assert got.metrics.counter_latencies is False
    assert not got.metrics.histogram_latencies


def test_every_setting_of_metrics_config() -> None:
    assert settings().metrics == MetricsConfig()
    got = settings(
        "--metrics-config=histogram_latencies=true",
        "--metrics-config", "summary_latencies=on",
        "--metrics-config=summary_quantiles=0.5:0.05,0.25:0.1,1:0",
        "--metrics-config=phase_histograms=1",
        "--metrics-config=phase_buckets=10,1e3,2500.5",
    ).metrics  # fmt: skip
    assert got == MetricsConfig(
        histogram_latencies=True, summary_latencies=True, phase_histograms=True,
        summary_quantiles=((0.5, 0.05), (0.25, 0.1), (1.0, 0.0)), phase_buckets=(10.0, 1000.0, 2500.5),
    )  # fmt: skip
    twice = settings("--metrics-config=phase_buckets=1", "--metrics-config=phase_buckets=2")
    assert twice.metrics.phase_buckets == (2,)


def test_the_bounds_of_metrics_config() -> None:
    def buckets(count: int) -> str:
        return "--metrics-config=phase_buckets=" + ",".join(map(str, range(count)))

    def quantiles(count: int) -> str:
        return "--metrics-config=summary_quantiles=" + ",".join(f"{index / 100}:0.1" for index in range(count))

    assert len(settings(buckets(METRICS_MAX_BUCKETS)).metrics.phase_buckets) == METRICS_MAX_BUCKETS
    assert f"at most {METRICS_MAX_BUCKETS}" in refusal(REPOSITORY, buckets(METRICS_MAX_BUCKETS + 1))
    assert len(settings(quantiles(METRICS_MAX_QUANTILES)).metrics.summary_quantiles) == METRICS_MAX_QUANTILES
    assert f"more than {METRICS_MAX_QUANTILES}" in refusal(REPOSITORY, quantiles(METRICS_MAX_QUANTILES + 1))


def test_the_size_of_the_response_cache() -> None:
    assert settings().response_cache_byte_size == 0
    assert settings("--cache-config=local,size=1048576").response_cache_byte_size == 1048576
    old = settings("--response-cache-byte-size=1000")
    assert old.response_cache_byte_size == 1000
    assert len(old.warnings) == 1 and "deprecated" in old.warnings[0]


def test_load_limits_are_fractions_by_gpu() -> None:
    given = ("0:0.5", "1:1", "0:.25", "12:0")
    got = settings(*(f"--model-load-gpu-limit={text}" for text in given))
    assert dict(got.model_load_gpu_limit) == {0: 0.25, 1: 1.0, 12: 0.0}
    assert dict(settings().model_load_gpu_limit) == {}


def test_thread_and_retry_counts_are_raised_to_what_makes_sense() -> None:
    got = settings("--model-load-thread-count=0", "--model-load-retry-count=-3", "--exit-timeout-secs=-1")
    assert (got.model_load_thread_count, got.model_load_retry_count, got.exit_timeout_secs) == (1, 0, 0)


def test_help_is_usage_without_a_message() -> None:
    assert refusal("--help") == ""
    text = usage()
    for name in OPTIONS:
        assert f"  --{name}" in text


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().http_port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings().backend_config["x"] = {}  # type: ignore[index]


BAD = [
    (["--nosuch=1", REPOSITORY], 'Bad option: "--nosuch".\nUnknown option; the nearest is --'),
    (["--http-prot=1", REPOSITORY], "the nearest is --http-port"),
    (["-p", "1", REPOSITORY], 'Bad option: "-p".'),
    (["models", REPOSITORY], "Unexpected argument: models"),
    (["--", "models"], "Unexpected argument: models"),
    ([], "--model-repository must be specified"),
    (["--model-repository"], 'Bad option: "--model-repository".'),
    ([REPOSITORY, "--exit-on-error"], 'Bad option: "--exit-on-error".'),
    ([REPOSITORY, "--disable-auto-complete-config=true"], 'Bad option: "--disable-auto-complete-config".'),
    ([REPOSITORY, "--log-info=maybe"], 'Bad option: "--log-info".\ninvalid value for bool option: maybe'),
    ([REPOSITORY, "--http-port=abc"], 'Bad option: "--http-port".\nInvalid option value. Got abc'),
    ([REPOSITORY, "--http-port=1_0"], "Invalid option value. Got 1_0"),
    ([REPOSITORY, "--http-port= 80"], "Invalid option value. Got  80"),
    ([REPOSITORY, "--http-port=٣"], "Invalid option value."),
    ([REPOSITORY, "--http-port="], "Invalid option value. Got "),
    ([REPOSITORY, "--http-port=70000"], "Provided option value is out of bound. Got 70000"),
    ([REPOSITORY, "--http-port=99999999999999"], "option value is out of bound. Got 99999999999999"),
    ([REPOSITORY, "--metrics-interval-ms=nan"], "Invalid option value. Got nan"),
    ([REPOSITORY, "--metrics-interval-ms=-1"], "Provided option value is out of bound. Got -1"),
    ([REPOSITORY, "--log-format=xx"], 'Bad option: "--log-format".\ninvalid argument for --log-format'),
    ([REPOSITORY, "--model-control-mode=x"], "invalid argument for --model-control-mode"),
    ([REPOSITORY, "--rate-limit=x"], "invalid argument for --rate-limit"),
    ([REPOSITORY, "--rate-limit-resource=R"], "option format is '<resource_name>:<count>:<device>'"),
    ([REPOSITORY, "--rate-limit-resource=:1"], "or '<resource_name>:<count>'. Got :1"),
    ([REPOSITORY, "--rate-limit-resource=R:1:2:3"], "Got R:1:2:3"),
    ([REPOSITORY, "--rate-limit-resource=R:-1"], "count and device must be numbers"),
    ([REPOSITORY, "--rate-limit-resource=R:1:x"], "count and device must be numbers"),
    (
        [REPOSITORY, "--grpc-infer-response-compression-level=x"],
        "invalid argument for --grpc_infer_response_compression_level",
    ),
    (
        [REPOSITORY, "--load-model=x"],
        "Use of '--load-model' requires setting '--model-control-mode=explicit'",
    ),
    (
        [REPOSITORY, "--model-control-mode=explicit", "--load-model=x", "--load-model=*"],
        "Wildcard model name '*' must be the ONLY startup model if specified at all.",
    ),
    ([REPOSITORY, "--http-max-input-size=0"], "Error: --http-max-input-size must be greater than 0."),
    ([REPOSITORY, "--backend-config=foo"], "option format is '<backend name>,<setting>=<value>'. Got foo"),
    ([REPOSITORY, "--backend-config=,a=b"], "No backend specified."),
    ([REPOSITORY, "--backend-config=default-max-batch-size=x"], "Invalid option value."),
    ([REPOSITORY, "--metrics-config=foo"], "--metrics-config option format is <setting>=<value>. Got foo"),
    ([REPOSITORY, "--metrics-config=counter_latency=true"], "the nearest is counter_latencies"),
    ([REPOSITORY, "--metrics-config=summary_latencies=maybe"], "invalid value for bool option: maybe"),
    ([REPOSITORY, "--metrics-config=summary_quantiles=0.5"], "summary_quantiles is '<quantile>:<error>,...'. Got 0.5"),
    ([REPOSITORY, "--metrics-config=summary_quantiles=1.5:0.1"], "are from 0 to 1. Got 1.5:0.1"),
    ([REPOSITORY, "--metrics-config=summary_quantiles=.5:1,0.5:0"], "has a quantile twice: 0.5:0"),
    ([REPOSITORY, "--metrics-config=summary_quantiles=nan:0.1"], "Got nan:0.1"),
    ([REPOSITORY, "--metrics-config=phase_buckets=1,"], "phase_buckets is '<microseconds>,...'. Got 1,"),
    ([REPOSITORY, "--metrics-config=phase_buckets=1,1"], "phase_buckets must be ascending. Got 1,1"),
    ([REPOSITORY, "--metrics-config=counter_latencies=2"], "invalid value for bool option: 2"),
    ([REPOSITORY, "--cuda-memory-pool-byte-size=0"], "Cannot parse pair option"),
    ([REPOSITORY, "--cuda-memory-pool-byte-size=0:x"], "Invalid option value."),
    ([REPOSITORY, "--model-load-gpu-limit=0.5"], "Cannot parse pair option due to incorrect number of inputs."),
    ([REPOSITORY, "--model-load-gpu-limit=0:1:2"], "Cannot parse pair option"),
    ([REPOSITORY, "--model-load-gpu-limit=x:0.5"], "Invalid option value. Got x:0.5"),
    ([REPOSITORY, "--model-load-gpu-limit=-1:0.5"], "Invalid option value. Got -1:0.5"),
    ([REPOSITORY, "--model-load-gpu-limit=0:half"], "Invalid option value. Got 0:half"),
    ([REPOSITORY, "--model-load-gpu-limit=0:nan"], "Invalid option value. Got 0:nan"),
    ([REPOSITORY, "--model-load-gpu-limit=0:1.01"], "Provided option value is out of bound. Got 0:1.01"),
    ([REPOSITORY, "--model-load-gpu-limit=0:-0.1"], "Provided option value is out of bound. Got 0:-0.1"),
    ([REPOSITORY, "--model-config-name=../x"], 'Bad option: "--model-config-name".'),
    ([REPOSITORY, "--cache-config=local"], "--cache-config option format is '<cache name>,<setting>=<value>'."),
    ([REPOSITORY, "--cache-config=size=1"], "--cache-config option format is '<cache name>,<setting>=<value>'."),
    ([REPOSITORY, "--cache-config=a/b,size=1"], "cache"),
    ([REPOSITORY, "--cache-config=local,bytes=1"], "the local cache has no setting 'bytes'"),
    ([REPOSITORY, "--cache-config=local,size=0"], "must be a positive number of bytes. Got 0"),
    ([REPOSITORY, "--cache-config=local,size=1k"], "must be a positive number of bytes. Got 1k"),
    ([REPOSITORY, "--cache-config=local,size=1", "--response-cache-byte-size=1"], "Incompatible flags"),
    ([REPOSITORY, "--response-cache-byte-size=-1"], "response-cache-byte-size"),
    (
        [REPOSITORY, "--http-port=9100", "--grpc-port=9100"],
        "server cannot listen to HTTP requests and GRPC requests at the same address and port 0.0.0.0:9100",
    ),
    ([REPOSITORY, "--http-port=8002"], "HTTP requests and metrics requests at the same address and port 0"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_bad_command_lines(argv: list[str], message: str) -> None:
    assert message in refusal(*argv)


def test_unambiguous_abbreviations_are_taken() -> None:
    """As getopt_long does; options of ours take none away."""
    assert parse(["--model-repo=/models", "--allow-gr", "0", "--http-max=5", "--disable-auto"]) == settings(
        "--allow-grpc=false", "--http-max-input-size=5", "--disable-auto-complete-config"
    )
    theirs = {name for name in KNOWN if name not in OURS}
    for name in theirs:
        for end in range(1, len(name)):
            if sum(other.startswith(name[:end]) for other in theirs) == 1:
                assert next(iter(_split([f"--{name[:end]}", "1"])))[0].name == name
    message = refusal(REPOSITORY, "--model-=x")
    assert message.startswith('Bad option: "--model-".\nAmbiguous; it may be one of --model-r')
    assert settings("--http-use-ssl=false").http_use_ssl is False


@pytest.mark.parametrize("option", ["model-repository", "model-store", "load-model", "model-config-name"])
def test_an_empty_value_is_refused_where_it_means_nothing(option: str) -> None:
    for given in ([f"--{option}="], [f"--{option}", ""]):
        message = refusal(REPOSITORY, "--model-control-mode=explicit", *given)
        assert message == f"Error: empty argument for --{option}"


def test_one_option_shares_both_ports() -> None:
    for argv, shared in (
        ((), (False, False)), (("--reuse-port=true",), (True, True)), (("--reuse-http-port=true",), (True, False)),
        (("--reuse-port=true", "--reuse-grpc-port=false"), (True, False)),
    ):  # fmt: skip
        found = settings(*argv)
        assert (found.reuse_http_port, found.reuse_grpc_port) == shared


@pytest.mark.parametrize("place", ["s3://bucket/models", "s3://https://host:9000/b/m", "gs://b/m", "as://a/c/m"])
def test_repositories_may_be_in_object_storage(place: str) -> None:
    assert parse([f"--model-repository={place}", REPOSITORY]).model_repository[0] == place


def test_places_that_are_none_are_refused_with_the_form() -> None:
    assert refusal("--model-repository=s3://") == (
        "Error: --model-repository=s3://: the form is s3://<bucket>/<path>, s3://<host>:<port>/<bucket>/<path> or "
        "s3://https://<host>:<port>/<bucket>/<path>"
    )
    assert "repositories at hdfs:// are not supported" in refusal("--model-repository=hdfs://host/models")


def test_ports_of_front_ends_that_are_off_do_not_count() -> None:
    assert settings("--http-port", "-47", "--allow-http", "0").http_port == -47
    settings("--http-port=-47", "--http-address=unix:/run/x.sock")
    for option in ("http-port", "grpc-port", "metrics-port"):
        message = refusal(REPOSITORY, f"--{option}=-47", "--metrics-address=127.0.0.1")
        assert message == f'Bad option: "--{option}".\nProvided option value is out of bound. Got -47'


def test_the_old_name_of_disabling_auto_complete_is_warned_of_and_overridden() -> None:
    old = "'--strict-model-config' has been deprecated! Please use '--disable-auto-complete-config' instead."
    assert settings("--strict-model-config=1").warnings == (old,)
    got = settings("--strict-model-config=false", "--disable-auto-complete-config")
    assert got.disable_auto_complete_config
    assert got.warnings[0] == old
    assert got.warnings[1].startswith("Overriding deprecated '--strict-model-config' from False to True in favor of ")


def test_equal_addresses_in_any_spelling_collide() -> None:
    for one, other in (("[::1]", "::1"), ("ipv6:[::1]", "[::1]"), ("ipv4:127.0.0.1", "127.0.0.1")):
        message = refusal(REPOSITORY, f"--http-address={one}", f"--grpc-address={other}", "--grpc-port=8000")
        assert "HTTP requests and GRPC requests at the same address and port" in message
    assert "it names no address" in refusal(REPOSITORY, "--http-address=[]")
    assert "it names no address" in refusal(REPOSITORY, "--grpc-address=")


def test_equal_ports_are_fine_when_nothing_would_collide() -> None:
    settings("--http-port=8001", "--allow-grpc=false")
    settings("--http-port=0", "--grpc-port=0", "--metrics-port=0")
    settings("--http-port=8001", "--http-address=127.0.0.1")


def test_options_may_stand_in_the_environment_and_the_command_line_wins() -> None:
    environ = {
        "TRITON_ASYNC_OPT_HTTP_PORT": "1", "TRITON_ASYNC_OPT_MODEL_REPOSITORY": "/a\n/b\n",
        "TRITON_ASYNC_OPT_DISABLE_AUTO_COMPLETE_CONFIG": "true", "TRITON_ASYNC_OPT_GRPC_PORT": "2", "PATH": "x",
        "TRITON_ASYNC_OTHER": "x",
    }  # fmt: skip
    settings = parse([*from_environment(environ), "--grpc-port=3"])
    assert settings.model_repository == ("/a", "/b") and settings.disable_auto_complete_config
    assert (settings.http_port, settings.grpc_port) == (1, 3)
    assert from_environment({"TRITON_ASYNC_OPT_DISABLE_AUTO_COMPLETE_CONFIG": "0"}) == []
    with pytest.raises(UsageError, match=r"Unknown variable TRITON_ASYNC_OPT_HTTP_PROT; the nearest is .*_HTTP_PORT"):
        from_environment({"TRITON_ASYNC_OPT_HTTP_PROT": "1"})
    with pytest.raises(UsageError, match=r"Invalid option value\. Got x"):
        parse([*from_environment({**environ, "TRITON_ASYNC_OPT_HTTP_PORT": "x"})])


def test_a_repository_that_is_given_twice_is_one() -> None:
    given = ("/b", "/a", "/b/", "s3://bucket/models", "/a", "s3://bucket/models/", "/b")
    settings = parse([f"--model-repository={path}" for path in given])
    assert settings.model_repository == ("/b", "/a", "s3://bucket/models")
