"""Senders wait for who takes their responses: the loop, and behind it the sink. On a made-up clock, step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from puppet_stage import Sink, Stage, echo, puppet

from triton_async.config.model_config import DynamicBatching
from triton_async.errors import InternalError


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(by_request=True, decoupled=True)
    yield stage
    stage.close()


class Begun:
    """A request whose execution is over and whose sender goes on."""

    def __init__(self, stage: Stage, sink: Any = None) -> None:
        self.stage = stage
        self.request = stage.request(1)
        self.sink = sink or Sink()
        puppet.submit(stage.model, self.request, self.sink, stage.clock.ns)
        batch = stage.puppets[0].begin()
        [self.factory] = stage.puppets[0].factories(batch)
        stage.puppets[0].end(batch)
        stage.turn()

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            echo(self.factory, final=False)

    def end(self) -> None:
        if not self.factory.finished:
            self.factory.send([], final=True)
        self.factory.release()
        self.stage.turn()


def test_a_sender_may_be_some_responses_ahead_of_the_loop(stage: Stage) -> None:
    begun = Begun(stage)
    begun.send(255)
    assert not begun.factory.congested
    begun.send()
    assert begun.factory.congested
    told: list[int] = []
    begun.factory.on_relief(lambda: told.append(len(begun.sink.responses)))
    assert not told
    stage.turn()
    assert told == [1], "the first that the loop took made room"
    assert not begun.factory.congested
    assert len(begun.sink.responses) == 256
    begun.factory.on_relief(lambda: told.append(0))
    assert told == [1, 0], "at once where there is room"
    begun.end()


def test_a_sender_waits_for_a_sink_that_takes_no_more(stage: Stage) -> None:
    begun = Begun(stage, puppet.CongestedSink())
    begun.send()
    stage.turn()
    assert not begun.factory.congested
    begun.sink.full = True
    begun.send()
    stage.turn()
    assert begun.factory.congested
    told: list[bool] = []
    begun.factory.on_relief(lambda: told.append(True))
    assert not begun.factory.wait(0.01)
    begun.sink.full = False
    begun.sink.resume()
    assert told == [True]
    assert not begun.factory.congested
    assert begun.factory.wait(0.01)
    begun.send()
    stage.turn()
    assert not begun.factory.congested
    begun.end()


def _cancel(begun: Begun) -> None:
    begun.stage.cancel(begun.request)


def _relief(begun: Begun) -> None:
    begun.sink.full = False
    begun.sink.resume()


def _final(begun: Begun) -> None:
    begun.factory.send([], error=InternalError("enough"))
    begun.stage.turn()


@pytest.mark.parametrize("ends", [_cancel, _relief, _final])
def test_a_thread_that_waits_goes_on(stage: Stage, ends: Callable[[Begun], None]) -> None:
    begun = Begun(stage, puppet.CongestedSink())
    begun.sink.full = True
    begun.send()
    stage.turn()
    result: list[bool] = []
    thread = threading.Thread(target=lambda: result.append(begun.factory.wait()))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    ends(begun)
    thread.join(5)
    assert result == [True]
    assert not begun.factory.congested
    begun.end()


def test_what_one_waiter_raises_holds_up_no_other(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    begun = Begun(stage, puppet.CongestedSink())
    begun.sink.full = True
    begun.send()
    stage.turn()
    told: list[bool] = []
    begun.factory.on_relief(lambda: 1 // 0)
    begun.factory.on_relief(lambda: told.append(True))
    _relief(begun)
    assert told == [True]
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()
    begun.end()


def test_order_among_requests_does_not_hold_a_sender_up() -> None:
    stage = Stage(
        instances=2, by_request=True, decoupled=True,
        batching=DynamicBatching(preserve_ordering=True, max_queue_delay_us=0), max_batch_size=1,
    )  # fmt: skip
    sinks = [stage.submit(stage.request(i)) for i in range(2)]
    batches = [held.begin() for held in stage.puppets]
    factories: list[Any] = [stage.puppets[i].factories(batches[i])[0] for i in range(2)]
    for _ in range(300):
        echo(factories[1], final=False)
        if factories[1].congested:
            stage.turn()
    assert not factories[1].congested
    assert not sinks[1].responses, "they wait for the earlier request, not for a reader"
    for i in range(2):
        echo(factories[i])
        factories[i].release()
        stage.puppets[i].end(batches[i])
    stage.turn()
    assert len(sinks[1].responses) == 301
    del batches, factories
    stage.close()


def test_responses_of_decoupled_models_have_statistics_by_their_number(stage: Stage) -> None:
    begun = Begun(stage)
    begun.send(2)
    begun.factory.send([], error=InternalError("no"), final=False)
    begun.end()
    again = Begun(stage)
    again.send()
    stage.cancel(again.request)
    again.end()
    statistics = stage.model.statistics.as_dict("m", "1")["response_stats"]
    counts = {
        number: {name: duration["count"] for name, duration in entry.items() if duration["count"]}
        for number, entry in statistics.items()
    }
    success = {"compute_infer": 1, "compute_output": 1, "success": 1}
    assert counts == {
        "0": {**success, "cancel": 1},
        "1": {**success, "cancel": 1},
        "2": {"compute_infer": 1, "fail": 1},
        "3": {"empty_response": 1},
    }


def test_ordinary_models_have_no_statistics_of_responses() -> None:
    stage = Stage(by_request=True)
    stage.submit(stage.request(1))
    batch = stage.puppets[0].begin()
    [factory] = stage.puppets[0].factories(batch)
    echo(factory)
    factory.release()
    stage.puppets[0].end(batch)
    stage.turn()
    assert stage.model.statistics.as_dict("m", "1")["response_stats"] == {}
    del batch, factory
    stage.close()
