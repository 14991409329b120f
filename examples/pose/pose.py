"""What comes before and after the pose network: a picture scaled to its input, heat maps as points of the picture."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]

WIDTH, HEIGHT = 192, 256
# COCO's, in the order of the network's maps.
KEYPOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
# Of the pictures that such networks are trained with.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def prepare(content: bytes) -> tuple[FloatArray, FloatArray]:
    """Of a picture file: the network's input [3,256,192], and the picture's width and height [2]."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    pixels = np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    planes = ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)
    return np.ascontiguousarray(planes), np.array(picture.size, np.float32)


def locate(maps: FloatArray, size: FloatArray) -> FloatArray:
    """Of heat maps [n,height,width]: x and y in the picture, and the map's height there, [n,3]."""
    count, height, width = maps.shape
    best = maps.reshape(count, -1).argmax(axis=1)
    rows, columns = np.divmod(best, width)
    points = np.empty((count, 3), np.float32)
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        # The peak lies a quarter of a cell towards the higher of the two neighbours.
        x, y = float(column), float(row)
        if 0 < column < width - 1:
            x += 0.25 * np.sign(maps[index, row, column + 1] - maps[index, row, column - 1])
        if 0 < row < height - 1:
            y += 0.25 * np.sign(maps[index, row + 1, column] - maps[index, row - 1, column])
        points[index] = (x + 0.5) * size[0] / width, (y + 0.5) * size[1] / height, maps[index, row, column]
    return points
