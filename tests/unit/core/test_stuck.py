"""Executions that hang are noticed, with what they wait for, on a clock that the test sets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from inner_stage import InnerStage

from triton_async.core.stuck_watch import StuckWatch
from triton_async.defines import STUCK_AFTER_NS, STUCK_FACTOR, STUCK_FIRST_NS

SECOND = 1_000_000_000


@pytest.fixture
def stage() -> Iterator[InnerStage]:
    stage = InnerStage()
    yield stage
    stage.close()


def counts(watch: StuckWatch) -> list[tuple[dict[str, str], int]]:
    ((name, kind, _, samples),) = watch.families()
    assert (name, kind) == ("triton_async_stuck_executions", "gauge")
    return [(dict(sample[0]), int(sample[1])) for sample in samples]


def run_for(stage: InnerStage, name: str, ns: int) -> None:
    stage.send(name)
    execution = stage.begin(name)
    stage.clock.ns += ns
    execution.end()


def look(stage: InnerStage, watch: StuckWatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    watch.look(stage.models.values(), stage.clock.ns)
    return [record.getMessage() for record in caplog.records]


def test_an_execution_that_hangs_is_named_once(stage: InnerStage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "triton_async.core")
    stage.add("a")
    watch = StuckWatch(stage.loop)
    run_for(stage, "a", 2 * SECOND)
    stage.send("a", id="first")
    execution = stage.begin("a")
    assert STUCK_FACTOR * 2 * SECOND > STUCK_AFTER_NS
    stage.clock.ns += STUCK_FACTOR * 2 * SECOND
    assert look(stage, watch, caplog) == []
    stage.clock.ns += SECOND
    assert look(stage, watch, caplog) == [
        "model 'a' version 1: an execution on instance 'a_0' runs for 21.0 s, much longer than any before, requests "
        "'first': it waits for its engine"
    ]
    assert look(stage, watch, caplog) == []
    assert counts(watch) == [({"model": "a", "version": "1"}, 1)]
    execution.end()
    assert look(stage, watch, caplog) == [
        "model 'a' version 1: the execution on instance 'a_0' that was stuck is over after 21.0 s"
    ]
    assert counts(watch) == []
    # What was called stuck is what this model may take from now on.
    stage.send("a")
    execution = stage.begin("a")
    stage.clock.ns += 100 * SECOND
    assert look(stage, watch, caplog) == []
    execution.end()


@pytest.mark.parametrize(("before_ns", "limit_ns"), [(None, STUCK_FIRST_NS), (1000, STUCK_AFTER_NS)])
def test_first_and_short_executions_have_more_time(
    stage: InnerStage, caplog: pytest.LogCaptureFixture, before_ns: int | None, limit_ns: int
) -> None:
    stage.add("a")
    watch = StuckWatch(stage.loop)
    if before_ns is not None:
        run_for(stage, "a", before_ns)
    stage.send("a")
    execution = stage.begin("a")
    stage.clock.ns += limit_ns
    assert look(stage, watch, caplog) == []
    stage.clock.ns += 1
    assert len(look(stage, watch, caplog)) == 1
    execution.end()


def test_it_says_which_model_is_waited_for(stage: InnerStage, caplog: pytest.LogCaptureFixture) -> None:
    stage.add("a")
    stage.add("b")
    watch = StuckWatch(stage.loop)
    stage.send("a")
    execution = stage.begin("a")
    execution.ask("b")
    stage.clock.ns += STUCK_FIRST_NS + 1
    (line,) = look(stage, watch, caplog)
    assert line.endswith("it waits for model 'b'")
    stage.begin("b").end()
    execution.end()
    assert look(stage, watch, caplog) == []


def test_what_waits_in_the_queue_is_not_stuck(stage: InnerStage, caplog: pytest.LogCaptureFixture) -> None:
    stage.add("a")
    watch = StuckWatch(stage.loop)
    run_for(stage, "a", 1000)
    for _ in range(3):
        stage.send("a")
    for _ in range(3):
        stage.clock.ns += STUCK_AFTER_NS // 2
        execution = stage.begin("a")
        stage.clock.ns += STUCK_AFTER_NS // 2
        assert look(stage, watch, caplog) == []
        execution.end()
