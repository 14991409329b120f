#!/usr/bin/env bash
# ONNX Runtime 1.32.0 (CPU): a session whose model keeps its weights in a file of their own (external data) maps that
# file for as long as it lives, and reads what is there at each run. Whoever writes over the file in place, as copying
# tools do, changes the answers of a session that was made long before; no new session, no warning, no error. Weights
# inside model.onnx are read once. So are external weights that the library repacks, as those of matrix products: which
# of them follow the file depends on the operator.
#
# Seen: before [4.0, 4.0], after the file was written over [8.0, 4.0] (Add follows it, MatMul does not).
#
# What helps: hand the contents over with SessionOptions.add_external_initializers_from_files_in_memory; nothing is
# mapped then.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet onnxruntime==1.32.0 onnx==1.23.0 numpy
cat > show.py <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def session(operator: str, options=None):
    weights = numpy_helper.from_array(np.full((1024, 1024), 3, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024, 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1024, 1024])], [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, f"{operator}.onnx", save_as_external_data=True, location=f"{operator}.bin", size_threshold=0)
    return onnxruntime.InferenceSession(f"{operator}.onnx", options, providers=["CPUExecutionProvider"])


def answer(made, x) -> float:
    return float(made.run(None, {"x": x})[0][0, 0])


def write_over(operator: str, value: float) -> None:
    with open(f"{operator}.bin", "r+b") as file:
        file.write(np.full((1024, 1024), value, np.float32).tobytes())


ones = np.ones((1024, 1024), np.float32)
third = np.full((1024, 1024), 4 / 3072, np.float32)
add, product = session("Add"), session("MatMul")
before = [answer(add, ones), round(answer(product, third), 3)]
for operator in ("Add", "MatMul"):
    write_over(operator, 7)
after = [answer(add, ones), round(answer(product, third), 3)]
print(f"onnxruntime {onnxruntime.__version__}: before {before}, after {after}")
assert before == [4.0, 4.0], before
assert after == [8.0, 4.0], after

options = onnxruntime.SessionOptions()
content = np.full((1024, 1024), 3, np.float32).tobytes()
options.add_external_initializers_from_files_in_memory(["Add.bin"], [content], [len(content)])
import os
os.remove("Add.bin")
safe = session("Add", options)
write_over("Add", 7)
print(f"handed over: {answer(safe, ones)}")
assert answer(safe, ones) == 4.0
PYTHON
venv/bin/python show.py
