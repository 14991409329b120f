"""Ensembles with decoupled steps and limits: responses in order, senders held back and let go, places given on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ensemble_stage import EnsembleStage, by_name
from inner_stage import Execution
from puppet_stage import puppet

from triton_async.defines import ENSEMBLE_AHEAD
from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy, live_tensors

DEC_AND_ONE = [("dec", {"X": "EX"}, {"Y": "t"}), ("one", {"X": "t"}, {"Y": "EY"})]


@pytest.fixture
def stage() -> Iterator[EnsembleStage]:
    stage = EnsembleStage()
    yield stage
    stage.close()


def say(factory: Any, value: float, *, final: bool = False) -> None:
    factory.send([from_numpy("Y", np.float32([[value]]))], final=final)


def told(sink: Any) -> list[tuple[Any, bool]]:
    return [(by_name(response) if response.outputs else None, response.final) for response in sink.responses]


def streaming(stage: EnsembleStage, instances: int = 2, **more: Any) -> None:
    stage.add_model("dec", decoupled=True)
    stage.add_model("one", instances=instances, batching=False)
    stage.add_ensemble("e", ["EX"], ["EY"], DEC_AND_ONE, **more)


def test_each_response_of_a_decoupled_step_goes_through_the_steps_behind_it(stage: EnsembleStage) -> None:
    streaming(stage)
    assert stage.serving()[0]["e"].signature.decoupled
    _, sink = stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    say(execution.factories[0], 1)
    say(execution.factories[0], 2)
    stage.turn()
    first, second = stage.run("one", 0), stage.run("one", 1)
    assert [float(one.requests[0].inputs[0].numpy()[0, 0]) for one in (first, second)] == [1, 2]
    stage.end(second)
    assert not sink.responses, "the first one comes first"
    stage.end(first)
    assert told(sink) == [({"EY": [1]}, False), ({"EY": [2]}, False)]
    execution.factories[0].send([], final=True)
    stage.end(execution)
    assert told(sink)[2:] == [(None, True)]
    assert sink.releases == 1


def test_the_last_response_is_final_when_that_is_known(stage: EnsembleStage) -> None:
    streaming(stage)
    _, sink = stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    say(execution.factories[0], 1, final=True)
    stage.end(execution)
    stage.answer("one")
    assert told(sink) == [({"EY": [1]}, True)]


def test_no_response_is_one_final_response_without_outputs(stage: EnsembleStage) -> None:
    streaming(stage)
    _, sink = stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    execution.factories[0].send([], final=True)
    stage.end(execution)
    assert told(sink) == [(None, True)]
    assert sink.releases == 1


def test_decoupled_steps_behind_each_other_keep_the_order_of_both(stage: EnsembleStage) -> None:
    stage.add_model("dec", decoupled=True)
    stage.add_model("more", decoupled=True, instances=2, batching=False)
    stage.add_ensemble("e", ["EX"], ["EX", "T", "EY"], [
        ("dec", {"X": "EX"}, {"Y": "T"}), ("more", {"X": "T"}, {"Y": "EY"}),
    ])  # fmt: skip
    _, sink = stage.ask_for("e", EX=[[9]])
    execution = stage.run("dec")
    say(execution.factories[0], 1)
    say(execution.factories[0], 2, final=True)
    stage.turn()
    first, second = stage.run("more", 0), stage.run("more", 1)
    say(second.factories[0], 20)
    say(first.factories[0], 10)
    stage.turn()
    assert told(sink) == [({"EX": [9], "T": [1], "EY": [10]}, False)]
    say(first.factories[0], 11, final=True)
    say(second.factories[0], 21, final=True)
    for one in (execution, first, second):
        stage.end(one)
    assert told(sink)[1:] == [
        ({"EX": [9], "T": [1], "EY": [11]}, False), ({"EX": [9], "T": [2], "EY": [20]}, False),
        ({"EX": [9], "T": [2], "EY": [21]}, True),
    ]  # fmt: skip


def test_an_error_in_the_middle_ends_the_request(stage: EnsembleStage) -> None:
    streaming(stage)
    _, sink = stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    say(execution.factories[0], 1)
    execution.factories[0].send([], error=InvalidArg("mid"), final=False)
    stage.turn()
    [response] = sink.responses
    assert (response.error.message, response.final) == ("in ensemble 'e', mid", True)
    assert execution.factories[0].is_cancelled
    say(execution.factories[0], 2, final=True)
    stage.end(execution)
    assert (len(sink.responses), sink.releases) == (1, 1)
    assert stage.models["one"].in_flight == 0


def test_nothing_is_left_to_the_garbage_collector(stage: EnsembleStage) -> None:
    streaming(stage)
    gc.collect()
    before = live_tensors()
    gc.disable()
    try:
        for way in ("ends", "fails", "is cancelled"):
            request, sink = stage.ask_for("e", EX=[[0]])
            execution = stage.run("dec")
            for i in range(2):
                say(execution.factories[0], i, final=way == "ends" and i == 1)
            if way == "fails":
                execution.factories[0].send([], error=InvalidArg("mid"), final=True)
            stage.turn()
            if way == "is cancelled":
                stage.server.cancel(request)
                stage.turn()
            stage.end(execution)
            for i, held in enumerate(stage.puppets["one"]):
                while held.waiting:
                    batch = held.begin()
                    if batch is not None:
                        stage.end(Execution(stage, "one", i, batch))
                        del batch
                    stage.turn()
            assert sink.releases == 1
            stage.puppets["dec"][0].engine_object().given_up.clear()
            for held in stage.puppets["one"]:
                held.engine_object().given_up.clear()
            del request, sink, execution
            assert live_tensors() == before, way
    finally:
        gc.enable()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_step_has_no_more_requests_than_the_limit_for_the_sake_of_all(stage: EnsembleStage) -> None:
    stage.add_model("a", batching=False)
    stage.add_ensemble(
        "e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})], scheduling="max_inflight_requests: 2"
    )
    asked = [stage.ask_for("e", EX=[[i]]) for i in range(5)]
    assert stage.models["a"].in_flight == 2
    stage.server.cancel(asked[2][0])
    assert asked[2][1].releases == 1, "it had not begun"
    stage.server.cancel(asked[1][0])
    stage.turn()
    assert stage.models["a"].in_flight == 2, "its place goes to the next one"
    for i in (0, 3, 4):
        stage.answer("a")
        assert by_name(asked[i][1].responses[0]) == {"EY": [i]}
    assert [sink.releases for _, sink in asked] == [1] * 5
    assert stage.models["a"].in_flight == 0


@pytest.mark.parametrize(("scheduling", "ahead"), [("", ENSEMBLE_AHEAD), ("max_inflight_requests: 3", 3)])
def test_a_sender_that_is_ahead_is_held_back(stage: EnsembleStage, scheduling: str, ahead: int) -> None:
    streaming(stage, 1, scheduling=scheduling)
    _, sink = stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    [factory] = execution.factories
    for i in range(ahead):
        assert not factory.congested
        say(factory, i)
        stage.turn()
    assert factory.congested
    resumed: list[bool] = []
    factory.on_relief(lambda: resumed.append(True))
    while not resumed:
        stage.answer("one")
    assert not factory.congested
    assert len(sink.responses) == ahead - ahead // 2
    factory.send([], final=True)
    stage.end(execution)
    while stage.puppets["one"][0].waiting:
        stage.answer("one")
    assert [by_name(response)["EY"] for response in sink.responses] == [[i] for i in range(ahead)]
    sink.responses.clear()


def test_a_sender_waits_for_a_client_that_does_not_read(stage: EnsembleStage) -> None:
    streaming(stage, 1)
    sink = puppet.CongestedSink()
    request = InferRequest("e", inputs=stage.tensors(EX=[[0]]))
    stage.server.submit(request, sink)
    execution = stage.run("dec")
    [factory] = execution.factories
    sink.full = True
    say(factory, 0)
    stage.turn()
    stage.answer("one")
    assert len(sink.responses) == 1
    say(factory, 1)
    stage.turn()
    assert factory.congested
    resumed: list[bool] = []
    factory.on_relief(lambda: resumed.append(True))
    stage.answer("one")
    assert not resumed
    sink.full = False
    sink.resume()
    assert resumed
    assert not factory.congested
    factory.send([], final=True)
    stage.end(execution)
    assert len(sink.responses) == 3
    sink.responses.clear()


def test_a_sender_that_the_steps_behind_it_need_is_not_held_back(stage: EnsembleStage) -> None:
    stage.add_model("dec", decoupled=True, batching=False)
    stage.add_ensemble("e", ["EX"], ["EY"], [
        ("dec", {"X": "EX"}, {"Y": "t"}), ("dec", {"X": "t"}, {"Y": "EY"}),
    ], scheduling="max_inflight_requests: 2")  # fmt: skip
    _, sink = stage.ask_for("e", EX=[[0]])
    execution = stage.run("dec")
    [factory] = execution.factories
    for i in range(5):
        say(factory, i)
        stage.turn()
    assert not factory.congested, "its instance is what the second step waits for"
    factory.send([], final=True)
    stage.end(execution)
    for _ in range(5):
        behind = stage.run("dec")
        say(behind.factories[0], 7, final=True)
        stage.end(behind)
    assert told(sink) == [({"EY": [7]}, False)] * 4 + [({"EY": [7]}, True)]
