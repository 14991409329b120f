"""Batches: gathering the requests' inputs, splitting the outputs, who gets which output."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from infer_harness import BF16, FunctionInstance, arrays, execute, fp32, request, spec, tensor

from triton_async.backends.base import execute_requests
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor, encode_bytes, from_numpy
from triton_async.memory.slab import SlabPool


def identity(inputs: list[Tensor | None]) -> list[Any]:
    return [None if item is None else item.numpy().copy() for item in inputs]


def same(max_batch_size: int = 8, datatype: str = "FP32", dims: Sequence[int] = (-1,), **more: Any) -> ModelSignature:
    """One input and one output alike."""
    ports = [spec(name, datatype, dims, **more) for name in ("IN", "OUT")]
    return ModelSignature("m", 1, ports[:1], ports[1:], max_batch_size)


@pytest.mark.parametrize("rows", [[1], [3], [1, 1], [2, 1, 4], [1] * 8, [0], [0, 0], [0, 2], [2, 0], [0, 1, 0, 3, 0]])
@pytest.mark.parametrize("name", ["FP32", "INT8", "BOOL", "FP64", "UINT16"])
def test_each_request_gets_its_own_rows(rows: list[int], name: str) -> None:
    dtype = {"FP32": "f4", "INT8": "i1", "BOOL": "?", "FP64": "f8", "UINT16": "u2"}[name]
    sent = [np.arange(count * 3).reshape(count, 3).astype(dtype) + dtype_of(dtype, i) for i, count in enumerate(rows)]
    seen: list[Any] = []

    def run(inputs: list[Tensor | None]) -> list[Any]:
        seen.append(identity(inputs)[0])
        return [seen[-1]]

    model = same(datatype=name)
    responses = execute(model, run, [request(from_numpy("IN", array)) for array in sent])
    assert np.array_equal(seen[0], np.concatenate(sent))
    for response, array in zip(responses, sent, strict=True):
        assert np.array_equal(arrays(response)["OUT"], array)
        assert (response.model_name, response.model_version, response.final) == ("m", 1, True)


def dtype_of(dtype: str, value: int) -> Any:
    return np.array(value).astype(dtype)


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 5), ()])
def test_without_a_batch_dimension_a_request_is_the_whole_tensor(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 7, np.float32)
    (response,) = execute(same(0, dims=[-1] * len(shape)), identity, [request(fp32("IN", array))])
    assert np.array_equal(arrays(response)["OUT"], array)
    assert response.outputs[0].shape == shape


def test_one_request_alone_is_not_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    addresses = []

    def run(inputs: list[Tensor | None]) -> list[Any]:
        addresses.append(np.frombuffer(inputs[0], np.uint8).ctypes.data)  # type: ignore[arg-type]
        return identity(inputs)

    execute(same(), run, [request(fp32("IN", array))])
    assert addresses == [array.ctypes.data]


def test_strings_of_different_lengths_are_split_by_row() -> None:
    rows = [[["a", ""], ["bb", "c" * 300]], [["", ""]], [["é", "x"], ["", "y"], ["long" * 99, ""]]]
    sent = [np.array(item, np.object_) for item in rows]
    responses = execute(same(datatype="BYTES"), identity, [request(from_numpy("IN", array)) for array in sent])
    for response, array in zip(responses, sent, strict=True):
        assert response.outputs[0].shape == array.shape
        assert arrays(response)["OUT"].tolist() == [[item.encode() for item in row] for row in array]


@pytest.mark.parametrize("seed", range(10))
def test_random_strings_come_back_to_the_request_that_sent_them(seed: int) -> None:
    choose = random.Random(seed)
    sent = []
    for _ in range(choose.randint(1, 6)):
        strings = [choose.randbytes(choose.choice([0, 1, 7, 400])) for _ in range(choose.randint(0, 4) * 2)]
        sent.append(tensor("IN", "BYTES", [len(strings) // 2, 2], encode_bytes(strings)))
    responses = execute(same(64, "BYTES"), identity, [request(item) for item in sent])
    assert [bytes(response.outputs[0]) for response in responses] == [bytes(item) for item in sent]
    assert [response.outputs[0].shape for response in responses] == [item.shape for item in sent]


def test_bf16_travels_as_its_bit_patterns() -> None:
    bits = np.array([[0x3F80, 0x7FC0]], np.uint16)
    (response,) = execute(same(datatype="BF16"), identity, [request(from_numpy("IN", bits, BF16))])
    assert response.outputs[0].datatype == BF16
    assert np.array_equal(arrays(response)["OUT"], bits)


@pytest.mark.parametrize(("max_batch_size", "dims", "reshape", "sent", "engine"), [
    (8, [], [1], (3,), (3, 1)), (8, [4], [2, 2], (3, 4), (3, 2, 2)), (8, [1, 4], [4], (2, 1, 4), (2, 4)),
    (0, [1], [], (1,), ()), (0, [2, 3], [6], (2, 3), (6,)), (8, [-1, 1], [-1], (2, 5, 1), (2, 5)),
    (8, [3, -1], [-1, 3, 1], (1, 3, 7), (1, 7, 3, 1)), (0, [-1, 2, -1], [1, -1, -1, 2], (5, 2, 4), (1, 5, 4, 2)),
    (8, [-1], [1, -1], (2, 0), (2, 1, 0)),
])  # fmt: skip
def test_the_engine_sees_the_reshaped_dims_and_the_client_its_own(
    max_batch_size: int, dims: list[int], reshape: list[int], sent: tuple[int, ...], engine: tuple[int, ...]
) -> None:
    array = np.arange(int(np.prod(sent)), dtype=np.float32).reshape(sent)
    seen: list[tuple[int, ...]] = []

    def run(inputs: list[Tensor | None]) -> list[Any]:
        seen.append(inputs[0].shape)  # type: ignore[union-attr]
        return identity(inputs)

    (response,) = execute(same(max_batch_size, dims=dims, reshape=reshape), run, [request(fp32("IN", array))])
    assert seen == [engine]
    assert np.array_equal(arrays(response)["OUT"], array)


@pytest.mark.parametrize("shape", [(1, 4), (1, 2, 2, 1), (1, 4, 1)])
def test_an_output_with_as_many_elements_as_its_reshape_is_taken(shape: tuple[int, ...]) -> None:
    model = same(dims=[4], reshape=[2, 2])
    made = np.arange(4, dtype=np.float32)
    (response,) = execute(model, lambda _: [made.reshape(shape)], [request(fp32("IN", np.zeros((1, 4))))])
    assert arrays(response)["OUT"].tolist() == [made.tolist()]


@pytest.mark.parametrize("shape", [(1, 3), (1, 2, 3), (1, 2, 2, 2), (2,)])
def test_an_output_that_does_not_match_its_reshape_is_an_error(shape: tuple[int, ...]) -> None:
    model = same(dims=[4], reshape=[2, 2])
    (response,) = execute(model, lambda _: [np.zeros(shape, np.float32)], [request(fp32("IN", np.zeros((1, 4))))])
    assert isinstance(response.error, InternalError)
    assert response.error.message == (
        "model 'm', output 'OUT': the model's shape does not match the reshape in the configuration"
    )


def many(outputs: int) -> ModelSignature:
    return ModelSignature("m", 1, [spec("IN")], [spec(f"OUT{index}") for index in range(outputs)], 8)


@pytest.mark.parametrize("outputs", [1, 2, 62, 63, 64, 65, 130])
def test_requests_of_one_batch_get_the_outputs_that_each_asks_for(outputs: int) -> None:
    choose = random.Random(outputs)
    names = [f"OUT{index}" for index in range(outputs)]
    asked = [[], [names[0]], [names[-1]], names[::-1], choose.sample(names, (outputs + 1) // 2), names[62:64] or names]

    def run(inputs: list[Tensor | None]) -> list[Any]:
        assert inputs[0] is not None
        return [inputs[0].numpy() * 1000 + index for index in range(outputs)]

    requests = [request(fp32("IN", [[row]]), outputs=names) for row, names in enumerate(asked)]
    for row, response in enumerate(execute(many(outputs), run, requests)):
        expected = [name for name in names if not asked[row] or name in asked[row]]
        assert [output.name for output in response.outputs] == expected
        for output in response.outputs:
            assert output.numpy().tolist() == [[row * 1000 + names.index(output.name)]]


@pytest.mark.parametrize("outputs", [3, 70])
def test_an_output_that_nobody_asks_for_need_not_be_made(outputs: int) -> None:
    requests = [request(fp32("IN", [[1]]), outputs=[f"OUT{outputs - 1}"]) for _ in range(2)]
    responses = execute(many(outputs), lambda inputs: [None] * (outputs - 1) + identity(inputs), requests)
    assert [arrays(response)[f"OUT{outputs - 1}"].tolist() for response in responses] == [[[1]], [[1]]]


def test_an_optional_input_is_there_or_not_for_the_whole_batch() -> None:
    inputs = [spec("A"), spec("B", optional=True), spec("C", optional=True)]
    model = ModelSignature("m", 1, inputs, [spec("OUT")], 4)
    seen: list[list[bool]] = []

    def run(found: list[Tensor | None]) -> list[Any]:
        seen.append([item is not None for item in found])
        return [sum(item.numpy() for item in found if item is not None)]

    for extra, total in ((["C"], 3), ([], 1), (["B", "C"], 5)):
        values = {"A": 1, "B": 2, "C": 2}
        requests = [request(*(fp32(name, [[values[name]]]) for name in ["A", *extra])) for _ in range(2)]
        assert [arrays(response)["OUT"].tolist() for response in execute(model, run, requests)] == [[[total]]] * 2
    assert seen == [[True, False, True], [True, False, False], [True, True, True]]


def test_inputs_stand_in_the_models_order_whatever_the_requests_order() -> None:
    model = ModelSignature("m", 1, [spec("A"), spec("B")], [spec("OUT")], 4)
    requests = [request(fp32("B", [[2]]), fp32("A", [[1]])), request(fp32("A", [[10]]), fp32("B", [[20]]))]
    responses = execute(model, lambda found: [found[0].numpy() - found[1].numpy()], requests)  # type: ignore[union-attr]
    assert [arrays(response)["OUT"].tolist() for response in responses] == [[[-1]], [[-10]]]


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("view", [lambda item: item, lambda item: item.numpy(), lambda item: item.numpy()[:]])
def test_an_output_may_be_the_input_itself(requests: int, view: Any) -> None:
    instance = FunctionInstance(lambda inputs: [view(inputs[0])])
    sent = [request(fp32("IN", np.full((1, 100), index))) for index in range(requests)]
    responses = execute_requests(instance, same(), sent)
    others = [instance.lent.acquire(nbytes) for nbytes in (400, 800, 1200, 1600)]  # would be the same slab again
    for lease in others:
        np.frombuffer(lease, np.uint8)[:] = 255
    for index, response in enumerate(responses):
        assert arrays(response)["OUT"].tolist() == [[index] * 100]


def test_responses_share_the_output_and_the_last_one_gives_it_back() -> None:
    lent = np.zeros((3, 2), np.float32)
    responses = execute(same(), lambda _: [lent], [request(fp32("IN", [[0, 0]])) for _ in range(3)])
    with pytest.raises(ValueError):
        lent.resize((9, 9), refcheck=True)
    pair = [response.outputs[0].numpy() for response in responses]
    assert [array.ctypes.data - lent.ctypes.data for array in pair] == [0, 8, 16]


def test_gathered_inputs_go_back_to_the_pool_when_the_batch_is_done() -> None:
    instance = FunctionInstance(identity)
    sent = [request(fp32("IN", [[index] * 50])) for index in range(4)]
    responses = execute_requests(instance, same(), sent)
    assert instance.lent.leased == 0
    assert [arrays(response)["OUT"][0, 0] for response in responses] == [0, 1, 2, 3]


def test_a_batch_lends_its_own_copy_of_no_request() -> None:
    sent: list[InferRequest] = [request(fp32("IN", [[1, 2]]))]
    kept: list[Tensor] = []
    execute(same(), lambda inputs: [kept.append(inputs[0]) or inputs[0].numpy().copy()], sent)  # type: ignore[func-returns-value,arg-type,union-attr]
    del sent
    assert kept[0].numpy().tolist() == [[1, 2]]  # kept past `run`, still the request's bytes


def test_an_output_that_nobody_put_into_its_region_is_an_error() -> None:
    """Core copies what an instance does not; without core it must not look as if it had."""
    pool = SlabPool(1 << 16)
    signature = ModelSignature("m", 1, [spec("A")], [spec("B")])
    sent = InferRequest("m", inputs=[fp32("A", [1.0])], outputs=[RequestedOutput("B", region=pool.acquire(64))])
    (response,) = execute(signature, lambda inputs: [inputs[0]], [sent])
    assert isinstance(response.error, InternalError)
    assert response.error.message == "failed to copy output 'B' to its shared memory region: nobody copied it"
    assert response.outputs == []
    del response, sent
    assert pool.leased == 0
