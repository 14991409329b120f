"""What a deployment is asked for becomes settings, or is refused by name. Without Ray."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from triton_async.config.options import OPTIONS
from triton_async.ray.options import _REASONS, DeploymentProblem, settings_of


def test_arguments_and_options_become_settings() -> None:
    settings = settings_of(["/a", "s3://b/c"], ["m", "n"], False, {
        "id": "ours", "log_verbose": 1, "exit-on-error": False, "backend-config": ["python,a=1", "python,b=2"],
    })  # fmt: skip
    assert settings.model_repository == ("/a", "s3://b/c")
    assert settings.model_control_mode == "explicit"
    assert settings.load_model == ("m", "n")
    assert (settings.id, settings.log_verbose, settings.exit_on_error) == ("ours", 1, False)
    assert settings.backend_config["python"] == {"a": "1", "b": "2"}


def test_without_models_all_are_served_and_on_demand_none() -> None:
    assert settings_of("/a", [], False, {}).model_control_mode == "none"
    on_demand = settings_of("/a", [], True, {})
    assert (on_demand.model_control_mode, on_demand.load_model) == ("explicit", ())


@pytest.mark.parametrize("name", sorted(_REASONS))
def test_what_ray_does_itself_is_refused_by_name(name: str) -> None:
    assert name in OPTIONS, "an option of another name"
    with pytest.raises(DeploymentProblem, match=f"options: {name} has no meaning"):
        settings_of("/a", [], False, {name.replace("-", "_"): "1"})


@pytest.mark.parametrize(("repository", "options", "says"), [
    ("", {}, "repository: "), ([], {}, "repository: "), (["/a", ""], {}, "repository: "),
    ("/a", {"nope": 1}, "options: .*nope"), ("/a", {"log-verbose": "x"}, "options: .*log-verbose"),
    ("/a", {"allow_client_shm": True}, "options: allow-client-shm"),
])  # fmt: skip
def test_mistakes_are_named(repository: Any, options: Any, says: str) -> None:
    with pytest.raises(DeploymentProblem, match=says):
        settings_of(repository, [], False, options)


def test_what_is_off_anyway_may_be_said() -> None:
    assert not settings_of("/a", [], False, {"allow-client-shm": False}).allow_client_shm


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
def test_without_ray_it_says_how_to_get_it() -> None:
    import triton_async.ray

    for name in ("deployment", "app"):
        with pytest.raises(ImportError, match=r"triton-async\[ray\]"):
            getattr(triton_async.ray, name)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = triton_async.ray.nope


def test_the_servicer_functions_name_every_rpc_and_leave_messages_as_bytes() -> None:
    from triton_async import protos
    from triton_async.ray import add_GRPCInferenceServiceServicer_to_server, add_HealthServicer_to_server

    class Server:
        def __init__(self) -> None:
            self.handlers: dict[str, Any] = {}

        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            (one,) = handlers
            self.handlers.update(one._method_handlers)

    class Servicer:
        def __getattr__(self, name: str) -> str:
            return name

    server = Server()
    add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    add_HealthServicer_to_server(Servicer(), server)
    expected = {
        f"/{service}/{method.name}": (method.client_streaming, method.server_streaming)
        for service in ("inference.GRPCInferenceService", "grpc.health.v1.Health")
        for method in protos.POOL.FindServiceByName(service).methods
    }
    found = {path: (handler.request_streaming, handler.response_streaming) for path, handler in server.handlers.items()}
    assert found == expected
    assert all(handler.request_deserializer is None for handler in server.handlers.values())
