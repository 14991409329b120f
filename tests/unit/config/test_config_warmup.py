"""`model_warmup` of a config: what is left out, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_models import FULL, load_text

from triton_async.config.warmup import WarmUpData, WarmUpInput, WarmUpSample
from triton_async.errors import InvalidArg


def sample(inputs: str, head: str = "name: 's' batch_size: 1") -> str:
    return FULL + f"model_warmup {{ {head} {inputs} }}"


def given(value: str) -> str:
    return f"inputs {{ key: 'scale' value {{ {value} }} }}"


def test_samples_are_frozen_with_their_defaults(tmp_path: Path) -> None:
    config = load_text(tmp_path, FULL + """
        model_warmup [
          { name: "zeros" batch_size: 3 count: 2
            inputs { key: "scale" value { data_type: TYPE_FP32 dims: 2 zero_data: true } }
            inputs { key: "image" value { data_type: TYPE_FP32 dims: [ 3, 4, 4 ] random_data: true } } },
          { name: "left out" batch_size: 0 },
          { name: "file" batch_size: 1
            inputs { key: "scale" value { data_type: TYPE_FP32 dims: 2 input_data_file: "a/b" } } }
        ]""")
    assert config.warm_up == (
        WarmUpSample("zeros", 3, 2, (
            WarmUpInput("image", 11, (3, 4, 4), WarmUpData.RANDOM), WarmUpInput("scale", 11, (2,), WarmUpData.ZERO),
        )),
        WarmUpSample("file", 1, 1, (WarmUpInput("scale", 11, (2,), WarmUpData.FILE, "a/b"),)),
    )  # fmt: skip
    assert [made.nbytes for made in config.warm_up[0].inputs] == [192, 8]


@pytest.mark.parametrize(("text", "problem"), [
    (given("data_type: TYPE_FP32 dims: [ 2, -1 ] zero_data: true"),
     "warmup setting expects all variable-size dimensions are specified for input 'scale' in model_warmup sample 's' "
     "of model 'm': give a number for each -1 of 'dims'"),
    (given("data_type: TYPE_FP32 dims: 2"),
     "warmup setting expects input 'scale' to have input_data_type set in model_warmup sample 's' of model 'm': "
     "'zero_data', 'random_data' or 'input_data_file'"),
    (given("dims: 2 zero_data: true"),
     "warmup setting expects input 'scale' to have 'data_type' set in model_warmup sample 's' of model 'm'"),
    (given("data_type: TYPE_FP32 dims: -2 zero_data: true"),
     "warmup setting expects no negative 'dims' for input 'scale' in model_warmup sample 's' of model 'm'"),
    (given("data_type: TYPE_FP32 zero_data: true" + " dims: 1" * 16),
     "warmup setting expects at most 15 'dims' for input 'scale' in model_warmup sample 's' of model 'm'"),
    (given("data_type: TYPE_FP32 dims: [ 1073741824, 4 ] random_data: true"),
     "warmup setting expects at most 4294967296 bytes for input 'scale', got 17179869184 in model_warmup sample 's' of "
     "model 'm'"),
    (given("data_type: TYPE_FP32 dims: 2 input_data_file: '../x'"),
     "input_data_file of input 'scale' in model_warmup sample 's' of model 'm' '../x' must be a relative path that "
     "stays within its directory"),
])  # fmt: skip
def test_samples_that_can_never_run(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        load_text(tmp_path, sample(text))
    assert caught.value.message == f"{problem} (in config.pbtxt)"
