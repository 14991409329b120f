"""Model directories and model descriptions for the tests of configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.load import load
from triton_async.config.model_config import ModelConfig

FP32, INT64, BYTES = 11, 9, 13

BATCHED = ModelIO(
    inputs=(TensorInfo("image", FP32, (-1, 3, 4, 4)), TensorInfo("scale", FP32, (-1, 2))),
    outputs=(TensorInfo("scores", FP32, (-1, 10)), TensorInfo("best", INT64, (-1,))),
)
FIXED = ModelIO(
    inputs=(TensorInfo("x", FP32, (1, 3, -1, -1)),),
    outputs=(TensorInfo("y", FP32, (1, 3, -1, -1)), TensorInfo("n", INT64, ())),
)

# A config that says all about BATCHED.
FULL = """
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "image" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 4, 4 ] },
  { name: "scale" data_type: TYPE_FP32 dims: [ 2 ] }
]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
output [ { name: "best" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]
"""


def make_model(root: Path, config: str | None, name: str = "m", filename: str = "model.onnx") -> Path:
    """A model directory with version 1, `labels.txt`, and config.pbtxt when `config` is text."""
    model = root / name
    (model / "1").mkdir(parents=True)
    (model / "1" / filename).write_bytes(b"model")
    (model / "labels.txt").write_text("cat\ndog\n")
    if config is not None:
        (model / "config.pbtxt").write_text(config)
    return model


def load_text(
    root: Path, config: str | None, model_io: ModelIO | None = BATCHED, **settings: Any
) -> ModelConfig:
    """Loads a model `m` with this config, which `model_io` describes."""
    model = make_model(root, config)
    return load(model, "m", inspect=lambda backend, path, proto: model_io, **settings)
