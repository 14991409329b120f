#!/usr/bin/env bash
# ONNX Runtime 1.22.0: what a session says of an output's shape depends on how far the graph was optimised.
#
# A guess: the declared shape of an output is a property of the model file, so two sessions on the same file agree.
# Seen: where constant folding settles a shape (here the repeats of a Tile), the optimised session answers [1, 8] and the
# one without optimisation the symbolic dims of the file. A server that completes a config with one session and checks
# it against another refuses a sound model, whichever of the two shapes the config names.
#
# Output seen:
#   ORT_DISABLE_ALL: ['n', 'm']
#   ORT_ENABLE_ALL: [1, 8]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.22.0 onnx==1.18.0 numpy==2.2.6
"$folder/venv/bin/python" - <<'PY'
import onnxruntime
from onnx import TensorProto, helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
nodes = [
    helper.make_node("Mul", ["one", "two"], ["product"]),
    helper.make_node("Cast", ["product"], ["repeats"], to=INT64),
    helper.make_node("Tile", ["X", "repeats"], ["Y"]),
]
constants = [helper.make_tensor("one", FLOAT, [2], [1, 1]), helper.make_tensor("two", FLOAT, [2], [1, 2])]
graph = helper.make_graph(
    nodes, "tiled", [helper.make_tensor_value_info("X", FLOAT, [1, 4])],
    [helper.make_tensor_value_info("Y", FLOAT, ["n", "m"])], constants,
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
seen = {}
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    seen[level] = session.get_outputs()[0].shape
    print(f"{level}: {seen[level]}")
assert seen == {"ORT_DISABLE_ALL": ["n", "m"], "ORT_ENABLE_ALL": [1, 8]}, "the behaviour has changed"
PY
