"""The example scripts, run as their users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import image_client
import numpy as np
import onnxruntime
import pytest
import sample
from PIL import Image
from server_process import ServerProcess

EXAMPLES = Path(image_client.__file__).parent


def run_script(name: str, *arguments: str | Path) -> list[str]:
    """The lines that the script prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    # A script finds the modules beside it only without the safe path, which the tests set for the server.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_ocr_prints_the_lines_of_the_sample(
    server: ServerProcess, example_models: Path, protocol: str
) -> None:
    dictionary = example_models / "text_recognition" / "dictionary.txt"
    options = ["--grpc"] if protocol == "grpc" else []
    lines = run_script("ocr/client.py", *options, "-u", server.url(protocol), "--dictionary", dictionary)
    assert lines == [text for text, *_ in sample.LINES]


def test_simple_infer(server: ServerProcess) -> None:
    for model in ("simple", "add_sub"):
        lines = run_script(
            "simple_infer.py", "-m", model, "--http-url", server.http_url, "--grpc-url", server.grpc_url
        )
        assert len(lines) == 4


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_file_type(server: ServerProcess, protocol: str) -> None:
    options = ["--grpc"] if protocol == "grpc" else []
    paths = [EXAMPLES / "file_type.py", sample.PICTURE, EXAMPLES / "models" / "yolo" / "config.pbtxt"]
    lines = run_script("file_type.py", *options, "-u", server.url(protocol), *paths)
    assert lines[0].startswith(f"{paths[0]}: python (")
    assert lines[1].startswith(f"{paths[1]}: png (")
    assert lines[2] == f"{paths[2]}: too short to tell"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five pictures of different sizes, shapes and modes."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(11)
    paths = []
    for number in range(5):
        pixels = random.integers(0, 256, (40 + 30 * number, 90, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).convert("L" if number == 2 else "RGB").save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def expected_labels(pictures: list[Path], example_models: Path) -> list[list[str]]:
    """The two best labels of each picture, by ONNX Runtime alone."""
    model = image_client.ImageModel("resnet18", 8, "data", "", "FP32", False, 3, 224, 224)
    rows = [image_client.to_input(Image.open(path), model, "INCEPTION") for path in pictures]
    session = onnxruntime.InferenceSession(
        str(example_models / "resnet18" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(None, {"data": np.stack(rows)})
    best = np.argsort(-scores.reshape(len(rows), -1), axis=1)[:, :2]
    return [[f"class_{index + 1:04}" for index in row] for row in best]


@pytest.mark.parametrize(
    "options",
    [
        ["-i", "http"],
        ["-i", "http", "-a"],
        ["-i", "http", "-b", "3"],
        ["-i", "grpc"],
        ["-i", "gRPC", "-a"],
        ["-i", "grpc", "--streaming", "-b", "2"],
    ],
)
def test_image_client(
    server: ServerProcess, pictures: list[Path], expected_labels: list[list[str]], options: list[str]
) -> None:
    lines = run_script(
        "image_client.py",
        *["-m", "resnet18", "-c", "2", "-s", "INCEPTION", "-u", server.url(options[1].lower())],
        *options,
        pictures[0].parent,
    )
    expected = [
        entry
        for path, labels in zip(pictures, expected_labels, strict=True)
        for entry in [f"{path}:", *labels]
    ]
    assert [line.rsplit(" = ", 1)[-1] for line in lines] == expected
