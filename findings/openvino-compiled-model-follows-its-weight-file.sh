#!/usr/bin/env bash
# OpenVINO 2026.4.1 (CPU): a model that was read from an IR and compiled keeps model.bin mapped, and reads its weights
# there at each run. Whoever writes over the file in place, as copying tools do, changes the answers of a model that was
# compiled long before; no warning, no error.
#
# Seen: before 3.0, after the file was written over 7.0; with ENABLE_MMAP off 3.0 both times.
#
# What helps: core.set_property({"ENABLE_MMAP": False}) before read_model.
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
zeros = np.zeros((1, 65536), np.float32)


def answers(mapped: bool) -> list[float]:
    x = op.parameter([1, 65536], np.float32)
    made = op.add(x, op.constant(np.full((1, 65536), 3, np.float32)))
    ov.save_model(ov.Model([made], [x]), "model.xml", compress_to_fp16=False)
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": mapped})
    compiled = core.compile_model(core.read_model("model.xml"), "CPU")
    before = float(compiled(zeros)[0][0, 0])
    with open("model.bin", "r+b") as file:
        file.write(np.full(65536, 7, np.float32).tobytes())
    return [before, float(compiled(zeros)[0][0, 0])]


mapped, read = answers(True), answers(False)
print(f"openvino {ov.get_version()}: mapped {mapped}, read {read}")
assert mapped == [3.0, 7.0], mapped
assert read == [3.0, 3.0], read
PYTHON
venv/bin/python show.py
