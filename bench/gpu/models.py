"""ResNet-50 and a small MLP as TorchScript models with random weights: the architecture costs what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

# Bottleneck width, blocks and first stride of the four stages of ResNet-50.
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_EXPANSION = 4
_SEED = 50


def _conv(into: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class _Bottleneck(nn.Module):
    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * _EXPANSION
        self.main = nn.Sequential(
            _conv(into, width, 1), nn.ReLU(), _conv(width, width, 3, stride), nn.ReLU(), _conv(width, out, 1)
        )
        self.around = nn.Identity() if stride == 1 and into == out else _conv(into, out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.main(x) + self.around(x))


class ResNet50(nn.Module):
    """[N, 3, 224, 224] -> [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        into = 64
        for width, blocks, stride in _STAGES:
            for block in range(blocks):
                layers.append(_Bottleneck(into, width, stride if block == 0 else 1))
                into = width * _EXPANSION
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(into, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Mlp(nn.Module):
    """[N, 256] -> [N, 256]: a model so small that what is around it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@dataclass(frozen=True)
class Subject:
    """A model under test: input dims without the batch, outputs per row, batch sizes that are measured."""

    name: str
    module: type[nn.Module]
    dims: tuple[int, ...]
    outputs: int
    batch_sizes: tuple[int, ...]
    half: bool = True

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.half else torch.float32

    @property
    def row_nbytes(self) -> int:
        size = 2 if self.half else 4
        for dim in self.dims:
            size *= dim
        return size


RESNET50 = Subject("resnet50", ResNet50, (3, 224, 224), 1000, (1, 8, 32, 64))
MLP = Subject("mlp", Mlp, (256,), 256, (1, 8, 32, 64))


def scripted(subject: Subject, device: str) -> torch.jit.ScriptModule:
    """The module as the server's backend loads it: frozen TorchScript on `device`."""
    torch.manual_seed(_SEED)
    module = subject.module().eval().to(device)
    if subject.half and device != "cpu":
        module = module.half()
    with torch.no_grad():
        example = torch.zeros((2, *subject.dims), device=device, dtype=next(module.parameters()).dtype)
        traced = torch.jit.trace(module, example)
    return torch.jit.freeze(traced)


def write(
    subject: Subject, repository: Path, device: str, *, max_batch_size: int, instances: int, busy_wait: bool = False,
    gather: int = 0,
) -> None:
    """The model and its configuration. Not optimised by TorchScript, which would compile for half a second at each new
    batch size, and hold its stream meanwhile."""
    directory = repository / subject.name
    (directory / "1").mkdir(parents=True, exist_ok=True)
    scripted(subject, device).save(str(directory / "1" / "model.pt"))
    data_type = "TYPE_FP16" if subject.half and device != "cpu" else "TYPE_FP32"
    kind = "KIND_CPU" if device == "cpu" else "KIND_GPU"
    dims = ", ".join(map(str, subject.dims))
    (directory / "config.pbtxt").write_text(f"""
        backend: "pytorch"
        max_batch_size: {max_batch_size}
        input {{ name: "INPUT__0" data_type: {data_type} dims: [ {dims} ] }}
        output {{ name: "OUTPUT__0" data_type: {data_type} dims: [ {subject.outputs} ] }}
        instance_group {{ kind: {kind} count: {instances} }}
        dynamic_batching {{ }}
        optimization {{
            cuda {{ busy_wait_events: {str(busy_wait).lower()} }}
            gather_kernel_buffer_threshold: {gather}
        }}
        parameters {{ key: "DISABLE_OPTIMIZED_EXECUTION" value {{ string_value: "true" }} }}
    """)
