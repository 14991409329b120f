"""What fits the models of an ensemble's steps and what does not, in Triton's words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ensemble_stage import FP32, config_text, parsed

from triton_async.core.linking import Link, Target, link
from triton_async.datatypes import from_name
from triton_async.errors import InvalidArg
from triton_async.infer.signature import ModelSignature, TensorSpec

DIFFERENT = r"in ensemble e, step of model 'e' receives inputs originated from different decoupled models"


def model(
    name: str, ins: str = "X", outs: str = "Y", *, dims: Any = (-1,), datatype: str = "FP32", batch: int = 4,
    decoupled: bool = False, labels: tuple[str, ...] = (), any_rank: bool = False,
) -> Target:  # fmt: skip
    number = from_name(datatype)
    inputs = [TensorSpec(one.rstrip("?"), FP32, dims, None, one.endswith("?"), (), any_rank) for one in ins.split()]
    outputs = [TensorSpec(one, number, dims, None, False, labels) for one in outs.split()]
    return Target(ModelSignature(name, 1, inputs, outputs, batch, decoupled))


def joined(steps: list[Any], *targets: Target, inputs: Any = ("EX",), outputs: Any = ("EY",), **more: Any) -> Link:
    labels = more.pop("labels", {})
    return link(parsed(config_text("e", inputs, outputs, steps, **more)), labels, targets)


ONE = [("m", {"X": "EX"}, {"Y": "EY"})]
TWO = [("m", {"X": "EX"}, {"Y": "t"}), ("n", {"X": "t"}, {"Y": "EY"})]


@pytest.mark.parametrize(
    ("steps", "targets", "text"),
    [
        ([("m", {"N": "EX"}, {"Y": "EY"})], [model("m")],
         "in ensemble e, ensemble tensor EX is mapping to non-existing input N in model m"),
        ([("m", {"X": "EX"}, {"N": "EY"})], [model("m")],
         "in ensemble e, ensemble tensor EY is mapped from non-existing output N in model m"),
        (ONE, [model("m", "X Z")], "in ensemble e, input Z in model m is not mapped to any ensemble tensors"),
        (ONE, [model("m", datatype="INT32")],
         "in ensemble e, ensemble tensor EY: inconsistent data type: TYPE_FP32 is inferred from model e while "
         "TYPE_INT32 is inferred from model m"),
        (TWO, [model("m", datatype="BYTES"), model("n")],
         "in ensemble e, ensemble tensor t: inconsistent data type: TYPE_STRING is inferred from model m while "
         "TYPE_FP32 is inferred from model n"),
        (TWO, [model("m", dims=(-1,)), model("n", dims=(2, -1))],
         "in ensemble e, ensemble tensor EY: inconsistent shape: [-1,-1] is inferred from model e while "
         "[-1,2,-1] is inferred from model n"),
        (ONE, [model("m", batch=3)],
         "ensemble e allows maximum batch size 4, but it contains model m which only allows maximum batch size to be "
         "3"),
        ([("m", {"X": "EX"}, {"Y": "a"}), ("m", {"X": "EX"}, {"Y": "b"}), ("n", {"X": "a", "Z": "b"}, {"Y": "EY"})],
         [model("m", decoupled=True), model("m", decoupled=True), model("n", "X Z")], DIFFERENT),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(steps: list[Any], targets: list[Target], text: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        joined(steps, *targets)
    assert caught.value.message == text


def test_outputs_of_different_decoupled_steps_are_refused() -> None:
    steps = [("m", {"X": "EX"}, {"Y": "EY"}), ("m", {"X": "EX"}, {"Y": "EZ"})]
    with pytest.raises(InvalidArg, match=re.escape(DIFFERENT)):
        joined(steps, model("m", decoupled=True), model("m", decoupled=True), outputs=("EY", "EZ"))


@pytest.mark.parametrize(
    ("steps", "targets"),
    [
        (ONE, [model("m", "X Z?")]),
        (ONE, [model("m", batch=0)]),
        (ONE, [model("m", batch=0, dims=(-1, 3))]),
        (ONE, [model("m", dims=(7,))]),
        (ONE, [model("m", batch=16)]),
    ],
)
def test_what_can_fit_is_taken(steps: list[Any], targets: list[Target]) -> None:
    assert joined(steps, *targets).signature(3).model_version == 3


def test_an_input_of_any_rank_takes_every_shape() -> None:
    target = model("m", dims=(2, 2, 2), any_rank=True)
    with pytest.raises(InvalidArg, match=r"ensemble tensor EY: inconsistent shape"):
        joined(ONE, target)


@pytest.mark.parametrize("says", ["", "model_transaction_policy { decoupled: true }"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_steps_decide_whether_it_is_decoupled(decoupled: bool, says: str) -> None:
    linked = joined(TWO, model("m"), model("n", decoupled=decoupled), more=says)
    assert linked.config.decoupled is decoupled
    assert linked.config.proto.model_transaction_policy.decoupled is decoupled
    assert linked.config.json()["model_transaction_policy"] == {"decoupled": decoupled}
    assert linked.signature(1).decoupled is decoupled


def test_labels_of_a_step_count_unless_the_ensemble_has_its_own() -> None:
    target = model("m", labels=("cat", "dog"))
    assert joined(ONE, target).signature(1).labels("EY") == ("cat", "dog")
    assert joined(ONE, target, labels={"EY": ("a",)}).signature(1).labels("EY") == ("a",)


def test_the_key_tells_whether_it_still_fits() -> None:
    assert joined(ONE, model("m")).key == joined(ONE, model("m")).key
    assert joined(ONE, model("m")).key != joined(ONE, model("m", batch=8)).key
