"""Text recognition: cropped lines into padded batches, the network's probabilities into text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from detection import FloatArray, to_network
from PIL import Image

HEIGHT = 48
# Shorter lines are padded to this: the network saw nothing narrower in training.
NARROWEST = 320
BATCH_SIZE = 6
# Below this the recogniser is guessing.
LEAST_CONFIDENCE = 0.5


def read_dictionary(path: Path) -> list[str]:
    """Class number -> character: the CTC blank, the file's lines, the space."""
    return ["", *path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), " "]


def _scaled(line: Image.Image) -> FloatArray:
    width = max(1, round(line.width * HEIGHT / line.height))
    return to_network(line.resize((width, HEIGHT), Image.Resampling.BILINEAR))


def batches(lines: Sequence[Image.Image]) -> Iterator[tuple[list[int], FloatArray]]:
    """Lines of similar width together, padded to the widest: (their indices, [n,3,48,width])."""
    scaled = [_scaled(line) for line in lines]
    order = sorted(range(len(lines)), key=lambda index: scaled[index].shape[2])
    for start in range(0, len(order), BATCH_SIZE):
        members = order[start : start + BATCH_SIZE]
        yield members, _padded([scaled[index] for index in members])


def together(lines: Sequence[Image.Image]) -> FloatArray:
    """All lines as one [n,3,48,width]; one row of nothing where there are none."""
    return _padded([_scaled(line) for line in lines])


def _padded(scaled: Sequence[FloatArray]) -> FloatArray:
    width = max([NARROWEST, *(line.shape[2] for line in scaled)])
    batch = np.zeros((max(len(scaled), 1), 3, HEIGHT, width), dtype=np.float32)
    for row, line in enumerate(scaled):
        batch[row, :, :, : line.shape[2]] = line
    return batch


def decode(probabilities: FloatArray, dictionary: Sequence[str]) -> tuple[str, float]:
    """CTC, greedily: the best class of each column, repeats joined, blanks dropped; text and confidence."""
    if probabilities.shape[-1] != len(dictionary):
        raise ValueError(f"the model has {probabilities.shape[-1]} classes, the dictionary {len(dictionary)}")
    best: npt.NDArray[np.intp] = probabilities.argmax(axis=-1)
    kept = best != 0
    kept[1:] &= best[1:] != best[:-1]
    if not kept.any():
        return "", 0.0
    text = "".join(dictionary[index] for index in best[kept])
    return text, float(probabilities.max(axis=-1)[kept].mean())
