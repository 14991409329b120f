"""The metrics page of both servers after the same requests: the same families, types, texts, labels and counts."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from .servers import ours_command, ours_env, running, triton_command
from .setup_oracle import prepare

pytestmark = pytest.mark.conformance

MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", one)]) for one in inputs]
"""
CONFIG = """
    backend: "python"
    input { name: "X" data_type: TYPE_FP32 dims: -1 }
    output { name: "Y" data_type: TYPE_FP32 dims: -1 }
    metric_tags { key: "team" value: "a \\"b\\" \\\\c" }
"""
BODY = b'{"inputs": [{"name": "X", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}'
OPTIONS = (
    "--metrics-config=summary_latencies=true", "--metrics-config=summary_quantiles=0.5:0.05,0.99:0.001",
    "--cache-config=local,size=1000000", "--allow-gpu-metrics=false",
)  # fmt: skip
# Counts that do not depend on time.
COUNTED = (
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_pending_request_count", "nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model",
)  # fmt: skip

Pages = dict[str, dict[str, Metric]]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("metrics")
    for name, more in (("plain", ""), ("cached", "response_cache { enable: true }")):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "1" / "model.py").write_text(MODEL)
        (folder / "models" / name / "config.pbtxt").write_text(CONFIG + more)
    oracle, models = prepare(), folder / "models"
    caches = f"--cache-directory={oracle.backends.parent / 'caches'}"
    found: Pages = {}
    for name, command, environment in (
        ("triton", triton_command(oracle, models, caches, *OPTIONS), oracle.server_env()),
        ("ours", ours_command(models, *OPTIONS), ours_env()),
    ):
        with running(name, command, environment, folder / f"{name}.log") as server:
            for model in ("plain", "cached") * 3:
                url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/infer"
                urllib.request.urlopen(url, BODY, timeout=30).read()
            with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as answer:
                assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
                page = answer.read().decode()
        found[name] = {family.name: family for family in text_string_to_metric_families(page)}
    yield found


def series(family: Metric) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples}


def test_every_family_of_triton_is_ours_with_its_type_and_text(pages: Pages) -> None:
    for name, theirs in pages["triton"].items():
        ours = pages["ours"][name]
        assert (ours.type, ours.documentation) == (theirs.type, theirs.documentation)


def test_every_series_of_triton_is_ours(pages: Pages) -> None:
    for name, theirs in pages["triton"].items():
        more = series(pages["ours"][name]) - series(theirs)
        assert series(theirs) <= series(pages["ours"][name])
        # Triton has no request summary of a model with a cache.
        assert not more or name == "nv_inference_request_summary_us"
        assert all(("model", "cached") in labels for _, labels in more)


@pytest.mark.parametrize("family", COUNTED)
def test_counts_are_the_same(pages: Pages, family: str) -> None:
    counts = [{(s.name, tuple(sorted(s.labels.items()))): s.value for s in page[family].samples}
              for page in (pages["triton"], pages["ours"])]  # fmt: skip
    assert counts[0] == counts[1]
