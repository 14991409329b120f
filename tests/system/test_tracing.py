"""Traces of a running server: what is written and sent of requests over both protocols, their lanes and models."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from server_process import poll
from started import CONFIG, Started, started

COMPUTE = ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"]
EXECUTION = ["REQUEST_START", "QUEUE_START", *COMPUTE]
ENDS = ["INFER_RESPONSE_COMPLETE", "REQUEST_END"]
ASKING = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            inner = pb_utils.InferenceRequest(
                model_name="m", requested_output_names=["OUTPUT0"], inputs=request.inputs(), trace=request.trace()
            )
            answer = inner.exec()
            context = request.trace().get_context() or "none"
            responses.append(pb_utils.InferenceResponse(answer.output_tensors(), parameters={"context": context}))
        return responses
"""

ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG)
    (root / "asks" / "1").mkdir(parents=True)
    (root / "asks" / "config.pbtxt").write_text(CONFIG.replace("identity", "python"))
    (root / "asks" / "1" / "model.py").write_text(ASKING)
    (root / "asks_isolated" / "1").mkdir(parents=True)
    (root / "asks_isolated" / "config.pbtxt").write_text(CONFIG.replace("identity", "python") + ISOLATED)
    (root / "asks_isolated" / "1" / "model.py").write_text(ASKING)
    return root


def infer(server: Started, module: Any, name: str = "m", request_id: str = "", **more: Any) -> Any:
    port = server.http_port if module is httpclient else server.grpc_port
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = module.InferInput("INPUT0", [2], "FP32")
        tensor.set_data_from_numpy(np.array([1.5, 2], np.float32))
        return client.infer(name, [tensor], request_id=request_id, **more)


def stream(server: Started) -> None:
    answered = threading.Event()
    with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answered.set())
        tensor = grpcclient.InferInput("INPUT0", [1], "FP32")
        tensor.set_data_from_numpy(np.zeros(1, np.float32))
        client.async_stream_infer("m", [tensor], request_id="stream")
        assert answered.wait(30)


def read(file: Path) -> dict[int, dict[str, Any]]:
    """The traces of a file by id: what it is of, `at` for each event, `tensors`."""
    found: dict[int, dict[str, Any]] = {}
    for row in json.loads(file.read_text()):
        trace = found.setdefault(row["id"], {"at": {}, "tensors": []})
        if "model_name" in row:
            trace |= {name: value for name, value in row.items() if name != "id"}
        for event in row.get("timestamps", ()):
            trace["at"][event["name"]] = event["ns"]
        if "tensor" in row:
            trace["tensors"].append((row["activity"], row["tensor"]["name"], row["tensor"]["data"]))
    return found


def traces(file: Path, number: int) -> dict[int, dict[str, Any]]:
    """Those of a file, once there are so many."""
    found: dict[int, dict[str, Any]] = {}

    def are_there() -> bool:
        # Whoever reads while a trace is written may see half of it.
        with suppress(FileNotFoundError, json.JSONDecodeError):
            found.update(read(file))
        return len(found) >= number

    poll(are_there, f"{number} traces", 30)
    assert len(found) == number
    return found


def of(found: dict[int, dict[str, Any]], request_id: str) -> dict[str, Any]:
    return next(trace for trace in found.values() if trace.get("request_id") == request_id)


def test_a_file_of_requests_over_both_protocols(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    options = ("--trace-config=level=TIMESTAMPS", "--trace-config=level=TENSORS", "--trace-config=rate=1")
    with started(tmp_path, f"--model-repository={models}", f"--trace-config=triton,file={file}", *options) as server:
        server.wait_until_it_answers()
        refused = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "INT8", "shape": [1], "data": [1]}]}).encode()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/models/m/infer", refused, 30)
        infer(server, httpclient, request_id="http")
        infer(server, httpclient, request_id="slow", request_compression_algorithm="gzip")
        infer(server, grpcclient, request_id="grpc")
        infer(server, grpcclient, request_id="packed", compression_algorithm="gzip")
        body = json.dumps({"id": "generate", "INPUT0": [1.5, 2]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/models/m/generate", body, 30) as answer:
            assert answer.status == 200
        stream(server)
        found = traces(file, 6)
        for request_id in ("http", "slow", "generate"):
            at = of(found, request_id)["at"]
            received = ["HTTP_RECV_START", "HTTP_RECV_END"]
            sent = ["HTTP_SEND_START"] if request_id == "generate" else ["HTTP_SEND_START", "HTTP_SEND_END"]
            assert sorted(at) == sorted([*received, *EXECUTION, *ENDS, *sent])
            assert [at[name] for name in received + EXECUTION] == sorted(at[name] for name in received + EXECUTION)
            assert at["COMPUTE_END"] <= at["INFER_RESPONSE_COMPLETE"] <= at["HTTP_SEND_START"]
        for request_id in ("grpc", "packed", "stream"):
            at = of(found, request_id)["at"]
            waited, sent = ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END"], ["GRPC_SEND_START", "GRPC_SEND_END"]
            assert sorted(at) == sorted([*waited, *EXECUTION, *ENDS, *sent])
            assert [at[name] for name in waited + EXECUTION] == sorted(at[name] for name in waited + EXECUTION)
        assert sorted(of(found, "http")["tensors"]) == [
            ("TENSOR_BACKEND_INPUT", "INPUT0", "1.5,2.0"), ("TENSOR_BACKEND_OUTPUT", "OUTPUT0", "1.5,2.0"),
            ("TENSOR_QUEUE_INPUT", "INPUT0", "1.5,2.0"),
        ]  # fmt: skip


def test_requests_of_a_model_are_children_and_settings_are_those_of_the_moment(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with started(tmp_path, f"--model-repository={models}", f"--trace-config=triton,file={file}") as server:
        server.wait_until_it_answers()
        infer(server, httpclient, "asks")
        with httpclient.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
            client.update_trace_settings("asks", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
        infer(server, httpclient, "asks", "first")  # of a model that is traced, which asks one that is not
        with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_count": "0"})
            settings = client.get_trace_settings("asks").settings
            assert settings["trace_rate"].value == ["1"] and settings["trace_count"].value == ["0"]
            client.update_trace_settings("asks", {"trace_count": "1"})
        infer(server, grpcclient, "asks", "second")
        infer(server, grpcclient, "asks", "beyond the count")
        # what a count ends is a file of its own
        for found, name in ((traces(file, 2), "first"), (traces(Path(f"{file}.0"), 2), "second")):
            (parent,) = [number for number, trace in found.items() if "parent_id" not in trace]
            (child,) = [trace for trace in found.values() if "parent_id" in trace]
            assert found[parent]["request_id"] == name
            assert child["model_name"] == "m" and child["parent_id"] == parent
            at = found[parent]["at"]
            assert at["COMPUTE_START"] <= child["at"]["REQUEST_START"] <= child["at"]["REQUEST_END"]
            assert child["at"]["INFER_RESPONSE_COMPLETE"] <= at["COMPUTE_END"]


def test_groups_with_counts_have_files_of_their_own_and_what_the_end_finds_is_in_the_one_file(
    models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "traces" / "t"
    file.parent.mkdir()
    options = (f"--trace-config=triton,file={file}", "--trace-config=level=TENSORS", "--trace-config=count=2")
    with started(tmp_path, f"--model-repository={models}", *options, "--trace-config=rate=1") as server:
        server.wait_until_it_answers()
        with httpclient.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
            client.update_trace_settings("asks", {"trace_count": "1"})
            infer(server, httpclient, "m", "first")
            infer(server, httpclient, "asks", "asks")
            assert of(traces(Path(f"{file}.0"), 2), "asks")
            infer(server, httpclient, "m", "second")
            infer(server, httpclient, "m", "beyond the count")
            assert [trace["request_id"] for trace in traces(Path(f"{file}.1"), 2).values()] == ["first", "second"]
            client.update_trace_settings(settings={"trace_count": "2"})
            infer(server, httpclient, "m", "of an unfinished count")
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert [trace["request_id"] for trace in read(file).values()] == ["of an unfinished count"]
    assert sorted(path.name for path in file.parent.iterdir()) == ["t", "t.0", "t.1"]


@pytest.mark.parametrize("name", ["asks", "asks_isolated"])
def test_a_rate_counts_what_clients_ask_for(models: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "trace.json"
    options = (f"--trace-config=triton,file={file}", "--trace-config=level=TIMESTAMPS", "--trace-config=rate=2")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        for number in range(4):
            infer(server, httpclient, name, f"{number}")
        found = traces(file, 4)
        outer = [trace.get("request_id") for trace in found.values() if "parent_id" not in trace]
        assert outer == ["1", "3"]


class Collector:
    """Takes spans as OTLP over HTTP has them."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                import gzip

                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append({a.key: a.value.string_value for a in group.resource.attributes})
                    collector.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def named(self, name: str) -> Any:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def test_spans_follow_the_context_of_the_client_over_both_protocols(
    models: Path, tmp_path: Path, collector: Collector
) -> None:
    options = (
        "--trace-config=mode=opentelemetry", "--trace-config=level=TIMESTAMPS", "--trace-config=rate=1000",
        f"--trace-config=opentelemetry,url=127.0.0.1:{collector.server.server_port}/v1/traces",
        "--trace-config=opentelemetry,resource=service.name=mine",
        "--trace-config=opentelemetry,bsp_schedule_delay=100",
    )  # fmt: skip
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        sampled, not_sampled = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
        for module in (httpclient, grpcclient):
            answer = infer(server, module, "asks", "a", headers={"traceparent": sampled}).get_response()
            parameters = answer["parameters"] if module is httpclient else answer.parameters
            context = parameters["context"] if module is httpclient else parameters["context"].string_param
            assert TRACE in json.loads(context)["traceparent"]
            infer(server, module, "m", "b", headers={"traceparent": not_sampled})
            infer(server, module, "m", "c", headers={"traceparent": "nonsense"})
        infer(server, httpclient, "m", "d", headers={"traceparent": sampled}, request_compression_algorithm="gzip")
        poll(lambda: len(collector.spans) >= 2 * 5 + 3, "spans", 30)
        assert len(collector.spans) == 2 * 5 + 3
        assert collector.resources[0]["service.name"] == "mine"
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        by_id = {span.span_id: span for span in collector.spans}
        calls = collector.named("InferRequest")
        assert len(calls) == 3 and {span.parent_span_id.hex() for span in calls} == {PARENT}
        asks = collector.named("asks")
        assert [by_id[span.parent_span_id].name for span in asks] == ["InferRequest"] * 2
        parents = sorted(by_id[span.parent_span_id].name for span in collector.named("m"))
        assert parents == ["InferRequest", "asks", "asks"]
        assert {by_id[span.parent_span_id].name for span in collector.named("compute")} == {"m", "asks"}
        attributes = {a.key: a.value for a in asks[0].attributes}
        assert attributes["triton.model_name"].string_value == "asks"
        assert attributes["triton.request_id"].string_value == "a"
        assert [event.name for event in asks[0].events] == ["REQUEST_START", "QUEUE_START", *ENDS]
        for span in collector.spans:
            assert span.start_time_unix_nano <= span.end_time_unix_nano
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/trace/setting", timeout=30) as answer:
            settings = json.load(answer)
        assert settings["trace_mode"] == "opentelemetry" and "trace_file" not in settings
        assert settings["resource"] == "service.name=mine" and settings["bsp_schedule_delay"] == "100"
        for headers, expected in (({"traceparent": sampled}, True), ({"traceparent": not_sampled}, False)):
            answer = infer(server, httpclient, "asks_isolated", "e", headers=headers).get_response()
            assert (TRACE in answer["parameters"]["context"]) == expected


def test_spans_are_sent_before_the_server_ends(models: Path, tmp_path: Path, collector: Collector) -> None:
    options = (
        "--trace-config=mode=opentelemetry", "--trace-config=level=TIMESTAMPS", "--trace-config=rate=2",
        f"--trace-config=opentelemetry,url=127.0.0.1:{collector.server.server_port}/v1/traces",
    )  # fmt: skip
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers()
        for _ in range(4):
            infer(server, grpcclient)
        server.process.terminate()
        assert server.end() == 0
    assert len(collector.named("InferRequest")) == 2
