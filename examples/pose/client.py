"""Asks the ensemble hrnet_pose_estimate where the joints of somebody in a picture are: the file goes there as it is."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pose import KEYPOINTS

SAMPLE = Path(__file__).resolve().parents[1] / "ocr" / "sample.png"


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each joint."""
    parser = argparse.ArgumentParser(description="Print where the joints of somebody in a picture are.")
    parser.add_argument("image", nargs="?", type=Path, default=SAMPLE, help="default: a sample")
    parser.add_argument("-u", "--url", help="host:port, default localhost:8000 (8001 with --grpc)")
    parser.add_argument("--grpc", action="store_true", help="use gRPC instead of HTTP")
    parser.add_argument("-o", "--output", type=Path, help="write the picture with the joints there")
    options = parser.parse_args(arguments)
    module = importlib.import_module("tritonclient.grpc" if options.grpc else "tritonclient.http")
    url = options.url or ("localhost:8001" if options.grpc else "localhost:8000")
    tensor = module.InferInput("INPUT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[options.image.read_bytes()]], dtype=object))
    with module.InferenceServerClient(url) as client:
        points = client.infer("hrnet_pose_estimate", [tensor]).as_numpy("RESULT")[0]
    for name, (x, y, score) in zip(KEYPOINTS, points, strict=True):
        print(f"{name}: {x:.1f} {y:.1f} ({score:.3f})")
    if options.output:
        with Image.open(options.image) as file:
            picture = file.convert("RGB")
        draw = ImageDraw.Draw(picture)
        for x, y, _ in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline="red", width=2)
        picture.save(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
