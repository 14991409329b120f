"""The example models behind the server answer as ONNX Runtime does when asked directly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import file_type
import magika
import numpy as np
import onnxruntime
import pytest
from server_process import ServerProcess
from triton_clients import PROTOCOLS, Array, client_module, infer, make_inputs

RANDOM = np.random.default_rng(5)

FILES = {
    "python": b"import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n\n\nif __name__ == '__main__':\n"
    b"    main()\n",
    "json": b'{\n  "name": "triton",\n  "extensions": [\n    "classification",\n    "sequence"\n  ],\n'
    b'  "live": true,\n  "count": 3\n}\n',
    "html": b"<!DOCTYPE html>\n<html><head><title>Models</title></head><body><h1>Models</h1></body></html>\n",
    "shell": b'#!/bin/sh\nset -eu\nfor name in *.onnx; do\n    cp "$name" /srv/models/\n    sync\ndone\n',
    "elf": Path(sys.executable).resolve().read_bytes(),
}


def direct(repository: Path, model: str, inputs: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(
        str(repository / model / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


def classes_of(answer: Array) -> list[list[tuple[float, int, str]]]:
    """`score:index:label` strings, row by row."""
    rows = []
    for row in answer:
        parts = [text.decode().split(":") for text in row]
        rows.append([(float(score), int(index), label) for score, index, label in parts])
    return rows


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_file_types_are_magikas_own(server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol)
    rows = [row for content in FILES.values() if (row := file_type.features(content)) is not None]
    assert len(rows) == len(FILES)
    with module.InferenceServerClient(server.url(protocol)) as client:
        answers = file_type.classify(module, client, rows, classes=2)
    oracle = magika.Magika()
    for (name, content), texts in zip(FILES.items(), answers, strict=True):
        own = oracle.identify_bytes(content).prediction
        score, _, label = texts[0].split(":")
        assert label == own.dl.label == name
        assert float(score) == pytest.approx(own.score, abs=1e-3)
        assert float(texts[1].split(":")[0]) <= float(score)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_resnet_scores_are_reshaped(server: ServerProcess, example_models: Path, protocol: str) -> None:
    pictures = RANDOM.standard_normal((3, 3, 224, 224), dtype=np.float32)
    (expected,) = direct(example_models, "resnet18", {"data": pictures})
    (scores,) = infer(server, protocol, "resnet18", {"data": pictures}, ["resnetv18_dense0_fwd"])
    assert expected.shape == (3, 1000, 1, 1)
    assert scores.shape == (3, 1000)
    assert np.allclose(scores, expected.reshape(3, 1000), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_resnet_classes_carry_labels(server: ServerProcess, example_models: Path, protocol: str) -> None:
    pictures = RANDOM.standard_normal((2, 3, 224, 224), dtype=np.float32)
    (scores,) = direct(example_models, "resnet18", {"data": pictures})
    labels = (example_models / "resnet18" / "labels.txt").read_text().splitlines()
    module = client_module(protocol)
    wanted = [module.InferRequestedOutput("resnetv18_dense0_fwd", class_count=3)]
    with module.InferenceServerClient(server.url(protocol)) as client:
        result = client.infer(
            "resnet18",
            make_inputs(module, {"data": pictures}),
            outputs=wanted,
            request_id="17",
            model_version="1",
        )
    answer = result.as_numpy("resnetv18_dense0_fwd")
    assert answer.shape == (2, 3)
    for row, own in zip(classes_of(answer), scores.reshape(2, 1000), strict=True):
        best = np.argsort(-own)[:3]
        assert [index for _, index, _ in row] == best.tolist()
        assert [label for _, _, label in row] == [labels[index] for index in best]
        assert [score for score, _, _ in row] == pytest.approx(own[best].tolist(), rel=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [(32, 48), (100, 60)])
def test_segmentation_adds_the_batch_dimension(
    server: ServerProcess, example_models: Path, protocol: str, size: tuple[int, int]
) -> None:
    picture = RANDOM.random((3, *size), dtype=np.float32)
    (expected,) = direct(example_models, "segmentation", {"input": picture[np.newaxis]})
    (scores,) = infer(server, protocol, "segmentation", {"input": picture}, ["out"])
    assert scores.shape == expected.shape == (1, 21, *size)
    assert np.allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_strings_come_back(server: ServerProcess, protocol: str) -> None:
    # Bytes that are no text and bytes after a NUL must survive too.
    texts = np.array([[b"", b"plain", "größer".encode(), b"\x00\xff" * 400]], dtype=np.object_)
    (answer,) = infer(server, protocol, "identity_bytes", {"INPUT0": texts}, ["OUTPUT0"])
    assert answer.tolist() == texts.tolist()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_folder_without_config_is_completed_from_the_graph(server: ServerProcess, protocol: str) -> None:
    module = client_module(protocol)
    options: dict[str, Any] = {"as_json": True} if protocol == "grpc" else {}
    with module.InferenceServerClient(server.url(protocol)) as client:
        metadata = client.get_model_metadata("add_sub", **options)
    tensors = {tensor["name"]: tensor for tensor in [*metadata["inputs"], *metadata["outputs"]]}
    assert set(tensors) == {"INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1"}
    assert all(tensor["datatype"] == "INT32" for tensor in tensors.values())
    assert all([int(dim) for dim in tensor["shape"]] == [-1, 16] for tensor in tensors.values())
