"""Class labels of an output: the file that `label_filename` names, one label a line."""

from __future__ import annotations

from pathlib import Path

from triton_async import defines
from triton_async.config.paths import read_bounded, safe_join
from triton_async.errors import InvalidArg


def read_labels(model_dir: Path, filename: str) -> tuple[str, ...]:
    """Labels by class index; an empty line is an empty label. InvalidArg when the name leads out of the model's
    directory, or the file is missing, too large or not UTF-8.
    """
    what = f"label file '{filename}'"
    path = safe_join(model_dir, filename, "label_filename")
    content = read_bounded(path, what, defines.LABELS_MAX_NBYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArg(f"failed to read {what}: byte {error.start} is not UTF-8") from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return tuple(line.removesuffix("\r") for line in lines)
