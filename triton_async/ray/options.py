"""What a deployment is asked for, as settings of a server without ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triton_async.config.settings import Settings
from triton_async.embedding import options as in_process
from triton_async.errors import InvalidArg

Value = str | int | float | bool | Sequence[str]

# Ray has the ports, replaces replicas, and says which models there are.
_OF_PORTS = "Ray Serve has the ports: see its http_options and grpc_options"
_OF_PROCESSES = "Ray starts and ends replicas: see graceful_shutdown_timeout_s of its deployments"
_OF_CORES = "Ray places replicas: see num_cpus of their ray_actor_options; host_policy says where instances run"
_OF_ARGUMENTS = "use the arguments repository, model and models_per_replica of the deployment"
_REFUSED = {
    _OF_PORTS: (
        "allow-http", "http-address", "http-port", "reuse-port", "reuse-http-port", "http-use-ssl",
        "http-use-ssl-mutual", "http-server-cert", "http-server-key", "http-root-cert", "allow-grpc", "grpc-address",
        "grpc-port", "reuse-grpc-port", "grpc-use-ssl", "grpc-use-ssl-mutual", "grpc-server-cert", "grpc-server-key",
        "grpc-root-cert", "grpc-infer-response-compression-level", "grpc-keepalive-time", "grpc-keepalive-timeout",
        "grpc-keepalive-permit-without-calls", "grpc-http2-max-pings-without-data",
        "grpc-http2-min-recv-ping-interval-without-data", "grpc-http2-max-ping-strikes", "grpc-max-connection-age",
        "grpc-max-connection-age-grace", "allow-metrics", "metrics-address", "metrics-port", "allow-sagemaker",
        "sagemaker-port", "sagemaker-safe-port-range", "allow-vertex-ai", "vertex-ai-port", "vertex-ai-default-model",
        "frontend-processes",
    ),
    _OF_PROCESSES: ("drain-secs", "exit-grace-secs", "listen-while-loading"),
    _OF_CORES: ("cpu-affinity",),
    _OF_ARGUMENTS: ("model-repository", "model-store", "model-control-mode", "load-model"),
}  # fmt: skip
_REASONS = {name: reason for reason, names in _REFUSED.items() for name in names}
# Clients reach the machines of a cluster through a proxy: none is on the machine of its replica for sure.
_NO_REGIONS = "clients of Ray Serve are on other machines than its replicas: their shared memory is not there"


class DeploymentProblem(ValueError):
    """A deployment cannot be as it is asked for."""


def settings_of(
    repository: str | Sequence[str],
    models: Sequence[str],
    on_demand: bool,
    options: Mapping[str, Value],
) -> Settings:
    """Settings of a replica's server. `models`: those to load, all when empty. `on_demand`: none at the start.
    `options`: those of the command, by name with `-` or `_`. DeploymentProblem.
    """
    places = [repository] if isinstance(repository, str) else list(repository)
    if not places or not all(places):
        raise DeploymentProblem("repository: a directory or a place in object storage is necessary")
    given: dict[str, Any] = {"model_repository": places, "load_model": list(models)}
    if on_demand or models:
        given["model_control_mode"] = "explicit"
    for field, value in options.items():
        name = field.replace("_", "-")
        if name in _REASONS:
            raise DeploymentProblem(f"options: {name} has no meaning in a deployment: {_REASONS[name]}")
        if name == "allow-client-shm" and str(value).lower() not in ("false", "0"):
            raise DeploymentProblem(f"options: {name} has no meaning in a deployment: {_NO_REGIONS}")
        given[name.replace("-", "_")] = value
    try:
        return in_process.settings_of(given)
    except InvalidArg as error:
        raise DeploymentProblem(f"options: {error.message}") from None
