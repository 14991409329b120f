"""Requests to ensembles, step by step: what the steps are asked, what comes back, who is told of failures and ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ensemble_stage import EnsembleStage, by_name
from inner_stage import Call
from puppet_stage import Sink

from triton_async.config.model_config import QueuePolicy
from triton_async.core.cache import LocalCache
from triton_async.core.queue import RequestQueue
from triton_async.errors import Cancelled, InvalidArg, NotFound, Unavailable
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy


@pytest.fixture
def stage() -> Iterator[EnsembleStage]:
    stage = EnsembleStage()
    yield stage
    stage.close()


def chain(stage: EnsembleStage, *, by_request: bool = True, **more: object) -> None:
    """e: EX -> a -> T -> b -> EY."""
    stage.add_model("a", by_request=by_request)
    stage.add_model("b", by_request=by_request)
    stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "T"}), ("b", {"X": "T"}, {"Y": "EY"})], **more)


def ended(stage: EnsembleStage, *names: str) -> None:
    """Nothing is left with the models."""
    latest, _ = stage.serving()
    for name in names or latest:
        assert latest[name].in_flight == 0, name


def test_tensors_go_from_step_to_step(stage: EnsembleStage) -> None:
    chain(stage)
    _, sink = stage.ask_for("e", EX=[[1, 2]])
    assert not sink.responses
    stage.answer("a", function=lambda X: X + 1)
    assert not sink.responses
    [inner] = stage.answer("b", function=lambda X: X * 10)
    [response] = sink.responses
    assert by_name(response) == {"EY": [20, 30]}
    assert (response.model_name, response.model_version, response.final) == ("e", 1, True)
    assert response.parameters == {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
    assert sink.releases == 1
    assert inner.inputs[0].name == "X"
    ended(stage)


def test_tensors_are_not_copied(stage: EnsembleStage) -> None:
    chain(stage)
    request, sink = stage.ask_for("e", EX=[[1, 2]])
    execution = stage.run("a")
    [inner] = execution.requests
    assert np.shares_memory(inner.inputs[0].numpy(), request.inputs[0].numpy())
    made = np.float32([[5, 6]])
    execution.factories[0].send([from_numpy("Y", made)])
    execution.factories[0].release()
    execution.over()
    execution = stage.run("b")
    assert np.shares_memory(execution.requests[0].inputs[0].numpy(), made)
    execution.factories[0].send([from_numpy("Y", made)])
    execution.factories[0].release()
    execution.over()
    assert np.shares_memory(sink.responses[0].outputs[0].numpy(), made)
    sink.responses.clear()


def test_what_is_said_of_a_request_is_handed_to_its_steps(stage: EnsembleStage) -> None:
    chain(stage)
    told = {
        "id": "7", "priority": 3, "timeout_us": 5_000_000, "sequence_id": "s", "flags": 3, "parameters": {"a": 1},
        "end_by_ns": stage.clock.ns + 10**12,
    }  # fmt: skip
    _, sink = stage.ask_for("e", EX=[[1]], more=told)
    for name in "ab":
        [inner] = stage.answer(name)
        assert {key: getattr(inner, key) for key in told} == told
    assert sink.responses[0].parameters == {"sequence_id": "s", "sequence_start": True, "sequence_end": True}


def test_rows_of_several_requests_share_the_batches_of_steps(stage: EnsembleStage) -> None:
    chain(stage, by_request=False)
    asked = [stage.ask_for("e", EX=[[i]])[1] for i in range(4)]
    # The first one has begun alone, the others wait for it.
    for name in "ab":
        while stage.puppets[name][0].waiting:
            stage.puppets[name][0].end(stage.puppets[name][0].begin())
            stage.turn()
    while stage.puppets["a"][0].waiting or stage.puppets["b"][0].waiting:
        for name in "ab":
            if stage.puppets[name][0].waiting:
                stage.puppets[name][0].end(stage.puppets[name][0].begin())
                stage.turn()
    assert [by_name(sink.responses[0]) for sink in asked] == [{"EY": [i]} for i in range(4)]
    assert stage.models["a"].statistics.execution_count == 2
    assert stage.models["b"].statistics.inference_count == 4
    ended(stage)


def test_a_diamond_of_steps_with_both_halves_at_once(stage: EnsembleStage) -> None:
    for name, ins in (("top", "X"), ("left", "X"), ("right", "X"), ("join", "XZ")):
        stage.add_model(name, list(ins))
    stage.add_ensemble("e", ["EX"], ["EY"], [
        ("join", {"X": "l", "Z": "r"}, {"Y": "EY"}), ("left", {"X": "t"}, {"Y": "l"}),
        ("right", {"X": "t"}, {"Y": "r"}), ("top", {"X": "EX"}, {"Y": "t"}),
    ])  # fmt: skip
    _, sink = stage.ask_for("e", EX=[[1]])
    stage.answer("top", function=lambda X: X + 1)
    right, left = stage.run("right"), stage.run("left")
    for execution, factor in ((right, 10), (left, 100)):
        execution.factories[0].send([from_numpy("Y", execution.factories[0].inputs[0].numpy() * np.float32(factor))])
        execution.factories[0].release()
        execution.over()
    stage.answer("join", function=lambda X, Z: X + Z)
    assert by_name(sink.responses[0]) == {"EY": [220]}
    ended(stage)


def test_only_the_steps_of_the_outputs_that_are_asked_for_run(stage: EnsembleStage) -> None:
    stage.add_model("a")
    stage.add_model("b")
    stage.add_ensemble("e", ["EX"], ["A", "B"], [("a", {"X": "EX"}, {"Y": "A"}), ("b", {"X": "EX"}, {"Y": "B"})])
    _, sink = stage.ask_for("e", outputs=["B"], EX=[[1]])
    assert not stage.puppets["a"][0].waiting
    stage.answer("b")
    assert by_name(sink.responses[0]) == {"B": [1]}


def test_an_output_that_is_an_input_needs_no_step(stage: EnsembleStage) -> None:
    stage.add_model("a")
    stage.add_ensemble("e", ["EX"], ["EX", "EY"], [("a", {"X": "EX"}, {"Y": "EY"})])
    _, sink = stage.ask_for("e", outputs=["EX"], EX=[[3]])
    [response] = sink.responses
    assert by_name(response) == {"EX": [3]}
    assert response.parameters is None
    assert sink.releases == 1


def test_optional_inputs_are_left_out_for_the_steps_too(stage: EnsembleStage) -> None:
    stage.add_model("a", ["X", "Z?"])
    stage.add_ensemble("e", ["EX", "EZ?"], ["EY"], [("a", {"X": "EX", "Z": "EZ"}, {"Y": "EY"})])
    for values, expected in (({"EX": [[1]]}, 1), ({"EX": [[1]], "EZ": [[2]]}, 3)):
        _, sink = stage.ask_for("e", **values)
        stage.answer("a")
        assert by_name(sink.responses[0]) == {"EY": [expected]}


@pytest.mark.parametrize(
    ("sizes", "sent", "seen", "got"),
    [((4, 0), [[1, 2]], [2], [1, 2]), ((0, 4), [1, 2], [1, 2], [2]), ((4, 4), [[1], [2]], [2, 1], [2, 1])],
)
def test_the_batch_dimension_comes_and_goes(
    stage: EnsembleStage, sizes: tuple[int, int], sent: list[Any], seen: list[int], got: list[int]
) -> None:
    ensemble, model = sizes
    stage.add_model("a", batch=model, batching=False)
    stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})], batch=ensemble)
    _, sink = stage.ask_for("e", EX=sent)
    [inner] = stage.answer("a")
    assert list(inner.inputs[0].shape) == seen
    assert list(sink.responses[0].outputs[0].shape) == got


def test_a_batch_is_refused_by_a_step_without_one_in_its_own_words(stage: EnsembleStage) -> None:
    stage.add_model("a", batch=0, batching=False)
    stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})])
    _, sink = stage.ask_for("e", EX=[[1], [2]])
    [response] = sink.responses
    assert isinstance(response.error, InvalidArg)
    assert response.error.message == (
        "in ensemble 'e', [request id: <id_unknown>] unexpected shape for input 'X' for model 'a'. Expected [-1], got "
        "[2,1]. "
    )
    assert sink.releases == 1


# -- failures and ends -------------------------------------------------------------------------------------------------


def test_the_error_of_a_step_is_that_of_the_request_and_the_other_steps_are_dropped(stage: EnsembleStage) -> None:
    stage.add_model("a")
    stage.add_model("b", instances=1)
    stage.add_model("join", ["X", "Z"])
    ensemble = stage.add_ensemble("e", ["EX"], ["EY"], [
        ("a", {"X": "EX"}, {"Y": "l"}), ("b", {"X": "EX"}, {"Y": "r"}), ("join", {"X": "l", "Z": "r"}, {"Y": "EY"}),
    ])  # fmt: skip
    _, sink = stage.ask_for("e", EX=[[1]])
    running = stage.run("b")
    execution = stage.run("a")
    execution.factories[0].send([], error=NotFound("no way"), final=True)
    execution.factories[0].release()
    execution.over()
    [response] = sink.responses
    assert isinstance(response.error, NotFound)
    assert response.error.message == "in ensemble 'e', no way"
    assert running.requests[0].is_cancelled
    assert sink.releases == 0, "a step still reads the inputs"
    stage.end(running)
    assert sink.releases == 1
    assert len(sink.responses) == 1
    assert ensemble.statistics.counters()[1] == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
    ended(stage)


def test_a_step_without_its_output_fails_by_name(stage: EnsembleStage) -> None:
    chain(stage)
    _, sink = stage.ask_for("e", EX=[[1]])
    execution = stage.run("a")
    execution.factories[0].send([])
    execution.factories[0].release()
    execution.over()
    error = sink.responses[0].error
    assert isinstance(error, InvalidArg)
    assert error.message.startswith("in ensemble 'e', [request id: <id_unknown>] unexpected deadlock, at least one")
    assert error.message.endswith(": model 'a' did not give its output 'Y'")
    ended(stage)


def test_a_step_goes_on_without_an_optional_input_that_the_one_before_has_not_given(stage: EnsembleStage) -> None:
    stage.add_model("a", ["X", "Z?"], ["Y", "W"])
    stage.add_model("b", ["X", "Z?"], ["Y", "W"])
    stage.add_ensemble(
        "e", ["EX", "EZ?"], ["EY", "EW"],
        [("a", {"X": "EX", "Z": "EZ"}, {"Y": "T", "W": "U"}), ("b", {"X": "T", "Z": "U"}, {"Y": "EY", "W": "EW"})],
    )  # fmt: skip
    for outputs in (["EY"], []):
        _, sink = stage.ask_for("e", outputs=outputs, EX=[[1]])
        for step in "ab":
            execution = stage.run(step)
            assert [tensor.name for tensor in execution.requests[0].inputs] == ["X"]
            execution.factories[0].send(stage.tensors(Y=[[2]]))
            execution.factories[0].release()
            execution.over()
        response = sink.responses[0]
        # As with a model alone, an output that is not given is left out.
        assert response.error is None and [tensor.name for tensor in response.outputs] == ["EY"]
    ended(stage)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("step", ["a", "b"])
def test_a_cancelled_request_takes_its_steps_along(stage: EnsembleStage, step: str, begun: bool) -> None:
    chain(stage)
    request, sink = stage.ask_for("e", EX=[[1]])
    if step == "b":
        stage.answer("a")
    execution = stage.run(step) if begun else None
    stage.server.cancel(request)
    stage.server.cancel(request)
    stage.turn()
    assert not sink.responses
    assert sink.releases == (0 if begun else 1)
    if execution is not None:
        assert execution.requests[0].is_cancelled
        stage.end(execution)
    assert sink.releases == 1
    assert not sink.responses
    if step == "a":
        assert not stage.puppets["b"][0].waiting
    ended(stage)


def test_a_cancelled_request_of_which_a_step_has_let_go_of_its_inputs_ends_at_once(stage: EnsembleStage) -> None:
    stage.add_model("a", decoupled=True)
    stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})])
    request, sink = stage.ask_for("e", EX=[[1]])
    execution = stage.run("a")
    execution.factories[0].send([from_numpy("Y", np.float32([[1]]))], final=False)
    execution.factories[0].release()
    stage.turn()
    stage.server.cancel(request)
    stage.turn()
    assert sink.releases == 1
    execution.factories[0].send([from_numpy("Y", np.float32([[1]]))])
    execution.over()
    assert len(sink.responses) == 1
    assert not sink.responses[0].final
    ended(stage)


def test_a_step_that_is_refused_when_it_is_asked_fails_the_request_later(stage: EnsembleStage) -> None:
    queue = RequestQueue(QueuePolicy(max_queue_size=1))
    stage.add_model("a", queue=queue, batching=False, batch=0)
    stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})], batch=0)
    sinks = [stage.ask_for("e", EX=[i])[1] for i in range(3)]
    [response] = sinks[2].responses
    assert isinstance(response.error, Unavailable)
    assert response.error.message == "in ensemble 'e', [request id: <id_unknown>] Exceeds maximum queue size"
    stage.answer("a")
    stage.answer("a")
    assert [by_name(sink.responses[0])["EY"] for sink in sinks[:2]] == [[0], [1]]


def test_what_times_out_in_the_queue_of_a_step_says_so(stage: EnsembleStage) -> None:
    queue = RequestQueue(QueuePolicy(default_timeout_us=1000, allow_timeout_override=True))
    stage.add_model("a", queue=queue, batching=False)
    stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})])
    first = stage.ask_for("e", EX=[[0]])[1]
    late = stage.ask_for("e", EX=[[1]], more={"timeout_us": 500})[1]
    stage.clock.ns += 600_000
    stage.turn()
    assert late.responses[0].error.message == "in ensemble 'e', Request timeout expired"
    stage.answer("a")
    assert first.responses[0].error is None


def test_a_model_that_leaves_finishes_the_requests_that_still_need_it(stage: EnsembleStage) -> None:
    chain(stage)
    _, sink = stage.ask_for("e", EX=[[1]])
    latest, versions = stage.serving()
    old = latest.pop("b")
    del versions["b", 1]
    leaving = stage.loop.create_task(old.drain())
    stage.turn()
    assert not leaving.done()
    late = Sink()
    with pytest.raises(NotFound):
        stage.server.submit(stage.request("b"), late)
    stage.answer("a")
    stage.answer("b")
    assert by_name(sink.responses[0]) == {"EY": [1]}
    stage.turn()
    assert leaving.done()
    with pytest.raises(NotFound, match="in ensemble 'e', Request for unknown model: 'b' has no available versions"):
        stage.ask_for("e", EX=[[1]])


def test_answers_of_an_ensemble_and_of_its_steps_are_kept(stage: EnsembleStage) -> None:
    cache = LocalCache(1 << 20)
    step = stage.add_model("a", cache=cache)
    ensemble = stage.add_ensemble("e", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})], cache=cache)
    stage.add_ensemble("plain", ["EX"], ["EY"], [("a", {"X": "EX"}, {"Y": "EY"})])
    for name, runs in (("e", True), ("e", False), ("plain", False)):
        _, sink = stage.ask_for(name, EX=[[2]])
        assert bool(stage.puppets["a"][0].waiting) == runs
        if runs:
            stage.answer("a")
        assert by_name(sink.responses[0]) == {"EY": [2]}
        assert sink.releases == 1
    assert [statistics.cached()[:2] for statistics in (ensemble.statistics, step.statistics)] == [(1, 1), (1, 1)]
    assert ensemble.statistics.inference_count == 1
    for model in (ensemble, step):
        model.take_instances()
    assert len(cache) == 0


def test_requests_executions_and_times_are_counted(stage: EnsembleStage) -> None:
    chain(stage, by_request=False)
    ensemble = stage.serving()[0]["e"]
    _, sink = stage.ask_for("e", EX=[[1], [2]])
    for name, took in (("a", 1000), ("b", 2000)):
        batch = stage.puppets[name][0].begin()
        stage.clock.ns += took
        stage.puppets[name][0].end(batch)
        stage.turn()
    assert by_name(sink.responses[0]) == {"EY": [1, 2]}
    entry = ensemble.statistics.as_dict("e", "1")
    assert (entry["inference_count"], entry["execution_count"]) == (2, 1)
    assert entry["inference_stats"]["success"] == {"count": 1, "ns": 3000}
    keys = ("queue", "compute_input", "compute_infer", "compute_output")
    spent = {key: entry["inference_stats"][key] for key in keys}
    assert {key: value["count"] for key, value in spent.items()} == dict.fromkeys(spent, 1)
    assert sum(value["ns"] for value in spent.values()) == 3000
    assert [row["batch_size"] for row in entry["batch_stats"]] == [2]


# -- ensembles in ensembles, and models that ask them ------------------------------------------------------------------


def test_an_ensemble_can_be_a_step(stage: EnsembleStage) -> None:
    chain(stage)
    stage.add_ensemble("outer", ["OX"], ["OY"], [("e", {"EX": "OX"}, {"EY": "OY"})])
    _, sink = stage.ask_for("outer", OX=[[1]])
    stage.answer("a")
    stage.answer("b")
    assert by_name(sink.responses[0]) == {"OY": [1]}
    _, failing = stage.ask_for("outer", OX=[[1]])
    execution = stage.run("a")
    execution.factories[0].send([], error=InvalidArg("bad"), final=True)
    execution.factories[0].release()
    execution.over()
    assert failing.responses[0].error.message == "in ensemble 'outer', in ensemble 'e', bad"
    request, cancelled = stage.ask_for("outer", OX=[[1]])
    stage.server.cancel(request)
    stage.turn()
    assert (cancelled.responses, cancelled.releases) == ([], 1)
    ended(stage)


def test_a_model_asks_an_ensemble(stage: EnsembleStage) -> None:
    chain(stage)
    stage.add_model("asker")
    _, sink = stage.ask_for("asker", X=[[1]])
    execution = stage.run("asker")
    call = Call(askers=execution.requests)
    call.handle = stage.inner.submit(InferRequest("e", inputs=stage.tensors(EX=[[4]])), call, None)
    stage.turn()
    stage.answer("a")
    stage.answer("b")
    assert by_name(call.responses[0]) == {"EY": [4]}
    assert call.releases == 1
    stage.end(execution)
    assert len(sink.responses) == 1
    ended(stage)


def test_a_model_that_asks_itself_through_an_ensemble_is_refused(stage: EnsembleStage) -> None:
    chain(stage)
    _, sink = stage.ask_for("b", X=[[1]])
    execution = stage.run("b")
    call = Call(askers=execution.requests)
    call.handle = stage.inner.submit(InferRequest("e", inputs=stage.tensors(EX=[[4]])), call, None)
    stage.turn()
    stage.answer("a")
    [response] = call.responses
    assert isinstance(response.error, Unavailable)
    assert response.error.message.startswith("in ensemble 'e', the request to model 'b' could never be answered")
    stage.end(execution)
    assert len(sink.responses) == 1
    ended(stage)


def test_a_client_of_the_ensemble_waits_where_a_model_would_be_refused(stage: EnsembleStage) -> None:
    chain(stage)
    _, other = stage.ask_for("b", X=[[1]])
    execution = stage.run("b")
    _, sink = stage.ask_for("e", EX=[[4]])
    stage.answer("a")
    assert not sink.responses
    stage.end(execution)
    stage.answer("b")
    assert by_name(sink.responses[0]) == {"EY": [4]}
    assert len(other.responses) == 1


def test_what_a_model_asks_of_an_ensemble_is_cancelled_with_it(stage: EnsembleStage) -> None:
    chain(stage)
    stage.add_model("asker")
    request, sink = stage.ask_for("asker", X=[[1]])
    execution = stage.run("asker")
    call = Call(askers=execution.requests)
    call.handle = stage.inner.submit(InferRequest("e", inputs=stage.tensors(EX=[[4]])), call, None)
    stage.turn()
    stage.server.cancel(request)
    stage.turn()
    assert isinstance(call.refusals[0], Cancelled)
    assert stage.models["a"].in_flight == 0
    stage.end(execution)
    assert not sink.responses
    ended(stage)
