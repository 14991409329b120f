"""SageMaker's and Vertex AI's front doors: their routes, their form of binary bodies, and what stays closed."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_harness import run, running, write_model
from gated_backend import GatedBackend, until

from triton_async.backends.identity import IdentityBackend
from triton_async.config.access import parse_restrictions
from triton_async.config.clouds import SageMaker, VertexAi
from triton_async.core.archives import Archives
from triton_async.core.server import InferenceServer
from triton_async.errors import InternalError, InvalidArg
from triton_async.frontends.gate import OPEN, Gate
from triton_async.frontends.http import clouds, sagemaker, vertex_ai
from triton_async.frontends.http.framing import Framing

EXPLICIT = "--model-control-mode=explicit"
LIMIT = 1 << 20
VALUES = np.float32([1, 2, 3])
TENSOR = {"name": "INPUT0", "datatype": "FP32", "shape": [3]}
JSON = json.dumps({"inputs": [{**TENSOR, "data": VALUES.tolist()}]}).encode()
HEAD = json.dumps({
    "inputs": [{**TENSOR, "parameters": {"binary_data_size": VALUES.nbytes}}],
    "parameters": {"binary_data_output": True},
}).encode()  # fmt: skip
ENSEMBLE = """
    platform: "ensemble"
    input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
    ensemble_scheduling { step { model_name: "step" model_version: -1
        input_map { key: "INPUT0" value: "INPUT0" } output_map { key: "OUTPUT0" value: "OUTPUT0" } } }
"""
TARGET, REDIRECT = sagemaker.TARGET, vertex_ai.REDIRECT


class Reply:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def binary(self, mime: str) -> list[float]:
        """Values of the one output, in binary form. `mime`: behind which the length stands; "": in a header."""
        content_type = self.headers["Content-Type"]
        assert content_type.startswith(mime) if mime else content_type == "application/octet-stream"
        assert ("Inference-Header-Content-Length" in self.headers) == (not mime)
        length = int(content_type.removeprefix(mime) if mime else self.headers["Inference-Header-Content-Length"])
        assert json.loads(self.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": VALUES.nbytes}
        return np.frombuffer(self.body[length:], np.float32).tolist()  # type: ignore[no-any-return]


class Port:
    """A listening front end, asked by the standard library's client."""

    def __init__(self, port: int, server: InferenceServer) -> None:
        self.port = port
        self.server = server

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(self._ask, method, path, body, named)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read())


class FullBackend(IdentityBackend):
    """One that has no memory."""

    def get(self, name: str, place: object = None) -> FullBackend:
        return self

    def load(self, *_: Any) -> Any:
        raise InternalError("CUDA error 2: out of memory")


@asynccontextmanager
async def sagemaker_port(
    root: Path, *options: str, archives: Path = Path("/nowhere"), gate: Gate = OPEN,
    config: Mapping[str, Any] | None = None, **more: Any,
) -> AsyncIterator[Port]:  # fmt: skip
    async with running(root, *options, **more) as server:
        settings = SageMaker(0, **({"default_model": "m"} | dict(config or {})))
        known = Archives(server.repository, str(archives))
        listener = await clouds.start_sagemaker(server, settings, known, max_input_nbytes=LIMIT, gate=gate)
        yield Port(listener.port, server)
        await listener.close(5)


@asynccontextmanager
async def vertex_port(root: Path, *options: str, default: str = "", gate: Gate = OPEN) -> AsyncIterator[Port]:
    async with running(root, *options) as server:
        config = VertexAi(0, "/predict", "/health", default)
        listener = await clouds.start_vertex_ai(server, config, max_input_nbytes=LIMIT, gate=gate)
        yield Port(listener.port, server)
        await listener.close(5)


# -- both ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("port", "path", "framing"), [
    (sagemaker_port, "/invocations", sagemaker.FRAMING), (vertex_port, "/predict", vertex_ai.FRAMING),
])  # fmt: skip
def test_inference_in_json_and_in_binary(
    tmp_path: Path, port: Callable[..., Any], path: str, framing: Framing
) -> None:
    mime = framing.mime
    write_model(tmp_path, "m")

    async def test() -> None:
        async with port(tmp_path) as front:
            answer = await front.ask("POST", path, JSON)
            assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
            assert answer.json["outputs"][0]["data"] == VALUES.tolist()
            body = HEAD + VALUES.tobytes()
            answer = await front.ask("POST", path, body, Content_Type=f"{mime}{len(HEAD)}")
            assert answer.status == 200
            assert answer.binary(mime if framing.both_ways else "") == VALUES.tolist()
            # Triton's own header means nothing here.
            own = await front.ask("POST", path, body, Inference_Header_Content_Length=str(len(HEAD)))
            assert own.status == 400
            for wrong, text in (
                (f"{mime}{len(body) + 1}", "inference header size should be in range"),
                (f"{mime}", "Unable to parse json-header-size, got: "),
                (f"{mime}+7", "Unable to parse json-header-size, got: +7"),
                (f"text/{mime}{len(HEAD)}", "expect MIME type for binary data starts with"),
            ):
                answer = await front.ask("POST", path, body, Content_Type=wrong)
                assert answer.status == 400
                assert text in answer.json["error"]
            assert (await front.ask("GET", path)).status == 405
            for nowhere in ("/", "/v2", "/v2/health/live", f"{path}/", "/v2/models/m/infer"):
                assert (await front.ask("POST", nowhere, JSON)).status == 400

    run(test)


@pytest.mark.parametrize(("port", "path", "headers"), [
    (sagemaker_port, "/invocations", {}), (vertex_port, "/predict", {}),
    (vertex_port, "/predict", {REDIRECT: "v2/models/m/infer"}),
])  # fmt: skip
def test_bodies_have_the_bounds_of_inference_at_every_door(
    tmp_path: Path, port: Callable[..., Any], path: str, headers: dict[str, str]
) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with port(tmp_path) as front:
            assert (await front.ask("POST", path, JSON.ljust(LIMIT), **headers)).status == 200
            refused = await front.ask("POST", path, JSON.ljust(LIMIT + 1), **headers)
            assert refused.status == 400
            assert f"exceeds the maximum allowed input size of {LIMIT} bytes" in refused.json["error"]
            for depth, status in ((100, 200), (1100, 400)):
                deep = JSON[:-1] + b',"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
                assert (await front.ask("POST", path, deep, **headers)).status == status

    run(test)


def test_loads_of_sagemaker_are_read_as_carefully_as_any_json(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with sagemaker_port(tmp_path, EXPLICIT, "--load-model=m", archives=tmp_path) as front:
            for depth, text in ((103, "'model_name' must be a text"), (104, "JSON nesting depth exceeds")):
                body = b'{"model_name":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
                answer = await front.ask("POST", "/models", body)
                assert answer.status == 400 and text in answer.json["error"], answer.body
            for length, text in ((LIMIT, "are expected"), (LIMIT + 1, f"of {LIMIT + 1} bytes exceeds")):
                answer = await front.ask("POST", "/models", b"[]".ljust(length))
                assert answer.status == 400 and text in answer.json["error"], answer.body
            assert (await front.ask("POST", "/invocations", JSON)).status == 200

    run(test)


@pytest.mark.parametrize(("port", "path"), [(sagemaker_port, "/ping"), (vertex_port, "/health")])
def test_health_is_readiness(tmp_path: Path, port: Callable[..., Any], path: str) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with port(tmp_path) as front:
            assert (await front.ask("GET", path)).status == 200
            assert (await front.ask("POST", path, b"")).status == 405
            front.server.stop_accepting()
            assert (await front.ask("GET", path)).status == 503

    run(test)


@pytest.mark.parametrize(("port", "path", "headers", "category"), [
    (sagemaker_port, "/invocations", {}, "inference"), (sagemaker_port, "/models/x/invoke", {}, "inference"),
    (sagemaker_port, "/models", {}, "model-repository"), (vertex_port, "/predict", {}, "inference"),
    (vertex_port, "/predict", {REDIRECT: "v2/models/m/infer"}, "inference"),
    (vertex_port, "/predict", {REDIRECT: "v2/models/m/config"}, "model-config"),
    (vertex_port, "/predict", {REDIRECT: "v2/repository/index"}, "model-repository"),
])  # fmt: skip
def test_what_is_restricted_is_so_at_every_door(
    tmp_path: Path, port: Callable[..., Any], path: str, headers: dict[str, str], category: str
) -> None:
    write_model(tmp_path, "m")
    gate = Gate(parse_restrictions("http-restricted-api", [f"{category}:key=secret"]))

    async def test() -> None:
        async with port(tmp_path, gate=gate) as front:
            assert (await front.ask("POST", path, JSON, **headers)).status == 403
            assert (await front.ask("POST", path, JSON, **headers, key="wrong")).status == 403
            assert (await front.ask("POST", path, JSON, **headers, key="secret")).status != 403

    run(test)


# -- SageMaker -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("live", "status"), [(False, 400), (True, 200)])
def test_ping_can_ask_for_life_alone(tmp_path: Path, live: bool, status: int) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with sagemaker_port(tmp_path, config={"ping_live": live}, backends=FullBackend()) as front:
            assert (await front.ask("GET", "/ping")).status == status

    run(test)


@pytest.mark.parametrize("kind", ["generate", "generate_stream"])
def test_invocations_can_be_of_the_generate_extension(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with sagemaker_port(tmp_path, config={"inference_type": kind}) as front:
            answer = await front.ask("POST", "/invocations", b'{"INPUT0": [1.5]}')
            assert answer.status == 200
            assert b'"OUTPUT0":1.5' in answer.body.replace(b" ", b"")
            assert answer.body.startswith(b"data: ") == (kind == "generate_stream")

    run(test)


def test_without_a_default_model_invocations_say_so(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with sagemaker_port(tmp_path, config={"default_model": ""}) as front:
            answer = await front.ask("POST", "/invocations", JSON)
            assert answer.status == 400
            assert "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME is not set" in answer.json["error"]

    run(test)


def bring(name: str, url: Path | str) -> bytes:
    return json.dumps({"model_name": name, "url": str(url)}).encode()


def empty(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


def test_models_come_and_go(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    write_model(archives / "h1" / "model", "resnet", more='name: "resnet"')

    async def test() -> None:
        async with sagemaker_port(empty(tmp_path), EXPLICIT, archives=archives) as front:
            assert (await front.ask("GET", "/models")).json == {"models": []}
            url = archives / "h1" / "model"
            answer = await front.ask("POST", "/models", bring("h1", url), **{TARGET: "resnet.tar.gz"})
            assert (answer.status, answer.body) == (200, b"")
            shown = {"modelName": "h1", "modelUrl": str(url)}
            assert (await front.ask("GET", "/models")).json == {"models": [shown]}
            assert (await front.ask("GET", "/models/h1")).json == shown
            assert (await front.ask("GET", "/models/h2")).status == 404
            answer = await front.ask("POST", "/models/h1/invoke", JSON)
            assert answer.json["model_name"] == "resnet.tar.gz"
            assert answer.json["outputs"][0]["data"] == VALUES.tolist()
            mime = sagemaker.FRAMING.mime
            body = HEAD + VALUES.tobytes()
            answer = await front.ask("POST", "/models/h1/invoke", body, Content_Type=f"{mime}{len(HEAD)}")
            assert answer.binary(mime) == VALUES.tolist()
            assert (await front.ask("POST", "/models/h2/invoke", JSON)).status == 404
            assert (await front.ask("POST", "/models/h1/invoke", b"{}")).status == 400
            # The same once more, by either name.
            assert (await front.ask("POST", "/models", bring("h1", url))).status == 409
            assert (await front.ask("POST", "/models", bring("h3", url), **{TARGET: "resnet.tar.gz"})).status == 409
            assert (await front.ask("DELETE", "/models/h1")).status == 200
            assert (await front.ask("DELETE", "/models/h1")).status == 404
            assert (await front.ask("POST", "/models/h1/invoke", JSON)).status == 404
            assert list(await front.server.repository_index()) == []
            assert (await front.ask("GET", "/ping")).status == 200
            # And again, as what SageMaker calls it where the customer's name can be none of a model.
            answer = await front.ask("POST", "/models", bring("h1", url), **{TARGET: "a/b.tar.gz"})
            assert answer.status == 200
            assert (await front.ask("POST", "/models/h1/invoke", JSON)).json["model_name"] == "h1"

    run(test)


def test_a_load_goes_on_without_its_client(tmp_path: Path) -> None:
    write_model(tmp_path / "archives", "m")
    backend = GatedBackend()

    async def test() -> None:
        async with sagemaker_port(empty(tmp_path), EXPLICIT, archives=tmp_path, backends=backend) as front:
            backend.load_gate.shut = True
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            body = bring("h", tmp_path / "archives")
            writer.write(b"POST /models HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            loading = await backend.load_gate.arrival()
            assert (await front.ask("POST", "/models", body)).status == 409
            assert (await front.ask("DELETE", "/models/h")).status == 404
            writer.close()
            await writer.wait_closed()
            backend.load_gate.open()
            loading.set()
            await until(lambda: front.server.serves("h"), "loaded")
            assert (await front.ask("GET", "/models/h")).status == 200
            assert (await front.ask("POST", "/models/h/invoke", JSON)).status == 200
            assert (await front.ask("DELETE", "/models/h")).status == 200

    run(test)


def test_archives_whose_steps_have_one_name_do_not_go_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_model(tmp_path / name, "step")
        (tmp_path / name / "whole" / "1").mkdir(parents=True)
        (tmp_path / name / "whole" / "config.pbtxt").write_text(ENSEMBLE)

    async def test() -> None:
        async with sagemaker_port(empty(tmp_path), EXPLICIT, archives=tmp_path) as front:
            answers = await asyncio.gather(*(
                front.ask("POST", "/models", bring(name, tmp_path / name)) for name in ("one", "two")
            ))  # fmt: skip
            assert sorted(answer.status for answer in answers) == [200, 409]
            (refused,) = (answer for answer in answers if answer.status == 409)
            assert refused.json["error"] == "there is a model 'step' already"
            loaded = "one" if answers[0].status == 200 else "two"
            assert (await front.ask("POST", f"/models/{loaded}/invoke", JSON)).status == 200

    run(test)


def test_an_archive_may_be_the_folder_of_a_model_itself(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    write_model(archives / "h", "model")

    async def test() -> None:
        async with sagemaker_port(empty(tmp_path), EXPLICIT, archives=archives) as front:
            assert (await front.ask("POST", "/models", bring("h", archives / "h" / "model"))).status == 200
            assert (await front.ask("POST", "/models/h/invoke", JSON)).status == 200

    run(test)


def test_an_ensemble_comes_and_goes_with_its_steps(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    url = archives / "h" / "model"
    write_model(url, "step")
    (url / "whole" / "1").mkdir(parents=True)
    (url / "whole" / "config.pbtxt").write_text(ENSEMBLE)

    async def test() -> None:
        async with sagemaker_port(empty(tmp_path), EXPLICIT, archives=archives) as front:
            assert (await front.ask("POST", "/models", bring("h", url))).status == 200
            assert (await front.ask("POST", "/models/h/invoke", JSON)).json["model_name"] == "h"
            assert {row["name"] for row in await front.server.repository_index(True)} == {"h", "step"}
            assert (await front.ask("DELETE", "/models/h")).status == 200
            assert list(await front.server.repository_index()) == []

    run(test)


def test_what_is_no_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    for name in ("one", "two"):
        write_model(archives / "several", name)
    (archives / "nothing").mkdir()
    write_model(archives / "broken", "m", more="max_batch_size: -1")
    write_model(tmp_path / "outside", "m")
    (archives / "link").symlink_to(tmp_path / "outside")

    async def test() -> None:
        async with sagemaker_port(empty(tmp_path), EXPLICIT, archives=archives) as front:
            for body, text in (
                (bring("h", archives / "several"), "it must hold one model, or one ensemble"),
                (bring("h", archives / "nothing"), "holds 0 models"),
                (bring("h", archives / "nope"), "there is no folder at the url"),
                (bring("h", archives), "models lie below"),
                (bring("h", tmp_path / "outside"), "models lie below"),
                (bring("h", archives / ".." / "outside"), "models lie below"),
                (bring("h", archives / "link"), "models lie below"),
                (bring("h", archives / "broken"), ""),
                (bring("../h", archives / "broken"), "can be no name of a model"),
                (bring("", archives / "broken"), "'model_name' must be a text that is not empty"),
                (b'{"model_name": "h"}', "'url' must be a text that is not empty"),
                (b"[]", "'model_name' and 'url' are expected"),
                (b"{", ""),
            ):
                answer = await front.ask("POST", "/models", body)
                assert answer.status == 400, answer.body
                assert text in answer.json["error"]
                assert str(tmp_path) not in answer.json["error"].replace(f"below {archives}", "")
            assert list(await front.server.repository_index()) == []
            assert (await front.ask("GET", "/ping")).status == 200
            assert (await front.ask("GET", "/models")).json == {"models": []}

    run(test)


def test_models_come_in_the_explicit_mode_only(tmp_path: Path) -> None:
    write_model(tmp_path / "archives", "m")
    write_model(tmp_path / "repository", "m")

    async def test() -> None:
        async with sagemaker_port(tmp_path / "repository", archives=tmp_path) as front:
            answer = await front.ask("POST", "/models", bring("h", tmp_path / "archives"))
            assert answer.status == 400
            assert "explicit" in answer.json["error"]

    run(test)


def test_a_model_for_which_there_is_no_memory_is_told_apart(tmp_path: Path) -> None:
    write_model(tmp_path / "archives", "m")

    async def test() -> None:
        async with sagemaker_port(
            empty(tmp_path), EXPLICIT, archives=tmp_path, backends=FullBackend()
        ) as front:
            answer = await front.ask("POST", "/models", bring("h", tmp_path / "archives"))
            assert answer.status == 507
            assert "out of memory" in answer.json["error"]
            await until(lambda: not front.server.repository.models, "gone")

    run(test)


@pytest.mark.parametrize(("message", "expected"), [
    ("CUDA out of memory. Tried to allocate", True), ("CUDA_OUT_OF_MEMORY", True), ("MemoryError: x", True),
    ("Failed to allocate memory for requested buffer", True), ("no memory for a batch", True), ("OOM when", True),
    ("No space left on device", True), ("room for improvement", False), ("unexpected shape", False),
])  # fmt: skip
def test_which_errors_are_those_of_memory(message: str, expected: bool) -> None:
    assert bool(sagemaker._OUT_OF_MEMORY.search(message)) == expected


# -- Vertex AI -------------------------------------------------------------------------------------


def test_the_header_leads_to_what_reads(tmp_path: Path) -> None:
    for name in ("m", "other"):
        write_model(tmp_path, name)

    async def test() -> None:
        async with vertex_port(tmp_path, default="m") as front:
            async def ask(target: str, body: bytes = b"") -> Reply:
                return await front.ask("POST", "/predict", body, **{REDIRECT: target})

            assert (await ask("v2")).json["name"] == "triton"
            assert (await ask("v2/models/other")).json["name"] == "other"
            assert (await ask("v2/models/other/versions/1/ready")).status == 200
            assert (await ask("v2/models/nope/ready")).status == 400
            assert (await ask("v2/models/other/config")).json["name"] == "other"
            assert (await ask("v2/models/other/stats")).json["model_stats"][0]["name"] == "other"
            assert len((await ask("v2/models/stats")).json["model_stats"]) == 2
            assert (await ask("v2/health/live")).status == (await ask("v2/health/ready")).status == 200
            assert len((await ask("v2/repository/index")).json) == 2
            assert (await ask("v2/models/other/infer", JSON)).json["model_name"] == "other"
            metrics = await ask("metrics")
            assert metrics.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert b"nv_inference_count" in metrics.body
            assert (await front.ask("POST", "/predict", JSON)).json["model_name"] == "m"

    run(test)


@pytest.mark.parametrize(("target", "status"), [
    ("v2/repository/models/m/load", 403), ("v2/repository/models/m/unload", 403),
    ("v2/systemsharedmemory/region/r/register", 403), ("v2/cudasharedmemory/unregister", 403),
    ("v2/logging", 403), ("v2/trace/setting", 403), ("v2/models/m/generate", 403), ("v2/openapi.json", 403),
    ("nope", 400), ("", 400), ("/v2", 400), ("v2/../v2", 400),
])  # fmt: skip
def test_the_header_leads_to_nothing_that_changes_the_server(tmp_path: Path, target: str, status: int) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with vertex_port(tmp_path, EXPLICIT, "--load-model=m") as front:
            answer = await front.ask("POST", "/predict", b"{}", **{REDIRECT: target})
            assert answer.status == status
            assert front.server.model_ready("m")

    run(test)


@pytest.mark.parametrize(("names", "default", "problem"), [
    (("a", "b"), "", "only a single model if default model is not specified"),
    (("a",), "b", "Expect the default model 'b' is loaded"), (("a",), "", ""), (("a", "b"), "b", ""),
])  # fmt: skip
def test_the_default_model_is_known_at_the_start(
    tmp_path: Path, names: tuple[str, ...], default: str, problem: str
) -> None:
    for name in names:
        write_model(tmp_path, name)

    async def test() -> None:
        if not problem:
            async with vertex_port(tmp_path, default=default) as front:
                assert (await front.ask("POST", "/predict", JSON)).json["model_name"] == default or "a"
            return
        with pytest.raises(InvalidArg, match=problem):
            async with vertex_port(tmp_path, default=default):
                pass

    run(test)
