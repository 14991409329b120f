"""What a model says of itself (v2 model metadata) and the start-up tables of the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from triton_async import datatypes
from triton_async.config.model_config import ModelConfig
from triton_async.infer.signature import ModelSignature, TensorSpec


def model_metadata(signature: ModelSignature, config: ModelConfig, versions: Iterable[int]) -> dict[str, Any]:
    """v2 metadata; shapes start with -1 when the model has a batch dimension."""

    def describe(tensors: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        batch = [-1] if signature.max_batch_size > 0 else []
        return [
            {"name": t.name, "datatype": datatypes.to_name(t.datatype), "shape": [*batch, *t.dims]}
            for t in tensors
        ]

    return {
        "name": signature.model_name,
        "versions": [str(version) for version in versions],
        "platform": config.platform_or_backend,
        "inputs": describe(signature.inputs),
        "outputs": describe(signature.outputs),
    }


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Triton prints its own: `+---+` rules, `| cell |` rows.

    Tables go to the log as they are, so a cell that could break out of its line (names of directories, words of a
    config) is shown with escapes.
    """
    lines = [[cell if cell.isprintable() else ascii(cell)[1:-1] for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join(["", rule, row(lines[0]), rule, *(row(line) for line in lines[1:]), rule])
