"""The rate limiter: who begins when resources are short, in what order, and that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core_harness import live_objects, request, run, running, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_stage import Call, Execution, InnerStage
from puppet_stage import Sink

from triton_async.errors import InvalidArg


@pytest.fixture
def stage() -> Iterator[InnerStage]:
    before = live_objects()
    made = InnerStage()
    yield made
    made.close()
    assert live_objects() == before


def begun(stage: InnerStage) -> str:
    """Names of the models that have batches out, one for each."""
    return "".join(
        name for name, puppets in sorted(stage.puppets.items()) for held in puppets for _ in held.waiting
    )


def send(stage: InnerStage, names: str) -> list[Sink]:
    sinks = [stage.send(name) for name in names]
    stage.turn()
    return sinks


def end(stage: InnerStage, name: str) -> None:
    """Ends an execution of a model, if nobody takes it back."""
    number = next(i for i, held in enumerate(stage.puppets[name]) if held.waiting)
    batch = stage.puppets[name][number].begin()
    if batch is None:
        stage.turn()
    else:
        Execution(stage, name, number, batch).end()


def used(stage: InnerStage) -> dict[str, int]:
    return {name: used for name, _, _, used in stage.limiter.usage()}


def order(stage: InnerStage, count: int) -> str:
    """Who has its turn, one execution after the other."""
    found = ""
    for _ in range(count):
        name = begun(stage)
        assert len(name) == 1
        found += name
        end(stage, name)
    return found


def test_one_copy_is_for_one_execution_at_a_time(stage: InnerStage) -> None:
    stage.add("a", 2, needs={"r": 1})
    stage.add("b", needs={"r": 1})
    sinks = send(stage, "aab")
    assert begun(stage) == "a"
    assert used(stage) == {"r": 1}
    assert order(stage, 3) in ("aba", "aab")
    assert used(stage) == {"r": 0}
    assert all(len(sink.responses) == 1 for sink in sinks)


def test_by_default_there_is_what_the_neediest_needs(stage: InnerStage) -> None:
    stage.add("a", needs={"r": 3, "s": 1})
    stage.add("b", 4, needs={"r": 1})
    assert stage.limiter.usage() == [("r", 0, 3, 0), ("s", 0, 1, 0)]
    send(stage, "bbbb")
    assert begun(stage) == "bbb"
    stage.models["a"].take_instances()
    assert stage.limiter.usage() == [("r", 0, 1, 3)]
    for _ in range(4):
        end(stage, "b")
    assert used(stage) == {"r": 0}


@pytest.mark.parametrize(("priorities", "expected"), [
    ({"a": 1, "b": 1}, "abababababab"), ({"a": 1, "b": 2}, "ababaabaabaa"), ({"a": 0, "b": 3}, "abaabaaabaaa"),
])  # fmt: skip
def test_turns_are_given_by_priority(stage: InnerStage, priorities: dict[str, int], expected: str) -> None:
    for name, priority in priorities.items():
        stage.add(name, needs={"r": 1}, priority=priority)
    send(stage, "ab" * 12)
    found = order(stage, 12)
    assert sorted(found) == sorted(expected)
    assert found == expected
    order(stage, 12)


def test_who_was_away_does_not_make_up_for_it(stage: InnerStage) -> None:
    stage.add("a", needs={"r": 1})
    stage.add("b", needs={"r": 1})
    send(stage, "a" * 20)
    assert order(stage, 10) == "a" * 10
    send(stage, "b" * 10)
    assert order(stage, 8) in ("abababab", "aabababa")
    order(stage, 12)


def test_the_needy_are_not_passed_over_for_ever(stage: InnerStage) -> None:
    stage.add("a", 2, needs={"r": 1})
    stage.add("b", needs={"r": 2})
    send(stage, "aab")
    assert begun(stage) == "aa"
    # Of two copies one is always in use, if nothing is kept for who needs both.
    send(stage, "a" * 4)
    end(stage, "a")
    assert begun(stage) == "a"
    end(stage, "a")
    assert begun(stage) == "b"
    end(stage, "b")
    for _ in range(2):
        assert begun(stage) == "aa"
        end(stage, "a")
        end(stage, "a")


def test_who_waits_for_one_resource_does_not_hold_up_others(stage: InnerStage) -> None:
    stage.add("a", needs={"r": 1})
    stage.add("b", needs={"r": 1})
    stage.add("c", needs={"s": 1})
    stage.add("d")
    send(stage, "ab")
    assert begun(stage) == "a"
    send(stage, "cd")
    assert begun(stage) == "acd"
    for name in "abcd":
        end(stage, name)


def test_devices_have_their_own_and_global_ones_are_shared(stage: InnerStage) -> None:
    stage.add("a", needs={"r": 1}, device=0)
    stage.add("b", needs={"r": 1}, device=1)
    stage.add("c", needs={"R": 1}, device=0)
    stage.add("d", needs={"R": 1}, device=1)
    assert stage.limiter.usage() == [("R", -1, 1, 0), ("r", 0, 1, 0), ("r", 1, 1, 0)]
    send(stage, "abcd")
    assert begun(stage) == "abc"
    end(stage, "c")
    assert begun(stage) == "abd"
    for name in "abd":
        end(stage, name)


def test_a_request_that_goes_leaves_the_line(stage: InnerStage) -> None:
    stage.add("a", needs={"r": 1, "s": 1})
    stage.add("b", needs={"r": 1, "s": 1})
    stage.add("c", needs={"s": 1})
    send(stage, "a")
    waits = stage.request("b")
    stage.server.submit(waits, Sink())
    send(stage, "c")
    end(stage, "a")
    assert begun(stage) == "b"
    again = stage.request("a")
    stage.server.submit(again, Sink())
    stage.turn()
    end(stage, "b")
    assert begun(stage) in ("a", "c")
    stage.server.cancel(again)
    stage.turn()
    while begun(stage):
        end(stage, begun(stage)[0])
    assert used(stage) == {"r": 0, "s": 0}


def test_an_execution_that_asks_lends_what_it_holds(stage: InnerStage) -> None:
    stage.add("a", needs={"r": 1})
    stage.add("b", needs={"r": 1})
    sinks = send(stage, "a")
    asks = stage.begin("a")
    assert used(stage) == {"r": 1}
    call: Call = asks.ask("b")
    # It would wait for ever for the copy of who waits for it.
    assert begun(stage) == "b"
    end(stage, "b")
    assert call.over and not call.refusals
    asks.end()
    assert used(stage) == {"r": 0}
    assert len(sinks[0].responses) == 1


MODELS = {"a": {"r": 1}, "b": {"r": 2}, "c": {"r": 1, "s": 1}, "d": {"s": 2}, "e": {}}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_request_has_its_turn(data: Any) -> None:
    made = InnerStage()
    limits = {"r": 2, "s": 2}
    try:
        for name, needs in MODELS.items():
            made.add(
                name, data.draw(st.integers(1, 3)), needs=needs or None, priority=data.draw(st.integers(0, 3))
            )
        open_requests: list[tuple[Any, Sink]] = []
        for _ in range(data.draw(st.integers(1, 40))):
            action = data.draw(st.sampled_from(["send", "send", "end", "cancel"]))
            if action == "send":
                sent = made.request(data.draw(st.sampled_from(sorted(MODELS))))
                sink = Sink()
                made.server.submit(sent, sink)
                open_requests.append((sent, sink))
            elif action == "end" and begun(made):
                end(made, data.draw(st.sampled_from(sorted(set(begun(made))))))
            elif action == "cancel" and open_requests:
                sent, sink = data.draw(st.sampled_from(open_requests))
                made.server.cancel(sent)
            made.turn()
            out = begun(made)
            for resource, limit in limits.items():
                total = sum(MODELS[name].get(resource, 0) for name in out)
                assert total <= limit
                assert used(made)[resource] == total
        for _ in range(1000):
            out = begun(made)
            if not out:
                break
            end(made, out[0])
        assert all(model.in_flight == 0 for model in made.models.values())
        assert all(sink.releases == 1 for _, sink in open_requests)
        assert used(made) == {"r": 0, "s": 0}
    finally:
        made.close()


ON = "--rate-limit=execution_count"


@pytest.mark.parametrize(("options", "first", "second", "problem"), [
    (["R1:1"], 'resources { name: "R1" count: 2 }', "",
     'Resource count for "R1" is limited to 1 which will prevent scheduling of one or more model instances, the '
     "minimum required count is 2 (in 'rate_limiter' of instance_group 'm_0' of the config of model 'm'; the limit is "
     "of --rate-limit-resource)"),
    (["R1:3:7"], 'resources { name: "R1" count: 2 }', "", 'Resource count for "R1" is limited to 0 which'),
    (["R1:3:0", "R1:1"], 'resources { name: "R1" count: 2 }', "", ""),
    (["R1:3:0", "R1:4:1"], 'resources { name: "R1" count: 4 global: true }', "", ""),
    (["R1:9"], 'resources { name: "R9" count: 1 }', "", 'Resource count for "R9" is limited to 0 which'),
    (["R1:9"], 'resources { name: "r1" count: 1 }', "", 'Resource count for "r1" is limited to 0 which'),
    (["R1:9"], 'resources { name: "R9" count: 0 }', "", ""),
    (["R1:1"], 'resources { name: "R1" count: 1 } resources { name: "R1" count: 2 }', "", "is limited to 1 which"),
    ([], 'resources { name: "R1" count: 2 }', 'resources { name: "R1" count: 1 global: true }',
     'Resource "R1" is present as both global and device-specific resource in the model configuration. (in '
     "'rate_limiter' of instance_group 'n_0' of the config of model 'n')"),
    ([], 'resources { name: "R1" count: 2 } resources { name: "R2" count: 1 }', "priority: 3", ""),
])  # fmt: skip
def test_budgets_that_can_never_be_met_are_refused_at_load(
    tmp_path: Path, options: list[str], first: str, second: str, problem: str
) -> None:
    for name, text in (("m", first), ("n", second)):
        write_model(tmp_path, name, more=f"instance_group {{ count: 1 kind: KIND_CPU rate_limiter {{ {text} }} }}")
    given_options = [f"--rate-limit-resource={option}" for option in options]

    async def test() -> None:
        async with running(tmp_path, ON, "--model-control-mode=explicit", *given_options) as server:
            found = ""
            for name in ("m", "n"):
                try:
                    await server.load_model(name)
                    assert (await server.infer(request(name, [3]))).outputs[0].numpy().tolist() == [3]
                except InvalidArg as error:
                    found += error.message
            assert problem in found
            assert bool(problem) == bool(found)

    run(test)


def test_nothing_is_limited_when_it_is_off(tmp_path: Path) -> None:
    text = 'rate_limiter { resources { name: "R1" count: 2 } }'
    write_model(tmp_path, "m", more=f"instance_group {{ count: 1 kind: KIND_CPU {text} }}")

    async def test() -> None:
        async with running(tmp_path, "--rate-limit-resource=R1:1") as server:
            assert (await server.infer(request("m", [3]))).outputs[0].numpy().tolist() == [3]

    run(test)
