"""What an instance may do wrong: every request of its batch gets an error, nothing is read or kept beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from infer_harness import arrays, execute, fp32, request, spec, tensor

from triton_async.backends.base import ModelInstance, execute_requests
from triton_async.errors import Code, InternalError, InvalidArg, ServerError, Unavailable
from triton_async.infer.signature import ModelSignature
from triton_async.infer.tensor import Tensor, encode_bytes

Run = Callable[[list[Tensor | None]], Any]


def model(datatype: str = "FP32", outputs: int = 1) -> ModelSignature:
    return ModelSignature("m", 1, [spec("IN")], [spec(f"OUT{i}", datatype) for i in range(outputs)], 8)


def error_of(run: Run, made: ModelSignature | None = None, requests: int = 2) -> ServerError:
    sent = [request(fp32("IN", [[1.0, 2.0]])) for _ in range(requests)]
    responses = execute(made or model(), run, sent)
    assert len(responses) == requests
    errors = [response.error for response in responses]
    assert all(error is not None and error.message == errors[0].message for error in errors)  # type: ignore[union-attr]
    assert len(set(map(id, errors))) == requests  # each may be raised on its own
    assert all(response.outputs == [] and response.final for response in responses)
    assert errors[0] is not None
    return errors[0]


@pytest.mark.parametrize("result", [[None], [], ()])
def test_a_missing_output(result: Any) -> None:
    error = error_of(lambda _: result)
    assert isinstance(error, InternalError)
    assert error.message == "model 'm' did not produce output 'OUT0', which is in its configuration"


def test_one_missing_output_of_two_releases_the_other() -> None:
    error = error_of(lambda _: [np.zeros((2, 1), np.float32)], model(outputs=2))
    assert "did not produce output 'OUT1'" in error.message


@pytest.mark.parametrize("count", [2, 3, 50])
def test_more_outputs_than_the_model_has(count: int) -> None:
    error = error_of(lambda _: [np.zeros((2, 1), np.float32)] * count)
    assert error.message == "model 'm' produced more outputs than the 1 of its configuration"


@pytest.mark.parametrize(("shape", "got"), [((1, 4), 1), ((0, 4), 0), ((), 0)])
def test_a_wrong_batch_dimension(shape: tuple[int, ...], got: int) -> None:
    assert error_of(lambda _: [np.zeros(shape, np.float32)]).message == (
        "failed to split the output tensor 'OUT0' in responses: expected batch size of at least 2 in model output, "
        f"got {got}"
    )


@pytest.mark.parametrize(("shape", "shown"), [((3, 4), "[3,4]"), ((4, 2), "[4,2]")])
def test_a_first_dimension_that_is_no_batch(shape: tuple[int, ...], shown: str) -> None:
    assert error_of(lambda _: [np.zeros(shape, np.float32)]).message == (
        "failed to split the output tensor 'OUT0' in responses: expected a first dimension of 2, the rows of the "
        f"batch, got shape {shown}. If not all inputs and outputs of model 'm' begin with the batch, set "
        "'max_batch_size: 0' and write all their dimensions"
    )


@pytest.mark.parametrize(("array", "name"), [
    (np.zeros((2, 1), np.float64), "FP64"), (np.zeros((2, 1), np.int32), "INT32"), (np.array([["a"], ["b"]]), "BYTES"),
])  # fmt: skip
def test_a_wrong_data_type(array: np.ndarray, name: str) -> None:
    assert error_of(lambda _: [array]).message == (
        f"output 'OUT0' of model 'm' has data-type '{name}', but its configuration says 'FP32'"
    )


@pytest.mark.parametrize(("shape", "nbytes"), [([2, 3], 20), ([2, 3], 28), ([2, 3], 0), ([2, 0], 4), ([2, 2**50], 8),
                                               ([2, 2**61], 8)])  # fmt: skip
def test_bytes_that_do_not_fill_the_shape(shape: list[int], nbytes: int) -> None:
    error = error_of(lambda _: [tensor("OUT0", "FP32", shape, bytes(nbytes))])
    shown = ",".join(map(str, shape))
    assert error.message == f"output 'OUT0' of model 'm' has {nbytes} bytes, which do not fill its shape [{shown}]"


@pytest.mark.parametrize("wire", [
    b"", encode_bytes(["a"]), encode_bytes(["a"] * 3), encode_bytes(["a", "b"]) + b"\0", b"\xff\xff\xff\xff" * 2,
    encode_bytes(["a"]) + b"\5\0\0\0abc", b"\1\0\0",
])  # fmt: skip
@pytest.mark.parametrize("requests", [1, 2])
def test_broken_string_elements(wire: bytes, requests: int) -> None:
    sent = tensor("OUT0", "BYTES", [requests, 2 // requests], wire)
    error = error_of(lambda _: [sent], model("BYTES"), requests)
    assert error.message == "output 'OUT0' of model 'm' has broken string elements"


@pytest.mark.parametrize(("kind", "text", "code", "message"), [
    (Unavailable, "later", Code.UNAVAILABLE, "later"), (InvalidArg, "100% of %s", Code.INVALID_ARG, "100% of %s"),
    (ValueError, "oops", Code.INTERNAL, "ValueError: oops"), (SystemExit, "", Code.INTERNAL, "SystemExit: "),
    (InvalidArg, "é" * 2000, Code.INVALID_ARG, "é" * 500),
    (InvalidArg, "a" + "é" * 2000, Code.INVALID_ARG, "a" + "é" * 499),
    (ValueError, "a\0b", Code.INTERNAL, "ValueError: a"), (InternalError, "\udcff", Code.INTERNAL, "?"),
])  # fmt: skip
def test_an_exception_becomes_the_error(kind: type[BaseException], text: str, code: Code, message: str) -> None:
    def run(_: list[Tensor | None]) -> Any:
        raise kind(text)

    error = error_of(run)
    assert (error.code, error.message) == (code, message)


def test_an_exception_without_a_text_is_an_error_too() -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def run(_: list[Tensor | None]) -> Any:
        yield np.zeros((2, 1), np.float32)
        raise Speechless

    assert isinstance(error_of(run), InternalError)


def test_an_input_handed_on_before_an_exception_is_given_back() -> None:
    def run(inputs: list[Tensor | None]) -> Any:
        yield inputs[0]
        raise ValueError

    assert error_of(run).message == "ValueError: "


def test_an_instance_that_cannot_run() -> None:
    sent = [request(fp32("IN", [[1.0]]))]
    (response,) = execute_requests(ModelInstance("bare"), model(), sent)
    with pytest.raises(InternalError, match="the instance has no execute"):
        arrays(response)


def test_an_output_without_rows_is_an_answer_to_who_is_alone_in_the_batch() -> None:
    """As a filter that lets nothing through; with others in the batch nobody knows whose rows are missing."""
    (response,) = execute(model(), lambda _: [np.zeros((0, 4), np.float32)], [request(fp32("IN", [[1.0], [2.0]]))])
    assert response.error is None
    assert [(output.name, output.shape, output.nbytes) for output in response.outputs] == [("OUT0", (0, 4), 0)]
    (response,) = execute(model("BYTES"), lambda _: [np.zeros((0,), object)], [request(fp32("IN", [[1.0], [2.0]]))])
    assert response.error is None
    assert response.outputs[0].shape == (0,)
    assert "expected batch size of at least 2" in error_of(lambda _: [np.zeros((0, 4), np.float32)]).message
