"""The models that the end-to-end benchmarks serve."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.models import Model, Tensor, write_repository

ELEMENTS = 16
# FP32[1,3,224,224], 602,112 bytes.
LARGE_ELEMENTS = 3 * 224 * 224
IDENTITY = "identity"
BUILT_IN = "identity_built_in"

# The dims are dynamic, so that the echo check can send other shapes than the load does.
IDENTITY_MODEL = Model(
    IDENTITY,
    (Tensor("INPUT0", "FP32", (-1,)),),
    (Tensor("OUTPUT0", "FP32", (-1,)),),
    (("copy", "INPUT0"),),
    8,
)
ADD_SUB = "add_sub"
_ADD_SUB = Model(
    ADD_SUB,
    tuple(Tensor(name, "FP32", (ELEMENTS,)) for name in ("INPUT0", "INPUT1")),
    tuple(Tensor(name, "FP32", (ELEMENTS,)) for name in ("OUTPUT0", "OUTPUT1")),
    (("add", "INPUT0", "INPUT1"), ("sub", "INPUT0", "INPUT1")),
    8,
)
BUILT_IN_CONFIG = f"""name: "{BUILT_IN}"
backend: "identity"
max_batch_size: 8
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


def triton_repository(root: Path) -> Path:
    """The models for the real server's Python backend."""
    return write_repository(root, (IDENTITY_MODEL, _ADD_SUB), "python")


def our_repository(root: Path) -> Path:
    """The models as ONNX, and the identity for the built-in identity backend."""
    write_repository(root, (IDENTITY_MODEL, _ADD_SUB), "onnx")
    folder = root / BUILT_IN
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(BUILT_IN_CONFIG)
    return root
