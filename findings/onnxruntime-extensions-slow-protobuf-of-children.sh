#!/usr/bin/env bash
# onnxruntime-extensions 0.15.2, with onnx installed: importing it writes PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python to the
# environment of the process. Where protobuf was not imported before, this process has it in pure Python; and so has every
# process that it starts from then on, whatever these are, without having heard of the package.
#
# Seen: api_implementation.Type() of a child is "upb" before the import and "python" behind it.
#
# What helps: to take the variable out of os.environ behind the import, or of the environment that children are given.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet onnxruntime-extensions==0.15.2 protobuf==6.33.6 onnx==1.23.2 onnxruntime==1.32.0
cat > show.py <<'PYTHON'
import os
import subprocess
import sys

CHILD = "from google.protobuf.internal import api_implementation; print(api_implementation.Type())"


def child() -> str:
    return subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout.strip()


before = child()
import onnxruntime_extensions  # noqa: E402

behind = child()
print(f"onnxruntime-extensions {onnxruntime_extensions.__version__}: a child has {before}, behind the import {behind}")
assert os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] == "python"
assert (before, behind) == ("upb", "python")
PYTHON
venv/bin/python show.py
