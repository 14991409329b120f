"""The options of tracing, and the values of its settings."""

from __future__ import annotations

import re

import pytest

from triton_async.config.settings import UsageError, parse
from triton_async.config.trace_config import TraceConfig, parse_levels, parse_number
from triton_async.errors import InvalidArg


def config(*options: str) -> TraceConfig:
    return parse(["--model-repository=/m", *options]).trace


def test_all_settings_of_the_mode_triton() -> None:
    found = config(
        "--trace-config=triton,file=/tmp/t", "--trace-config", "level=TIMESTAMPS", "--trace-config=level=TENSORS",
        "--trace-config=rate=5", "--trace-config=count=7", "--trace-config=triton,log-frequency=3",
    )  # fmt: skip
    assert (found.mode, found.levels, found.rate, found.count) == ("triton", 3, 5, 7)
    assert (found.file, found.log_frequency) == ("/tmp/t", 3)


def test_all_settings_of_the_mode_opentelemetry() -> None:
    found = config(
        "--trace-config=mode=opentelemetry", "--trace-config=opentelemetry,url=localhost:9/v1/traces",
        "--trace-config=opentelemetry,resource=service.name=x=y", "--trace-config=opentelemetry,resource=a=b",
        "--trace-config=opentelemetry,bsp_schedule_delay=50",
    )  # fmt: skip
    assert (found.mode, found.url, found.endpoint) == (
        "opentelemetry", "localhost:9/v1/traces", "http://localhost:9/v1/traces",
    )  # fmt: skip
    assert dict(found.resource) == {"service.name": "x=y", "a": "b"} and found.batching == {"bsp_schedule_delay": 50}


def test_the_deprecated_options_mean_the_same_and_say_so() -> None:
    settings = parse([
        "--model-repository=/m", "--trace-file=f", "--trace-level=MAX", "--trace-rate=2", "--trace-count=3",
        "--trace-log-frequency=4",
    ])  # fmt: skip
    assert settings.trace == TraceConfig(levels=1, rate=2, count=3, log_frequency=4, file="f")
    assert len([line for line in settings.warnings if "is deprecated: use --trace-config" in line]) == 5


def test_a_level_without_a_file_starts_and_says_that_nothing_is_traced() -> None:
    settings = parse(["--model-repository=/m", "--trace-config=level=TIMESTAMPS"])
    assert any("trace file name is not given" in line for line in settings.warnings)


def test_tensors_are_no_part_of_spans() -> None:
    settings = parse([
        "--model-repository=/m", "--trace-config=mode=opentelemetry", "--trace-config=level=TENSORS",
        "--trace-config=level=TIMESTAMPS",
    ])  # fmt: skip
    assert settings.trace.levels == 1 and any("TENSORS has no effect" in line for line in settings.warnings)


@pytest.mark.parametrize(("option", "problem"), [
    ("level", "format is"), ("level=", "format is"), ("=x", "format is"), (",file=x", "format is"),
    ("level=LOUD", "unknown trace level 'LOUD'"),
    ("rate=x", "Unable to parse 'trace_rate', got: x"), ("count=-2", "Expecting value >= -1"),
    ("file=x", "unknown trace setting 'file'"), ("triton,url=x", "unknown trace setting 'url' of mode triton"),
    ("zipkin,url=x", "unknown trace mode 'zipkin'"), ("mode=zipkin", "unknown trace mode 'zipkin'"),
    ("opentelemetry,resource=x", "resource=<name>=<value>"),
    ("opentelemetry,bsp_max_queue_size=0", "must be a positive number"),
])  # fmt: skip
def test_what_is_wrong_with_an_option_is_said(option: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        config(f"--trace-config={option}")


@pytest.mark.parametrize(("names", "levels"), [
    (["OFF"], 0), (["TIMESTAMPS"], 1), (["TENSORS"], 2), (["TIMESTAMPS", "TENSORS"], 3),
])  # fmt: skip
def test_levels(names: list[str], levels: int) -> None:
    assert parse_levels(names) == levels


@pytest.mark.parametrize(("name", "levels"), [
    ("true", 1), ("ON", 1), ("min", 1), ("MAX", 1), ("timestamps", 1), ("FALSE", 0), ("tensors", 2),
])  # fmt: skip
def test_options_may_have_the_old_names(name: str, levels: int) -> None:
    assert config(f"--trace-config=level={name}", "--trace-config=triton,file=f").levels == levels


@pytest.mark.parametrize("names", [["OFF", "TIMESTAMPS"], ["LOUD"], [""], ["MIN"], ["timestamps"]])
def test_levels_that_are_none(names: list[str]) -> None:
    with pytest.raises(InvalidArg):
        parse_levels(names)


@pytest.mark.parametrize(("name", "least", "most"), [
    ("trace_rate", 0, 2**32 - 1), ("trace_count", -1, 2**31 - 1), ("log_frequency", 0, 2**32 - 1),
])  # fmt: skip
def test_each_number_is_taken_at_its_ends_and_refused_one_beyond(name: str, least: int, most: int) -> None:
    assert (parse_number(name, str(least)), parse_number(name, str(most))) == (least, most)
    for text in (str(least - 1), str(most + 1), "9" * 30, "5x", " 5", "5_0", "", "1.0", "\u0665"):
        with pytest.raises(InvalidArg):
            parse_number(name, text)
