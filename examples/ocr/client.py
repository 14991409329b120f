"""Reads the text in a picture with two models of a running server, detection and recognition, or one that has both."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import sample
from detection import FloatArray
from PIL import Image
from pipeline import Infer, Line, read_text
from recognition import read_dictionary

MODELS = Path(__file__).resolve().parents[2] / "models"


def client_infer(module: Any, client: Any) -> Infer:
    """The pipeline's inference call over either of tritonclient's protocols; both have the same names."""
    names: dict[str, tuple[str, str]] = {}

    def tensor_names(model: str) -> tuple[str, str]:
        if model not in names:
            metadata = client.get_model_metadata(model)
            # HTTP answers with a dictionary, gRPC with a message.
            if isinstance(metadata, dict):
                names[model] = metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]
            else:
                names[model] = metadata.inputs[0].name, metadata.outputs[0].name
        return names[model]

    def infer(model: str, data: FloatArray) -> FloatArray:
        input_name, output_name = tensor_names(model)
        tensor = module.InferInput(input_name, list(data.shape), "FP32")
        tensor.set_data_from_numpy(data)
        wanted = [module.InferRequestedOutput(output_name)]
        result: FloatArray = client.infer(model, [tensor], outputs=wanted).as_numpy(output_name)
        return result

    return infer


def read_whole(module: Any, client: Any, model: str, path: Path) -> list[Line]:
    """Sends the picture as it is to a model that runs the pipeline in the server."""
    tensor = module.InferInput("IMAGE", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([path.read_bytes()], dtype=object))
    result = client.infer(model, [tensor])
    columns = (result.as_numpy(name) for name in ("TEXT", "CONFIDENCE", "CORNERS"))
    return [Line(text.decode(), float(confidence), corners) for text, confidence, corners in zip(*columns, strict=True)]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Print the lines of text in a picture.")
    parser.add_argument("image", nargs="?", type=Path, default=sample.PICTURE, help="default: the sample")
    parser.add_argument("-u", "--url", help="host:port, default localhost:8000 (8001 with --grpc)")
    parser.add_argument("--grpc", action="store_true", help="use gRPC instead of HTTP")
    parser.add_argument("-w", "--whole", action="store_true", help="send the file to the Python model read_text")
    parser.add_argument("-e", "--ensemble", action="store_true", help="send the file to the ensemble ocr")
    parser.add_argument("-v", "--verbose", action="store_true", help="print confidence and corners too")
    parser.add_argument(
        "--dictionary", type=Path, default=MODELS / "text_recognition" / "dictionary.txt", help="%(default)s"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print one line per line of text."""
    options = parse_arguments(arguments)
    module = importlib.import_module("tritonclient.grpc" if options.grpc else "tritonclient.http")
    url = options.url or ("localhost:8001" if options.grpc else "localhost:8000")
    with module.InferenceServerClient(url) as client:
        if options.whole or options.ensemble:
            lines = read_whole(module, client, "ocr" if options.ensemble else "read_text", options.image)
        else:
            with Image.open(options.image) as picture:
                lines = read_text(picture, client_infer(module, client), read_dictionary(options.dictionary))
    for line in lines:
        if options.verbose:
            print(f"{line.confidence:.3f} {line.corners.round().astype(int).tolist()}", end=" ")
        print(line.text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
