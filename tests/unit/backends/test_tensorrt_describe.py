"""Plans and configs: auto-complete, agreement, profiles. Pure functions over descriptions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tensorrt_models import (
    FP16,
    INT32,
    batched,
    config,
    given,
    io_text,
    result,
    rtx,
    shaped,
    two_profiles,
)

from triton_async import datatypes
from triton_async.backends.tensorrt.check import check_config, config_profiles, model_io
from triton_async.backends.tensorrt.describe import Plan, describe
from triton_async.backends.tensorrt.profiles import choose, group_profiles, largest_dims, max_batch_size
from triton_async.config.autocomplete import complete
from triton_async.errors import InternalError, InvalidArg, ServerError, Unsupported

BATCHED = "max_batch_size: 8\n" + io_text({"x": [16]}, {"y": [4]})


def completed(plan: Plan, text: str) -> tuple[Any, list[str]]:
    proto = config(text)
    warnings = complete(proto, model_io(plan, proto))
    return proto, warnings


# -- auto-complete ---------------------------------------------------------------------------------


def test_batching_comes_from_the_profile() -> None:
    proto, warnings = completed(batched(8), "")
    assert proto.max_batch_size == 8
    assert proto.HasField("dynamic_batching")
    assert list(proto.input[0].dims) == [16]
    assert list(proto.output[0].dims) == [4]
    assert not warnings


def test_the_largest_profile_in_use_decides() -> None:
    assert completed(two_profiles(), "")[0].max_batch_size == 4
    groups = "instance_group { kind: KIND_GPU gpus: 0 profile: ['1', '0'] }"
    assert completed(two_profiles(), groups)[0].max_batch_size == 32


@pytest.mark.parametrize(
    "plan",
    [
        Plan((given("x", ()), result("y", ()))),
        Plan((given("x", (4, 16)), result("y", (16,)))),
        Plan((given("x", (-1, 16), ((1, 16), (2, 16), (4, 16))), given("w", (16,)), result("y", (-1, 4)))),
        Plan((given("x", (4,)), result("y", (-1,)))),
        shaped(),
    ],
    ids=["scalars", "outputs of another size", "an input without batch", "size by data", "shape tensors"],
)
def test_a_plan_that_does_not_batch(plan: Plan) -> None:
    proto, _ = completed(plan, "")
    assert proto.max_batch_size == 0
    assert not proto.HasField("dynamic_batching")
    assert [list(io.dims) for io in proto.input] == [list(tensor.dims) or [1] for tensor in plan.inputs]
    check_config(proto, plan)


def test_a_fixed_batch_is_the_largest() -> None:
    proto, _ = completed(Plan((given("x", (4, 16)), result("y", (4, 2)))), "")
    assert proto.max_batch_size == 4
    assert list(proto.output[0].dims) == [2]


def test_shape_tensors_are_marked() -> None:
    proto, _ = completed(shaped(), "")
    assert [io.is_shape_tensor for io in proto.input] == [False, True]


def test_the_shapes_of_the_config_say_whether_it_batches() -> None:
    unbatched = io_text({"x": [-1, 16]}, {"y": [-1, 4]})
    proto, warnings = completed(batched(), unbatched)
    assert proto.max_batch_size == 0
    assert warnings == ["The specified dimensions in model config for m hints that batching is unavailable"]
    assert completed(batched(), io_text({"x": [16]}, {"y": [4]}))[0].max_batch_size == 8


@pytest.mark.parametrize(
    ("plan", "text", "message"),
    [
        (batched(), io_text({"x": [16]}, {"y": [-1, 4]}), "contradicting each other in terms of whether batching"),
        (Plan((given("x", (2, 3)), result("y", (3,)))), io_text({"x": [3]}, {}), "doesn't support batching"),
        (batched(8), "max_batch_size: 9", "specified max-batch 9 but TensorRT engine only supports max-batch 8"),
        (batched(8), "max_batch_size: 2\n" + io_text({"x": [-1, 16]}, {}), "only supports max-batch 0"),
    ],
)
def test_what_cannot_be_completed(plan: Plan, text: str, message: str) -> None:
    with pytest.raises(InternalError) as error:
        completed(plan, text)
    assert message in error.value.message
    assert "'m'" in error.value.message


# -- agreement -------------------------------------------------------------------------------------


def test_a_config_that_fits() -> None:
    check_config(config(BATCHED), batched())
    check_config(config(io_text({"x": [-1, 16]}, {"y": [-1, -1]})), batched())
    check_config(config("max_batch_size: 2\n" + io_text({"x": [16]}, {"y": [-1]})), batched())


def changed(plan: Plan, index: int, **changes: Any) -> Plan:
    tensors = list(plan.tensors)
    tensors[index] = replace(tensors[index], **changes)
    return replace(plan, tensors=tuple(tensors))


@pytest.mark.parametrize(
    ("plan", "text", "kind", "message"),
    [
        (
            batched(),
            BATCHED.replace("TYPE_FP32", "TYPE_FP16", 1),
            InvalidArg,
            "unexpected datatype TYPE_FP32 for inference input 'x', expecting TYPE_FP16 for m",
        ),
        (
            changed(batched(), 1, datatype=FP16),
            BATCHED,
            InvalidArg,
            "unexpected datatype TYPE_FP16 for inference output 'y', expecting TYPE_FP32 for m",
        ),
        (
            batched(),
            BATCHED.replace("'x'", "'a'"),
            InvalidArg,
            "unexpected inference input 'a', allowed inputs are: x for m",
        ),
        (
            batched(),
            BATCHED.replace("'y'", "'a'"),
            InvalidArg,
            "unexpected inference output 'a', allowed outputs are: y for m",
        ),
        (
            batched(),
            BATCHED + io_text({"z": [1]}, {}),
            InvalidArg,
            "unable to load model 'm', configuration expects 2 inputs, model provides at most 1",
        ),
        (batched(), io_text({"x": [-1, 16]}, {}), InvalidArg, "expected configuration for output 'y' for m"),
        (batched(), io_text({}, {"y": [-1, 4]}), InvalidArg, "expected configuration for input 'x' for m"),
        (
            batched(),
            BATCHED.replace("[16]", "[17]"),
            InvalidArg,
            "model 'm', tensor 'x': the model expects 2 dimensions (shape [-1,16]) but the model configuration "
            "specifies 2 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit "
            "tensor shape, making complete shape [-1,17])",
        ),
        (
            batched(),
            io_text({"x": [16]}, {"y": [-1, 4]}),
            InvalidArg,
            "the model expects 2 dimensions (shape [-1,16]) but the model configuration specifies 1 dimensions",
        ),
        (
            Plan((given("x", ()), result("y", ()))),
            "max_batch_size: 1\n" + io_text({"x": [1]}, {"y": [1]}),
            InvalidArg,
            "for the model to support batching the shape should have at least 1 dimension",
        ),
        (
            batched(8),
            BATCHED.replace(": 8", ": 9"),
            InvalidArg,
            "unexpected configuration maximum batch size 9 for 'm', model maximum is 8",
        ),
        (
            shaped(),
            "input { name: 's' data_type: TYPE_INT32 dims: 1 }" + io_text({"x": [8]}, {"y": [-1]}),
            InternalError,
            "input 's' for model 'm' is a shape tensor but the model configuration doesn't mark it as a shape tensor.",
        ),
        (
            batched(),
            BATCHED.replace("dims: [16]", "dims: [16] is_shape_tensor: true"),
            InternalError,
            "input 'x' for model 'm' is incorrectly marked as a shape tensor in the model configuration.",
        ),
        (
            changed(batched(), 0, layout="CHW32"),
            BATCHED,
            Unsupported,
            "input 'x' of model 'm' has the format CHW32 in the plan",
        ),
        (
            batched(),
            BATCHED.replace("dims: [16]", "dims: [16] is_non_linear_format_io: true"),
            InvalidArg,
            "marked 'is_non_linear_format_io', but the plan has a linear format",
        ),
        (
            two_profiles(),
            "max_batch_size: 4\n" + io_text({"x": [2]}, {"y": [-1]}),
            InvalidArg,
            "model expected the shape of dimension 1 to be between 4 and 32 but received 2",
        ),
        (
            two_profiles(),
            BATCHED + "instance_group { name: 'g' profile: ['0', '2'] }",
            InvalidArg,
            "Can not set the specified optimization profile 2[2] for g. Expected optimization profile index range 0-1",
        ),
    ],
)
def test_a_config_that_does_not_fit(plan: Plan, text: str, kind: type[ServerError], message: str) -> None:
    with pytest.raises(kind) as error:
        check_config(config(text), plan)
    assert message in error.value.message


def test_shape_tensors_cannot_be_batched() -> None:
    text = (
        "max_batch_size: 2 input { name: 's' data_type: TYPE_INT32 dims: 1 reshape { } is_shape_tensor: true }"
        + io_text({"x": [1]}, {"y": [1]})
    )
    tensors = [replace(tensor, dims=(-1, *tensor.dims[1:])) for tensor in shaped().tensors]
    tensors = [replace(tensor, dims=(-1, -1)) if tensor.name != "s" else tensor for tensor in tensors]
    with pytest.raises(Unsupported, match="max_batch_size 0 only"):
        check_config(config(text), Plan(tuple(tensors)))


def test_a_profile_that_one_fixed_size_does_not_fit_leaves_the_others() -> None:
    text = "max_batch_size: 4\ninstance_group { profile: ['0', '1'] }\n" + io_text({"x": [50]}, {"y": [-1]})
    check_config(config(text), two_profiles())


# -- profiles --------------------------------------------------------------------------------------


def test_profiles_of_a_group() -> None:
    assert group_profiles((), two_profiles(), "m_0") == (0,)
    assert group_profiles(("1", "0", "1"), two_profiles(), "m_0") == (1, 0)
    for wrong in ("2", "x", "-1", "١", "9" * 40):
        with pytest.raises(InvalidArg, match="index range 0-1"):
            group_profiles((wrong,), two_profiles(), "m_0")


def test_every_profile_in_use_is_known_to_the_config() -> None:
    proto = config("instance_group { profile: '1' } instance_group { profile: ['0', '1'] }")
    assert config_profiles(two_profiles(), proto) == (0, 1)


@pytest.mark.parametrize(
    ("dims", "profile"),
    [((1, 4), 0), ((4, 32), 0), ((5, 32), 1), ((32, 64), 1), ((1, 33), 1), ((2, 32), 0), ((4, 32), 0)],
)
def test_the_nearest_profile_is_chosen(dims: tuple[int, int], profile: int) -> None:
    assert choose(two_profiles(), (0, 1), {"x": dims}, {}, "m") == profile


def test_no_profile_takes_the_shape() -> None:
    with pytest.raises(InvalidArg) as error:
        choose(two_profiles(), (0, 1), {"x": (5, 8)}, {}, "m")
    assert "failed to find any Optimization Profile among [ 0[0] 1[1]]" in error.value.message
    with pytest.raises(InvalidArg) as error:
        choose(two_profiles(), (0,), {"x": (1, 33)}, {}, "m")
    assert error.value.message == (
        "request specifies invalid shape for input 'x' for m. Error details: model expected the shape of dimension 1 "
        "to be between 4 and 32 but received 33"
    )
    with pytest.raises(InvalidArg, match="expected 2 dimensions"):
        choose(two_profiles(), (0,), {"x": (1,)}, {}, "m")


def test_values_of_shape_tensors_are_looked_at() -> None:
    dims = {"x": (8,), "s": (1,)}
    assert choose(shaped(), (0,), dims, {"s": (8,)}, "m") == 0
    with pytest.raises(InvalidArg, match="between 1 and 8 but received 9"):
        choose(shaped(), (0,), dims, {"s": (9,)}, "m")


def test_the_largest_dims_of_an_input() -> None:
    x = two_profiles().inputs[0]
    assert largest_dims(x, 0, (-1,), 32) == (4, 32)
    assert largest_dims(x, 1, (40,), 8) == (8, 40)
    assert largest_dims(x, 1, (-1, -1), 0) == (32, 64)
    assert largest_dims(given("x", (4, 16)), 0, (16,), 3) == (4, 16)


def test_the_largest_batch_of_several_inputs_is_the_smallest_maximum() -> None:
    plan = Plan(
        (
            given("a", (-1,), ((1,), (4,), (8,))),
            given("b", (-1, 2), ((1, 2), (2, 2), (6, 2))),
            result("y", (-1,)),
        )
    )
    assert max_batch_size(plan, (0,)) == 6


# -- description -----------------------------------------------------------------------------------


class Engine:
    """The vendor's ICudaEngine, as far as a description reads it; one plan as TensorRT shows it."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self.num_optimization_profiles = 2
        self.num_io_tensors = 3
        self.dtypes = {"x": trt.DataType.HALF, "s": trt.DataType.INT32, "y": trt.DataType.FLOAT}

    def get_tensor_name(self, index: int) -> str:
        return "xsy"[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.OUTPUT if name == "y" else self._trt.TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtypes[name]

    def get_tensor_shape(self, name: str) -> Any:
        return self._trt.Dims({"x": [-1, 3], "s": [2], "y": [-1, -1]}[name])

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.HOST if name == "s" else self._trt.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self._trt.TensorFormat.CHW4 if name == "y" else self._trt.TensorFormat.LINEAR

    def is_shape_inference_io(self, name: str) -> bool:
        return name == "s"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        return [self._trt.Dims([size, 3]) for size in (1, 2 + profile, 4 + profile)] if name == "x" else []

    def get_tensor_profile_values(self, profile: int, name: str) -> list[list[int]]:
        assert isinstance(profile, int)
        return [[1, 1], [2, 2], [3 + profile, 3]]


def test_an_engine_is_described() -> None:
    library = rtx()
    plan = describe(Engine(library.trt), library)
    x, s, y = plan.tensors
    assert (plan.profiles, plan.inputs, plan.outputs) == (2, (x, s), (y,))
    assert (x.datatype, x.dims, x.host, x.shape_tensor, x.is_linear) == (FP16, (-1, 3), False, False, True)
    assert [(found.minimum, found.optimum, found.maximum) for found in x.ranges] == [
        ((1, 3), (2, 3), (4, 3)),
        ((1, 3), (3, 3), (5, 3)),
    ]
    assert (s.datatype, s.host, s.shape_tensor, s.values[1].maximum) == (INT32, True, True, (4, 3))
    assert s.ranges[0].maximum == (2,)
    assert (y.layout, y.ranges, y.dims) == ("CHW4", (), (-1, -1))
    assert plan.is_dynamic
    assert plan.has_shape_tensors


@pytest.mark.parametrize("name", ["FP8", "INT4", "FP4", "E8M0"])
def test_a_datatype_that_no_request_can_carry(name: str) -> None:
    library = rtx()
    engine = Engine(library.trt)
    engine.dtypes["x"] = getattr(library.trt.DataType, name)
    with pytest.raises(Unsupported, match=f"tensor 'x' has TensorRT datatype {name}"):
        describe(engine, library)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("FLOAT", "FP32"), ("HALF", "FP16"), ("BF16", "BF16"), ("INT64", "INT64"), ("BOOL", "BOOL"), ("UINT8", "UINT8")],
)
def test_datatypes(name: str, ours: str) -> None:
    assert rtx().datatype(SimpleNamespace(name=name), "x") == datatypes.from_name(ours)
