"""A real Prometheus scrapes two replicas under load, and finds data for all that deploy/ asks it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
import yaml
from server_process import ServerProcess, free_ports, poll, running_server
from started import CONFIG

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OPTIONS = (
    "--metrics-config=phase_histograms=true", "--metrics-config=summary_latencies=true",
    "--metrics-config=histogram_latencies=true", "--cache-config=local,size=1000000",
)  # fmt: skip
# Grafana's variables, as it would fill them in.
VARIABLES = {"$__rate_interval": "5s", "$job": ".*", "$instance": ".*", "$model": ".*"}
SCRAPES = 8
# Requests in a row that are the same.
SAME = 4

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus (Debian's package) here"),
    pytest.mark.skipif(not DEPLOY.is_dir(), reason="only the package is here"),
]


@dataclass
class Scraped:
    """Prometheus with what it has of two replicas, each of which answered `sent` requests to each model."""

    url: str
    replicas: list[ServerProcess]
    sent: int

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            body = json.load(answer)
        assert body["status"] == "success"
        return body["data"]

    def query(self, text: str) -> list[float]:
        """Values of the series that answer it."""
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        return [float(series["value"][1]) for series in self.get("/api/v1/query", query=text)["result"]]


def ask(url: str, count: int) -> None:
    """Asks both models so often, over a few seconds."""
    with tritonclient.http.InferenceServerClient(url) as client:
        given = tritonclient.http.InferInput("INPUT0", [4], "FP32")
        for index in range(count):
            given.set_data_from_numpy(np.float32([index // SAME] * 4))
            for model in ("plain", "cached"):
                client.infer(model, [given])
            time.sleep(0.02)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("prometheus")
    for name, more in (("plain", ""), ("cached", "response_cache { enable: true }")):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(CONFIG + more)
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(running_server([folder / "models"], folder, OPTIONS)) for _ in range(2)
        ]
        config = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yaml").read_text())
        (job,) = config["scrape_configs"]
        job["static_configs"][0]["targets"] = [replica.metrics_url for replica in replicas]
        job["scrape_interval"] = "1s"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (port,) = free_ports(1)
        with (folder / "prometheus.log").open("wb") as output:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{port}"],
                cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        found = Scraped(f"http://127.0.0.1:{port}", replicas, 400)
        clients = [threading.Thread(target=ask, args=(replica.http_url, found.sent)) for replica in replicas]
        for client in clients:
            client.start()

        def scraped_often() -> bool:
            try:
                counts = found.query(f"count_over_time(nv_inference_count{{model='plain'}}[{10 * SCRAPES}s])")
            except OSError:
                return False
            return len(counts) == 2 and min(counts) >= SCRAPES

        poll(scraped_often, "scrapes of both replicas", 120)
        yield found
        for client in clients:
            client.join()


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return found


def queries() -> dict[str, list[str]]:
    """Title of a panel -> its queries."""
    return {
        f"{panel['title']} {panel['id']}": [target["expr"] for target in panel["targets"]]
        for panel in dashboard()["panels"] if panel["type"] != "row"
    }  # fmt: skip


def test_every_query_of_the_dashboard_has_data(scraped: Scraped) -> None:
    with_gpu = any(name.startswith("nv_gpu_") for name in scraped.replicas[0].metrics())
    empty = []
    for title, texts in queries().items():
        for text in texts:
            values = scraped.query(text)
            asked = set(re.findall(r"\b(?:nv|triton_async)_\w+", text))
            if not with_gpu and all(name.startswith("nv_gpu_") for name in asked):
                continue
            if not values or not all(math.isfinite(value) for value in values):
                empty.append((title, text, values))
    assert not empty


def test_the_variables_of_the_dashboard_have_values(scraped: Scraped) -> None:
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] != "query":
            continue
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert match is not None
        series = match[1].replace("$job", ".*")
        assert scraped.get(f"/api/v1/label/{match[2]}/values", **{"match[]": series}), variable["name"]


def test_what_replicas_are_scaled_by_has_data(scraped: Scraped) -> None:
    scaled = yaml.safe_load((DEPLOY / "kubernetes" / "keda" / "scaled-object.yaml").read_text())
    for trigger in scaled["spec"]["triggers"]:
        (value,) = scraped.query(trigger["metadata"]["query"])
        assert math.isfinite(value)
    rules = yaml.safe_load((DEPLOY / "kubernetes" / "hpa" / "prometheus-adapter.yaml").read_text())
    (rule,) = rules["rules"]
    family = rule["seriesQuery"].partition("{")[0]
    text = rule["metricsQuery"].replace("<<.Series>>", family).replace("<<.LabelMatchers>>", "").replace(
        "<<.GroupBy>>", "instance"
    )  # fmt: skip
    assert len(scraped.query(text)) == 2


def test_histograms_of_replicas_add_up(scraped: Scraped) -> None:
    def counted() -> bool:
        family = "triton_async_request_duration_us"
        answered = scraped.query(f"sum by (model) ({family}_count)")
        whole = scraped.query(f"sum by (model) ({family}_bucket{{le='+Inf'}})")
        return answered == whole == [2 * scraped.sent] * 2

    poll(counted, "all requests in the histograms")
    executed = scraped.query("sum by (model) (triton_async_compute_infer_duration_us_count)")
    assert sorted(executed) == [2 * scraped.sent // SAME, 2 * scraped.sent]
    (p99,) = scraped.query(
        "histogram_quantile(0.99, sum by (le) (triton_async_request_duration_us_bucket{model='plain'}))"
    )
    assert 0 < p99 < 10e6


def test_prometheus_has_nothing_to_say_against_the_page(scraped: Scraped) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool here")
    page = scraped.replicas[0].metrics_text()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], check=False, input=page, text=True, capture_output=True
    )
    # Triton's names are not to promtool's taste; what it cannot read is another matter.
    problems = [
        line for line in (checked.stdout + checked.stderr).splitlines()
        if not line.startswith(("nv_", "triton_async_")) and line.strip()
    ]  # fmt: skip
    assert not problems, problems
    assert scraped.query("min(scrape_samples_scraped)")[0] > 100
    assert scraped.query("min(up)") == [1]
