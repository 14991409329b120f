"""Asks a TensorFlow detector what is on a picture, and draws the boxes: python examples/detection/client.py."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

EXAMPLES = Path(__file__).resolve().parents[1]
MODEL = "detection"
OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
# Height and width, as the model's config says.
SIZE = (600, 1024)


def detect(module: Any, client: Any, picture: Image.Image) -> list[tuple[tuple[float, ...], int, float]]:
    """Box (top, left, bottom, right, 0 to 1), class and score of each detection, the surest first."""
    pixels = np.asarray(picture.convert("RGB").resize(SIZE[::-1]), np.uint8)[np.newaxis]
    tensor = module.InferInput("image_tensor", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    result = client.infer(MODEL, [tensor], outputs=[module.InferRequestedOutput(name) for name in OUTPUTS])
    boxes, classes, scores, count = (result.as_numpy(name)[0] for name in OUTPUTS)
    return [
        (tuple(map(float, boxes[i])), int(classes[i]), float(scores[i])) for i in range(int(np.squeeze(count)))
    ]


def draw(picture: Image.Image, found: list[tuple[tuple[float, ...], int, float]]) -> Image.Image:
    """The picture with a box and a line of text for each detection."""
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    for (top, left, bottom, right), kind, score in found:
        corner = (left * drawn.width, top * drawn.height)
        pen.rectangle((*corner, right * drawn.width, bottom * drawn.height), outline=(220, 30, 30), width=2)
        pen.text(corner, f"{kind}: {score:.2f}", fill=(220, 30, 30))
    return drawn


def main(arguments: list[str] | None = None) -> int:
    """Print the detections and write the picture with them."""
    parser = argparse.ArgumentParser(description="Draw what a detector finds on a picture.")
    parser.add_argument("image", nargs="?", type=Path, default=EXAMPLES / "ocr" / "sample.png", help="%(default)s")
    parser.add_argument("-u", "--url", help="host:port, default localhost:8000 (8001 with --grpc)")
    parser.add_argument("--grpc", action="store_true", help="use gRPC instead of HTTP")
    parser.add_argument("-t", "--threshold", type=float, default=0.5, help="least score, default %(default)s")
    parser.add_argument("-o", "--output", type=Path, default=Path("detections.png"), help="%(default)s")
    options = parser.parse_args(arguments)
    module = importlib.import_module("tritonclient.grpc" if options.grpc else "tritonclient.http")
    url = options.url or ("localhost:8001" if options.grpc else "localhost:8000")
    with module.InferenceServerClient(url) as client, Image.open(options.image) as picture:
        found = [one for one in detect(module, client, picture) if one[2] >= options.threshold]
        draw(picture, found).save(options.output)
    for box, kind, score in found:
        print(f"class {kind} {score:.3f} {[round(side, 3) for side in box]}")
    print(f"{options.output}: {len(found)} boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
