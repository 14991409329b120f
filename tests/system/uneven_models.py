"""Models whose requests differ in length: a small transformer that is padded, and models of ragged batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, WORDS = 8, 50
LONGEST = 48

ENCODER = """
backend: "onnxruntime"
max_batch_size: 16
input { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] }
output [
  { name: "logits" data_type: TYPE_FP32 dims: [ -1, 50 ] },
  { name: "scores" data_type: TYPE_FP32 dims: [ -1, -1 ] },
  { name: "pooled" data_type: TYPE_FP32 dims: [ 8 ] }
]
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 100000 }
"""
PADDING: dict[str, Any] = {
    "inputs": {"ids": {"dims": ["length"], "value": 7}},
    "outputs": {"logits": ["length", None], "scores": ["length", "length"]},
    "masks": {"mask": {"data_type": "TYPE_INT64", "dims": ["length"]}},
}
# OpenVINO computes in a shorter type where a processor has one, unless told otherwise.
EXACT = "parameters { key: 'INFERENCE_PRECISION' value { string_value: 'f32' } }"
RAGGED = """
max_batch_size: 16
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] } ]
batch_input {
  kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: "ENDS" data_type: TYPE_INT32 source_input: "X"
}
batch_output { target_name: "Y" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "X" }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 100000 }
"""
COUNTING = """
backend: "python"
max_batch_size: 16
input { name: "X" data_type: TYPE_FP32 dims: [ -1 ] RAGGED }
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "TOGETHER" data_type: TYPE_INT32 dims: [ 1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 100000 }
"""
COUNTING_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        together = np.array([[len(requests)]], np.int32)
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            responses.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("Y", 2 * x), pb_utils.Tensor("TOGETHER", together.repeat(len(x), 0)),
            ]))
        return responses
"""


def encoder() -> onnx.ModelProto:
    """One layer of attention over embeddings: `logits` for each place, `scores` for each pair, `pooled` for a row."""
    random = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    def constant(name: str, value: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("Gather", ["embeddings", "ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "query"], ["queries"]),
        helper.make_node("MatMul", ["embedded", "key"], ["keys"]),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "turned"], ["raw"]),
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["real", "one"], ["minus"]),
        helper.make_node("Mul", ["minus", "large"], ["bias"]),
        helper.make_node("Unsqueeze", ["bias", "axis1"], ["biases"]),
        helper.make_node("Add", ["raw", "biases"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["scores"], axis=-1),
        helper.make_node("MatMul", ["scores", "embedded"], ["context"]),
        helper.make_node("Add", ["context", "embedded"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
        helper.make_node("Unsqueeze", ["real", "axis2"], ["reals"]),
        helper.make_node("Mul", ["hidden", "reals"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis1"], ["summed"], keepdims=0),
        helper.make_node("ReduceSum", ["reals", "axis1"], ["counted"], keepdims=0),
        helper.make_node("Div", ["summed", "counted"], ["pooled"]),
    ]
    graph = helper.make_graph(
        nodes, "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("ids", "mask")],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", WORDS]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "length", "length"]),
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", HIDDEN]),
        ],
        [
            weights("embeddings", WORDS, HIDDEN), weights("query", HIDDEN, HIDDEN), weights("key", HIDDEN, HIDDEN),
            weights("head", HIDDEN, WORDS), constant("one", np.float32(1)), constant("large", np.float32(1e9)),
            constant("axis1", np.int64([1])), constant("axis2", np.int64([2])),
        ],
    )  # fmt: skip
    return _made(graph)


def centred() -> onnx.ModelProto:
    """Y: each element of X without the mean of its request, SUM: the sum of each request."""
    nodes = [
        helper.make_node("Cast", ["ENDS"], ["bounds"], to=TensorProto.INT64),
        helper.make_node("CumSum", ["X", "zero"], ["running"]),
        helper.make_node("Concat", ["nothing", "running"], ["sums"], axis=0),
        helper.make_node("Slice", ["bounds", "from1", "end"], ["ends"]),
        helper.make_node("Slice", ["bounds", "from0", "last"], ["starts"]),
        helper.make_node("Gather", ["sums", "ends"], ["upto"]),
        helper.make_node("Gather", ["sums", "starts"], ["before"]),
        helper.make_node("Sub", ["upto", "before"], ["totals"]),
        helper.make_node("Sub", ["ends", "starts"], ["counts"]),
        helper.make_node("Cast", ["counts"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["totals", "sizes"], ["means"]),
        helper.make_node("Shape", ["X"], ["shape"]),
        helper.make_node("Squeeze", ["shape"], ["n"]),
        helper.make_node("Range", ["zero", "n", "step"], ["places"]),
        helper.make_node("Unsqueeze", ["places", "from1"], ["column"]),
        helper.make_node("GreaterOrEqual", ["column", "ends"], ["behind"]),
        helper.make_node("Cast", ["behind"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["numbers", "from1"], ["owners"], keepdims=0),
        helper.make_node("Gather", ["means", "owners"], ["own"]),
        helper.make_node("Sub", ["X", "own"], ["Y"]),
        helper.make_node("Unsqueeze", ["totals", "from1"], ["SUM"]),
    ]

    def numbers(name: str, value: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    graph = helper.make_graph(
        nodes, "centred",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["elements"]),
         helper.make_tensor_value_info("ENDS", TensorProto.INT32, ["bounds"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["elements"]),
         helper.make_tensor_value_info("SUM", TensorProto.FLOAT, ["requests", 1])],
        [
            numbers("zero", np.int64(0)), numbers("step", np.int64(1)), numbers("nothing", np.zeros(1, np.float32)),
            numbers("from0", np.int64([0])), numbers("from1", np.int64([1])), numbers("end", np.int64([1 << 40])),
            numbers("last", np.int64([-1])),
        ],
    )  # fmt: skip
    return _made(graph)


def _made(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def padding(**more: Any) -> str:
    """The parameter of a config, with `more` fields."""
    return f"parameters {{ key: 'padding' value {{ string_value: '{json.dumps(PADDING | more)}' }} }}"


TORCH_PADDED = """
platform: "pytorch_libtorch"
max_batch_size: 16
input { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] }
output [ { name: "twice" data_type: TYPE_INT64 dims: [ -1 ] }, { name: "total" data_type: TYPE_INT64 dims: [ 1 ] } ]
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 100000 }
"""


def torch_totals(path: Path) -> None:
    """TorchScript of `ids` and `mask`: every id twice, and the sum of a row."""
    import torch

    class Totals(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor):  # type: ignore[no-untyped-def]
            return 2 * ids, (ids * mask).sum(1, keepdim=True)

    torch.jit.script(Totals()).save(str(path))


def torch_centred(path: Path) -> None:
    """`centred` as TorchScript."""
    import torch

    class Centred(torch.nn.Module):
        def forward(self, x: torch.Tensor, ends: torch.Tensor):  # type: ignore[no-untyped-def]
            sums = torch.cat([torch.zeros(1), torch.cumsum(x, 0)])
            bounds = ends.to(torch.int64)
            totals = sums[bounds[1:]] - sums[bounds[:-1]]
            sizes = bounds[1:] - bounds[:-1]
            return x - torch.repeat_interleave(totals / sizes, sizes), totals.unsqueeze(1)

    torch.jit.script(Centred()).save(str(path))


def write(repository: Path, name: str, config: str, file: str, content: bytes) -> Path:
    """A model of one version. Its directory."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / file).write_bytes(content)
    (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def build(repository: Path) -> None:
    """All of them but the one of PyTorch."""
    model = encoder().SerializeToString()
    bucketed = padding(buckets=[8, 16, LONGEST], max_elements=128)
    write(repository, "padded", ENCODER + padding(), "model.onnx", model)
    write(repository, "bucketed", ENCODER + bucketed, "model.onnx", model)
    write(repository, "ragged", 'backend: "onnxruntime"' + RAGGED, "model.onnx", centred().SerializeToString())
    ragged = COUNTING.replace("RAGGED", "allow_ragged_batch: true")
    for kind, isolated in (("python", ""), ("isolated", "process")):
        more = f"parameters {{ key: 'ISOLATION' value {{ string_value: '{isolated}' }} }}" if isolated else ""
        write(repository, kind, ragged + more, "model.py", COUNTING_MODEL.encode())
    write(repository, "equal", COUNTING.replace("RAGGED", ""), "model.py", COUNTING_MODEL.encode())
