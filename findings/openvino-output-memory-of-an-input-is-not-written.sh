#!/usr/bin/env bash
# OpenVINO 2026.4.1 (CPU): where an input of a model is an output too, an infer request that was given memory for both
# does not write the output. Whatever was in that memory is the answer; no warning, no error. Input and output are one
# tensor to the request, and the memory that was given last is that of both.
#
# Seen: input 5, given memory of -7: the output reads -7. With Relu between the two it reads 5.
#
# What helps: give such an output no memory, and copy what get_output_tensor shows before the next run.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet openvino==2026.4.1 numpy
cat > show.py <<'PYTHON'
import numpy as np
import openvino as ov

op = ov.opset13


def answer(node, given: bool) -> float:
    x = op.parameter([1, 4], np.float32)
    compiled = ov.Core().compile_model(ov.Model([node(x)], [x]), "CPU")
    request = compiled.create_infer_request()
    request.set_input_tensor(0, ov.Tensor(np.full((1, 4), 5, np.float32)))
    memory = np.full((1, 4), -7, np.float32)
    if given:
        request.set_output_tensor(0, ov.Tensor(memory, shared_memory=True))
    request.infer()
    return float(request.get_output_tensor(0).data[0, 0])


straight, through = answer(op.result, True), answer(op.relu, True)
alone = answer(op.result, False)
print(f"openvino {ov.get_version()}: straight {straight}, through Relu {through}, without memory {alone}")
assert (straight, through, alone) == (-7.0, 5.0, 5.0)
PYTHON
venv/bin/python show.py
