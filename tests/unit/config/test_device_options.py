"""Options for GPUs: graph specs that fit the model, and a word for each option that a backend does not use."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_models import FIXED, FULL, load_text

from triton_async.backends.device.options import GraphSpec, Priority, SlotOptions, slot_options, stream_priority
from triton_async.config.model_config import ModelConfig
from triton_async.errors import InvalidArg, Unsupported

TENSORRT = FULL.replace('platform: "onnxruntime_onnx"', 'platform: "tensorrt_plan"')


def load_optimization(root: Path, optimization: str, config: str = TENSORRT) -> ModelConfig:
    return load_text(root, f"{config}\noptimization {{ {optimization} }}")


SPECS = [
    ("batch_size: 9", "batch_size of 'optimization.cuda.graph_spec' 0 of model 'm' must be between 1 and "
     "max_batch_size 8, got 9"),
    ("batch_size: 0", "must be between 1 and max_batch_size 8, got 0"),
    ("", "must be between 1 and max_batch_size 8, got 0"),
    ("batch_size: -1", "must be between 1 and max_batch_size 8, got -1"),
    ("batch_size: 1 input { key: 'none' value { dim: 2 } }", "graph_spec' 0 of model 'm' names input 'none', which the "
     "model does not have"),
    ("batch_size: 1 input { key: 'scale' value { dim: 3 } }", "has dims [3] for input 'scale', but the model expects "
     "[2]"),
    ("batch_size: 1 input { key: 'scale' value { } }", "has dims [] for input 'scale', but the model expects [2]"),
    ("batch_size: 1 input { key: 'scale' value { dim: -1 } }", "has dims [-1] for input 'scale'"),
    ("batch_size: 4 graph_lower_bound { batch_size: 5 }", "must not be larger than that of the graph, 4, got 5"),
    ("batch_size: 4 graph_lower_bound { }", "batch_size of the graph_lower_bound of 'optimization.cuda.graph_spec' 0 "
     "of model 'm' must be between 1 and max_batch_size 8, got 0"),
    ("batch_size: 4 graph_lower_bound { batch_size: 1 input { key: 'x' value { dim: 1 } } }", "names input 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "message"), SPECS)
def test_a_graph_spec_that_does_not_fit(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        load_optimization(tmp_path, f"cuda {{ graphs: true graph_spec {{ {spec} }} }}")
    assert message in caught.value.message
    assert "config.pbtxt" in caught.value.message


def test_a_lower_bound_of_other_dims_is_refused(tmp_path: Path) -> None:
    config = TENSORRT.replace("dims: [ 2 ]", "dims: [ -1 ]")
    spec = ("batch_size: 4 input { key: 'scale' value { dim: 9 } } "
            "graph_lower_bound { batch_size: 1 input { key: 'scale' value { dim: 1 } } }")  # fmt: skip
    text = f"{config}\noptimization {{ cuda {{ graphs: true graph_spec {{ {spec} }} }} }}"
    with pytest.raises(Unsupported, match="other dims than the graph for input 'scale': only batches are padded"):
        load_text(tmp_path, text, None)


def test_a_model_that_does_not_batch_has_no_batch_size(tmp_path: Path) -> None:
    config = 'platform: "tensorrt_plan"\noptimization { cuda { graphs: true graph_spec { batch_size: %d } } }'
    assert load_text(tmp_path / "a", config % 0, FIXED).max_batch_size == 0
    with pytest.raises(InvalidArg, match="must be 0, as it does not batch, got 1"):
        load_text(tmp_path / "b", config % 1, FIXED)


def test_every_option_reaches_the_instance(tmp_path: Path) -> None:
    config = load_optimization(tmp_path, """
        priority: PRIORITY_MAX
        cuda {
          graphs: true busy_wait_events: true output_copy_stream: true
          graph_spec { batch_size: 8 input { key: "scale" value { dim: 2 } } graph_lower_bound { batch_size: 3 } }
          graph_spec { batch_size: 2 }
        }
        input_pinned_memory { enable: false }
        output_pinned_memory { enable: false }
        gather_kernel_buffer_threshold: 30
        eager_batching: true
    """, f"{TENSORRT}\ndynamic_batching {{ preferred_batch_size: [ 4, 2 ] }}")  # fmt: skip
    assert config.warnings == ()
    assert slot_options(config) == SlotOptions(
        priority=Priority.MAX,
        busy_wait=True,
        pin_inputs=False,
        pin_outputs=False,
        gather_threshold=30,
        graphs=True,
        graph_specs=(GraphSpec(8, {"scale": (2,)}, 3), GraphSpec(2, {}, 2)),
        preferred=(2, 4),
    )


def test_the_defaults_of_a_config_are_those_of_the_options(tmp_path: Path) -> None:
    assert slot_options(load_text(tmp_path, TENSORRT)) == SlotOptions()


@pytest.mark.parametrize(("optimization", "field"), [
    ("cuda { graphs: true }", "cuda"), ("cuda { busy_wait_events: true }", "cuda"),
    ("eager_batching: true", "eager_batching"), ("priority: PRIORITY_MIN", "priority"),
    ("gather_kernel_buffer_threshold: 2", "gather_kernel_buffer_threshold"),
])  # fmt: skip
def test_options_that_the_backend_does_not_use_are_told(tmp_path: Path, optimization: str, field: str) -> None:
    config = load_optimization(tmp_path / "cpu", optimization, FULL)
    assert config.warnings == (
        f"'optimization.{field}' of model 'm' has no effect: backend 'onnxruntime' does not use it",
    )
    assert load_optimization(tmp_path / "gpu", optimization).warnings == ()


def test_nothing_is_told_of_a_plain_config(tmp_path: Path) -> None:
    assert load_text(tmp_path, FULL).warnings == ()


def test_priorities_out_of_the_range_of_the_device() -> None:
    assert [stream_priority(priority, 0, -5) for priority in Priority] == [0, -5, 0]
    assert [stream_priority(priority, 0, 0) for priority in Priority] == [0, 0, 0]
