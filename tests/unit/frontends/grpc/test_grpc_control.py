"""Control requests that no client library makes: parameters of load and unload, repository names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_harness import Running
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc


@pytest.fixture
def stub(shared: Running) -> Iterator[Any]:
    with grpc.insecure_channel(shared.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refused(call: Any, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    return caught.value.code().name, caught.value.details()


@pytest.mark.parametrize(
    ("key", "field", "value", "message"),
    [
        ("x", "string_param", "", "unrecognized load parameter 'x'."),
        ("config", "bool_param", True, "invalid value type for load parameter 'config', expected string_param."),
        ("file:1/a", "string_param", "", "invalid value type for load parameter 'file:1/a', expected bytes_param."),
    ],
)
def test_load_parameters(stub: Any, key: str, field: str, value: Any, message: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="fp32")
    setattr(request.parameters[key], field, value)
    assert refused(stub.RepositoryModelLoad, request) == ("INVALID_ARGUMENT", message)


def test_unload_parameters(stub: Any) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name="fp32")
    request.parameters["unload_dependents"].int64_param = 1
    message = "invalid value type for 'unload_dependents' parameter, expected bool_param."
    assert refused(stub.RepositoryModelUnload, request) == ("INVALID_ARGUMENT", message)


def test_repositories_have_no_names(stub: Any) -> None:
    expected = ("UNIMPLEMENTED", "'repository_name' specification is not supported")
    assert refused(stub.RepositoryIndex, pb.RepositoryIndexRequest(repository_name="r")) == expected
    assert refused(stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(repository_name="r")) == expected
    assert refused(stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(repository_name="r")) == expected


def test_index_of_ready_models(stub: Any) -> None:
    everything = {m.name for m in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    ready = {m.name for m in stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models}
    assert everything - ready == {"unloaded"}


@pytest.mark.parametrize(("name", "version", "ready"), [
    ("fp32", "", True), ("fp32", "1", True), ("fp32", "9", False), ("nobody", "", False), ("nobody", "1", False),
    ("", "", False), ("unloaded", "", False),
])  # fmt: skip
def test_readiness_of_a_model_that_is_unknown_is_no_error(stub: Any, name: str, version: str, ready: bool) -> None:
    """Clients that wait for a model ask before it is there."""
    assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready is ready


@pytest.mark.parametrize("rpc", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_versions_of_control_requests(stub: Any, rpc: str) -> None:
    request = getattr(pb, f"{rpc}Request")(name="fp32", version="x")
    code, message = refused(getattr(stub, rpc), request)
    assert code == "INVALID_ARGUMENT"
    assert message.startswith("failed to get model version from specified version string 'x'")
