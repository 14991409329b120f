"""Graphs of TensorFlow for tests, written with the example's builder, and what TensorFlow answers to them.

`python tests/unit/backends/tensorflow_graphs.py` records what TensorFlow itself answers to the example's detector.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "detection"))

from frozen_graph import FLOAT, OUTPUTS, Builder, Dims, Kind, detector

__all__ = [
    "FLOAT", "OUTPUTS", "RECORDED", "Builder", "Dims", "Kind", "detector", "picture", "tensorflow_answers", "unary",
]  # fmt: skip

RECORDED = Path(__file__).with_name("tensorflow_detector.npz")


def unary(dtype: str = "float32", dims: Sequence[int] | None = (-1, 4), op: str = "Neg") -> bytes:
    """`y` of `x`."""
    builder = Builder()
    builder.add(op, [builder.placeholder("x", dtype, dims)], "y", T=Kind(dtype))
    return builder.graph()


def picture() -> Any:
    """The picture that answers are recorded for."""
    return np.random.default_rng(2).integers(0, 256, (1, 600, 1024, 3), np.uint8)


def tensorflow_answers(graph: bytes, feeds: dict[str, Any], outputs: Sequence[str]) -> list[Any]:
    """What TensorFlow, which must be installed, answers."""
    import tensorflow

    v1 = tensorflow.compat.v1
    message = v1.GraphDef()
    message.ParseFromString(graph)
    with v1.Graph().as_default() as made:
        v1.import_graph_def(message, name="")
        with v1.Session(graph=made) as session:
            found: list[Any] = session.run([f"{name}:0" for name in outputs], {f"{k}:0": v for k, v in feeds.items()})
            return found


if __name__ == "__main__":
    answers = tensorflow_answers(detector(), {"image_tensor": picture()}, OUTPUTS)
    np.savez_compressed(RECORDED, **dict(zip(OUTPUTS, answers, strict=True)))
    print({name: answer.shape for name, answer in zip(OUTPUTS, answers, strict=True)}, answers[3])
