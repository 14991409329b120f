"""What SageMaker and Vertex AI say in the environment and by options."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_async.config.clouds import CloudProblem, SageMaker, VertexAi
from triton_async.config.sagemaker_serve import serve_arguments
from triton_async.config.settings import Settings, UsageError, parse

REPOSITORY = "--model-repository=/models"
ROUTES = {"AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/health"}
PREDICTION = {**ROUTES, "AIP_MODE": "PREDICTION"}


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse([REPOSITORY, *argv], environ)
    return caught.value.message


def test_nothing_is_on_unless_it_is_asked_for() -> None:
    settings = parse([REPOSITORY], {**ROUTES, "AIP_HTTP_PORT": "7", "SAGEMAKER_TRITON_PING_MODE": "nope"})
    assert (settings.sagemaker, settings.vertex_ai) == (None, None)
    assert settings.allow_http
    assert settings == parse([REPOSITORY])


def test_the_options_and_variables_of_sagemaker() -> None:
    assert parse([REPOSITORY, "--allow-sagemaker=true"]).sagemaker == SageMaker(8080)
    settings = parse(
        [REPOSITORY, "--allow-sagemaker=true", "--sagemaker-port=7000", "--sagemaker-safe-port-range=8000-8002"],
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "m", "SAGEMAKER_TRITON_PING_MODE": "live",
         "SAGEMAKER_TRITON_INFERENCE_TYPE": "generate_stream"},
    )  # fmt: skip
    assert settings.sagemaker == SageMaker(7000, "m", True, "generate_stream", safe_ports=range(8000, 8003))


@pytest.mark.parametrize(("options", "environ", "problem"), [
    (("--sagemaker-safe-port-range=8001-8090",), {}, "HTTP requests at port 8000, allowed port range is [8001, 8090]"),
    (("--sagemaker-safe-port-range=8002-8090", "--allow-http=false"), {}, "GRPC requests at port 8001"),
    (("--sagemaker-safe-port-range=8000-8001",), {}, "metrics requests at port 8002, allowed"),
    (("--sagemaker-safe-port-range=8090-8000",), {}, "'<integer>-<integer>', two ports"),
    (("--sagemaker-safe-port-range=8000",), {}, "'<integer>-<integer>', two ports"),
    (("--sagemaker-port=8000",), {}, "HTTP requests and Sagemaker requests at the same address and port 0.0.0.0:8000"),
    (("--sagemaker-port=70000",), {}, "--sagemaker-port"),
    ((), {"SAGEMAKER_TRITON_PING_MODE": "x"}, "SAGEMAKER_TRITON_PING_MODE is ready or live. Got x"),
    ((), {"SAGEMAKER_TRITON_INFERENCE_TYPE": "x"}, "is one of infer, generate, generate_stream. Got x"),
])  # fmt: skip
def test_what_is_wrong_for_sagemaker(options: tuple[str, ...], environ: dict[str, str], problem: str) -> None:
    assert problem in refusal("--allow-sagemaker=true", *options, **environ)


def test_the_ports_that_sagemaker_leaves_to_others_are_not_asked_of_its_own() -> None:
    only = ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
    options = [REPOSITORY, "--allow-sagemaker=true", "--sagemaker-safe-port-range=8081-9000"]
    assert parse([*options, *only]).sagemaker == SageMaker(8080, safe_ports=range(8081, 9001))
    elsewhere = ["--http-address=127.0.0.1", "--grpc-address=unix:/run/g", "--metrics-address=127.0.0.1"]
    assert parse([*options, *elsewhere]).allow_http


def test_a_range_that_is_none_is_wrong_without_sagemaker_too() -> None:
    assert "'<integer>-<integer>', two ports" in refusal("--sagemaker-safe-port-range=all")


def test_a_container_of_vertex_ai_needs_no_options() -> None:
    settings = parse([], {**PREDICTION, "AIP_HTTP_PORT": "7080", "AIP_STORAGE_URI": "/mnt/models"})
    assert settings.vertex_ai == VertexAi(7080, "/predict", "/health")
    assert settings.model_repository == ("/mnt/models",)
    assert (settings.allow_http, settings.allow_grpc, settings.allow_metrics) == (False, False, True)


def test_options_win_over_what_vertex_ai_says() -> None:
    environ = {**PREDICTION, "AIP_HTTP_PORT": "7080", "AIP_STORAGE_URI": "/mnt/models"}
    settings = parse(
        [REPOSITORY, "--allow-http=true", "--vertex-ai-port=9000", "--vertex-ai-default-model=m"], environ
    )
    assert settings.vertex_ai == VertexAi(9000, "/predict", "/health", "m")
    assert settings.model_repository == ("/models",)
    assert (settings.allow_http, settings.allow_grpc) == (True, False)
    assert parse([REPOSITORY, "--allow-vertex-ai=false"], environ).vertex_ai is None


def test_vertex_ai_can_be_asked_for_elsewhere() -> None:
    settings = parse([REPOSITORY, "--allow-vertex-ai=true"], ROUTES)
    assert settings.vertex_ai == VertexAi(8080, "/predict", "/health")
    assert settings.allow_http
    both = parse([REPOSITORY, "--allow-vertex-ai=true", "--allow-sagemaker=true", "--sagemaker-port=8081"], ROUTES)
    assert both.sagemaker == SageMaker(8081)


@pytest.mark.parametrize(("environ", "problem"), [
    ({"AIP_HEALTH_ROUTE": "/health"}, "AIP_PREDICT_ROUTE is not defined for Vertex AI endpoint"),
    ({"AIP_PREDICT_ROUTE": "/predict"}, "AIP_HEALTH_ROUTE is not defined for Vertex AI endpoint"),
    ({**ROUTES, "AIP_PREDICT_ROUTE": "predict"}, "AIP_PREDICT_ROUTE begins with '/'"),
    ({**ROUTES, "AIP_PREDICT_ROUTE": "/health"}, "are both /health"),
    ({**ROUTES, "AIP_HTTP_PORT": "x"}, "AIP_HTTP_PORT is no port. Got x"),
    ({**ROUTES, "AIP_HTTP_PORT": "65536"}, "AIP_HTTP_PORT is no port. Got 65536"),
])  # fmt: skip
def test_what_is_wrong_for_vertex_ai(environ: dict[str, str], problem: str) -> None:
    assert problem in refusal("--allow-vertex-ai=true", **environ)


def serving(tmp_path: Path, gpus: int = 0, **environ: str) -> tuple[Settings, list[str]]:
    arguments, said = serve_arguments(
        environ, gpus, model=str(tmp_path / "model"), no_models=str(tmp_path / "none")
    )
    return parse(arguments, said), arguments


def test_what_sagemaker_starts_serves_the_one_model(tmp_path: Path) -> None:
    (tmp_path / "model" / "m" / "1").mkdir(parents=True)
    settings, _ = serving(tmp_path)
    assert settings.sagemaker == SageMaker(8080, "m")
    assert settings.model_repository == (str(tmp_path / "model"),)
    assert (settings.load_model, settings.model_control_mode) == (("m",), "explicit")
    assert not (settings.allow_http or settings.allow_grpc or settings.allow_metrics)


def test_what_sagemaker_starts_follows_its_variables(tmp_path: Path) -> None:
    for name in ("m", "other"):
        (tmp_path / "model" / name / "1").mkdir(parents=True)
    settings, arguments = serving(
        tmp_path, 2, SAGEMAKER_TRITON_DEFAULT_MODEL_NAME="other", SAGEMAKER_BIND_TO_PORT="8090",
        SAGEMAKER_SAFE_PORT_RANGE="8000-8999", SAGEMAKER_TRITON_LOG_VERBOSE="2", SAGEMAKER_TRITON_LOG_INFO="false",
        SAGEMAKER_TRITON_MODEL_LOAD_GPU_LIMIT="0.5", SAGEMAKER_TRITON_SHM_DEFAULT_BYTE_SIZE="1048576",
    )  # fmt: skip
    assert settings.sagemaker == SageMaker(8090, "other", safe_ports=range(8000, 9000))
    assert settings.load_model == ("other",)
    assert (settings.log_verbose, settings.log_info) == (2, False)
    assert dict(settings.model_load_gpu_limit) == {0: 0.5, 1: 0.5}
    assert "--backend-config=python,shm-default-byte-size=1048576" in arguments


def test_an_endpoint_of_many_models_begins_empty(tmp_path: Path) -> None:
    settings, _ = serving(tmp_path, SAGEMAKER_MULTI_MODEL="true")
    assert settings.sagemaker == SageMaker(8080)
    assert settings.model_repository == (str(tmp_path / "none"),)
    assert (tmp_path / "none").is_dir()
    assert settings.load_model == ()


@pytest.mark.parametrize(("models", "name", "problem"), [
    ((), "", "holds no model"), (("a", "b"), "", "holds 2 models (a, b)"), (("a",), "b", "has no folder 'b'"),
])  # fmt: skip
def test_what_sagemaker_starts_needs_to_know_the_model(
    tmp_path: Path, models: tuple[str, ...], name: str, problem: str
) -> None:
    (tmp_path / "model").mkdir()
    for model in models:
        (tmp_path / "model" / model).mkdir()
    with pytest.raises(CloudProblem) as caught:
        serving(tmp_path, SAGEMAKER_TRITON_DEFAULT_MODEL_NAME=name)
    assert problem in str(caught.value)


def test_the_folder_of_a_model_is_no_repository_of_sagemaker(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.pbtxt").touch()
    with pytest.raises(CloudProblem, match="must hold the folder of the model"):
        serving(tmp_path)
