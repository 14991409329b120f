#!/usr/bin/env bash
# tritonserver 2.51 (in nvidia-pytriton 0.7.0): a sequence model that takes its correlation id as a text (a control
# CONTROL_SEQUENCE_CORRID of TYPE_STRING, which the configuration allows) can be loaded and never asked: the server makes
# a tensor of one element for each request and then counts two elements in it. So it is with numbers and with texts.
#
# Seen: 400 "unexpected number of string elements 2 for inference input 'CORRID', expecting 1" for both.
#
# What helps: a control of TYPE_UINT64 and numbers as ids.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps nvidia-pytriton==0.7.0 numpy==1.26.4
cat > show.py <<'PYTHON'
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", pb_utils.get_input_tensor_by_name(one, "X").as_numpy())])
            for one in requests
        ]
"""
CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "X" data_type: TYPE_INT64 dims: [1] }
output { name: "Y" data_type: TYPE_INT64 dims: [1] }
sequence_batching {
  control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }
}
"""
packages = next(Path("venv/lib").glob("python*/site-packages")).resolve()
home = packages / "pytriton" / "tritonserver"
stub = home / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
shutil.copy2(stub / "triton_python_backend_stub", home / "backends" / "python")
folder = Path("models/m")
(folder / "1").mkdir(parents=True)
(folder / "config.pbtxt").write_text(CONFIG)
(folder / "1" / "model.py").write_text(MODEL)
libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
server = subprocess.Popen(
    [home / "bin" / "tritonserver", "--model-repository=models", f"--backend-directory={home / 'backends'}",
     "--allow-grpc=false", "--http-port=18472", "--allow-metrics=false", "--exit-timeout-secs=1"],
    env=dict(os.environ, PATH=f"{Path('venv/bin').resolve()}:{os.environ['PATH']}", LD_LIBRARY_PATH=libraries),
    stdout=subprocess.DEVNULL, stderr=open("log", "w"),
)


def post(path, body):
    request = urllib.request.Request(f"http://127.0.0.1:18472/v2/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as problem:
        return json.loads(problem.read())


def ask(sequence):
    tensor = {"name": "X", "datatype": "INT64", "shape": [1, 1], "data": [7]}
    return post("models/m/infer", {
        "inputs": [tensor], "parameters": {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
    })


def asked():
    return [ask(sequence)["error"] for sequence in ("caller", 5)]


def seen():
    for _ in range(300):
        try:
            urllib.request.urlopen("http://127.0.0.1:18472/v2/health/ready", timeout=1)
        except OSError:
            time.sleep(0.1)
            continue
        return asked()
    raise SystemExit(Path("log").read_text())


try:
    found = seen()
finally:
    server.terminate()
    server.wait()
print("tritonserver 2.51:", *found, sep="\n")
assert all("unexpected number of string elements 2 for inference input 'CORRID', expecting 1" in text for text in found)
PYTHON
venv/bin/python show.py
