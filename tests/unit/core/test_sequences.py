"""The sequence batcher on a clock that only the test moves."""

from __future__ import annotations

import numpy as np
import pytest
from sequence_stage import END, SECOND, START, Stage, steps

from triton_async.core.scheduler import refusal
from triton_async.errors import Cancelled, DeadlineExceeded, InternalError, InvalidArg, Unavailable, Unsupported
from triton_async.infer.request import Origin
from triton_async.infer.tensor import from_numpy

both = pytest.mark.parametrize("oldest", [False, True])


@both
def test_requests_of_a_sequence_run_one_by_one_and_each_gets_the_state_of_the_one_before(oldest: bool) -> None:
    stage = Stage(oldest=oldest)
    sent = [stage.send(7, flags, value) for flags, value in ((START, 1), (0, 2), (0, 3), (END, 4))]
    for request, expected in zip(sent, (1, 3, 6, 10), strict=True):
        assert stage.take_rows() == [request]
        assert stage.take_rows() == []
        assert stage.answer(request) == expected
    assert stage.batcher.live == 0


@both
def test_sequences_share_batches_and_no_state(oldest: bool) -> None:
    stage = Stage(oldest=oldest)
    for sequence in (1, 2, 3):
        stage.send(sequence, START, sequence)
        stage.send(sequence, END, 10)
    first = stage.take_rows()
    assert [request.sequence_id for request in first if request] == [1, 2, 3]
    assert [stage.answer(request) for request in first if request] == [1, 2, 3]
    assert [stage.answer(request) for request in stage.take_rows() if request] == [11, 12, 13]


def test_controls_have_the_configured_values_and_types() -> None:
    stage = Stage()
    stage.send(5, START)
    stage.send(5)
    stage.send(5, END)
    stage.send(6, START | END)
    seen = []
    while rows := stage.take_rows():
        for request in rows:
            assert request is not None
            got = stage.injected(request)
            assert (got["READY"].dtype, got["START"].dtype, got["END"].dtype, got["CORRID"].dtype) == (
                np.bool_, np.int32, np.float32, np.uint64,
            )  # fmt: skip
            seen.append((int(got["CORRID"]), bool(got["READY"]), int(got["START"]), float(got["END"])))
            stage.answer(request)
    assert seen == [(5, True, 1, -1.0), (6, True, 1, 7.0), (5, True, 0, -1.0), (5, True, 0, 7.0)]


@pytest.mark.parametrize(("kind", "fits", "least", "most"), [
    ("INT32", True, -(2**31), 2**31 - 1), ("UINT32", True, 0, 2**32 - 1), ("INT64", True, 0, 2**63 - 1),
    ("UINT64", True, 0, 2**64 - 1),
])  # fmt: skip
def test_an_id_that_does_not_fit_the_control_is_refused(kind: str, fits: bool, least: int, most: int) -> None:
    stage = Stage(id_type=kind)
    request = stage.send(most, START | END)
    assert stage.take_rows() == [request]
    assert stage.injected(request)["CORRID"] == most
    if most < 2**64 - 1:
        with pytest.raises(InvalidArg, match=rf"correlation ID {most + 1} does not fit.*'CORRID' of model 'm'.*{kind}"):
            stage.send(most + 1, START)
    with pytest.raises(InvalidArg, match=f"^sequence batching control 'CORRID' data-type is 'BYTES', but model 'm' "
                                         f"expects '{kind}'$"):
        stage.send("abc", START)
    assert stage.batcher.live == 1


def test_string_ids_come_as_strings() -> None:
    stage = Stage(id_type="BYTES")
    request = stage.send("vor Ort: ä", START | END)
    stage.take_rows()
    assert stage.injected(request)["CORRID"] == "vor Ort: ä".encode()
    with pytest.raises(InvalidArg, match=r"^sequence batching control 'CORRID' data-type is 'UINT64', but model 'm' "
                                         "expects 'BYTES'$"):
        stage.send(3, START)


def test_ids_of_both_kinds_without_a_control_for_them() -> None:
    stage = Stage(id_type="")
    stage.send("1", START, 5)
    stage.send(1, START, 6)
    assert sorted(stage.run()) == [5, 6]
    with pytest.raises(Unsupported, match=r"^string correlation ID cannot be longer than 128 characters$"):
        stage.send("x" * 129, START)
    stage.send("x" * 128, START)


@both
def test_what_can_belong_to_no_sequence_is_refused_in_triton_s_words(oldest: bool) -> None:
    stage = Stage(oldest=oldest)
    for missing in (0, ""):
        with pytest.raises(InvalidArg, match=r"^inference request to model 'm' must specify a non-zero or non-empty "
                                             "correlation ID$"):
            stage.send(missing, START)
    must_start = ("^inference request for sequence 9 to model 'm' must specify the START flag on the first request of "
                  "the sequence$")
    for flags in (0, END):
        with pytest.raises(InvalidArg, match=must_start):
            stage.send(9, flags)
    with pytest.raises(InvalidArg, match=r"^inference request to model 'm' must specify batch-size 1 due to "
                                         "requirements of sequence batcher$"):
        stage.send(9, START, rows=2)
    stage.send(9, START | END)
    with pytest.raises(InvalidArg, match=must_start):
        stage.send(9)
    stage.run()
    with pytest.raises(InvalidArg, match=must_start):
        stage.send(9)
    assert stage.batcher.live == 0


@both
def test_a_start_on_a_live_id_begins_anew(oldest: bool, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(oldest=oldest)
    stage.send(4, START, 100)
    stage.send(4, 0, 1)
    stage.send(4, START, 5)
    stage.send(4, END, 6)
    assert stage.run() == [100, 101, 5, 11]
    assert "sequence 4 for model 'm' has a conflict. The previous sequence did not end" in caplog.text


def test_a_sequence_of_the_same_id_behind_an_end_waits_its_turn() -> None:
    stage = Stage(rows=1, id_type="")
    stage.send(1, START, 1)
    stage.send(1, END, 2)
    stage.send(2, START | END, 50)
    stage.send(1, START, 7)
    stage.send(1, END, 8)
    assert stage.run() == [1, 3, 50, 7, 15]
    assert stage.batcher.live == 0


# -- slots and the backlog -----------------------------------------------------------------------------------------


@both
def test_more_sequences_than_slots_wait_in_order(oldest: bool) -> None:
    stage = Stage(rows=2, oldest=oldest)
    for sequence in range(1, 6):
        stage.send(sequence, START, sequence)
        stage.send(sequence, END, sequence)
    assert stage.batcher.backlogged == 3
    assert stage.run() == [1, 2, 2, 4, 3, 4, 6, 8, 5, 10]
    assert (stage.batcher.live, stage.batcher.free_slots) == (0, 2)


def test_slots_are_spread_over_instances_the_lowest_first() -> None:
    stage = Stage(rows=2, instances=2)
    for sequence in range(1, 5):
        stage.send(sequence, START)
    assert [request.sequence_id for request in stage.take_rows(0) if request] == [1, 3]
    assert [request.sequence_id for request in stage.take_rows(1) if request] == [2, 4]


def test_all_of_a_sequence_runs_on_one_instance() -> None:
    stage = Stage(rows=1, instances=3)
    for sequence in range(1, 4):
        for flags in (START, 0, END):
            stage.send(sequence, flags)
    for _ in range(3):
        for instance in range(3):
            (request,) = stage.take_rows(instance)
            assert request is not None
            assert request.sequence_id == instance + 1
            stage.answer(request)


@both
def test_the_timeout_of_a_request_holds_while_its_sequence_waits_for_a_slot(oldest: bool) -> None:
    stage = Stage(rows=1, oldest=oldest)
    stage.send(1, START)
    stage.send(2, START, timeout_us=500)
    stage.send(2)
    late = stage.send(3, START, timeout_us=900)
    assert stage.wait(400) == []
    refused = stage.wait(200)
    assert [request.sequence_id for request in refused] == [2, 2]
    for request in refused:
        assert isinstance(refusal(request), Unavailable)
        assert refusal(request).message == "timeout of the corresponding sequence has been expired"
    with pytest.raises(InvalidArg, match="START flag"):
        stage.send(2)
    assert stage.run() == [1]
    stage.send(1, END, 1)
    assert stage.run() == [2, 1]
    assert steps.state_of(late) == "done"  # it has a slot, so its timeout was over
    assert stage.wait(100_000) == []


def test_a_slot_that_is_given_away_again_has_a_new_owner() -> None:
    stage = Stage(rows=1)
    for sequence in range(1, 50):
        stage.send(sequence, START, sequence)
        stage.send(sequence, END, 1)
    assert stage.run() == [value for sequence in range(1, 50) for value in (sequence, sequence + 1)]


# -- the direct strategy -------------------------------------------------------------------------------------------


def test_rows_of_the_direct_strategy_are_slots_and_empty_ones_are_not_ready() -> None:
    stage = Stage(rows=4, pads=True)
    for sequence in (1, 2, 3):
        stage.send(sequence, START, sequence)
    stage.run()
    third = stage.send(3, 0, 1)
    batch = stage.take()
    assert batch is not None
    assert steps.rows_of(batch) == [None, None, third]
    for value, ready, start, end, identity, state in steps.padding_of(batch):
        assert (value.shape, value.sum(), ready.item(), start.item(), end.item()) == ((1, 1), 0, False, 0, -1.0)
        assert (identity.item(), state.item()) == (0, 0.0)
    assert stage.answer(third) == 4


def test_requests_of_other_shapes_wait_for_a_batch_of_their_own() -> None:
    stage = Stage(rows=4, pads=True)
    stage.send(1, START, width=1)
    stage.send(2, START, width=2)
    stage.send(3, START, width=1)
    first = stage.take_rows()
    assert [request and request.sequence_id for request in first] == [1, None, 3]
    second = stage.take_rows()
    assert [request and request.sequence_id for request in second] == [None, 2]


def test_the_direct_strategy_waits_for_its_slots_to_be_used_up_to_its_delay() -> None:
    stage = Stage(rows=4, delay_us=100, min_utilization=0.75)
    stage.send(1, START)
    stage.send(2, START)
    assert stage.take_rows() == []
    assert stage.batcher.wait_until_ns == SECOND + 100_000
    stage.send(3, START)
    assert len(stage.take_rows()) == 3
    stage.send(4, START)
    assert stage.take_rows() == []
    stage.wait(100)
    assert [request.sequence_id for request in stage.take_rows() if request] == [4]


def test_a_delay_without_a_utilization_is_none() -> None:
    stage = Stage(rows=4, delay_us=100)
    stage.send(1, START)
    assert len(stage.take_rows()) == 1


# -- the oldest strategy -------------------------------------------------------------------------------------------


def test_the_oldest_strategy_takes_preferred_sizes_until_its_delay_is_over() -> None:
    stage = Stage(rows=8, oldest=True, candidates=8, delay_us=100, preferred_batch_sizes=(4,))
    for sequence in range(1, 4):
        stage.send(sequence, START)
    assert stage.take_rows() == []
    assert stage.batcher.wait_until_ns == SECOND + 100_000
    stage.send(4, START)
    stage.send(5, START)
    assert [request.sequence_id for request in stage.take_rows() if request] == [1, 2, 3, 4]
    assert stage.take_rows() == []
    stage.wait(100)
    assert [request.sequence_id for request in stage.take_rows() if request] == [5]


def test_candidates_are_bounded_and_the_one_ready_for_longest_goes_first() -> None:
    stage = Stage(rows=1, oldest=True, candidates=2)
    for sequence in (1, 2, 3):
        stage.send(sequence, START, sequence)
        stage.send(sequence, END, 0)
    order = []
    while rows := stage.take_rows():
        (request,) = rows
        assert request is not None
        order.append(request.sequence_id)
        stage.answer(request)
    assert order == [1, 2, 1, 2, 3, 3]


def test_only_a_full_batch_is_taken_ahead_and_only_of_the_oldest_strategy() -> None:
    stage = Stage(rows=2, oldest=True)
    first = stage.send(1, START)
    assert stage.take(idle=False) is None
    second = stage.send(2, START)
    batch = stage.take(idle=False)
    assert batch is not None
    assert batch.requests == [first, second]
    # It has not begun: what was taken back is first again.
    stage.batcher.requeue([first, second])
    steps.check(stage.batcher)
    assert stage.take_rows() == [first, second]
    direct = Stage(rows=2)
    direct.send(1, START)
    direct.send(2, START)
    assert direct.take(idle=False) is None


# -- idle sequences ------------------------------------------------------------------------------------------------


@both
def test_an_idle_sequence_loses_its_slot_and_its_state(oldest: bool) -> None:
    stage = Stage(rows=1, oldest=oldest, idle_us=1000)
    stage.send(1, START, 5)
    stage.send(2, START, 7)
    assert stage.run() == [5]
    stage.wait(999)
    assert stage.run() == []
    stage.wait(1)
    assert stage.run() == [7]
    with pytest.raises(InvalidArg, match="START flag"):
        stage.send(1)


@both
def test_a_sequence_is_not_idle_while_it_waits_or_runs(oldest: bool) -> None:
    stage = Stage(rows=1, oldest=oldest, idle_us=1000)
    first = stage.send(1, START, 5)
    stage.send(2, START, 7)
    stage.wait(5000)
    assert stage.take_rows() == [first]
    stage.wait(5000)
    assert stage.answer(first) == 5
    stage.send(1, END, 1)
    stage.wait(5000)
    assert stage.run() == [6, 7]


def test_each_request_of_a_sequence_begins_its_idle_time_anew() -> None:
    stage = Stage(rows=2, idle_us=1000)
    stage.send(1, START, 1)
    stage.send(2, START, 1)
    stage.run()
    for _ in range(5):
        stage.wait(600)
        stage.send(1, 0, 1)
        stage.run()
    assert stage.batcher.live == 1
    assert stage.batcher.next_deadline_ns == stage.now_ns + 1_000_000


# -- requests that are dropped -------------------------------------------------------------------------------------


@both
def test_cancelling_a_request_that_waits_ends_its_sequence(oldest: bool) -> None:
    stage = Stage(rows=1, oldest=oldest)
    stage.send(1, START, 1)
    cancelled = stage.send(1, 0, 2)
    last = stage.send(1, END, 3)
    other = stage.send(2, START, 9)
    (running,) = stage.take_rows()
    stage.batcher.remove(cancelled)
    assert steps.state_of(cancelled) == "done"
    assert stage.batcher.next_deadline_ns
    assert stage.batcher.expire(stage.now_ns) == [last]
    assert isinstance(refusal(last), Cancelled)
    with pytest.raises(InvalidArg, match="START flag"):
        stage.send(1)
    assert stage.take_rows() == []  # the slot is still in use
    assert running is not None
    stage.answer(running)
    assert stage.take_rows() == [other]


def test_a_request_that_is_late_for_its_client_is_refused_with_its_sequence() -> None:
    stage = Stage(rows=1)
    stage.send(1, START)
    late = stage.send(1, end_by_ns=stage.now_ns + 1_000_000)
    behind = stage.send(1, END)
    (running,) = stage.take_rows()
    refused = stage.wait(1000)
    assert refused == [behind, late]
    assert isinstance(refusal(late), DeadlineExceeded)
    assert isinstance(refusal(behind), Cancelled)
    assert running is not None
    stage.answer(running)
    assert stage.batcher.live == 0


def test_cancelling_leaves_the_next_sequence_of_the_same_id_alone() -> None:
    stage = Stage(rows=1)
    stage.send(1, START, 1)
    cancelled = stage.send(1, END, 2)
    stage.send(1, START, 30)
    stage.send(1, END, 4)
    stage.batcher.remove(cancelled)
    refused = stage.batcher.expire(stage.now_ns)
    assert len(refused) == 1
    assert stage.run() == [30, 34]
    assert stage.batcher.live == 0


def test_a_new_sequence_may_begin_while_the_last_step_of_one_that_was_given_up_runs() -> None:
    stage = Stage(rows=2, id_type="")
    old = stage.send(1, START, 100)
    waiting = stage.send(1, 0, 1)
    assert stage.take_rows() == [old]
    stage.batcher.remove(waiting)
    new = stage.send(1, START, 5)
    assert stage.take_rows() == [new]
    assert stage.answer(old) == 100
    assert stage.answer(new) == 5
    stage.send(1, END, 1)
    assert stage.run() == [6]
    assert stage.batcher.live == 0


def test_what_a_client_that_has_gone_left_behind_is_dropped_at_once() -> None:
    stage = Stage(rows=1)
    woken = []
    stage.batcher.wake = lambda: woken.append(1)
    origin = Origin()
    request = stage.request(1, START)
    steps.set_origin(request, origin)
    stage.batcher.enqueue(request, stage.now_ns)
    stage.send(2, START, 5)
    assert stage.run() == [1]
    origin.leave()
    assert woken == [1]
    assert stage.run() == [5]
    with pytest.raises(InvalidArg, match="START flag"):
        stage.send(1)
    origin.leave()
    assert stage.batcher.live == 1


def test_what_runs_for_a_client_that_has_gone_keeps_its_slot_until_it_is_over() -> None:
    stage = Stage(rows=1)
    origin = Origin()
    request = stage.request(1, START)
    steps.set_origin(request, origin)
    stage.batcher.enqueue(request, stage.now_ns)
    waiting = stage.send(1)
    other = stage.send(2, START)
    assert stage.take_rows() == [request]
    origin.leave()
    assert stage.batcher.expire(stage.now_ns) == [waiting]
    assert stage.take_rows() == []
    stage.answer(request)
    assert stage.take_rows() == [other]


# -- states --------------------------------------------------------------------------------------------------------


def test_an_answer_without_states_or_with_an_error_leaves_them_as_they_were() -> None:
    stage = Stage()
    stage.send(1, START, 5)
    assert stage.run() == [5]
    failing = stage.send(1, 0, 1)
    stage.take_rows()
    stage.end(failing, [])
    stage.send(1, 0, 1)
    assert stage.run() == [6]


@pytest.mark.parametrize(("array", "problem"), [
    (np.zeros((1, 1), np.float64), "has data-type 'FP64', but its configuration says 'FP32'"),
    (np.zeros((1, 2), np.float32), r"has shape \[1,2\], but its configuration says \[1,1\]"),
    (np.zeros((2, 1), np.float32), r"has shape \[2,1\], but its configuration says \[1,1\]"),
    (np.zeros(1, np.float32), r"has shape \[1\], but its configuration says \[1,1\]"),
])  # fmt: skip
def test_a_state_of_another_kind_is_an_error_and_changes_nothing(array: np.ndarray, problem: str) -> None:
    stage = Stage()
    stage.send(1, START, 5)
    stage.run()
    request = stage.send(1, 0, 1)
    stage.take_rows()
    found = stage.end(request, [from_numpy("B", np.zeros((1, 1), np.float32)), from_numpy("SUM_OUT", array)])
    assert isinstance(found, InternalError)
    with pytest.raises(InternalError, match=f"state output 'SUM_OUT' of model 'm' {problem}"):
        raise found
    stage.send(1, 0, 1)
    assert stage.run() == [6]


def test_a_kept_state_is_not_the_memory_that_the_engine_gave() -> None:
    stage = Stage()
    request = stage.send(1, START, 5)
    stage.take_rows()
    memory = np.full((1, 1), 5, np.float32)
    stage.end(request, [from_numpy("B", memory.copy()), from_numpy("SUM_OUT", memory)])
    memory[:] = 1000  # the engine's next step
    stage.send(1, 0, 1)
    assert stage.run() == [6]


# -- models without a batch dimension, iterative sequences, held schedulers ----------------------------------------


@both
def test_models_without_a_batch_dimension_run_one_request_at_a_time(oldest: bool) -> None:
    stage = Stage(rows=0, oldest=oldest, candidates=2 if oldest else 1)
    stage.send(1, START, 1)
    stage.send(2, START, 2)
    stage.send(1, END, 3)
    stage.send(2, END, 4)
    assert sorted(stage.run()) == [1, 2, 4, 6]


def test_an_iterative_request_is_a_sequence_of_its_own() -> None:
    stage = Stage(rows=2, iterative=True)
    first = stage.send(0, 0, 1)
    second = stage.send(0, 0, 10)
    third = stage.send(5, 0, 100)
    assert first.sequence_id != second.sequence_id
    assert stage.take_rows() == [first, second]
    assert [stage.injected(request)["START"] for request in (first, second)] == [1, 1]
    stage.batcher.reschedule(first, stage.now_ns)
    assert stage.answer(second) == 10
    assert stage.take_rows() == [first, third]
    assert [stage.injected(request)["START"] for request in (first, third)] == [0, 1]
    stage.answer(first)
    stage.answer(third)
    assert stage.batcher.live == 0


def test_an_iterative_model_with_string_ids_gets_strings() -> None:
    stage = Stage(iterative=True, id_type="BYTES")
    request = stage.send(0)
    stage.take_rows()
    assert stage.injected(request)["CORRID"] == request.sequence_id.encode()


def test_a_held_scheduler_waits_for_so_many_requests_once() -> None:
    stage = Stage(rows=1, queued=2, backlog=3)
    stage.send(1, START)
    stage.send(1)
    stage.send(2, START)
    stage.send(2)
    assert stage.take_rows() == []
    stage.send(3, START)
    assert len(stage.take_rows()) == 1
    later = Stage(rows=1, queued=2)
    later.send(1, START)
    assert later.take_rows() == []
    later.send(1, END)
    assert later.run() == [1, 2]
    later.send(2, START)
    assert later.run() == [1]


def test_closing_forgets_every_sequence() -> None:
    stage = Stage(rows=2)
    stage.send(1, START)
    stage.send(2, START)
    stage.run()
    stage.batcher.close()
    assert stage.batcher.live == 0
