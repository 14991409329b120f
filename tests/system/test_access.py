"""Who may call what: restricted APIs, API keys, forwarded headers and renewed certificates, over both protocols."""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from server_process import poll
from started import CONFIG, Started, started
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import certificates

from triton_async.config.access import CATEGORIES
from triton_async.frontends.grpc.guard import category_of
from triton_async.frontends.http.server import HttpService
from triton_async.protos import POOL

TELLS = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.array([request.parameters()], np.object_))])
            for request in requests
        ]
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG)
    (root / "tells" / "1").mkdir(parents=True)
    tells = CONFIG.replace("identity", "python")
    tells = tells.replace('"OUTPUT0" data_type: TYPE_FP32', '"OUTPUT0" data_type: TYPE_STRING')
    (root / "tells" / "config.pbtxt").write_text(tells)
    (root / "tells" / "1" / "model.py").write_text(TELLS)
    return root


def routes() -> Iterator[tuple[str, str, str]]:
    """(method, path, category) of every HTTP route."""
    class Nothing:
        share_nbytes = 1 << 20

        def metadata(self) -> dict[str, Any]:
            return {"name": "", "version": ""}

    for route in HttpService(Nothing(), 1).routes.routes:  # type: ignore[arg-type]
        path = route.pattern.replace("(?:/versions/([0-9]+))?", "").replace("(?:/([^/]+))?", "")
        path = path.replace("(?:/region/([^/]+))?", "/region/r").replace("(system|cuda)", "system")
        path = path.replace("(generate|generate_stream)", "generate").replace("([^/]+)", "m").replace("\\.", ".")
        yield route.method, path, route.category


def rpcs() -> Iterator[tuple[str, str]]:
    """(path, category) of every RPC."""
    for service in ("inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"):
        for name in POOL.FindServiceByName(service).methods_by_name:
            category = category_of(f"/{service}/{name}")
            assert category is not None
            yield f"/{service}/{name}", category


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def is_let_in(answer: tuple[int, str]) -> bool:
    """Whether a route was found and its handler asked."""
    return answer[0] not in (401, 403, 405) and "Not Found" not in answer[1]


def call(channel: grpc.Channel, path: str, metadata: list[tuple[str, str]]) -> tuple[grpc.StatusCode, str]:
    """What an RPC ends with whose message is empty."""
    streams = path.endswith(("Watch", "StreamInfer", "Info"))
    make = channel.stream_stream if streams else channel.unary_unary
    rpc = make(path, request_serializer=bytes, response_deserializer=bytes)
    try:
        answer = rpc(iter([b""]) if streams else b"", metadata=metadata, timeout=30)
        if streams:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def test_the_whole_matrix_of_restricted_apis(models: Path, tmp_path: Path) -> None:
    options = [f"--http-restricted-api={name}:Key-{name}=v-{name}" for name in CATEGORIES]
    options += [f"--grpc-restricted-protocol={name}:{name}=v-{name}" for name in CATEGORIES]
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        poll(lambda: "Started Metrics Service" in server.output(), "the ports", 60)
        known = list(routes())
        assert len(known) >= 20
        for method, path, category in known:
            for value in (None, "wrong"):
                headers = {} if value is None else {f"key-{category}": value}
                refused = (403, json.dumps({"error": f"This API is restricted, expecting header 'Key-{category}'"},
                                           separators=(",", ":")))  # fmt: skip
                assert ask(server.http_port, method, path, headers, None if method == "GET" else b"") == refused, path
            other = ask(server.http_port, method, path, {f"KEY-{category}": f"v-{category}"},
                        None if method == "GET" else b"")  # fmt: skip
            assert is_let_in(other), (method, path, other)
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            for path, category in rpcs():
                header = f"triton-grpc-protocol-{category}"
                for metadata in ([], [(header, "wrong")]):
                    assert call(channel, path, metadata) == (
                        grpc.StatusCode.UNAVAILABLE, f"This protocol is restricted, expecting header '{header}'",
                    )  # fmt: skip
                _, text = call(channel, path, [(header, f"v-{category}")])
                assert "restricted" not in text, path
        assert "v-inference" not in server.output()
        # The metrics port is Triton's: open.
        assert ask(server.metrics_port, "GET", "/metrics", {})[0] == 200


def infer(module: Any, server: Started, name: str = "m", parameters: Any = None, **more: Any) -> Any:
    port = server.http_port if module is httpclient else server.grpc_port
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = module.InferInput("INPUT0", [1], "FP32")
        tensor.set_data_from_numpy(np.zeros(1, np.float32))
        return client.infer(name, [tensor], parameters=parameters, **more)


def test_keys_are_asked_for_by_all_ports_and_follow_their_file(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first\n")
    options = (f"--api-key-file={file}", "--api-key-exempt=health")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        poll(lambda: "Started Metrics Service" in server.output(), "the ports", 60)
        shown = {"Authorization": "Bearer first"}
        for method, path, category in [*routes(), ("GET", "/metrics", "metrics")]:
            port = server.metrics_port if category == "metrics" else server.http_port
            body = None if method == "GET" else b""
            status, text = ask(port, method, path, {}, body)
            assert (status == 401) == (category != "health"), (path, status, text)
            assert ask(port, method, path, {"X-API-Key": "wrong"}, body)[0] == status
            assert is_let_in(ask(port, method, path, shown, body)), path
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            for path, category in rpcs():
                code, text = call(channel, path, [])
                assert (code is grpc.StatusCode.UNAUTHENTICATED) == (category != "health"), (path, code, text)
                code, _ = call(channel, path, [("authorization", "Bearer first")])
                assert code is not grpc.StatusCode.UNAUTHENTICATED, path
        for module in (httpclient, grpcclient):
            assert infer(module, server, headers={"x-api-key": "first"}) is not None
        (tmp_path / "new").write_text("second\n")
        os.replace(tmp_path / "new", file)
        poll(lambda: ask(server.http_port, "GET", "/v2", shown)[0] == 401, "the new keys", 30)
        for module in (httpclient, grpcclient):
            assert infer(module, server, headers={"x-api-key": "second"}) is not None
            with pytest.raises(InferenceServerException, match="an API key is required"):
                infer(module, server, headers={"x-api-key": "first"})
        assert "Bearer" not in server.output() and "second" not in server.output()


def told(answer: Any) -> Any:
    return json.loads(answer.as_numpy("OUTPUT0")[0])


def test_headers_become_parameters_of_requests(models: Path, tmp_path: Path) -> None:
    options = [f"--{service}-header-forward-pattern=^(my|triton|priority)" for service in ("http", "grpc")]
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        for module in (httpclient, grpcclient):
            headers = {"my-user": "u", "other": "o"}
            found = told(infer(module, server, "tells", {"a": 1, "my-user": "forged"}, headers=headers))
            assert found == {"a": 1, "my-user": "u"}
            assert told(infer(module, server, "tells", headers={"other": "o"})) == {}
            for name in ("triton_x", "priority"):
                with pytest.raises(InferenceServerException, match=f"(?i)header '{name}' is reserved for Triton usage"):
                    infer(module, server, "tells", headers={name: "1"})
        body = json.dumps({"INPUT0": [1.0]}).encode()
        path = "/v2/models/tells/generate"
        status, text = ask(server.http_port, "POST", path, {"My-User": "u"}, body)
        assert status == 200 and json.loads(json.loads(text)["OUTPUT0"]) == {"My-User": "u"}
        assert ask(server.http_port, "POST", path, {"triton_x": "u"}, body)[0] == 400
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = service_pb2.ModelInferRequest(model_name="tells", raw_input_contents=[b"\0" * 4])
            request.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
            (answer,) = stub.ModelStreamInfer(iter([request]), metadata=[("my-user", "u")], timeout=30)
            assert b'{"my-user":"u"}' in answer.infer_response.raw_output_contents[0].replace(b" ", b"")


def test_certificates_are_renewed_while_the_server_runs(models: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = certificates.make(tmp_path / "old"), certificates.make(tmp_path / "new")
    used = tmp_path / "used"
    used.mkdir()

    def put(made: Any) -> None:
        for name, path in (("cert", made.server.cert), ("key", made.server.key)):
            (used / "next").write_bytes(Path(path).read_bytes())
            os.replace(used / "next", used / name)

    put(old)
    options = [f"--{service}-{option}" for service in ("http", "grpc") for option in (
        "use-ssl=true", f"server-cert={used / 'cert'}", f"server-key={used / 'key'}")]  # fmt: skip
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        poll(lambda: "Started Metrics Service" in server.output(), "the ports", 60)

        def served(port: int) -> str:
            return ssl.get_server_certificate(("127.0.0.1", port)).strip()

        for made in (old, new):
            put(made)
            expected = Path(made.server.cert).read_text()
            for port in (server.http_port, server.grpc_port):
                poll(lambda port=port, expected=expected: served(port) in expected, "the certificate", 30)  # type: ignore[misc]
        (used / "cert").write_text("nonsense")
        poll(lambda: "can not be used, what was in force stays" in server.output(), "a line about it", 30)
        assert served(server.http_port) in Path(new.server.cert).read_text()
