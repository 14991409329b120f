"""The load in the answers to generate calls, of the samples that models have made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core_harness import run, running, write_model
from http_harness import Client, message

from triton_async.frontends.http import server as http
from triton_async.frontends.http.load_report import ANSWERS, ASKS, FAMILY, load_report


def samples(more: str = "", **values: str) -> str:
    head = f"# HELP {FAMILY} blocks\n# TYPE {FAMILY} gauge\n"
    return head + "".join(
        f'{FAMILY}{{{more}kv_cache_block_type="{kind}",model="m"}} {value}\n' for kind, value in values.items()
    )


@pytest.mark.parametrize(
    "more",
    [
        "", 'a="b",', 'a=",kv_cache_block_type=\\"used\\"",', 'x_kv_cache_block_type="used",',
        'a="{kv_cache_block_type=",', 'a=",kv_cache_block_type=",',
    ],
)  # fmt: skip
def test_it_is_told_in_both_forms(more: str) -> None:
    lines = samples(more, tokens_per="64", used="250", free="750", max="1e3")
    shown = load_report("json", lines)
    assert shown is not None and shown.startswith("JSON ")
    assert json.loads(shown[5:]) == {"named_metrics": {"kv_cache_utilization": 0.25, "max_token_capacity": 64000}}
    assert load_report("text", lines) == (
        "TEXT named_metrics.kv_cache_utilization=0.250000, named_metrics.max_token_capacity=64000"
    )


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "values",
    [
        {}, {"used": "1", "max": "2"}, {"tokens_per": "1e308", "used": "1", "max": "1e308"},
        {"tokens_per": "0", "used": "1e308", "max": "1e-308"}, {"tokens_per": "NaN", "used": "1", "max": "2"},
        {"tokens_per": "1", "used": "+Inf", "max": "+Inf"}, {"tokens_per": "1", "used": "NaN", "max": "2"},
        {"tokens_per": "1", "used": "-1", "max": "2"}, {"tokens_per": "x", "used": "1", "max": "2"},
    ],
)  # fmt: skip
def test_there_is_none_where_a_value_is_missing_or_no_number(form: str, values: dict[str, str]) -> None:
    assert load_report(form, samples(**values)) is None


def test_a_cache_without_blocks_is_not_used() -> None:
    shown = load_report("text", samples(tokens_per="64", used="0", max="0"))
    assert shown == "TEXT named_metrics.kv_cache_utilization=0.000000, named_metrics.max_token_capacity=0"


@pytest.mark.parametrize("call", ["generate", "generate_stream"])
def test_only_what_is_needed_is_asked_for_and_whatever_fails_there_is_an_answer(tmp_path: Path, call: str) -> None:
    write_model(tmp_path, "m")
    asked: list[str] = []
    shown = {"tokens_per": "64", "used": "250", "max": "1e3"}
    failing = False

    def made(name: str) -> list[Any]:
        asked.append(name)
        if failing:
            raise OSError("no metrics")
        return [(FAMILY, "gauge", "blocks", [({"kv_cache_block_type": "used"}, float(shown["used"]))])]

    def scraped() -> list[Any]:
        asked.append("page")
        return []

    def of_libraries() -> str:
        lines = samples(**{kind: shown[kind] for kind in ("tokens_per", "max")})
        return lines + f'{FAMILY}_more{{kv_cache_block_type="used"}} 1\n'

    more = {"made_families": made, "metric_sources": (scraped,), "metrics_text": of_libraries}

    async def test() -> None:
        nonlocal failing
        async with running(tmp_path, **more) as server:
            endpoint = await http.start(server, address="127.0.0.1", port=0, max_input_nbytes=1 << 20)

            async def load(*form: str) -> str | None:
                fields = [("Connection", "close"), *((ASKS, each) for each in form)]
                client = await Client.connect(endpoint.port)
                await client.send(message("POST", f"/v2/models/m/{call}", b'{"INPUT0":[1,2]}', fields))
                answer = await client.receive(head_only=True)
                assert answer.status == 200 and b"[1.0,2.0]" in await client.reader.read()
                client.close()
                return answer.headers.get(ANSWERS)

            assert await load() is None and await load("http") is None and await load("") is None
            assert asked == []
            used = "kv_cache_utilization=0.250000"
            assert await load("text") == f"TEXT named_metrics.{used}, named_metrics.max_token_capacity=64000"
            assert asked == [FAMILY]
            for beyond in ("1e308", "NaN"):
                shown["max"] = shown["tokens_per"] = beyond
                assert await load("json") is None
            failing = True
            assert await load("json") is None
            await endpoint.close(5)

    run(test)
