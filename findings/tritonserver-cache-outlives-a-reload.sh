#!/usr/bin/env bash
# tritonserver 2.51 (in nvidia-pytriton 0.7.0), local response cache: a model that is unloaded, changed on disk and
# loaded again answers from the cache what the code before it has answered. Nothing that the load brings is in the key.
#
# Seen: 1 of the first code, 1 again of the second one, which says 2; 2 for an input that nobody has asked with before.
#
# What helps: a new version number with new code, or a restart.
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
        return [pb_utils.InferenceResponse([pb_utils.Tensor("CODE", np.array([1], np.int64))]) for _ in requests]
"""
CONFIG = """
backend: "python"
input { name: "X" data_type: TYPE_INT64 dims: [1] }
output { name: "CODE" data_type: TYPE_INT64 dims: [1] }
response_cache { enable: true }
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
     f"--cache-directory={home / 'caches'}", "--cache-config=local,size=1048576", "--model-control-mode=explicit",
     "--load-model=m", "--allow-grpc=false", "--http-port=18471", "--allow-metrics=false", "--exit-timeout-secs=1"],
    env=dict(os.environ, PATH=f"{Path('venv/bin').resolve()}:{os.environ['PATH']}", LD_LIBRARY_PATH=libraries),
    stdout=subprocess.DEVNULL, stderr=open("log", "w"),
)


def post(path, body):
    request = urllib.request.Request(f"http://127.0.0.1:18471/v2/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as problem:
        return json.loads(problem.read())


def code(number):
    tensor = {"name": "X", "datatype": "INT64", "shape": [1], "data": [number]}
    return post("models/m/infer", {"inputs": [tensor]})["outputs"][0]["data"][0]


def asked():
    first = code(7)
    post("repository/models/m/unload", {})
    (folder / "1" / "model.py").write_text(MODEL.replace("[1]", "[2]"))
    time.sleep(1.1)  # files are compared by their times, in whole seconds
    (folder / "1" / "model.py").touch()
    post("repository/models/m/load", {})
    return [first, code(7), code(8)]


def seen():
    for _ in range(300):
        try:
            urllib.request.urlopen("http://127.0.0.1:18471/v2/health/ready", timeout=1)
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
print(f"tritonserver 2.51: before {found[0]}, behind the reload {found[1]}, of a new input {found[2]}")
assert found == [1, 1, 2]
PYTHON
venv/bin/python show.py
