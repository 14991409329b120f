"""The model repository that both servers serve: one table of signatures, written in two forms.

The real server gets each model for its Python backend, ours gets it as ONNX; names, datatypes, dims,
labels and config.pbtxt are the same but for the backend.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

DTYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One input or output as config.pbtxt declares it."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    labels: tuple[str, ...] = ()

    @property
    def model_dims(self) -> tuple[int, ...]:
        """The dims that the model itself sees, without batch dimension."""
        return self.dims if self.reshape is None else self.reshape


@dataclasses.dataclass(frozen=True)
class Model:
    """One model. `wiring` gives per output the operation and the inputs it works on."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    wiring: tuple[tuple[str, ...], ...]
    max_batch_size: int = 0
    versions: tuple[int, ...] = (1,)
    extra: str = ""
    broken: str = ""


def _copy(name: str, dtype: str, dims: tuple[int, ...], max_batch_size: int, **more: object) -> Model:
    """A model that returns INPUT0 as OUTPUT0."""
    labels = more.pop("labels", ())
    reshape = more.pop("reshape", None)
    return Model(
        name,
        (Tensor("INPUT0", dtype, dims, reshape),),  # type: ignore[arg-type]
        (Tensor("OUTPUT0", dtype, dims, reshape, labels=labels),),  # type: ignore[arg-type]
        (("copy", "INPUT0"),),
        max_batch_size,
        **more,  # type: ignore[arg-type]
    )


def _two_by_two(name: str, dtype: str, dims: tuple[int, ...], max_batch_size: int) -> Model:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""
    ins = (Tensor("INPUT0", dtype, dims), Tensor("INPUT1", dtype, dims))
    outs = (Tensor("OUTPUT0", dtype, dims), Tensor("OUTPUT1", dtype, dims))
    return Model(name, ins, outs, (("add", "INPUT0", "INPUT1"), ("sub", "INPUT0", "INPUT1")), max_batch_size)


MAIN_MODELS: tuple[Model, ...] = (
    *(_copy(f"identity_{dtype.lower()}", dtype, (-1,), 8) for dtype in DTYPES),
    _copy("batch16", "FP32", (16,), 4),
    _copy("fixed23", "FP32", (2, 3), 0),
    _copy("dyn2", "FP32", (-1, -1), 0),
    _copy("reshape22", "FP32", (4,), 0, reshape=(2, 2)),
    _copy("reshape_batch", "INT32", (1,), 4, reshape=()),
    _copy("raw_bytes", "BYTES", (1,), 0),
    _copy("raw_bytes_batch", "BYTES", (1,), 4),
    _copy("raw_fixed", "INT32", (4,), 0),
    _copy("classify", "FP32", (5,), 4, labels=("cat", "dog", "fish", "owl", "newt")),
    _copy("classify_int", "INT32", (3,), 0, labels=("a", "b")),
    _copy("classify_2d", "FP32", (2, 2), 0),
    _copy("versions", "INT32", (2,), 0, versions=(1, 3), extra="version_policy { all {} }"),
    _copy("latest", "INT32", (2,), 0, versions=(1, 2)),
    _copy("counted", "INT32", (2,), 4),
    _copy("counted_grpc", "INT32", (2,), 4),
    _copy("batching", "FP32", (4,), 8, extra="dynamic_batching { max_queue_delay_microseconds: 500 }"),
    _copy("decoupled", "INT32", (1,), 0, extra="model_transaction_policy { decoupled: true }"),
    _two_by_two("add_sub", "INT32", (16,), 8),
    _two_by_two("add_sub_nobatch", "FP32", (4,), 0),
    Model(
        "swap",
        (Tensor("INPUT0", "FP32", (-1,)), Tensor("INPUT1", "BYTES", (-1,))),
        (Tensor("OUTPUT0", "BYTES", (-1,)), Tensor("OUTPUT1", "FP32", (-1,))),
        (("copy", "INPUT1"), ("copy", "INPUT0")),
        4,
    ),
    Model(
        "optional",
        (Tensor("INPUT0", "FP32", (4,)), Tensor("INPUT1", "FP32", (4,), optional=True)),
        (Tensor("OUTPUT0", "FP32", (4,)),),
        (("add", "INPUT0", "INPUT1"),),
    ),
    Model(
        "slow",
        (Tensor("INPUT0", "INT32", (-1,)),),
        (Tensor("OUTPUT0", "INT32", (-1,)),),
        (("slow", "INPUT0"),),
    ),
)

# Served in explicit control mode: two that load, the rest fail in different ways.
CONTROL_MODELS: tuple[Model, ...] = (
    _copy("first", "INT32", (2,), 0),
    _copy("second", "INT32", (2,), 0, versions=(1, 2), extra="version_policy { all {} }"),
    _copy("broken_config", "INT32", (2,), 0, broken="config"),
    _copy("broken_name", "INT32", (2,), 0, broken="name"),
    _copy("broken_model", "INT32", (2,), 0, broken="model"),
    _copy("broken_scalar", "INT32", (1,), 0, reshape=()),
    _copy("no_version", "INT32", (2,), 0, versions=()),
)


def _tensor_text(kind: str, tensor: Tensor) -> str:
    """One `input` or `output` block."""
    lines = [
        f'  name: "{tensor.name}"',
        f"  data_type: TYPE_{'STRING' if tensor.dtype == 'BYTES' else tensor.dtype}",
        f"  dims: [ {', '.join(map(str, tensor.dims))} ]",
    ]
    if tensor.reshape is not None:
        lines.append(f"  reshape {{ shape: [ {', '.join(map(str, tensor.reshape))} ] }}")
    if tensor.optional:
        lines.append("  optional: true")
    if tensor.labels:
        lines.append(f'  label_filename: "{tensor.name}.txt"')
    return f"{kind} {{\n" + "\n".join(lines) + "\n}\n"


def config_text(model: Model, backend: str) -> str:
    """The config.pbtxt of `model` on `backend`."""
    name = "another" if model.broken == "name" else model.name
    text = f'name: "{name}"\nbackend: "{backend}"\nmax_batch_size: {model.max_batch_size}\n'
    text += "".join(_tensor_text("input", tensor) for tensor in model.inputs)
    text += "".join(_tensor_text("output", tensor) for tensor in model.outputs)
    text += "instance_group { count: 1 kind: KIND_CPU }\n" + model.extra + "\n"
    return text + ("no_such_field: 1\n" if model.broken == "config" else "")


def write_repository(root: Path, models: tuple[Model, ...], form: str) -> Path:
    """Writes `models` below `root` in the form "python" or "onnx"; returns `root`."""
    if form == "onnx":
        from .models_onnx import model_file
    else:
        from .models_python import model_file
    backend, filename = {"python": ("python", "model.py"), "onnx": ("onnxruntime", "model.onnx")}[form]
    for model in models:
        folder = root / model.name
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(config_text(model, backend))
        for tensor in model.outputs:
            if tensor.labels:
                (folder / f"{tensor.name}.txt").write_text("\n".join(tensor.labels) + "\n")
        content = b"not a model (" if model.broken == "model" else model_file(model)
        for version in model.versions:
            (folder / str(version)).mkdir()
            (folder / str(version) / filename).write_bytes(content)
    return root
