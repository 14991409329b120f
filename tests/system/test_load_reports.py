"""Generate calls that ask how loaded the replica is, of a model that says so in its metrics."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from email.message import Message

import pytest
from started import Started, started

CONFIG = """
    backend: "python"
    input { name: "text" data_type: TYPE_STRING dims: 1 }
    output { name: "text" data_type: TYPE_STRING dims: 1 }
"""
PLAIN = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("text", request.inputs()[0].as_numpy())])
            for request in requests
        ]
"""
ENGINE = PLAIN + """
    def initialize(self, args):
        family = pb_utils.MetricFamily(
            name="nv_trt_llm_kv_cache_block_metrics", description="blocks", kind=pb_utils.MetricFamily.GAUGE)
        self.metrics = [family]
        for kind, value in {"tokens_per": 64, "used": 250, "free": 750, "max": 1000}.items():
            metric = family.Metric(labels={"kv_cache_block_type": kind, "model": "m", "version": "1"})
            metric.set(value)
            self.metrics.append(metric)
"""


@pytest.fixture(scope="module", params=[1, 2])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("reports")
    for name, code in (("engine", ENGINE), ("plain", PLAIN)):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(CONFIG)
        (folder / "models" / name / "1" / "model.py").write_text(code)
    options = (f"--model-repository={folder / 'models'}", f"--frontend-processes={request.param}")
    with started(folder, *options, "--model-control-mode=explicit", "--load-model=plain") as running:
        running.wait_until_it_answers()
        yield running


def headers(loaded: Started, call: str, form: str | None) -> Message:
    asked = {} if form is None else {"endpoint-load-metrics-format": form}
    url = f"http://127.0.0.1:{loaded.http_port}/v2/models/plain/{call}"
    with urllib.request.urlopen(urllib.request.Request(url, b'{"text":"x"}', asked), timeout=30) as answer:
        assert b'"text":"x"' in answer.read()
        found: Message = answer.headers
        return found


def report(loaded: Started, call: str, form: str) -> str:
    """The load. No answer waits long for it where another process is to tell it."""
    deadline = time.monotonic() + 30
    while (found := headers(loaded, call, form)["endpoint-load-metrics"]) is None:
        assert time.monotonic() < deadline
    return str(found)


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_generate_calls_tell_the_load_to_who_asks(loaded: Started, call: str) -> None:
    url = f"http://127.0.0.1:{loaded.http_port}/v2/repository/models/engine"
    assert headers(loaded, call, "json")["endpoint-load-metrics"] is None
    urllib.request.urlopen(urllib.request.Request(f"{url}/load", b"{}"), timeout=30).close()
    as_json = report(loaded, call, "json")
    assert as_json.startswith("JSON ")
    assert json.loads(as_json.removeprefix("JSON ")) == {
        "named_metrics": {"kv_cache_utilization": 0.25, "max_token_capacity": 64000}
    }
    assert report(loaded, call, "text") == (
        "TEXT named_metrics.kv_cache_utilization=0.250000, named_metrics.max_token_capacity=64000"
    )
    assert headers(loaded, call, None)["endpoint-load-metrics"] is None
    assert headers(loaded, call, "http")["endpoint-load-metrics"] is None
    urllib.request.urlopen(urllib.request.Request(f"{url}/unload", b"{}"), timeout=30).close()
