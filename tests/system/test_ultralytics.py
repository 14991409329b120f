"""The calls that Ultralytics' Triton client makes against a detector with an empty config."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from server_process import ServerProcess
from triton_clients import PROTOCOLS, Array, client_module


class RemoteDetector:
    """Asks the config for names and types once, then sends pictures, as that client does."""

    def __init__(self, protocol: str, url: str, model: str) -> None:
        self._module = client_module(protocol)
        self._model = model
        self.client = self._module.InferenceServerClient(url=url, verbose=False)
        if protocol == "http":
            config = self.client.get_model_config(model)
        else:
            config = self.client.get_model_config(model, as_json=True)["config"]
        config["output"] = sorted(config["output"], key=lambda tensor: tensor.get("name"))
        types = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}
        self.input_formats = [tensor["data_type"] for tensor in config["input"]]
        self._numpy_types = [types[name] for name in self.input_formats]
        self.input_names = [tensor["name"] for tensor in config["input"]]
        self.output_names = [tensor["name"] for tensor in config["output"]]
        metadata = config.get("parameters", {}).get("metadata", {}).get("string_value", "None")
        self.metadata: Any = ast.literal_eval(metadata)

    def __call__(self, *arrays: Array) -> list[Array]:
        given = arrays[0].dtype
        inputs = []
        for number, array in enumerate(arrays):
            data = array.astype(self._numpy_types[number])
            datatype = self.input_formats[number].replace("TYPE_", "")
            tensor = self._module.InferInput(self.input_names[number], [*data.shape], datatype)
            tensor.set_data_from_numpy(data)
            inputs.append(tensor)
        outputs = [self._module.InferRequestedOutput(name) for name in self.output_names]
        result = self.client.infer(model_name=self._model, inputs=inputs, outputs=outputs)
        return [result.as_numpy(name).astype(given) for name in self.output_names]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_detector_answers(server: ServerProcess, example_models: Path, protocol: str) -> None:
    detector = RemoteDetector(protocol, server.url(protocol), "yolo")
    assert detector.client.is_model_ready("yolo")
    assert detector.input_formats == ["TYPE_FP32"]
    assert detector.input_names == ["images"]
    assert detector.output_names == ["output0"]
    assert detector.metadata is None
    session = onnxruntime.InferenceSession(
        str(example_models / "yolo" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(9)
    for shape in [(1, 3, 640, 640), (1, 3, 480, 640), (2, 3, 320, 320)]:
        pictures = random.random(shape, dtype=np.float32)
        (boxes,) = detector(pictures)
        (expected,) = session.run(None, {"images": pictures})
        assert boxes.shape == expected.shape
        assert np.allclose(boxes, expected, rtol=1e-4, atol=1e-4)
    (half,) = detector(random.random((1, 3, 64, 64)).astype(np.float16))
    assert half.dtype == np.float16
    detector.client.close()
