"""Validation of requests, in Triton's words."""

from __future__ import annotations

from typing import Any

import pytest
from infer_harness import request, spec, tensor

from triton_async.defines import MAX_TENSORS_PER_REQUEST
from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest, RequestedOutput
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import Tensor, encode_bytes, make

P = "[request id: <id_unknown>] "
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try "
    "setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def signature(*inputs: TensorSpec, max_batch_size: int = 0, outputs: tuple[str, ...] = ("OUT",)) -> ModelSignature:
    return ModelSignature("m", 1, inputs, [spec(name) for name in outputs], max_batch_size)


def refusal(model: ModelSignature, made: InferRequest) -> str:
    """Message of the refusal; the request is as it was."""
    with pytest.raises(InvalidArg) as caught:
        model.validate(made)
    assert made.batch_size == 0
    return caught.value.message


def int32(name: str, *shape: int) -> Tensor:
    count = 1
    for dim in shape:
        count *= dim
    return tensor(name, "INT32", shape, bytes(4 * count))


TWO = (spec("INPUT0", "INT32", [-1, 16]), spec("INPUT1", "INT32", [16]))
OPTIONAL = (spec("A", "INT32", [1]), spec("B", "INT32", [1], optional=True), spec("C", "INT32", [1], optional=True))


# As Triton prints an empty list here.
NOTHING_MISSING = ", but missing required input(s) ]. Please provide all required input(s)."


@pytest.mark.parametrize(("inputs", "names", "message"), [
    (TWO, ["INPUT0"], "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['INPUT0'], but missing required "
     "input(s) ['INPUT1']. Please provide all required input(s)."),
    (TWO, [], "expected 2 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) "
     "['INPUT0','INPUT1']. Please provide all required input(s)."),
    (TWO, ["INPUT0", "INPUT1", "X"], "expected 2 inputs but got 3 inputs for model 'm'. Got input(s) "
     "['INPUT0','INPUT1','X']" + NOTHING_MISSING),
    (OPTIONAL, [], "expected number of inputs between 1 and 3 but got 0 inputs for model 'm'. Got input(s) [], but "
     "missing required input(s) ['A']. Please provide all required input(s)."),
    (OPTIONAL, ["B", "C"], "expected number of inputs between 1 and 3 but got 2 inputs for model 'm'. Got input(s) "
     "['B','C'], but missing required input(s) ['A']. Please provide all required input(s)."),
    (OPTIONAL, ["A", "B", "C", "D"], "expected number of inputs between 1 and 3 but got 4 inputs for model 'm'. Got "
     "input(s) ['A','B','C','D']" + NOTHING_MISSING),
    ((), ["A"], "expected 0 inputs but got 1 inputs for model 'm'. Got input(s) ['A']" + NOTHING_MISSING),
])  # fmt: skip
def test_wrong_number_of_inputs(inputs: tuple[TensorSpec, ...], names: list[str], message: str) -> None:
    assert refusal(signature(*inputs), request(*(int32(name, 1) for name in names))) == P + message


@pytest.mark.parametrize("names", [["A"], ["A", "B"], ["C", "A"], ["B", "C", "A"]])
def test_optional_inputs_may_be_absent_and_come_in_any_order(names: list[str]) -> None:
    made = request(*(int32(name, 1) for name in names))
    signature(*OPTIONAL).validate(made)
    assert made.batch_size == 1


def test_unknown_names_are_told_without_the_request_id() -> None:
    assert refusal(signature(*TWO), request(int32("INPUT0", 1, 16), int32("X", 16), id="7")) == (
        "unexpected inference input 'X' for model 'm'"
    )
    made = request(int32("A", 1), outputs=["OUT", "X"], id="7")
    assert refusal(signature(OPTIONAL[0]), made) == "unexpected inference output 'X' for model 'm'"


def test_a_name_may_come_once() -> None:
    model = signature(*TWO)
    assert refusal(model, request(int32("INPUT0", 1), int32("INPUT0", 1))) == (
        P + "input 'INPUT0' already exists in request"
    )
    made = request(int32("INPUT0", 1, 16), int32("INPUT1", 16), outputs=["OUT", "OUT"])
    assert refusal(model, made) == P + "output 'OUT' already exists in request"


@pytest.mark.parametrize("identifier", ["", "42", "é"])
def test_the_request_id_stands_in_front(identifier: str) -> None:
    message = refusal(signature(OPTIONAL[0]), request(id=identifier))
    assert message.startswith(f"[request id: {identifier or '<id_unknown>'}] expected 1 inputs")


def test_data_type() -> None:
    model = signature(spec("INPUT0", "INT32", [1]))
    assert refusal(model, request(tensor("INPUT0", "FP32", [1], bytes(4)))) == (
        P + "inference input 'INPUT0' data-type is 'FP32', but model 'm' expects 'INT32'"
    )
    assert refusal(model, request(make("INPUT0", 0, [1], bytes(4)))) == (
        P + "inference input 'INPUT0' data-type is '<invalid>', but model 'm' expects 'INT32'"
    )


@pytest.mark.parametrize(("max_batch_size", "dims", "shape", "expected", "got"), [
    (8, [16], (1, 15), "[-1,16]", "[1,15]"), (8, [16], (4,), "[-1,16]", "[4]"),
    (8, [16], (1, 1, 16), "[-1,16]", "[1,1,16]"), (8, [-1, 3], (2, 5, 4), "[-1,-1,3]", "[2,5,4]"),
    (0, [16], (1, 16), "[16]", "[1,16]"), (0, [], (1,), "[]", "[1]"), (0, [1], (), "[1]", "[]"),
    (0, [2, -1], (3, 1), "[2,-1]", "[3,1]"),
    (0, [2**31], (1,), "[2147483648]", "[1]"), (0, [1], (2**32 + 1, 0), "[1]", "[4294967297,0]"),
])  # fmt: skip
def test_shape(max_batch_size: int, dims: list[int], shape: tuple[int, ...], expected: str, got: str) -> None:
    model = signature(spec("INPUT0", "INT32", dims), max_batch_size=max_batch_size)
    assert refusal(model, request(int32("INPUT0", *shape))) == (
        f"{P}unexpected shape for input 'INPUT0' for model 'm'. Expected {expected}, got {got}. "
        + (NOTE if max_batch_size else "")
    )


def test_batch_sizes() -> None:
    model = signature(*TWO, max_batch_size=8)
    for rows in (0, 1, 8):
        made = request(int32("INPUT0", rows, 2, 16), int32("INPUT1", rows, 16))
        model.validate(made)
        assert made.batch_size == rows
    for rows in (9, 2**31, 2**63 - 1):
        large = [tensor("INPUT0", "INT32", [rows, 0, 16]), tensor("INPUT1", "INT32", [rows, 0])]
        assert refusal(model, request(*large)) == P + "inference request batch-size must be <= 8 for 'm'"
    assert refusal(model, request(int32("INPUT0", 2, 2, 16), int32("INPUT1", 3, 16))) == (
        P + "input 'INPUT1' batch size does not match other inputs for 'm'"
    )
    assert refusal(model, request(int32("INPUT0", 1, 1, 16), int32("INPUT1"))) == (
        P + "input 'INPUT1' has no shape but model requires batch dimension for 'm'"
    )


@pytest.mark.parametrize(("datatype", "shape", "nbytes", "expected"), [
    ("INT32", [16], 60, 64), ("INT32", [16], 68, 64), ("INT32", [16], 0, 64), ("INT32", [0], 4, 0), ("BOOL", [3], 4, 3),
    ("FP64", [2**28], 8, 2**31), ("FP64", [2**29], 8, 2**32), ("INT8", [2**32 + 4], 4, 2**32 + 4),
    ("INT8", [2**63 - 1], 8, 2**63 - 1), ("INT16", [2**62 - 1], 8, 2**63 - 2), ("FP64", [2**60 - 1], 8, 2**63 - 8),
])  # fmt: skip
def test_byte_size(datatype: str, shape: list[int], nbytes: int, expected: int) -> None:
    model = signature(spec("INPUT0", datatype))
    assert refusal(model, request(tensor("INPUT0", datatype, shape, bytes(nbytes)))) == (
        f"{P}input byte size mismatch for input 'INPUT0' for model 'm'. Expected {expected}, got {nbytes}"
    )


@pytest.mark.parametrize(("datatype", "count"), [
    ("INT16", 2**62), ("INT32", 2**61), ("INT32", 2**62 + 1), ("FP64", 2**60), ("FP64", 2**61), ("FP64", 2**63 - 1),
])  # fmt: skip
@pytest.mark.parametrize("nbytes", [0, 8])
def test_byte_sizes_that_would_wrap(datatype: str, count: int, nbytes: int) -> None:
    model = signature(spec("INPUT0", datatype))
    assert refusal(model, request(tensor("INPUT0", datatype, [count], bytes(nbytes)))) == (
        f"byte size overflow for input 'INPUT0': element count ({count}) exceeds maximum allowed size "
        "(9223372036854775807)"
    )


@pytest.mark.parametrize(("count", "wire", "message"), [
    (2, encode_bytes(["a", "b", "c"]), "unexpected number of string elements 3 {}, expecting 2"),
    (2, encode_bytes(["a"] * 9), "unexpected number of string elements 3 {}, expecting 2"),
    (0, encode_bytes([""]), "unexpected number of string elements 1 {}, expecting 0"),
    (2, encode_bytes(["a"]), "expected 2 string elements {}, got 1"),
    (2, b"", "expected 2 string elements {}, got 0"), (2**62, b"", f"expected {2**62} string elements {{}}, got 0"),
    (1, b"\1\0", "incomplete string length indicator {}, expecting 4 bytes but only 2 bytes available. Please make "
     "sure the string length indicator is in one buffer."),
    (2, encode_bytes(["abc"]) + b"\1", "incomplete string length indicator {}, expecting 4 bytes but only 1 bytes "
     "available. Please make sure the string length indicator is in one buffer."),
])  # fmt: skip
def test_string_elements(count: int, wire: bytes, message: str) -> None:
    model = signature(spec("INPUT0", "BYTES"))
    assert refusal(model, request(tensor("INPUT0", "BYTES", [count], wire))) == P + message.format(
        "for inference input 'INPUT0' for model 'm'"
    )


@pytest.mark.parametrize(("wire", "length", "available"), [
    (b"\5\0\0\0abc", 5, 3), (b"\xff\xff\xff\xffa", 4294967295, 1), (b"\0\0\0\x80" + bytes(9), 2147483648, 9),
])  # fmt: skip
def test_a_string_that_ends_early(wire: bytes, length: int, available: int) -> None:
    model = signature(spec("INPUT0", "BYTES"))
    assert refusal(model, request(tensor("INPUT0", "BYTES", [1], wire))) == (
        f"incomplete string data for inference input 'INPUT0', expecting string of length {length} but only "
        f"{available} bytes available"
    )


@pytest.mark.parametrize("strings", [[], [""], ["", "", ""], ["a", "b" * 5000, ""]])
def test_whole_string_elements_pass(strings: list[str]) -> None:
    made = tensor("INPUT0", "BYTES", [len(strings)], encode_bytes(strings))
    signature(spec("INPUT0", "BYTES")).validate(request(made))


def test_more_inputs_and_outputs_than_any_model_has_cost_no_more_than_a_refusal() -> None:
    model = signature(OPTIONAL[0])
    one = int32("A", 1)
    outputs = [RequestedOutput("OUT")] * (MAX_TENSORS_PER_REQUEST + 1)
    assert refusal(model, InferRequest("m", inputs=[one], outputs=outputs)) == (
        f"{P}request asks for {MAX_TENSORS_PER_REQUEST + 1} outputs, at most {MAX_TENSORS_PER_REQUEST} are supported"
    )
    many = [int32(f"X{index}", 1) for index in range(100_000)]
    assert refusal(model, request(*many)).startswith(P + "expected 1 inputs but got 100000 inputs for model 'm'.")
    assert refusal(model, request(one, *[one] * 100_000)) == P + "input 'A' already exists in request"


@pytest.mark.parametrize("change", [{"dims": [1] * 16}, {"dims": [1], "reshape": [1] * 16}])
def test_a_model_has_at_most_fifteen_dimensions_of_its_own(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArg, match="tensor 'A' has too many dimensions, at most 15 are supported"):
        TensorSpec("A", 11, **change)


def test_a_refused_request_can_be_mended_and_sent_again() -> None:
    model = signature(*TWO)
    made = request(int32("INPUT0", 1, 16))
    refusal(model, made)
    made.inputs.append(int32("INPUT1", 16))
    model.validate(made)
    assert made.batch_size == 1


def test_labels_of_outputs() -> None:
    model = ModelSignature("m", 1, [], [spec("OUT", labels=["cat", "dog"]), spec("OTHER")])
    assert (model.labels("OUT"), model.labels("OTHER"), model.labels("X")) == (("cat", "dog"), (), ())


def test_of_two_inputs_with_too_few_strings_the_last_is_named() -> None:
    model = signature(spec("INPUT0", "BYTES", dims=[2]), spec("INPUT1", "BYTES", dims=[2]))
    short = [tensor(name, "BYTES", [2], encode_bytes(["a"])) for name in ("INPUT0", "INPUT1")]
    assert refusal(model, request(*short)) == (
        f"{P}expected 2 string elements for inference input 'INPUT1' for model 'm', got 1"
    )
