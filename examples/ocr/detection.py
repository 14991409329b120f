"""Text detection: a picture into the network's input, its probability map into boxes, boxes into crops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from regions import Points, find_regions, outline, smallest_rectangle

FloatArray = npt.NDArray[np.float32]

# The network halves its input five times.
MULTIPLE = 32
LONGEST_SIDE = 960
# A pixel is text from here on; a box is kept when its pixels are surer than that.
PIXEL_THRESHOLD = 0.3
BOX_THRESHOLD = 0.5
# The network is trained to find text lines shrunk towards their middle; this undoes it.
UNCLIP_RATIO = 1.6
SHORTEST_SIDE = 3.0


def to_network(picture: Image.Image) -> FloatArray:
    """Pixels as the PP-OCR networks want them: blue, green, red planes in [-1, 1]."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)[:, :, ::-1]
    return np.ascontiguousarray((pixels / 127.5 - 1.0).transpose(2, 0, 1))


def prepare(picture: Image.Image) -> FloatArray:
    """The detection network's input, a batch of one: [1,3,height,width]."""
    scale = min(1.0, LONGEST_SIDE / max(picture.size))
    width, height = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in picture.size)
    return to_network(picture.resize((width, height), Image.Resampling.BILINEAR))[np.newaxis]


def find_boxes(probabilities: FloatArray, size: tuple[int, int]) -> list[Points]:
    """Corners, in the picture's pixels, of every text line in the [height,width] map, in reading order."""
    scale = np.array(size) / probabilities.shape[::-1]
    boxes = []
    for region in find_regions(probabilities > PIXEL_THRESHOLD):
        pixels = np.concatenate([probabilities[row, start:end] for row, start, end in region])
        rectangle = smallest_rectangle(outline(region))
        if pixels.mean() < BOX_THRESHOLD or min(rectangle.width, rectangle.height) < SHORTEST_SIDE:
            continue
        area = rectangle.width * rectangle.height
        perimeter = 2 * (rectangle.width + rectangle.height)
        boxes.append(rectangle.grown(area * UNCLIP_RATIO / perimeter).corners() * scale)
    return reading_order(boxes)


def reading_order(boxes: list[Points]) -> list[Points]:
    """Top to bottom; boxes on one line left to right."""
    lines: list[list[Points]] = []
    for box in sorted(boxes, key=lambda box: float(box[:, 1].mean())):
        height = float(np.linalg.norm(box[3] - box[0]))
        if lines and box[:, 1].mean() - lines[-1][0][:, 1].mean() < height / 2:
            lines[-1].append(box)
        else:
            lines.append([box])
    return [box for line in lines for box in sorted(line, key=lambda box: float(box[:, 0].min()))]


def crop(picture: Image.Image, corners: Points) -> Image.Image:
    """The box's content, turned upright; a column of text is laid on its side."""
    top_left, top_right, bottom_right, bottom_left = corners
    width = max(1, round(float(np.linalg.norm(top_right - top_left))))
    height = max(1, round(float(np.linalg.norm(bottom_left - top_left))))
    order = np.concatenate([top_left, bottom_left, bottom_right, top_right])
    line = picture.transform(
        (width, height), Image.Transform.QUAD, tuple(order.tolist()), Image.Resampling.BICUBIC
    )
    return line.rotate(90, expand=True) if height >= 1.5 * width else line
