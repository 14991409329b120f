"""Batches of requests that differ in shape: ragged, with what tells of them, padded, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infer_harness import FP32, INT32, INT64, arrays, execute, fp32, request, spec, tensor

from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.plan import BatchPlan
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor, from_numpy

KINDS = (
    "ELEMENT_COUNT", "ACCUMULATED", "ACCUMULATED_WITH_ZERO", "MAX_COUNT_AS_SHAPE", "ITEM_SHAPE", "ITEM_SHAPE_FLATTEN",
)  # fmt: skip
ONE = np.ones(1, np.int64).tobytes()
ZERO = bytes(8)


def ragged(*kinds: str, datatype: int = INT32, dims: Sequence[int] = (-1,), scattered: Sequence[int] = ()) -> Any:
    """A model with a ragged input X, an input for each kind and an output Y, scattered with these dims if any."""
    plan = BatchPlan(1 + len(kinds), 1)
    plan.set_ragged(0)
    for place, kind in enumerate(kinds, 1):
        plan.set_batch_input(place, KINDS.index(kind), datatype, 0)
    if scattered:
        plan.set_scattered(0, FP32, scattered, 0)
    made = [spec(kind, "INT32" if datatype == INT32 else "FP32") for kind in kinds]
    return ModelSignature("m", 1, [spec("X", "FP32", dims)], [spec("Y", "FP32", (-1,))], 8, False, made, (), plan)


def padded(
    *, buckets: Sequence[int] = (), most: int = 1 << 20, pad: float = 0, cut: bool = True, rest: Sequence[int] = ()
) -> ModelSignature:
    """X [L, *rest] padded with `pad`, a mask M [L], lengths N, and an output Y as X."""
    plan = BatchPlan(3, 1, [("length", buckets)], most)
    lengths = [0] + [None] * len(rest)
    plan.set_padded(0, FP32, lengths, np.float32(pad).tobytes())
    plan.set_mask(1, INT64, [-1], [0], ONE, ZERO)
    plan.set_lengths(2, INT32, [], 0)
    if cut:
        plan.set_cut(0, FP32, lengths)
    return ModelSignature(
        "m", 1, [spec("X", "FP32", (-1, *rest))], [spec("Y", "FP32", (-1, *rest))], 16, False,
        [spec("M", "INT64"), spec("N", "INT32")], (), plan,
    )  # fmt: skip


class Seen:
    """What an engine was given; it answers with its first input."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []

    def __call__(self, inputs: list[Tensor | None]) -> list[Any]:
        self.inputs = [tensor.numpy().copy() for tensor in inputs if tensor is not None]
        return [self.inputs[0]]


def test_ragged_inputs_are_all_elements_in_one_dimension() -> None:
    seen = Seen()
    signature = ragged(dims=(-1, -1), scattered=(-1, -1, -1))
    sent = [np.arange(6).reshape(1, 2, 3), np.arange(10, 12).reshape(2, 1, 1), np.arange(20, 24).reshape(1, 4, 1)]
    found = execute(signature, seen, [request(fp32("X", one)) for one in sent])
    np.testing.assert_array_equal(seen.inputs[0], [0, 1, 2, 3, 4, 5, 10, 11, 20, 21, 22, 23])
    for response, one in zip(found, sent, strict=True):
        np.testing.assert_array_equal(arrays(response)["Y"], one)
        assert arrays(response)["Y"].shape == one.shape


def test_every_kind_of_batch_input_tells_what_triton_says() -> None:
    seen = Seen()
    signature = ragged(*KINDS, dims=(-1, -1), scattered=(-1, -1, -1))
    # One request of two rows of [3,1], one of a row of [2,2]: the example of model_config.proto.
    execute(signature, seen, [request(fp32("X", np.zeros((2, 3, 1)))), request(fp32("X", np.zeros((1, 2, 2))))])
    _, count, accumulated, with_zero, as_shape, item, flat = seen.inputs
    assert count.tolist() == [6, 4]
    assert accumulated.tolist() == [6, 10]
    assert with_zero.tolist() == [0, 6, 10]
    assert as_shape.tolist() == [0] * 6
    assert item.tolist() == [[3, 1], [3, 1], [2, 2]]
    assert flat.tolist() == [3, 1, 3, 1, 2, 2]
    assert {array.dtype for array in seen.inputs[1:]} == {np.dtype(np.int32)}


def test_batch_inputs_may_be_floating_point_numbers() -> None:
    seen = Seen()
    execute(ragged("ACCUMULATED", "ITEM_SHAPE", datatype=FP32, scattered=(-1, -1)), seen,
            [request(fp32("X", np.zeros((1, 3)))), request(fp32("X", np.zeros((1, 2))))])  # fmt: skip
    assert seen.inputs[1].dtype == np.float32
    assert seen.inputs[1].tolist() == [3.0, 5.0]
    assert seen.inputs[2].tolist() == [[3.0], [2.0]]


def test_a_lone_ragged_request_is_flattened_as_well() -> None:
    seen = Seen()
    (found,) = execute(ragged("ELEMENT_COUNT", scattered=(-1, -1)), seen, [request(fp32("X", [[1, 2], [3, 4]]))])
    assert seen.inputs[0].shape == (4,)
    assert seen.inputs[1].tolist() == [4]
    assert arrays(found)["Y"].tolist() == [[1, 2], [3, 4]]


def test_an_output_without_batch_output_is_split_by_rows() -> None:
    found = execute(ragged(), lambda inputs: [np.array([[1], [2], [3]], np.float32)],
                    [request(fp32("X", np.zeros((2, 5)))), request(fp32("X", np.zeros((1, 2))))])  # fmt: skip
    assert [arrays(one)["Y"].tolist() for one in found] == [[[1], [2]], [[3]]]


def test_scattered_strings_are_cut_where_they_end() -> None:
    plan = BatchPlan(1, 1)
    plan.set_ragged(0)
    bytes_type = spec("Y", "BYTES").datatype
    plan.set_scattered(0, bytes_type, (-1, -1), 0)
    signature = ModelSignature("m", 1, [spec("X")], [spec("Y", "BYTES")], 8, False, (), (), plan)
    words = np.array([b"a", b"", b"ccc", b"dd", b"e"], np.object_)
    found = execute(signature, lambda inputs: [words],
                    [request(fp32("X", [[0, 0, 0]])), request(fp32("X", [[0], [0]]))])  # fmt: skip
    assert [arrays(one)["Y"].tolist() for one in found] == [[[b"a", b"", b"ccc"]], [[b"dd"], [b"e"]]]


@pytest.mark.parametrize("shape", [(4,), (6,), (1, 4)])
def test_a_scattered_output_of_other_elements_is_an_error_of_the_batch(shape: tuple[int, ...]) -> None:
    found = execute(ragged(scattered=(-1, -1)), lambda inputs: [np.zeros(shape, np.float32)],
                    [request(fp32("X", [[1, 2]])), request(fp32("X", [[1, 2, 3]]))])  # fmt: skip
    for one in found:
        assert isinstance(one.error, InternalError)
        assert "failed to split output 'Y' of model 'm' in responses: it has shape" in one.error.message
        assert "batch_output" in one.error.message


def test_a_count_that_its_data_type_has_not_is_an_error() -> None:
    # A BOOL tensor that is never read: its length is what counts.
    plan = BatchPlan(2, 1)
    plan.set_ragged(0)
    plan.set_batch_input(1, KINDS.index("ITEM_SHAPE"), INT32, 0)
    signature = ModelSignature("m", 1, [spec("X", "FP32", (-1, -1))], [spec("Y")], 8, False, [spec("S", "INT32")], (),
                               plan)  # fmt: skip
    (found,) = execute(signature, lambda inputs: [np.zeros((1, 1), np.float32)],
                       [request(tensor("X", "FP32", (1, 1 << 31, 0)))])  # fmt: skip
    assert isinstance(found.error, InvalidArg)
    assert "'S'" in found.error.message
    (found,) = execute(signature, lambda inputs: [np.zeros((1, 1), np.float32)],
                       [request(tensor("X", "FP32", (1, (1 << 31) - 1, 0)))])  # fmt: skip
    assert found.error is None


def test_padding_fills_up_to_the_longest_request() -> None:
    seen = Seen()
    sent = [[[1, 2, 3]], [[4], [5]], [[6, 7]]]
    found = execute(padded(pad=-1), seen, [request(fp32("X", one)) for one in sent])
    assert seen.inputs[0].tolist() == [[1, 2, 3], [4, -1, -1], [5, -1, -1], [6, 7, -1]]
    assert seen.inputs[1].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert seen.inputs[2].tolist() == [3, 1, 1, 2]
    assert [arrays(one)["Y"].tolist() for one in found] == sent


def test_an_output_that_has_no_length_is_left_as_it_is() -> None:
    found = execute(padded(cut=False), Seen(), [request(fp32("X", [[1, 2]])), request(fp32("X", [[3]]))])
    assert [arrays(one)["Y"].tolist() for one in found] == [[[1, 2]], [[3, 0]]]


def test_requests_of_one_length_are_not_copied() -> None:
    given: list[int] = []

    def engine(inputs: list[Tensor | None]) -> list[Any]:
        assert inputs[0] is not None
        given.append(inputs[0].numpy().__array_interface__["data"][0])
        return [inputs[0]]

    sent = np.array([[1, 2, 3]], np.float32)
    one = request(from_numpy("X", sent))
    (found,) = execute(padded(), engine, [one])
    assert given == [one.inputs[0].numpy().__array_interface__["data"][0]]
    assert arrays(found)["Y"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(("length", "bucket"), [(1, 4), (4, 4), (5, 8), (8, 8)])
def test_a_batch_is_padded_to_the_next_bucket(length: int, bucket: int) -> None:
    seen = Seen()
    (found,) = execute(padded(buckets=(4, 8)), seen, [request(fp32("X", np.ones((1, length))))])
    assert seen.inputs[0].shape == seen.inputs[1].shape == (1, bucket)
    assert seen.inputs[1].sum() == length
    assert arrays(found)["Y"].shape == (1, length)


def test_what_is_longer_than_the_last_bucket_is_refused() -> None:
    signature = padded(buckets=(4, 8))
    with pytest.raises(InvalidArg, match="input 'X' has 9 for length 'length', but the longest that model 'm' is"):
        signature.validate(request(fp32("X", np.ones((1, 9)))))


def test_what_is_more_than_a_batch_may_have_is_refused() -> None:
    signature = padded(most=12)
    signature.validate(request(fp32("X", np.ones((3, 4)))))
    with pytest.raises(InvalidArg, match="more than 12 padded elements, which is what 'max_elements'"):
        signature.validate(request(fp32("X", np.ones((1, 13)))))
    bucketed = padded(most=12, buckets=(4, 8))
    bucketed.validate(request(fp32("X", np.ones((3, 1)))))
    with pytest.raises(InvalidArg, match="more than 12 padded elements"):
        bucketed.validate(request(fp32("X", np.ones((4, 1)))))


def test_inputs_that_contradict_each_other_are_refused() -> None:
    plan = BatchPlan(2, 1, [("length", ())], 100)
    for place in range(2):
        plan.set_padded(place, FP32, [0], bytes(4))
    signature = ModelSignature("m", 1, [spec("A"), spec("B")], [spec("Y")], 8, plan=plan)
    signature.validate(request(fp32("A", [[1, 2]]), fp32("B", [[1, 2]])))
    with pytest.raises(InvalidArg, match="input 'B' has 3 where input 'A' has 2, which model 'm' takes for the same l"):
        signature.validate(request(fp32("A", [[1, 2]]), fp32("B", [[1, 2, 3]])))


def test_an_output_that_was_not_padded_as_the_inputs_is_an_error() -> None:
    found = execute(padded(), lambda inputs: [np.zeros((2, 5), np.float32)],
                    [request(fp32("X", [[1, 2]])), request(fp32("X", [[1]]))])  # fmt: skip
    for one in found:
        assert isinstance(one.error, InternalError)
        assert "it has shape [2,5], which are not 2 rows padded as the inputs are" in one.error.message


def test_made_inputs_may_be_outputs() -> None:
    kept: list[Tensor | None] = []

    def engine(inputs: list[Tensor | None]) -> list[Any]:
        kept.extend(inputs)
        return [inputs[0]]

    found = execute(padded(cut=False), engine, [request(fp32("X", [[1, 2]])), request(fp32("X", [[3]]))])
    kept.clear()
    assert arrays(found[1])["Y"].tolist() == [[3, 0]]


def shapes(rank: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    return st.lists(st.tuples(*[st.integers(0, 4)] * rank), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rank=st.integers(1, 3), fixed=st.integers(1, 3))
def test_what_is_padded_and_cut_is_what_was_sent(data: st.DataObject, rank: int, fixed: int) -> None:
    lengths: list[int | None] = [*range(rank), None]
    plan = BatchPlan(2, 1, [(f"l{i}", data.draw(st.sampled_from([(), (3, 4, 9)]))) for i in range(rank)], 1 << 20)
    pad = data.draw(st.sampled_from([0.0, 7.5]))
    plan.set_padded(0, FP32, lengths, np.float32(pad).tobytes())
    plan.set_mask(1, INT64, [-1] * rank, list(range(rank)), ONE, ZERO)
    plan.set_cut(0, FP32, lengths)
    dims = (*[-1] * rank, fixed)
    signature = ModelSignature("m", 1, [spec("X", "FP32", dims)], [spec("Y", "FP32", dims)], 100, False,
                               [spec("M", "INT64", [-1] * rank)], (), plan)  # fmt: skip
    sent = []
    count = 1.0
    for rows, shape in data.draw(st.lists(st.tuples(st.integers(0, 3), st.tuples(*[st.integers(0, 4)] * rank)),
                                          min_size=1, max_size=6)):  # fmt: skip
        size = rows * int(np.prod(shape)) * fixed
        sent.append(np.arange(count, count + size, dtype=np.float32).reshape(rows, *shape, fixed))
        count += size
    seen = Seen()
    found = execute(signature, seen, [request(fp32("X", one)) for one in sent])
    whole, mask = seen.inputs
    assert whole.shape[:-1] == mask.shape
    assert (whole[mask == 0] == pad).all()
    assert sorted(whole[mask == 1].ravel()) == sorted(np.concatenate([one.ravel() for one in sent]))
    for response, one in zip(found, sent, strict=True):
        np.testing.assert_array_equal(arrays(response)["Y"], one)
        assert arrays(response)["Y"].shape == one.shape


@settings(max_examples=100, deadline=None)
@given(sent=shapes(3))
def test_what_is_joined_raggedly_is_scattered_to_whom_it_came_from(sent: list[tuple[int, ...]]) -> None:
    rows = sum(shape[0] for shape in sent)
    signature = ragged("ACCUMULATED_WITH_ZERO", "ITEM_SHAPE", dims=(-1, -1), scattered=(-1, -1, -1))
    arrays_sent = [np.full(shape, i + 1, np.float32) for i, shape in enumerate(sent)]
    seen = Seen()
    found = execute(signature, seen, [request(fp32("X", one)) for one in arrays_sent if one.shape[0] <= 8])
    assert seen.inputs[1].tolist() == [0, *np.cumsum([one.size for one in arrays_sent]).tolist()]
    assert seen.inputs[2].tolist() == [list(shape[1:]) for shape in sent for _ in range(shape[0])]
    assert rows == len(seen.inputs[2])
    for response, one in zip(found, arrays_sent, strict=True):
        np.testing.assert_array_equal(arrays(response)["Y"], one)
