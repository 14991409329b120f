"""Histograms and summaries of models on the metrics page, as Prometheus' own parser reads them."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from core_harness import request, run, running, write_model
from ensemble_stage import EnsembleStage
from gated_backend import GatedBackend
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from triton_async.config.metrics_config import PHASE_HISTOGRAMS
from triton_async.core.cache import LocalCache
from triton_async.core.latencies import Latencies
from triton_async.core.phases import CACHE_SUMMARIES, FIRST_RESPONSE, SUMMARIES
from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError
from triton_async.infer.tensor import from_numpy

FIRST = "nv_inference_first_response_histogram_ms"
HISTOGRAMS = "--metrics-config=histogram_latencies=true"
PHASES = "--metrics-config=phase_histograms=true"
SUMMARY = "--metrics-config=summary_latencies=true"
DECOUPLED = "model_transaction_policy { decoupled: true }"
DURATIONS = ("request", "queue", "compute_input", "compute_infer", "compute_output")


async def read(server: InferenceServer) -> dict[str, Metric]:
    """Family -> its samples."""
    text = b"".join(await server.metrics_parts()).decode()
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    assert all(family.type != "unknown" and family.documentation for family in found)
    return {family.name: family for family in found}


def value(family: Metric, end: str, **labels: str) -> float:
    """The one sample whose name has that end, with these labels among its own."""
    found = [
        sample.value for sample in family.samples
        if sample.name == family.name + end and labels.items() <= sample.labels.items()
    ]  # fmt: skip
    assert len(found) == 1
    return float(found[0])


def distributions(families: dict[str, Metric]) -> set[str]:
    return {name for name, family in families.items() if family.type in {"histogram", "summary"}}


@pytest.mark.parametrize(("options", "expected"), [
    ((), set()),
    ((HISTOGRAMS,), {FIRST}),
    ((PHASES,), set(PHASE_HISTOGRAMS)),
    ((SUMMARY,), set(SUMMARIES)),
    ((SUMMARY, HISTOGRAMS, PHASES), {FIRST, *PHASE_HISTOGRAMS, *SUMMARIES}),
])  # fmt: skip
def test_there_are_those_that_are_asked_for(tmp_path: Path, options: tuple[str, ...], expected: set[str]) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "streams", more=DECOUPLED)

    async def test() -> None:
        async with running(tmp_path, *options) as server:
            await server.infer(request("m", [1]))
            families = await read(server)
            assert distributions(families) == expected
            for name in expected:  # as Triton's, the first of several responses is one of decoupled models alone
                models = {one.labels["model"] for one in families[name].samples}
                assert models == ({"streams"} if name == FIRST else {"m", "streams"})

    run(test)


def test_they_count_what_the_counters_count(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4, delay_ms=3)

    async def test() -> None:
        quantiles = "--metrics-config=summary_quantiles=0.5:0,1:0"
        async with running(tmp_path, HISTOGRAMS, PHASES, SUMMARY, quantiles) as server:
            await asyncio.gather(*(server.infer(request("m", [[1], [2]])) for _ in range(10)))
            with pytest.raises(ServerError):
                await server.infer(request("m", [[1]] * 9))
            families = await read(server)
            labels = {"model": "m", "version": "1"}
            for key, histogram in zip(DURATIONS, PHASE_HISTOGRAMS, strict=True):
                spent = value(families[f"nv_inference_{key}_duration_us"], "_total", **labels)
                for name in (histogram, f"nv_inference_{key}_summary_us"):
                    assert value(families[name], "_count", **labels) == 10
                    assert math.floor(value(families[name], "_sum", **labels)) == spent
                assert value(families[histogram], "_bucket", le="+Inf") == 10
            infer = families["triton_async_compute_infer_duration_us"]
            assert [value(infer, "_bucket", le=le) for le in ("2500", "10000000")] == [0, 10]
            median = value(families["nv_inference_compute_infer_summary_us"], "", quantile="0.5")
            assert 3000 * (1 - 1 / 64) <= median <= value(families["nv_inference_request_summary_us"], "", quantile="1")

    run(test)


def test_they_go_on_when_a_model_is_loaded_anew_while_it_serves(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "m")

    async def test() -> None:
        options = ("--model-control-mode=explicit", "--load-model=m")
        async with running(tmp_path, HISTOGRAMS, PHASES, SUMMARY, *options) as server:
            for turn in range(1, 4):
                await server.infer(request("m", [1]))
                (directory / "1" / "weights").write_text(str(turn))
                await server.load_model("m")
                families = await read(server)
                labels = {"model": "m", "version": "1"}
                for key, histogram in zip(DURATIONS, PHASE_HISTOGRAMS, strict=True):
                    summary = f"nv_inference_{key}_summary_us"
                    assert [value(families[name], "_count", **labels) for name in (histogram, summary)] == [turn] * 2
                    sums = [value(families[name], "_sum", **labels) for name in (histogram, summary)]
                    assert sums[0] == sums[1] > 0 or key == "compute_output"
                    assert value(families[histogram], "_bucket", le="+Inf") == turn

    run(test)


def test_a_model_has_the_buckets_of_its_config_and_others_those_of_the_option(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = "".join(
        f'metric_control {{ metric_identifier {{ family: "{family}" }} histogram_options {{ buckets: [ {bounds} ] }} }}'
        for family, bounds in ((FIRST, "0.5, 20"), (PHASE_HISTOGRAMS[0], "7, inf"), ("nope", "1"))
    )
    write_model(tmp_path, "own", more=f"model_metrics {{ {own} }} {DECOUPLED}")
    write_model(tmp_path, "other", more=DECOUPLED)

    async def test() -> None:
        async with running(tmp_path, HISTOGRAMS, PHASES, "--metrics-config=phase_buckets=1,2.5") as server:
            families = await read(server)

            def bounds(family: str, model: str) -> list[str]:
                samples = families[family].samples
                return [one.labels["le"] for one in samples if "le" in one.labels and one.labels["model"] == model]

            assert bounds(FIRST, "own") == ["0.5", "20", "+Inf"]
            assert bounds(FIRST, "other") == ["100", "500", "2000", "5000", "+Inf"]
            assert bounds(PHASE_HISTOGRAMS[0], "own") == ["7", "+Inf"]
            assert bounds(PHASE_HISTOGRAMS[0], "other") == ["1", "2.5", "+Inf"]
            assert bounds(PHASE_HISTOGRAMS[1], "own") == ["1", "2.5", "+Inf"]

    run(test)
    assert "model 'own' has buckets for the metric family 'nope', which is no histogram of models" in caplog.text


def test_answers_from_the_cache_are_requests_without_computation(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more="response_cache { enable: true }")
    write_model(tmp_path, "other")

    async def test() -> None:
        async with running(tmp_path, SUMMARY, PHASES, HISTOGRAMS, cache=LocalCache(100_000)) as server:
            for _ in range(3):
                await server.infer(request("m", [1]))
            families = await read(server)

            def count(family: str) -> float:
                return value(families[family], "_count", model="m")

            assert count("nv_inference_request_summary_us") == count("nv_inference_queue_summary_us") == 3
            assert count("triton_async_request_duration_us") == 3
            assert count("nv_inference_compute_infer_summary_us") == 1
            assert count("triton_async_compute_infer_duration_us") == 1
            assert (count("nv_cache_hit_summary_per_model"), count("nv_cache_miss_summary_per_model")) == (2, 1)
            assert distributions(families) == {FIRST, *PHASE_HISTOGRAMS, *SUMMARIES, *CACHE_SUMMARIES}
            for family in CACHE_SUMMARIES:
                assert {sample.labels["model"] for sample in families[family].samples} == {"m"}

    run(test)


def test_the_cache_as_a_whole_is_told(tmp_path: Path) -> None:
    write_model(tmp_path, "m", more="response_cache { enable: true }")
    cache = LocalCache(2_000)

    async def test() -> None:
        async with running(tmp_path, "--model-control-mode=explicit", "--load-model=m", cache=cache) as server:
            for values in ([1], [1], [2], [3], [4], [1]):
                await server.infer(request("m", values))
            families = await read(server)

            def gauge(name: str) -> float:
                assert families[f"nv_cache_{name}"].type == "gauge"
                return value(families[f"nv_cache_{name}"], "")

            hits, misses = gauge("num_hits"), gauge("num_misses")
            assert (hits + misses, gauge("num_lookups")) == (6, 6)
            assert hits == value(families["nv_cache_num_hits_per_model"], "_total")
            assert gauge("num_entries") == len(cache)
            assert gauge("num_evictions") == misses - len(cache) > 0
            assert gauge("util") == cache.nbytes / 2_000
            assert gauge("lookup_duration") >= 0
            assert gauge("insertion_duration") >= 0
            # They are the server's, not the model's.
            await server.unload_model("m")
            assert value((await read(server))["nv_cache_num_lookups"], "") == 6
            assert await no_metrics(tmp_path)

    run(test)


async def no_metrics(tmp_path: Path) -> bool:
    """Whether a server without a cache says nothing of one."""
    async with running(tmp_path) as server:
        return not any(name.startswith("nv_cache") for name in await read(server))


def test_quantiles_of_a_model_that_nobody_asks_are_not_numbers(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, SUMMARY, "--metrics-config=summary_quantiles=0.25:0.1,1:0") as server:
            family = (await read(server))["nv_inference_request_summary_us"]
            shown = {one.labels["quantile"]: one.value for one in family.samples if "quantile" in one.labels}
            assert list(shown) == ["0.25", "1"]
            assert all(math.isnan(quantile) for quantile in shown.values())
            assert value(family, "_count") == value(family, "_sum") == 0

    run(test)


@pytest.mark.parametrize("tag", ['quote " in it', "back\\\\slash", "new\\nline", "é\u2028", "{le=\\\"1\\\"} 7", ""])
def test_labels_come_through_as_they_are(tmp_path: Path, tag: str) -> None:
    escaped = tag if "le=" in tag else tag.replace('"', '\\"')
    write_model(tmp_path, "m", more=f'metric_tags {{ key: "team" value: "{escaped}" }}')
    meant = escaped.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")

    async def test() -> None:
        async with running(tmp_path, PHASES, SUMMARY) as server:
            for family in (await read(server)).values():
                assert all(one.labels["_team"] == meant for one in family.samples if "model" in one.labels)

    run(test)


def test_of_a_stream_of_responses_the_first_one_counts_when_it_comes() -> None:
    stage = EnsembleStage()
    stage.add_model("dec", decoupled=True)
    stage.add_model("one", batching=False)
    stage.add_ensemble("e", ["EX"], ["EY"], [("dec", {"X": "EX"}, {"Y": "t"}), ("one", {"X": "t"}, {"Y": "EY"})])
    bounds: list[list[int] | None] = [None] * 8
    bounds[FIRST_RESPONSE] = []
    models = {name: stage.serving()[0][name] for name in ("dec", "e")}
    for model in models.values():
        model.statistics.latencies = Latencies(bounds, [False] * 8)

    def counts() -> dict[str, int]:
        return {name: model.statistics.latencies.histogram(FIRST_RESPONSE)[0][-1] for name, model in models.items()}

    stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    assert counts() == {"dec": 0, "e": 0}
    for _ in range(2):
        execution.factories[0].send([from_numpy("Y", np.float32([[1]]))], final=False)
        stage.turn()
        stage.answer("one")
        assert counts() == {"dec": 1, "e": 1}
    execution.factories[0].send([], final=True)
    stage.end(execution)
    assert counts() == {"dec": 1, "e": 1}
    # One that ends without a response has no first one.
    stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    execution.factories[0].send([], final=True)
    stage.end(execution)
    assert counts()["dec"] == 1
    models.clear()
    stage.close()


def test_failures_are_in_no_distribution(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    backend = GatedBackend()
    backend.run_gate.shut = True

    async def test() -> None:
        async with running(tmp_path, PHASES, HISTOGRAMS, SUMMARY, backends=backend) as server:
            task = asyncio.ensure_future(server.infer(request("m", np.zeros(1, np.float32))))
            event = await backend.run_gate.arrival()
            backend.batches[-1].clear()
            event.set()
            with pytest.raises(ServerError):
                await task
            families = await read(server)
            assert value(families["nv_inference_request_failure"], "_total", reason="BACKEND") == 1
            assert all(value(families[name], "_count") == 0 for name in distributions(families) - {FIRST})

    run(test)
