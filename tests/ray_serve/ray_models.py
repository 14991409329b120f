"""Models and ports of the tests on a cluster."""

from __future__ import annotations

import socket
from pathlib import Path

CONFIG = """
backend: "{backend}"
max_batch_size: {batch}
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: -1 }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }}
{more}
"""
# Answers what it was asked, `times` as much, with its process, after so many milliseconds.
MODEL = """
import os, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({delay_ms} / 1000)
        answers = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            found = np.concatenate([values.ravel() * {times}, np.float32([os.getpid() & 0xffffff])])
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", found.astype(np.float32))]))
        return answers
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def write_identity(root: Path, *names: str) -> None:
    for name in names:
        (root / name / "1").mkdir(parents=True)
        text = CONFIG.format(backend="identity", batch=0, more="")
        (root / name / "config.pbtxt").write_text(text)


def write_python(root: Path, name: str, delay_ms: int = 0, times: int = 1, version: int = 1) -> None:
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL.format(delay_ms=delay_ms, times=times))
    (root / name / "config.pbtxt").write_text(CONFIG.format(backend="python", batch=0, more=""))


class Ports:
    """Of the head node's proxies."""

    def __init__(self) -> None:
        self.http, self.grpc = free_port(), free_port()
