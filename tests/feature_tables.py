"""The tables of every option, config field and extension with its state, made from the code.

`python -m tests.feature_tables` writes them into docs/compatibility.md; a unit test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triton_async.config.options import GROUPS, Option, Status
from triton_async.config.unsupported import unsupported_fields
from triton_async.core.server import EXTENSIONS
from triton_async.protos import ModelConfig

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"
BEGIN, END = "<!-- tests/feature_tables.py: begin -->\n", "<!-- end -->\n"

# What Triton lists, in its order.
TRITON_EXTENSIONS = (
    "classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy",
    "model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters",
    "statistics", "trace", "logging",
)  # fmt: skip

# What is to be known of a field of the config beyond that it works.
NOTES = {
    "runtime": "of backends that are shared libraries, see [c-api.md](c-api.md); `model.py` of those in Python",
    "input.format": "checked, as in Triton",
    "input.allow_ragged_batch": "ONNX Runtime, PyTorch and Python; refused for other backends; see "
    "[batching.md](batching.md)",
    "batch_input": "ONNX Runtime and PyTorch; refused for other backends",
    "batch_output": "ONNX Runtime and PyTorch; refused for other backends",
    "input.is_shape_tensor": "TensorRT",
    "input.is_non_linear_format_io": "TensorRT refuses it",
    "output.is_shape_tensor": "TensorRT",
    "output.is_non_linear_format_io": "TensorRT refuses it",
    "optimization.priority": "TensorRT and PyTorch on GPUs",
    "optimization.cuda": "TensorRT",
    "optimization.execution_accelerators": "ONNX Runtime: CUDA, TensorRT, OpenVINO",
    "optimization.gather_kernel_buffer_threshold": "TensorRT and PyTorch on GPUs",
    "optimization.eager_batching": "no effect: it is what always happens",
    "optimization.output_pinned_memory": "no effect: outputs of GPUs go to pinned memory",
    "parameters": "works; `padding` and those named `dynamic_batching.…` are ours, see [batching.md](batching.md)",
    "instance_group.host_policy": "`cpu-cores` and `numa-node` of `--host-policy`; worker processes take the first",
    "instance_group.rate_limiter": "with `--rate-limit=execution_count`; `priority` has no effect without `resources`",
    "instance_group.profile": "TensorRT",
    "cc_model_filenames": "TensorRT",
    "model_operations": "ONNX Runtime; refused for other backends",
    "model_transaction_policy": "`decoupled` models answer streams",
    "sequence_batching": "`use_growable_memory` of a state is refused; see [sequences.md](sequences.md)",
    "model_metrics": "buckets of our histograms and of the first response; see [metrics.md](metrics.md)",
}

# A value for each field that a config may not ask for.
REFUSED: dict[str, dict[str, Any]] = {
    "instance_group.secondary_devices": {"instance_group": [{"secondary_devices": [{}]}]},
}
NESTED = ("input", "output", "optimization", "dynamic_batching", "instance_group")


def tables() -> str:
    """All of them, as Markdown."""
    parts = [
        "### Options\n\n| option | state |\n|---|---|\n", *(f"| {name} | {state} |\n" for name, state in options()),
        "\n### Fields of config.pbtxt\n\n| field | state |\n|---|---|\n",
        *(f"| `{name}` | {state} |\n" for name, state in fields()),
        "\n### Extensions\n\n| extension | state |\n|---|---|\n",
        *(f"| `{name}` | {'works' if name in EXTENSIONS else 'not built'} |\n" for name in extensions()),
    ]  # fmt: skip
    return "".join(parts)


def options() -> Iterator[tuple[str, str]]:
    """Every option of ours, which are all of Triton's, and its state."""
    for _, rows in GROUPS:
        for option in rows:
            mark = " (not in Triton)" if option.ours else ""
            yield f"`--{option.name}`{mark}", _option_state(option)


def _option_state(option: Option) -> str:
    if option.status is Status.NO_EFFECT:
        return f"accepted with a warning, no effect: {option.note}"
    return "works"


def fields() -> Iterator[tuple[str, str]]:
    """Every field of a model's config, and its state."""
    for field in ModelConfig.DESCRIPTOR.fields:
        if field.name not in NESTED:
            yield field.name, _field_state(field.name)
            continue
        for inner in field.message_type.fields:
            name = f"{field.name}.{inner.name}"
            yield name, _field_state(name)


def _field_state(name: str) -> str:
    if name in REFUSED:
        problems = [problem.message for problem in unsupported_fields(ModelConfig(**REFUSED[name]))]
        assert problems, f"{name} is not refused any more"
        return "refused: " + problems[0].split(": ", 1)[1].removesuffix(" are not part of this release").removesuffix(
            " is not part of this release"
        )
    return NOTES.get(name, "works")


def extensions() -> tuple[str, ...]:
    """Those of Triton, then our own."""
    return (*TRITON_EXTENSIONS, *(name for name in EXTENSIONS if name not in TRITON_EXTENSIONS))


def written() -> str:
    """The tables as the document has them."""
    return DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + tables() + END + rest.split(END, 1)[1])
