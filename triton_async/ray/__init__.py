"""Ray Serve: deployments whose replicas are servers. Extra `ray`; Ray itself is imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triton_async.ray.options import DeploymentProblem
from triton_async.ray.policy import QueuePolicy

if TYPE_CHECKING:
    from triton_async.ray.application import app, deployment
    from triton_async.ray.servicers import add_GRPCInferenceServiceServicer_to_server, add_HealthServicer_to_server

__all__ = [
    "DeploymentProblem",
    "QueuePolicy",
    "add_GRPCInferenceServiceServicer_to_server",
    "add_HealthServicer_to_server",
    "app",
    "deployment",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.startswith("add_"):
        from triton_async.ray import servicers

        return getattr(servicers, name)
    from triton_async.ray import application

    return getattr(application, name)
