"""What a server tells in its log of requests: failures when it is verbose, each one when asked to; its settings."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from server_process import poll
from started import CONFIG, Started, started
from tritonclient.utils import InferenceServerException


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG)
    return root


def ask(server: Started, module: object, name: str, datatype: str = "FP32") -> None:
    port = server.http_port if module is httpclient else server.grpc_port
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:  # type: ignore[attr-defined]
        tensor = module.InferInput("INPUT0", [3], datatype)  # type: ignore[attr-defined]
        tensor.set_data_from_numpy(np.zeros(3, np.float32 if datatype == "FP32" else np.int32))
        client.infer(name, [tensor])


def ask_with_id(server: Started, module: Any, stream: bool = False, **more: Any) -> None:
    """A request with the id `id-7` whose datatype is wrong unless `datatype` says otherwise."""
    port = server.http_port if module is httpclient else server.grpc_port
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = module.InferInput("INPUT0", [3], more.pop("datatype", "INT32"))
        tensor.set_data_from_numpy(np.zeros(3, np.float32 if tensor.datatype() == "FP32" else np.int32))
        if stream:
            answered = threading.Event()
            client.start_stream(lambda result, error: answered.set())
            client.async_stream_infer("m", [tensor], request_id="id-7")
            assert answered.wait(30)
            return
        try:
            client.infer("m", [tensor], request_id="id-7", **more)
        except InferenceServerException as error:
            assert tensor.datatype() == "INT32", error


def test_each_line_about_a_request_has_its_id_once(models: Path, tmp_path: Path) -> None:
    options = ("--log-verbose=1", "--log-access=true")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        ways: list[tuple[Any, dict[str, Any]]] = [
            (httpclient, {}), (httpclient, {"request_compression_algorithm": "gzip"}), (grpcclient, {}),
            (grpcclient, {"compression_algorithm": "gzip"}), (grpcclient, {"stream": True}),
        ]  # fmt: skip
        for module, more in ways:
            ask_with_id(server, module, datatype="FP32", **more)
            ask_with_id(server, module, **more)
        poll(lambda: len(re.findall(r"id-7", server.output())) >= 15, "lines", 30)
        lines = [line for line in server.output().splitlines() if " us" in line or "failed" in line]
        about = [line for line in lines if "nfer" in line or "stream" in line]
        assert len([line for line in about if line.count("[request id: id-7]") == 1]) == 15, about


def settled(server: Started, words: str) -> str:
    """The output, once it has these words."""
    poll(lambda: re.search(words, server.output()) is not None, words, 30)
    return server.output()


def test_a_verbose_log_has_configs_and_failures_with_their_reasons(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={models}", "--log-verbose=1") as server:
        server.wait_until_it_answers()
        output = server.output()
        assert "config of 'm' as it is served: " in output
        for module in (httpclient, grpcclient):
            ask(server, module, "m")
            for name, datatype in (("m", "INT32"), ("nobody", "FP32")):
                with pytest.raises(InferenceServerException):
                    ask(server, module, name, datatype)
        server.get("/v2/models/nobody/config")
        settled(server, "infer of model 'm' failed with 400: .*data-type is 'INT32', but model 'm' expects 'FP32'")
        settled(server, "ModelInfer failed with INVALID_ARGUMENT: .*data-type is 'INT32'")
        settled(server, "ModelInfer failed with NOT_FOUND: Request for unknown model: 'nobody' is not found")
        settled(server, "GET /v2/models/nobody/config failed: Request for unknown model")
        assert "bytes" not in server.output().split("Metrics Service")[-1].split("failed")[0]


def test_a_quiet_log_says_nothing_of_requests(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={models}") as server:
        server.wait_until_it_answers()
        before = settled(server, "Started Metrics Service")
        for module in (httpclient, grpcclient):
            ask(server, module, "m")
            with pytest.raises(InferenceServerException):
                ask(server, module, "m", "INT32")
        server.process.terminate()
        assert server.end() == 0
        assert "failed" not in server.output()[len(before) :]


def test_an_access_log_has_a_line_for_each_answer(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={models}", "--log-access=true", "--log-info=false") as server:
        server.wait_until_it_answers()
        ask(server, httpclient, "m")
        ask(server, grpcclient, "m")
        server.get("/v2/models/m?x=1")
        for module in (httpclient, grpcclient):
            with pytest.raises(InferenceServerException):
                ask(server, module, "m", "INT32")
        with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert client.is_model_ready("m")
        settled(server, r'"127\.0\.0\.1:\d+ POST /v2/models/m/infer 200 \d+ bytes \d+ us"')
        settled(server, r'"127\.0\.0\.1:\d+ POST /v2/models/m/infer 400 \d+ bytes \d+ us"')
        settled(server, r'"127\.0\.0\.1:\d+ GET /v2/models/m\?x=1 200 \d+ bytes \d+ us"')
        settled(server, r'"127\.0\.0\.1:\d+ ModelInfer m OK \d+ bytes \d+ us"')
        settled(server, r'"127\.0\.0\.1:\d+ ModelInfer m INVALID_ARGUMENT 0 bytes \d+ us"')
        settled(server, r'"127\.0\.0\.1:\d+ /inference.GRPCInferenceService/ModelReady OK \d+ bytes \d+ us"')


def test_an_access_log_has_a_line_for_each_generate_call(models: Path, tmp_path: Path) -> None:
    """Of a stream, the bytes of its events, whichever parser has read the request: a query goes to the full one."""
    with started(tmp_path, f"--model-repository={models}", "--log-access=true", "--log-info=false") as server:
        server.wait_until_it_answers()
        for call, body in (
            ("generate", b'{"INPUT0":[1],"id":"g"}'), ("generate_stream", b'{"INPUT0":[1],"id":"s"}'),
            ("versions/1/generate", b'{"INPUT0":["x"]}'), ("generate_stream", b'{"INPUT0":["x"]}'),
            ("generate_stream?x", b'{"INPUT0":[1],"id":"q"}'),
        ):  # fmt: skip
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/models/m/{call}", body, 30).close()
        answer = len('{"model_name":"m","model_version":"1","id":"g","OUTPUT0":1.0}')
        settled(server, rf"POST /v2/models/m/generate 200 {answer} bytes \d+ us \[request id: g\]")
        settled(server, rf"POST /v2/models/m/generate_stream 200 {answer + 8} bytes \d+ us \[request id: s\]")
        settled(server, rf"POST /v2/models/m/generate_stream\?x 200 {answer + 8} bytes \d+ us \[request id: q\]")
        settled(server, r"POST /v2/models/m/versions/1/generate 400 \d+ bytes")
        settled(server, r"POST /v2/models/m/generate_stream 400 \d+ bytes")


def test_access_lines_of_refused_grpc_calls_name_the_model(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={models}", "--log-access=true", "--log-info=false") as server:
        server.wait_until_it_answers()
        with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            tensor = grpcclient.InferInput("INPUT0", [3], "INT32")
            tensor.set_data_from_numpy(np.zeros(3, np.int32))
            for name, version, more in (
                ("nobody", "", {}), ("m", "7", {}), ("m", "", {}), ("m", "", {"compression_algorithm": "gzip"}),
            ):  # fmt: skip
                with pytest.raises(InferenceServerException):
                    client.infer(name, [tensor], model_version=version, request_id="r", **more)
            answered = threading.Semaphore(0)
            client.start_stream(lambda result, error: answered.release())
            for name in ("m", "nobody"):
                client.async_stream_infer(name, [tensor], request_id="s")
            assert answered.acquire(timeout=30)
            assert answered.acquire(timeout=30)
            client.stop_stream()
        for what in (
            r"ModelInfer nobody NOT_FOUND 0 bytes \d+ us \[request id: r\]", r"ModelInfer m/7 NOT_FOUND 0 bytes",
            r"ModelInfer m INVALID_ARGUMENT 0 bytes",
            r"/inference.GRPCInferenceService/ModelInfer m INVALID_ARGUMENT 0 bytes",
            r"ModelStreamInfer m message \d+ bytes \d+ us \[request id: s\]",
            r"ModelStreamInfer nobody message \d+ bytes",
        ):  # fmt: skip
            settled(server, what)


def test_log_settings_are_told_and_changed_over_both_protocols(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={models}", "--log-verbose=0") as server:
        server.wait_until_it_answers()
        with httpclient.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
            assert client.get_log_settings() == {
                "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
                "log_format": "default",
            }  # fmt: skip
            assert client.update_log_settings({"log_verbose_level": 1, "log_info": None})["log_verbose_level"] == 1
            for wrong, text in (
                ({"log_file": "x"}, "log file location can not be updated through network protocol"),
                ({"log_info": 1}, "Unable to parse 'log_info': attempt to access JSON non-boolean as boolean"),
                ({"log_format": "x"}, "invalid argument for --log_format, got: x"),
                ({"nope": 1}, "unknown log setting 'nope'"),
            ):
                with pytest.raises(InferenceServerException, match=re.escape(text)):
                    client.update_log_settings(wrong)
        with pytest.raises(InferenceServerException):
            ask(server, httpclient, "m", "INT32")
        settled(server, "infer of model 'm' failed with 400")
        with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert client.get_log_settings(as_json=True)["settings"]["log_verbose_level"] == {"uint32_param": 1}
            settings = {"log_verbose_level": 0, "log_format": "ISO8601", "log_warning": False}
            client.update_log_settings(settings)
            for wrong, text in (
                ({"log_file": "x"}, "log file location can not be updated"),
                ({"log_format": "x"}, "invalid argument for log_format, got: x"),
                ({"nope": True}, "unknown log setting 'nope'"),
            ):
                with pytest.raises(InferenceServerException, match=re.escape(text)):
                    client.update_log_settings(wrong)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/logging", timeout=30) as answer:
            found = json.loads(answer.read())
        assert (found["log_verbose_level"], found["log_format"], found["log_warning"]) == (0, "ISO8601", False)
