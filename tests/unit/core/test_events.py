"""The three events of an instance, and engines that break their contract: on a made-up clock, step by step."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from puppet_stage import Stage, echo, puppet, values_of

from triton_async.config.model_config import DynamicBatching, QueuePolicy
from triton_async.errors import InternalError
from triton_async.infer.request import live_requests
from triton_async.infer.response import InferResponse, live_responses

DECOUPLED = {"by_request": True, "decoupled": True}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is logged, without the tracebacks that would keep objects alive."""
    lines: list[str] = []
    logger = logging.getLogger("triton_async.core")
    monkeypatch.setattr(logger, "handle", lambda record: lines.append(record.getMessage()))
    yield lines


def test_a_whole_batch_answers_and_releases_each_of_its_requests() -> None:
    stage = Stage(batching=DynamicBatching(max_queue_delay_us=10))
    sinks = [stage.submit(stage.request(i)) for i in range(3)]
    stage.wait(20_000)
    batch = stage.puppets[0].begin()
    assert stage.model.in_flight == 3
    stage.puppets[0].end(batch)
    stage.turn()
    assert [values_of(sink.responses[0]) for sink in sinks] == [[0], [1], [2]]
    assert [(len(sink.responses), sink.releases) for sink in sinks] == [(1, 1)] * 3
    assert stage.model.in_flight == 0
    stage.close()


def test_an_instance_is_free_while_its_engine_still_answers() -> None:
    stage = Stage(**DECOUPLED)
    first = stage.submit(stage.request(1))
    second = stage.submit(stage.request(2))
    batch = stage.puppets[0].begin()
    [factory] = stage.puppets[0].factories(batch)
    stage.puppets[0].end(batch)
    stage.turn()
    assert len(stage.puppets[0].waiting) == 1, "the next batch"
    for _ in range(3):
        echo(factory, final=False)
    factory.release()
    stage.turn()
    assert [values_of(response) for response in first.responses] == [[1]] * 3
    assert [response.final for response in first.responses] == [False] * 3
    assert first.releases == 1
    assert stage.model.in_flight == 2
    factory.send([], final=True)
    stage.turn()
    assert first.responses[-1].final
    assert stage.model.in_flight == 1
    batch = stage.puppets[0].begin()
    [factory] = stage.puppets[0].factories(batch)
    echo(factory)
    factory.release()
    stage.puppets[0].end(batch)
    stage.turn()
    assert values_of(second.responses[0]) == [2]
    assert stage.model.in_flight == 0
    del batch, factory, first, second
    stage.close()


def test_a_model_is_not_drained_before_its_engine_has_let_go_of_the_inputs() -> None:
    stage = Stage(by_request=True)
    sink = stage.submit(stage.request(1))
    batch = stage.puppets[0].begin()
    [factory] = stage.puppets[0].factories(batch)
    echo(factory)
    stage.puppets[0].end(batch)
    drained = stage.loop.create_task(stage.model.drain())
    stage.turn()
    assert (len(sink.responses), sink.releases) == (1, 0)
    assert not drained.done()
    factory.release()
    stage.turn()
    assert drained.done()
    assert sink.releases == 1
    del batch, factory, sink
    stage.close()


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_request_that_is_given_up_without_an_answer_gets_an_error(quiet: list[str], decoupled: bool) -> None:
    stage = Stage(by_request=True, decoupled=decoupled)
    sink = stage.submit(stage.request(1))
    batch = stage.puppets[0].begin()
    factories = stage.puppets[0].factories(batch)
    factories.clear()
    stage.puppets[0].end(batch)
    stage.turn()
    assert isinstance(sink.responses[0].error, InternalError)
    assert "without a final response" in sink.responses[0].error.message
    assert (len(sink.responses), sink.releases, stage.model.in_flight) == (1, 1, 0)
    sink.responses.clear()
    stage.close()


def test_a_release_before_the_answer_of_an_ordinary_model_is_an_error_of_that_request(quiet: list[str]) -> None:
    stage = Stage(by_request=True)
    sink = stage.submit(stage.request(1))
    batch = stage.puppets[0].begin()
    [factory] = stage.puppets[0].factories(batch)
    factory.release()
    assert factory.inputs is None
    stage.puppets[0].end(batch)
    stage.turn()
    assert "released the request without a response" in sink.responses[0].error.message
    del batch, factory
    stage.turn()
    assert len(sink.responses) == 1
    assert any("that it had not answered" in line for line in quiet)
    assert any("no longer had" in line for line in quiet)
    assert stage.model.in_flight == 0
    sink.responses.clear()
    stage.close()


def test_answers_and_releases_beyond_the_last_reach_nobody(quiet: list[str]) -> None:
    stage = Stage(batching=DynamicBatching())
    requests = [stage.request(i) for i in range(2)]
    sinks = [stage.submit(request) for request in requests]
    batch = stage.puppets[0].begin()
    stage.puppets[0].end(batch)
    # Another request is in work: whatever is said of the first, it is not about that.
    puppet.post_response(stage.puppets[0], InferResponse(requests[0], "m", 1, [], None, None, True))
    puppet.post_release(stage.puppets[0], requests[0])
    stage.turn()
    assert [len(sink.responses) for sink in sinks] == [1, 0]
    assert len(quiet) == 2
    stage.puppets[0].end(stage.puppets[0].begin())
    stage.turn()
    assert [(len(sink.responses), sink.releases) for sink in sinks] == [(1, 1), (1, 1)]
    assert stage.model.in_flight == 0
    for sink in sinks:
        sink.responses.clear()
    stage.close()


def test_a_factory_sends_nothing_behind_the_final_response() -> None:
    stage = Stage(**DECOUPLED)
    sink = stage.submit(stage.request(1))
    batch = stage.puppets[0].begin()
    [factory] = stage.puppets[0].factories(batch)
    echo(factory)
    with pytest.raises(InternalError, match="behind the final one"):
        echo(factory)
    factory.release()
    factory.release()
    stage.puppets[0].end(batch)
    stage.turn()
    assert (len(sink.responses), sink.releases) == (1, 1)
    del batch, factory
    sink.responses.clear()
    stage.close()


def test_an_engine_that_fails_as_a_whole_fails_what_it_has_not_answered() -> None:
    stage = Stage(by_request=True, decoupled=True, batching=DynamicBatching(max_queue_delay_us=1))
    sinks = [stage.submit(stage.request(i)) for i in range(2)]
    stage.wait(2_000)
    batch = stage.puppets[0].begin()
    factories = stage.puppets[0].factories(batch)
    echo(factories[0])
    stage.puppets[0].end(batch, "the engine is gone")
    stage.turn()
    assert values_of(sinks[0].responses[0]) == [0]
    assert sinks[1].responses[0].error.message == "the engine is gone"
    assert stage.model.in_flight == 2, "their inputs are still in use"
    factories.clear()
    stage.turn()
    assert stage.model.in_flight == 0
    for sink in sinks:
        sink.responses.clear()
    stage.close()


def test_what_waits_at_a_busy_instance_is_taken_back_when_its_client_goes() -> None:
    stage = Stage(max_batch_size=1)
    requests = [stage.request(i) for i in range(3)]
    sinks = [stage.submit(request) for request in requests]
    running = stage.puppets[0].begin()
    assert len(stage.puppets[0].waiting) == 1, "one was handed over ahead"
    assert stage.model.pending == 2
    stage.cancel(requests[1])
    assert (sinks[1].releases, stage.model.pending) == (1, 1)
    stage.puppets[0].end(running)
    assert stage.puppets[0].begin() is None
    stage.turn()
    assert stage.puppets[0].begin() is not None
    stage.puppets[0].end(stage.puppets[0].out[0])
    stage.turn()
    assert [len(sink.responses) for sink in sinks] == [1, 0, 1]
    assert stage.model.in_flight == 0
    stage.close()


def test_the_others_of_a_batch_that_was_taken_back_run_in_their_order() -> None:
    stage = Stage(batching=DynamicBatching(), max_batch_size=2)
    requests = [stage.request(i) for i in range(6)]
    sinks = [stage.submit(request) for request in requests]
    running = stage.puppets[0].begin()
    ahead = [puppet.requests_of(batch) for batch in stage.puppets[0].waiting]
    assert ahead == [[requests[1], requests[2]]]
    stage.cancel(requests[1])
    assert sinks[1].releases == 1
    stage.puppets[0].end(running)
    order = []
    stage.turn()
    while stage.puppets[0].waiting:
        batch = stage.puppets[0].begin()
        if batch is not None:
            order.append(puppet.requests_of(batch))
            stage.puppets[0].end(batch)
        stage.turn()
    assert [request for batch in order for request in batch] == [requests[i] for i in (2, 3, 4, 5)]
    assert stage.model.in_flight == 0
    del ahead, order, batch, running
    stage.close()


@pytest.mark.parametrize("policy", [
    QueuePolicy(default_timeout_us=1000), QueuePolicy(allow_timeout_override=True), QueuePolicy(max_queue_size=3),
])  # fmt: skip
def test_nothing_is_taken_ahead_where_a_rule_holds_for_what_has_not_begun(policy: QueuePolicy) -> None:
    stage = Stage(batching=DynamicBatching(default_policy=policy), max_batch_size=1)
    for i in range(4):
        stage.submit(stage.request(i))
    assert len(stage.puppets[0].waiting) == 1
    assert stage.model.pending == 4
    stage.puppets[0].begin()
    assert stage.model.pending == 3
    while stage.puppets[0].out:
        stage.puppets[0].end(stage.puppets[0].out[0])
        stage.turn()
        if stage.puppets[0].waiting:
            stage.puppets[0].begin()
    stage.close()


def test_priorities_hold_for_what_has_not_begun() -> None:
    stage = Stage(batching=DynamicBatching(priority_levels=3, default_priority_level=2), max_batch_size=1)
    sent = {i: stage.request(i, priority=priority) for i, priority in enumerate([3, 3, 2, 1, 0, 1])}
    names = {id(request): i for i, request in sent.items()}
    for request in sent.values():
        stage.submit(request)
    order = []
    while stage.puppets[0].waiting:
        batch = stage.puppets[0].begin()
        order.append(names[id(puppet.requests_of(batch)[0])])
        stage.puppets[0].end(batch)
        stage.turn()
    # The first was alone when it came; then as the real server: 1, 1, 2, 0 (the default, 2), 3.
    assert order == [0, 3, 5, 2, 4, 1]
    del batch, sent
    stage.close()


def test_a_batch_that_nobody_waits_for_any_more_is_given_up_by_its_engine() -> None:
    stage = Stage(batching=DynamicBatching(max_queue_delay_us=1))
    requests = [stage.request(i) for i in range(2)]
    sinks = [stage.submit(request) for request in requests]
    stage.wait(2_000)
    batch = stage.puppets[0].begin()
    stage.cancel(requests[0])
    assert stage.engines[0].given_up == []
    stage.cancel(requests[1])
    assert stage.engines[0].given_up == [batch]
    assert [sink.releases for sink in sinks] == [0, 0]
    stage.puppets[0].end(batch, "given up")
    stage.turn()
    assert [(len(sink.responses), sink.releases) for sink in sinks] == [(0, 1), (0, 1)]
    assert stage.model.in_flight == 0
    stage.engines[0].given_up.clear()
    stage.close()


def test_executions_that_run_are_given_up_when_the_server_asks() -> None:
    stage = Stage(max_batch_size=1, instances=2)
    for i in range(3):
        stage.submit(stage.request(i))
    begun = [stage.puppets[0].begin(), stage.puppets[1].begin()]
    stage.model.interrupt()
    assert [engine.given_up for engine in stage.engines] == [[batch] for batch in begun]
    for engine in stage.engines:
        engine.given_up.clear()
    for one, batch in zip(stage.puppets, begun, strict=True):
        one.end(batch, "given up")
    stage.turn()
    last = next(one for one in stage.puppets if one.waiting)
    last.end(last.begin())
    stage.turn()
    assert stage.model.in_flight == 0
    del begun, batch
    stage.close()


def test_a_queue_timeout_needs_no_other_event_to_be_answered() -> None:
    stage = Stage(batching=DynamicBatching(default_policy=QueuePolicy(default_timeout_us=1000)), max_batch_size=1)
    stage.submit(stage.request(0))
    late = stage.submit(stage.request(1))
    stage.wait(999_000)
    assert late.responses == []
    stage.wait(1_000)
    assert late.responses[0].error.message == "Request timeout expired"
    assert late.releases == 1
    late.responses.clear()
    stage.puppets[0].end(stage.puppets[0].begin())
    stage.turn()
    stage.close()


def test_responses_of_a_model_that_keeps_order_wait_for_those_before() -> None:
    stage = Stage(instances=2, batching=DynamicBatching(preserve_ordering=True), max_batch_size=1)
    sinks = [stage.submit(stage.request(i)) for i in range(2)]
    slow, quick = stage.puppets[0].begin() if stage.puppets[0].waiting else None, stage.puppets[1].begin()
    first = puppet.requests_of(quick)[0].inputs[0].numpy()[0, 0]
    one, other = (quick, slow) if first == 1 else (slow, quick)
    owner = {id(quick): stage.puppets[1], id(slow): stage.puppets[0]}
    owner[id(one)].end(one)
    stage.turn()
    assert [len(sink.responses) for sink in sinks] == [0, 0]
    assert sinks[1].releases == 1, "its inputs are free all the same"
    owner[id(other)].end(other)
    stage.turn()
    assert [values_of(sink.responses[0]) for sink in sinks] == [[0], [1]]
    del slow, quick, one, other
    stage.close()


@pytest.mark.parametrize("first", ["the instance", "the factory"])
def test_a_factory_that_the_collector_takes_away_together_with_its_instance_harms_nothing(first: str) -> None:
    class Keeper:
        """Keeps itself: only the collector takes it away."""

        def __init__(self) -> None:
            self.kept: list[object] = [self]

    gc.collect()
    before = live_requests(), live_responses()
    keepers = [Keeper()]
    gc.collect()  # which takes the older ones apart first
    stage = Stage(**DECOUPLED)
    gc.collect()
    keepers.append(Keeper())
    stage.submit(stage.request(1))
    batch = stage.puppets[0].begin()
    keepers[first == "the instance"].kept += stage.puppets[0].factories(batch)
    stage.puppets[0].end(batch)
    stage.close()
    del batch, stage, keepers
    gc.collect()
    assert (live_requests(), live_responses()) == before
