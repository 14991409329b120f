"""Picture in, lines of text out; how the two networks are run is the caller's business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import detection
import recognition
from PIL import Image
from regions import Points

DETECTION_MODEL = "text_detection"
RECOGNITION_MODEL = "text_recognition"

# Runs the named model, which has one input and one output.
Infer = Callable[[str, detection.FloatArray], detection.FloatArray]


@dataclass(frozen=True)
class Line:
    """One line of text, where it stands (four corners) and how sure the recogniser is."""

    text: str
    confidence: float
    corners: Points


def read_text(picture: Image.Image, infer: Infer, dictionary: Sequence[str]) -> list[Line]:
    """Detect, crop, recognise; the lines in reading order."""
    picture = picture.convert("RGB")
    probabilities = infer(DETECTION_MODEL, detection.prepare(picture))
    boxes = detection.find_boxes(probabilities[0, 0], picture.size)
    crops = [detection.crop(picture, box) for box in boxes]
    found: dict[int, Line] = {}
    for members, batch in recognition.batches(crops):
        for index, row in zip(members, infer(RECOGNITION_MODEL, batch), strict=True):
            text, confidence = recognition.decode(row, dictionary)
            found[index] = Line(text, confidence, boxes[index])
    return [found[index] for index in sorted(found) if found[index].confidence >= recognition.LEAST_CONFIDENCE]
