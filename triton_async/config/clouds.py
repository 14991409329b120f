"""What SageMaker and Vertex AI say to a container: options, and variables of the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PORT = re.compile(r"[0-9]{1,5}\Z", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})\Z", re.ASCII)
_LARGEST_PORT = 65535
INFERENCE_TYPES = ("infer", "generate", "generate_stream")


class CloudProblem(ValueError):
    """An option or a variable that is wrong; its text says how."""


@dataclass(frozen=True, slots=True)
class SageMaker:
    """--allow-sagemaker. `default_model`: what /invocations asks, "" where the variable names none. `ping_live`: /ping
    tells whether the server runs, not whether its models are ready. `inference_type`: one of INFERENCE_TYPES.
    `models`: the folder below which models come while the server runs. `safe_ports`: those that SageMaker leaves to
    the other front-ends; None: any.
    """

    port: int
    default_model: str = ""
    ping_live: bool = False
    inference_type: str = "infer"
    models: str = "/opt/ml/models"
    safe_ports: range | None = None


@dataclass(frozen=True, slots=True)
class VertexAi:
    """--allow-vertex-ai. `default_model`: what the predict route asks; "": the only model there is."""

    port: int
    predict_route: str
    health_route: str
    default_model: str = ""


def take_clouds(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Puts `sagemaker` and `vertex_ai`, or None, in the place of their options. CloudProblem.

    In a container of Vertex AI (AIP_MODE=PREDICTION) its endpoint is the one that is on, unless the options say
    otherwise, and the models are those of AIP_STORAGE_URI.
    """
    if environ.get("AIP_MODE") == "PREDICTION":
        for name, value in (("allow_vertex_ai", True), ("allow_http", False), ("allow_grpc", False)):
            values.setdefault(name, value)
    given = {name: values.pop(name) for name in list(values) if name.startswith(("sagemaker_", "vertex_ai_"))}
    allowed = values.pop("allow_sagemaker", False), values.pop("allow_vertex_ai", False)
    ports = _safe_ports(given)
    values["sagemaker"] = _sagemaker(given, environ, ports) if allowed[0] else None
    values["vertex_ai"] = _vertex_ai(given, environ) if allowed[1] else None
    if allowed[1] and not values.get("model_repository") and environ.get("AIP_STORAGE_URI"):
        values["model_repository"] = (environ["AIP_STORAGE_URI"],)


def _safe_ports(given: Mapping[str, Any]) -> range | None:
    text = given.get("sagemaker_safe_port_range")
    if not text:
        return None
    match = _RANGE.match(text)
    if match is None or not int(match[1]) <= int(match[2]) <= _LARGEST_PORT:
        raise CloudProblem(f"--sagemaker-safe-port-range is '<integer>-<integer>', two ports. Got {text}")
    return range(int(match[1]), int(match[2]) + 1)


def _sagemaker(given: Mapping[str, Any], environ: Mapping[str, str], ports: range | None) -> SageMaker:
    port = given.get("sagemaker_port", 8080)
    ping = environ.get("SAGEMAKER_TRITON_PING_MODE", "ready")
    if ping not in ("ready", "live"):
        raise CloudProblem(f"SAGEMAKER_TRITON_PING_MODE is ready or live. Got {ping}")
    kind = environ.get("SAGEMAKER_TRITON_INFERENCE_TYPE", "infer")
    if kind not in INFERENCE_TYPES:
        raise CloudProblem(f"SAGEMAKER_TRITON_INFERENCE_TYPE is one of {', '.join(INFERENCE_TYPES)}. Got {kind}")
    default = environ.get("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME", "")
    return SageMaker(port, default, ping == "live", kind, safe_ports=ports)


def _vertex_ai(given: Mapping[str, Any], environ: Mapping[str, str]) -> VertexAi:
    port = given.get("vertex_ai_port")
    if port is None:
        text = environ.get("AIP_HTTP_PORT", "8080")
        if not _PORT.match(text) or not 0 < int(text) <= _LARGEST_PORT:
            raise CloudProblem(f"AIP_HTTP_PORT is no port. Got {text}")
        port = int(text)
    routes = [environ.get(name, "") for name in ("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE")]
    for name, route in zip(("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"), routes, strict=True):
        if not route:
            raise CloudProblem(f"{name} is not defined for Vertex AI endpoint")
        if not route.startswith("/"):
            raise CloudProblem(f"{name} begins with '/'. Got {route}")
    if routes[0] == routes[1]:
        raise CloudProblem(f"AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE are both {routes[0]}")
    return VertexAi(port, routes[0], routes[1], given.get("vertex_ai_default_model", ""))
