"""Classifies pictures with any image model: shape, layout and type are asked from the server.

image_client.py -m resnet18 -c 3 -s INCEPTION picture.jpg
"""

from __future__ import annotations

import argparse
import functools
import importlib
import queue
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tritonclient.utils import triton_to_np_dtype

Pixels = npt.NDArray[np.generic]
# The arguments of one `infer` call.
Call = dict[str, Any]


@dataclass(frozen=True)
class ImageModel:
    """What the client has to know of a model that takes one picture and gives one vector of scores."""

    name: str
    max_batch_size: int
    input_name: str
    output_name: str
    datatype: str
    channels_last: bool
    channels: int
    height: int
    width: int


def describe(client: Any, protocol: str, name: str, version: str) -> ImageModel:
    """Read a model's metadata and config, in the form that either protocol gives them."""
    if protocol == "http":
        metadata = client.get_model_metadata(name, version)
        config = client.get_model_config(name, version)
    else:
        metadata = client.get_model_metadata(name, version, as_json=True)
        config = client.get_model_config(name, version, as_json=True)["config"]
    if len(metadata["inputs"]) != 1 or len(metadata["outputs"]) != 1:
        raise SystemExit(f"{name} has not one input and one output: not an image classifier")
    # gRPC's JSON writes 64-bit numbers as strings and leaves zeros out.
    dims = [int(dim) for dim in config["input"][0]["dims"]]
    layout = config["input"][0].get("format", "FORMAT_NONE")
    if len(dims) != 3 or layout not in {"FORMAT_NCHW", "FORMAT_NHWC"}:
        raise SystemExit(f"{name} takes {dims} in {layout}: expected three dimensions, NCHW or NHWC")
    channels_last = layout == "FORMAT_NHWC"
    height, width, channels = dims if channels_last else (*dims[1:], dims[0])
    return ImageModel(
        name=name,
        max_batch_size=int(config.get("max_batch_size", 0)),
        input_name=metadata["inputs"][0]["name"],
        output_name=metadata["outputs"][0]["name"],
        datatype=metadata["inputs"][0]["datatype"],
        channels_last=channels_last,
        channels=channels,
        height=height,
        width=width,
    )


def to_input(picture: Image.Image, model: ImageModel, scaling: str) -> Pixels:
    """Resize, scale and lay out one picture as the model wants it."""
    picture = picture.convert("L" if model.channels == 1 else "RGB")
    resized = picture.resize((model.width, model.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.float32).reshape(model.height, model.width, model.channels)
    if scaling == "INCEPTION":
        pixels = pixels / 127.5 - 1.0
    elif scaling == "VGG":
        # The mean red, green and blue of ImageNet; 128 for grey pictures.
        means = [128.0] if model.channels == 1 else [123.0, 117.0, 104.0]
        pixels = pixels - np.array(means, dtype=np.float32)
    ordered = pixels if model.channels_last else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(ordered).astype(triton_to_np_dtype(model.datatype))


def make_calls(
    triton: Any, model: ImageModel, pictures: list[Pixels], version: str, options: tuple[int, int]
) -> Iterator[Call]:
    """Requests of `options = (batch size, classes)`; a model without batching gets one picture each."""
    batch_size, classes = options
    if batch_size > max(1, model.max_batch_size):
        raise SystemExit(f"{model.name} takes batches of at most {max(1, model.max_batch_size)}")
    for number, start in enumerate(range(0, len(pictures), batch_size)):
        data = np.stack(pictures[start : start + batch_size]) if model.max_batch_size else pictures[start]
        tensor = triton.InferInput(model.input_name, list(data.shape), model.datatype)
        tensor.set_data_from_numpy(data)
        yield {
            "model_name": model.name,
            "model_version": version,
            "inputs": [tensor],
            "outputs": [triton.InferRequestedOutput(model.output_name, class_count=classes)],
            "request_id": str(number),
        }


def _wait(answers: queue.Queue[tuple[Any, Any]], count: int) -> list[Any]:
    """Results in the order of their request ids; the first error is raised."""
    results = {}
    for _ in range(count):
        result, error = answers.get(timeout=300)
        if error is not None:
            raise error
        results[int(result.get_response().id)] = result
    return [results[number] for number in sorted(results)]


def run_calls(client: Any, protocol: str, mode: str, calls: list[Call]) -> list[Any]:
    """Send the requests one after the other, all at once, or down one gRPC stream."""
    if mode == "sync":
        return [client.infer(**call) for call in calls]
    if protocol == "http":
        pending = [client.async_infer(**call) for call in calls]
        return [request.get_result() for request in pending]
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def put(result: Any, error: Any) -> None:
        answers.put((result, error))

    send = functools.partial(client.async_infer, callback=put)
    if mode == "stream":
        client.start_stream(callback=put)
        send = client.async_stream_infer
    for call in calls:
        send(**call)
    results = _wait(answers, len(calls))
    if mode == "stream":
        client.stop_stream()
    return results


def find_pictures(path: Path) -> list[Path]:
    """The picture, or all files of the folder in order of name."""
    return sorted(child for child in path.iterdir() if child.is_file()) if path.is_dir() else [path]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Command line; the letters are those of Triton's own example."""
    parser = argparse.ArgumentParser(description="Classify pictures.")
    parser.add_argument("image", type=Path, help="a picture, or a folder of pictures")
    parser.add_argument("-m", "--model-name", required=True)
    parser.add_argument("-x", "--model-version", default="", help="default: the server chooses")
    parser.add_argument("-c", "--classes", type=int, default=1, help="how many classes to print")
    parser.add_argument("-b", "--batch-size", type=int, default=1)
    parser.add_argument("-s", "--scaling", choices=["NONE", "INCEPTION", "VGG"], default="NONE")
    parser.add_argument("-i", "--protocol", type=str.lower, choices=["http", "grpc"], default="http")
    parser.add_argument("-u", "--url", help="host:port, default localhost:8000 (8001 for gRPC)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("-a", "--async", dest="mode", action="store_const", const="async", default="sync")
    mode.add_argument("--streaming", dest="mode", action="store_const", const="stream", help="gRPC only")
    options = parser.parse_args(arguments)
    if options.mode == "stream" and options.protocol != "grpc":
        parser.error("--streaming needs -i grpc")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the best classes of every picture as `score (index) = label`."""
    options = parse_arguments(arguments)
    triton = importlib.import_module(f"tritonclient.{options.protocol}")
    url = options.url or {"http": "localhost:8000", "grpc": "localhost:8001"}[options.protocol]
    paths = find_pictures(options.image)
    # As many connections as requests, or the HTTP client would send them one by one.
    settings = {"concurrency": 8} if options.protocol == "http" else {}
    with triton.InferenceServerClient(url, **settings) as client:
        model = describe(client, options.protocol, options.model_name, options.model_version)
        pictures = [to_input(Image.open(path), model, options.scaling) for path in paths]
        sizes = options.batch_size, options.classes
        calls = list(make_calls(triton, model, pictures, options.model_version, sizes))
        results = run_calls(client, options.protocol, options.mode, calls)
    # One row per picture, whether or not the model has a batch dimension.
    rows = [row for result in results for row in np.atleast_2d(result.as_numpy(model.output_name))]
    for path, row in zip(paths, rows, strict=True):
        print(f"{path}:")
        for text in row:
            score, index, *label = text.decode().split(":", 2)
            print(f"    {float(score):f} ({index}) = {label[0] if label else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
