"""Requests of models to models: what they hear, who is refused, and that nothing is left, step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from inner_stage import Call, InnerStage
from puppet_stage import Sink, echo, values_of

from triton_async.config.model_config import DynamicBatching
from triton_async.errors import Cancelled, DecoupledModel, InvalidArg, NotFound, Unavailable

NEVER = "could never be answered"


@pytest.fixture
def stage() -> Iterator[InnerStage]:
    stage = InnerStage()
    yield stage
    stage.close()


def test_a_model_asks_another_and_hears_of_the_answer_and_the_release(stage: InnerStage) -> None:
    stage.add("a")
    stage.add("b")
    stage.send("a")
    outer = stage.begin("a")
    call = outer.ask("b")
    assert not call.over
    stage.begin("b").end()
    assert [values_of(response) for response in call.responses] == [[1]]
    assert (call.releases, call.refusals) == (1, [])
    outer.end()
    for name in "ab":
        [statistics] = [model.statistics for key, model in stage.models.items() if key == name]
        assert statistics.inference_count == 1
        assert stage.models[name].in_flight == 0


def test_requests_of_several_threads_wake_the_loop_once(stage: InnerStage) -> None:
    stage.add("b", 8)
    calls = [Call() for _ in range(8)]
    threads = [
        threading.Thread(target=stage.inner.submit, args=(stage.request("b", i), call))
        for i, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage.turn()
    for i in range(8):
        stage.begin("b", i).end()
    assert sorted(values_of(call.responses[0])[0] for call in calls) == list(range(8))


@pytest.mark.parametrize(
    ("name", "version", "code"), [("x", -1, NotFound), ("b", 2, NotFound)]
)
def test_what_does_not_serve_is_refused_in_tritons_words(
    stage: InnerStage, name: str, version: int, code: type
) -> None:
    stage.add("b")
    call = stage.ask(name, model_version=version)
    [error] = call.refusals
    assert error.message == f"Failed for execute the inference request. Model '{name}' is not ready."
    assert isinstance(error, code)
    assert call.releases == 1


def test_a_request_that_does_not_fit_is_refused_with_its_code(stage: InnerStage) -> None:
    stage.add("b")
    call = Call()
    stage.inner.submit(stage.request("b", priority=0), call)
    bad = Call()
    request = stage.request("b")
    request.inputs = []
    stage.inner.submit(request, bad)
    stage.turn()
    assert isinstance(bad.refusals[0], InvalidArg)
    assert "expected 1 inputs but got 0 inputs" in bad.refusals[0].message
    stage.begin("b").end()
    assert call.responses


def test_a_decoupled_model_is_refused_to_who_expects_one_response(stage: InnerStage) -> None:
    stage.add("d", decoupled=True)
    call = stage.ask("d")
    assert isinstance(call.refusals[0], DecoupledModel)


def test_any_number_of_responses_comes_from_a_decoupled_model(stage: InnerStage) -> None:
    stage.add("d", decoupled=True)
    call = stage.ask("d", Call(decoupled=True))
    execution = stage.begin("d")
    [factory] = execution.factories
    for _ in range(3):
        echo(factory, final=False)
    factory.send([], error=InvalidArg("in the middle"), final=False)
    factory.send([], final=True)
    execution.end()
    assert [response.final for response in call.responses] == [False] * 4 + [True]
    assert call.responses[3].error.message == "in the middle"


def test_responses_come_behind_the_release_of_the_inputs(stage: InnerStage) -> None:
    stage.add("d", decoupled=True)
    call = stage.ask("d", Call(decoupled=True))
    execution = stage.begin("d")
    [factory] = execution.factories
    factory.release()
    stage.turn()
    assert (call.releases, call.responses) == (1, [])
    factory.send([], error=InvalidArg("in the middle"), final=False)
    factory.send([], final=True)
    execution.end()
    assert [response.final for response in call.responses] == [False, True]
    assert call.releases == 1


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_inner_request_ends_at_once(stage: InnerStage, begun: bool) -> None:
    stage.add("b")
    first = stage.ask("b")
    execution = stage.begin("b")
    call = first if begun else stage.ask("b")
    call.handle()
    call.handle()
    stage.turn()
    assert isinstance(call.refusals[0], Cancelled)
    execution.end()
    assert first.over
    assert (call.releases, stage.models["b"].in_flight) == (1, 0)
    call.handle()
    stage.turn()


def test_a_request_that_is_cancelled_before_the_loop_hears_of_it_runs_nowhere(stage: InnerStage) -> None:
    stage.add("b")
    call = Call()
    stage.inner.submit(stage.request("b"), call)()
    stage.turn()
    assert isinstance(call.refusals[0], Cancelled)
    assert not stage.puppets["b"][0].waiting
    assert call.releases == 1


def test_inner_requests_are_cancelled_with_all_those_for_whose_sake_they_are_made(stage: InnerStage) -> None:
    stage.add("a", batching=DynamicBatching(max_queue_delay_us=10))
    stage.add("b")
    stage.add("c")
    outer = [stage.request("a", i) for i in range(2)]
    sinks = []
    for request in outer:
        sinks.append(Sink())
        stage.server.submit(request, sinks[-1])
    stage.clock.ns += 20_000
    stage.turn()
    execution = stage.begin("a")
    assert len(execution.requests) == 2
    call = execution.ask("b")
    middle = stage.begin("b")
    deep = middle.ask("c")
    stage.server.cancel(outer[0])
    stage.turn()
    assert not call.over
    stage.server.cancel(outer[1])
    stage.turn()
    assert isinstance(call.refusals[0], Cancelled)
    assert isinstance(deep.refusals[0], Cancelled)
    late = execution.ask("b")
    assert isinstance(late.refusals[0], Cancelled)
    middle.end()
    execution.end()
    assert [model.in_flight for model in stage.models.values()] == [0, 0, 0]
    assert deep.releases == 1, "it had not begun"


# -- circles -----------------------------------------------------------------------------------------------------------


def test_a_model_that_asks_itself_on_its_only_instance_is_refused(stage: InnerStage) -> None:
    stage.add("a")
    stage.send("a")
    execution = stage.begin("a")
    call = execution.ask("a")
    assert isinstance(call.refusals[0], Unavailable)
    assert NEVER in call.refusals[0].message
    assert "'a'" in call.refusals[0].message
    execution.end()
    assert stage.models["a"].in_flight == 0


def test_the_instance_is_known_by_its_engine_alone(stage: InnerStage) -> None:
    stage.add("a")
    stage.send("a")
    execution = stage.begin("a")
    call = stage.ask("a", caller=stage.puppets["a"][0].engine_object())
    assert NEVER in call.refusals[0].message
    execution.end()


def test_a_model_that_asks_itself_is_served_by_a_free_instance(stage: InnerStage) -> None:
    stage.add("a", 2)
    stage.send("a")
    first = stage.begin("a", 0)
    call = first.ask("a")
    second = stage.begin("a", 1)
    again = second.ask("a")
    assert NEVER in again.refusals[0].message, "both wait now"
    second.end()
    assert call.over
    assert not call.refusals
    first.end()


def test_a_model_waits_for_another_request_that_holds_its_second_instance(stage: InnerStage) -> None:
    stage.add("a", 2)
    client = stage.send("a")
    first = stage.begin("a", 0)
    stage.send("a")
    second = stage.begin("a", 1)
    call = first.ask("a")
    assert not call.refusals, "the other execution ends by itself"
    second.end()
    stage.begin("a", 1).end()
    assert call.over
    first.end()
    assert client.responses


def test_a_ring_of_models_is_refused_where_it_closes(stage: InnerStage) -> None:
    for name in "abc":
        stage.add(name)
    stage.send("a")
    a = stage.begin("a")
    to_b = a.ask("b")
    b = stage.begin("b")
    to_c = b.ask("c")
    c = stage.begin("c")
    to_a = c.ask("a")
    assert NEVER in to_a.refusals[0].message
    for execution in (c, b, a):
        execution.end()
    assert [call.over for call in (to_b, to_c)] == [True, True]


def test_two_models_that_cross_are_refused_where_they_meet(stage: InnerStage) -> None:
    stage.add("a")
    stage.add("b")
    stage.send("a")
    stage.send("b")
    a = stage.begin("a")
    b = stage.begin("b")
    to_b = a.ask("b")
    assert not to_b.refusals, "the client's request of b ends by itself"
    to_a = b.ask("a")
    assert NEVER in to_a.refusals[0].message
    b.end()
    stage.begin("b").end()
    assert values_of(to_b.responses[0]) == [1]
    a.end()


def test_several_requests_at_once_are_all_waited_for(stage: InnerStage) -> None:
    for name in "abc":
        stage.add(name)
    stage.send("a")
    a = stage.begin("a")
    to_b = a.ask("b")
    to_c = a.ask("c")
    c = stage.begin("c")
    assert NEVER in c.ask("a").refusals[0].message
    stage.begin("b").end()
    c.end()
    a.end()
    assert to_b.over
    assert to_c.over


def test_an_execution_that_is_over_holds_nothing(stage: InnerStage) -> None:
    stage.add("d", decoupled=True)
    stage.send("d")
    execution = stage.begin("d")
    requests = list(execution.requests)
    execution.over()
    call = stage.ask("d", Call(decoupled=True, askers=requests))
    assert not call.refusals
    inner = stage.begin("d")
    inner.end()
    assert call.over
    for factory in execution.factories:
        echo(factory)
        factory.release()
    stage.turn()
    del requests


def test_nothing_waits_behind_an_execution_that_waits(stage: InnerStage) -> None:
    stage.add("a", 2)
    stage.add("b")
    for _ in range(4):
        stage.send("a")
    first = stage.begin("a", 0)
    assert len(stage.puppets["a"][0].waiting) == 1, "handed ahead"
    call = first.ask("b")
    stage.turn()
    second = stage.begin("a", 1)
    for held in stage.puppets["a"]:
        assert held.begin() is None, "taken back"
    own = first.ask("a")
    assert not own.refusals
    second.end()
    stage.begin("b").end()
    assert call.over
    for _ in range(3):
        stage.begin("a", 1).end()
    assert own.over
    first.end()
    assert stage.models["a"].in_flight == 0


def test_responses_that_keep_their_order_do_not_hold_up_a_model_that_waits(stage: InnerStage) -> None:
    stage.add("a", 2, batching=DynamicBatching(preserve_ordering=True, max_queue_delay_us=0))
    client = stage.send("a", 7)
    first = stage.begin("a", 0)
    call = first.ask("a")
    stage.begin("a", 1).end()
    assert call.over, "before the earlier request is answered"
    first.end()
    assert values_of(client.responses[0]) == [7]


def test_requests_within_requests_are_bounded(stage: InnerStage) -> None:
    stage.add("d", decoupled=True)
    stage.send("d")
    executions = []
    for _ in range(64):
        execution = stage.begin("d")
        requests = list(execution.requests)
        execution.over()
        executions.append(execution)
        call = stage.ask("d", Call(decoupled=True, askers=requests))
        assert not call.refusals
    execution = stage.begin("d")
    requests = list(execution.requests)
    execution.over()
    call = stage.ask("d", Call(decoupled=True, askers=requests))
    assert "nested more than 64 deep" in call.refusals[0].message
    for one in [*executions, execution]:
        for factory in one.factories:
            echo(factory)
            factory.release()
    del requests
    stage.turn()


# -- responses that nobody takes ---------------------------------------------------------------------------------------


def test_a_sender_waits_for_the_model_that_asked(stage: InnerStage) -> None:
    stage.add("a")
    stage.add("d", decoupled=True)
    stage.send("a")
    outer = stage.begin("a")
    call = outer.ask("d", decoupled=True, counts_reads=True)
    sender = stage.begin("d")
    [factory] = sender.factories
    sent = 0
    while not factory.congested:
        echo(factory, final=False)
        stage.turn()
        sent += 1
    assert sent == 256
    woken = []
    factory.on_relief(lambda: woken.append(True))
    call.handle.taken(127)
    stage.turn()
    assert not woken
    call.handle.taken(1)
    stage.turn()
    assert woken
    assert not factory.congested
    sender.end()
    outer.end()


def test_a_sender_does_not_wait_for_who_waits_for_something_else(stage: InnerStage) -> None:
    stage.add("a")
    stage.add("d", decoupled=True)
    stage.send("a")
    outer = stage.begin("a")
    outer.ask("d", decoupled=True, counts_reads=True)
    sender = stage.begin("d")
    [factory] = sender.factories
    for _ in range(300):
        echo(factory, final=False)
        stage.turn()
    assert factory.congested
    woken = []
    factory.on_relief(lambda: woken.append(True))
    second = outer.ask("d", decoupled=True)
    assert not second.refusals, "the sender goes on instead"
    assert woken
    assert not factory.congested
    for _ in range(300):
        echo(factory, final=False)
        stage.turn()
    assert not factory.congested
    sender.end()
    stage.begin("d").end()
    assert second.over
    outer.end()


@pytest.mark.parametrize("held", [True, False])
def test_a_sender_does_not_wait_for_who_has_gone(stage: InnerStage, held: bool) -> None:
    stage.add("a", decoupled=not held)
    stage.add("d", decoupled=True)
    stage.send("a")
    outer = stage.begin("a")
    if not held:
        outer.puppet.end(outer.batch)
        stage.turn()
    outer.ask("d", decoupled=True, counts_reads=True)
    sender = stage.begin("d")
    [factory] = sender.factories
    for _ in range(300):
        echo(factory, final=False)
        stage.turn()
    assert factory.congested
    woken = []
    factory.on_relief(lambda: woken.append(True))
    if held:
        outer.end()
    else:
        for one in outer.factories:
            echo(one)
            one.release()
        outer.requests.clear()
        stage.turn()
    assert woken
    echo(factory, final=False)
    stage.turn()
    assert not factory.congested
    sender.end()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_whoever_waits_at_the_end_is_told(stage: InnerStage) -> None:
    stage.add("b")
    call = stage.ask("b")
    waiting = Call()
    stage.inner.submit(stage.request("b"), waiting)
    execution = stage.begin("b")
    stage.inner.close()
    assert call.refusals[0].message == waiting.refusals[0].message == "Server exiting"
    late = Call()
    stage.inner.submit(stage.request("b"), late)()
    assert isinstance(late.refusals[0], Unavailable)
    with pytest.raises(Unavailable, match="Server exiting"):
        thread_raises(lambda: stage.inner.load_model("b", None))
    assert not stage.inner.model_ready("b")
    execution.end()
    assert call.releases == 1


def thread_raises(function) -> None:  # type: ignore[no-untyped-def]
    """Runs it on a thread of its own, and raises what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def test_models_that_serve_are_ready_for_models(stage: InnerStage) -> None:
    stage.add("b")
    assert stage.inner.model_ready("b")
    assert stage.inner.model_ready("b", 1)
    assert not stage.inner.model_ready("b", 2)
    assert not stage.inner.model_ready("x")
