"""PyTorch models that only the system tests need: sums, a classifier of its own, and Silero's voice detector."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

CHUNK, CONTEXT, RATE = 512, 64, 16000


class AddSub(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor):  # type: ignore[no-untyped-def]
        return a + b, a - b


class Fixed(torch.nn.Module):
    """The detector as it is shipped, which keeps state between calls, for one sampling rate."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        probability: torch.Tensor = self.detector(samples, 16000)
        return probability


def detector() -> Any:
    """Silero's detector, a TorchScript module with its real weights."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        pytest.skip("silero-vad is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(Path(spec.origin).parent / "data" / "silero_vad.jit"))


def config(tensors: str, rest: str) -> str:
    """A config whose tensors are lines `input NAME TYPE DIMS`."""
    lines = []
    for line in tensors.strip().splitlines():
        what, name, datatype, dims = line.split(maxsplit=3)
        lines.append(f"{what} {{ name: '{name}' data_type: TYPE_{datatype} dims: {dims} }}")
    return "\n".join([*lines, rest])


ADD_SUB = config(
    """
    input INPUT0 INT32 [ 16 ]
    input INPUT1 INT32 [ 16 ]
    output OUTPUT0 INT32 [ 16 ]
    output OUTPUT1 INT32 [ 16 ]
    """,
    "platform: 'pytorch_libtorch' max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 200000 }",
)
# Takes what the model does not.
LOOSE = ADD_SUB.replace("'INPUT1' data_type: TYPE_INT32 dims: [ 16 ]", "'INPUT1' data_type: TYPE_INT32 dims: [ -1 ]")
DETECTOR = config(
    """
    input x FP32 [ -1, 576 ]
    input state FP32 [ 2, -1, 128 ]
    output OUTPUT__0 FP32 [ -1, 1 ]
    output OUTPUT__1 FP32 [ 2, -1, 128 ]
    """,
    "backend: 'pytorch' instance_group { count: 2 kind: KIND_CPU }\n"
    "parameters { key: 'INTRA_OP_THREAD_COUNT' value { string_value: '1' } }",
)
STATEFUL = config(
    """
    input samples FP32 [ 1, 512 ]
    output probability FP32 [ 1, 1 ]
    """,
    "backend: 'pytorch'",
)


def build(repository: Path) -> None:
    """Writes the models: torch_add_sub, torch_loose, torch_exported, vad and vad_stateful."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        add_sub = torch.jit.script(AddSub())
        for name, text in (("torch_add_sub", ADD_SUB), ("torch_loose", LOOSE)):
            _write(repository, name, text, add_sub)
        silero = detector()
        _write(repository, "vad", DETECTOR, silero._model)
        _write(repository, "vad_stateful", STATEFUL, torch.jit.script(Fixed(silero)))
        batch = torch.export.Dim("batch", min=1, max=64)
        linear = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Softmax(dim=1)).eval()
        exported = torch.export.export(linear, (torch.zeros(2, 8),), dynamic_shapes={"input": {0: batch}})
        (repository / "torch_exported" / "1").mkdir(parents=True)
        torch.export.save(exported, repository / "torch_exported" / "1" / "model.pt2")


def _write(repository: Path, name: str, text: str, module: Any) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(text)
    torch.jit.save(module, repository / name / "1" / "model.pt")
