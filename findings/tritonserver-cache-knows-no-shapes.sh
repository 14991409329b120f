#!/usr/bin/env bash
# tritonserver 2.51 (in nvidia-pytriton 0.7.0), local response cache: of a request's inputs only names and bytes are in
# the key, neither shapes nor datatypes. A request whose tensor has the same bytes in another shape gets the answer that
# was made for the first one.
#
# Seen, of a model that tells the number of columns: for [1, 2, 3] it says 3, and then for [1, 3, 2], with the same six
# numbers, 3 again; without the cache 2.
#
# What helps: no cache for models whose answer depends on more than the bytes.
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
import urllib.request
from pathlib import Path

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        columns = pb_utils.get_input_tensor_by_name(request, "X").as_numpy().shape[-1]
        return pb_utils.InferenceResponse([pb_utils.Tensor("COLUMNS", np.full((1, 1), columns, np.int64))])
"""
CONFIG = """
backend: "python"
max_batch_size: 1
input { name: "X" data_type: TYPE_FP32 dims: [-1, -1] }
output { name: "COLUMNS" data_type: TYPE_INT64 dims: [1] }
"""
packages = next(Path("venv/lib").glob("python*/site-packages")).resolve()
home = packages / "pytriton" / "tritonserver"
stub = home / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
shutil.copy2(stub / "triton_python_backend_stub", home / "backends" / "python")
for name, more in (("kept", "response_cache { enable: true }"), ("asked", "")):
    folder = Path("models") / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG + more)
    (folder / "1" / "model.py").write_text(MODEL)
libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
server = subprocess.Popen(
    [home / "bin" / "tritonserver", "--model-repository=models", f"--backend-directory={home / 'backends'}",
     f"--cache-directory={home / 'caches'}", "--cache-config=local,size=1048576", "--http-port=18470",
     "--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=1"],
    env=dict(os.environ, PATH=f"{Path('venv/bin').resolve()}:{os.environ['PATH']}", LD_LIBRARY_PATH=libraries),
    stdout=subprocess.DEVNULL, stderr=open("log", "w"),
)


def columns(model: str, shape: list[int]) -> int:
    tensor = {"name": "X", "datatype": "FP32", "shape": shape, "data": [1, 2, 3, 4, 5, 6]}
    url = f"http://127.0.0.1:18470/v2/models/{model}/infer"
    with urllib.request.urlopen(url, json.dumps({"inputs": [tensor]}).encode(), timeout=10) as answer:
        return json.load(answer)["outputs"][0]["data"][0]


def seen() -> list[int]:
    for _ in range(300):
        try:
            urllib.request.urlopen("http://127.0.0.1:18470/v2/health/ready", timeout=1)
        except OSError:
            time.sleep(0.1)
            continue
        return [columns(model, shape) for model in ("kept", "asked") for shape in ([1, 2, 3], [1, 3, 2])]
    raise SystemExit(Path("log").read_text())


try:
    found = seen()
finally:
    server.terminate()
    server.wait()
print(f"tritonserver 2.51: with the cache {found[:2]}, without {found[2:]}")
assert found == [3, 3, 3, 2]
PYTHON
venv/bin/python show.py
