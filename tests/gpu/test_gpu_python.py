"""Python models with PyTorch tensors on a real GPU: in the server process, isolated, and between models."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "backends"))

from python_stage import IO, body, request, stage, write
from torch_models import torch

from triton_async.memory.devices import open_devices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no GPU"),
]

VALUES = np.arange(6, dtype=np.float32)
ON_GPU = "instance_group { kind: KIND_GPU gpus: [ 0 ] }"
KEEP = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
TORCH = "import torch\nfrom torch.utils.dlpack import from_dlpack, to_dlpack\n"
# A long chain of kernels that has hardly begun when `execute` returns, on whatever stream the line before it chooses.
SLOW = """
with torch.cuda.stream({stream}):
    made = torch.from_numpy(x).cuda()
    wide = torch.eye(4096, device='cuda')
    for _ in range(40):
        wide = wide @ wide
    made = made * 2 * wide[0, 0]
response = pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT', {given})])
"""
DEFAULT_STREAM, OTHER_STREAM = "torch.cuda.default_stream()", "torch.cuda.Stream()"
ASK = """
def ask(model, tensor, device=None):
    memory = None if device is None else pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, device)
    response = pb_utils.InferenceRequest(model_name=model, requested_output_names=['OUT'], inputs=[tensor],
                                         preferred_memory=memory).exec()
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return response.output_tensors()[0]
"""


def slow(stream: str, given: str) -> str:
    return TORCH + body(SLOW.format(stream=stream, given=given))


@pytest.mark.parametrize(("stream", "given"), [
    (DEFAULT_STREAM, "made"), (OTHER_STREAM, "made"), (DEFAULT_STREAM, "to_dlpack(made)"),
])  # fmt: skip
def test_clients_get_what_is_still_being_computed(tmp_path: Path, stream: str, given: str) -> None:
    code = slow(stream, given)
    if stream == OTHER_STREAM:  # the producer orders its stream before the consumer's where it is told of that
        code = code.replace("response = pb", "    response = pb")
    write(tmp_path, "m", code, IO + ON_GPU)
    with stage(tmp_path, open_devices=open_devices) as served:
        for _ in range(5):
            assert served.ask("m", VALUES).tolist() == (VALUES * 2).tolist()


def test_inputs_and_outputs_stay_on_the_gpu_between_models(tmp_path: Path) -> None:
    write(tmp_path, "slow", slow(DEFAULT_STREAM, "made"), IO + ON_GPU)
    write(tmp_path, "adds", TORCH + """
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = request.inputs()[0]
            where = 0.0 if tensor.is_cpu() else 100.0
            found = from_dlpack(tensor.to_dlpack()) + 1 + where
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT', found)]))
        return responses
""", IO + KEEP + ON_GPU)  # fmt: skip
    write(tmp_path, "host", body("""
        response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x + 1000)])
    """))  # fmt: skip
    write(tmp_path, "outer", TORCH + ASK + body("""
        first = ask('slow', pb_utils.Tensor('IN', x), 0)
        second = ask('adds', pb_utils.Tensor.from_dlpack('IN', first.to_dlpack()), 0)
        third = ask('host', pb_utils.Tensor.from_dlpack('IN', second.to_dlpack()))
        assert (first.is_cpu(), second.is_cpu(), third.is_cpu()) == (False, False, True)
        response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', third.as_numpy())])
    """))  # fmt: skip
    with stage(tmp_path, open_devices=open_devices) as served:
        for _ in range(10):
            assert served.ask("outer", VALUES).tolist() == (VALUES * 2 + 1101).tolist()


def test_a_pytorch_model_between_python_models(tmp_path: Path) -> None:
    class Triple(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3

    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    torch.jit.script(Triple()).save(str(folder / "model.pt"))
    (tmp_path / "net" / "config.pbtxt").write_text(
        'platform: "pytorch_libtorch" input { name: "IN" data_type: TYPE_FP32 dims: -1 } '
        'output { name: "OUT" data_type: TYPE_FP32 dims: -1 } ' + ON_GPU
    )
    write(tmp_path, "outer", TORCH + ASK + body("""
        near = torch.from_numpy(x).cuda() + 1
        far = ask('net', pb_utils.Tensor.from_dlpack('IN', near), 0)
        back = from_dlpack(far) - 1
        response = pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT', back)])
    """))  # fmt: skip
    with stage(tmp_path, open_devices=open_devices) as served:
        for _ in range(10):
            assert served.ask("outer", VALUES).tolist() == ((VALUES + 1) * 3 - 1).tolist()


def test_memory_of_tensors_goes_back(tmp_path: Path) -> None:
    write(tmp_path, "m", TORCH + body("""
        made = torch.from_numpy(x).cuda() * 2
        response = pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack('OUT', made)])
    """), IO + ON_GPU)  # fmt: skip
    wide = np.ones(1 << 20, np.float32)
    with stage(tmp_path, open_devices=open_devices) as served:
        served.ask("m", wide)
        gc.collect()
        before = torch.cuda.memory_allocated()
        for _ in range(50):
            assert served.ask("m", wide)[0] == 2
        gc.collect()
        # The model's own variable holds the last one.
        assert torch.cuda.memory_allocated() <= before + wide.nbytes


def test_an_isolated_model_has_the_gpu_and_its_tensors_come_over_the_host(tmp_path: Path) -> None:
    write(tmp_path, "m", slow(DEFAULT_STREAM, "made"), IO + ON_GPU + ISOLATED)
    with stage(tmp_path, open_devices=open_devices) as served:
        for _ in range(3):
            assert served.ask("m", VALUES).tolist() == (VALUES * 2).tolist()


def test_texts_on_the_gpu(tmp_path: Path) -> None:
    write(tmp_path, "m", TORCH + body("""
        made = pb_utils.Tensor.from_dlpack('OUT', torch.from_numpy(x).cuda().reshape(2, 3).T)
    """))  # fmt: skip
    write(tmp_path, "reads", TORCH + body("""
        pb_utils.Tensor.from_dlpack('OUT', torch.from_numpy(x).cuda()).as_numpy()
    """))  # fmt: skip
    with stage(tmp_path, open_devices=open_devices) as served:
        assert "contiguous" in served.error(request("m", IN=VALUES)).message
        error: Any = served.error(request("reads", IN=VALUES))
        assert "Tensor is stored in GPU and cannot be converted to NumPy." in error.message
