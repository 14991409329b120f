"""The command `serve`, with which SageMaker starts a container: its variables as options. Blocks on file I/O."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from triton_async.config.clouds import CloudProblem

_MODEL, _NO_MODELS = "/opt/ml/model", "/tmp/sagemaker"
# Variable -> option.
_OPTIONS = {
    "SAGEMAKER_BIND_TO_PORT": "sagemaker-port",
    "SAGEMAKER_SAFE_PORT_RANGE": "sagemaker-safe-port-range",
    "SAGEMAKER_TRITON_THREAD_COUNT": "sagemaker-thread-count",
    "SAGEMAKER_TRITON_BUFFER_MANAGER_THREAD_COUNT": "buffer-manager-thread-count",
    "SAGEMAKER_TRITON_LOG_VERBOSE": "log-verbose",
    "SAGEMAKER_TRITON_LOG_INFO": "log-info",
    "SAGEMAKER_TRITON_LOG_WARNING": "log-warning",
    "SAGEMAKER_TRITON_LOG_ERROR": "log-error",
}
# Variable -> setting of a backend.
_BACKENDS = {
    "SAGEMAKER_TRITON_SHM_DEFAULT_BYTE_SIZE": "python,shm-default-byte-size",
    "SAGEMAKER_TRITON_SHM_GROWTH_BYTE_SIZE": "python,shm-growth-byte-size",
    "SAGEMAKER_TRITON_TENSORFLOW_VERSION": "tensorflow,version",
}


def serve_arguments(
    environ: Mapping[str, str], gpus: int, *, model: str = _MODEL, no_models: str = _NO_MODELS
) -> tuple[list[str], dict[str, str]]:
    """Arguments of the server, and the environment with what they imply. `gpus`: how many there are. CloudProblem."""
    environ = dict(environ)
    arguments = [
        "--allow-sagemaker=true", "--allow-grpc=false", "--allow-http=false", "--allow-metrics=false",
        "--model-control-mode=explicit",
    ]  # fmt: skip
    arguments += [f"--{option}={environ[name]}" for name, option in _OPTIONS.items() if environ.get(name)]
    arguments += [f"--backend-config={key}={environ[name]}" for name, key in _BACKENDS.items() if environ.get(name)]
    if limit := environ.get("SAGEMAKER_TRITON_MODEL_LOAD_GPU_LIMIT"):
        arguments += [f"--model-load-gpu-limit={gpu}:{limit}" for gpu in range(gpus)]
    if environ.get("SAGEMAKER_MULTI_MODEL") == "true":
        # Models come by request, each in a folder of its own: the repository is an empty one.
        Path(no_models).mkdir(parents=True, exist_ok=True)
        return [*arguments, f"--model-repository={no_models}"], environ
    name = environ["SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"] = _default_model(environ, Path(model))
    return [*arguments, f"--model-repository={model}", f"--load-model={name}"], environ


def _default_model(environ: Mapping[str, str], repository: Path) -> str:
    if (repository / "config.pbtxt").exists():
        raise CloudProblem(f"{repository} holds a config.pbtxt: it must hold the folder of the model, not its content")
    name = environ.get("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME", "")
    if name:
        if not (repository / name).is_dir():
            raise CloudProblem(f"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME: {repository} has no folder '{name}'")
        return name
    try:
        found = sorted(path.name for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise CloudProblem(f"{repository}: {error.strerror}") from None
    if len(found) != 1:
        what = f"holds {len(found)} models ({', '.join(found)})" if found else "holds no model"
        raise CloudProblem(f"{repository} {what}: SAGEMAKER_TRITON_DEFAULT_MODEL_NAME must name one that is there")
    return found[0]
