"""Tries the installed package alone: starts the server, as a user would, with a model that needs no file, and asks it.

Needs nothing but the package; `make dist` runs it in the environment that a wheel was installed into.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

START_SECONDS = 60
CONFIG = """
    backend: "identity"
    input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, body, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            ask(url)
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit("the server does not answer") from None
            time.sleep(0.05)


def try_server(folder: Path) -> None:
    """Serves from `folder`, where no source is that could be taken for the package."""
    model = folder / "models" / "identity"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("triton-async")), f"--model-repository={folder / 'models'}",
        f"--http-port={port}", f"--grpc-port={free_port()}", f"--metrics-port={free_port()}", "--log-info=false",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        base = f"http://127.0.0.1:{port}"
        wait_for(f"{base}/v2/health/ready", server)
        tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [3], "data": [1.5, -2, 3]}
        answer = json.loads(ask(f"{base}/v2/models/identity/infer", json.dumps({"inputs": [tensor]}).encode()))
        assert answer["outputs"][0]["data"] == [1.5, -2, 3], answer
        assert b"<script>" in ask(f"{base}/")
        server.send_signal(signal.SIGTERM)
        status = server.wait(30)
        assert status == 0, f"it ended with {status}"
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        try_server(Path(name))
    print(f"{sys.executable}: the installed package serves")
