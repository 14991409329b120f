"""What the server runs: its own interpreter with arguments of its own, whatever clients and models are called."""

from __future__ import annotations

import os
import re
import shutil
import signal
import string
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from server_process import ServerProcess, running_server
from tritonclient.utils import InferenceServerException

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is not installed")

# A shell would make something of each part of it, and a folder may be called so.
NAME = "x;touch made $(touch made)`touch made`&&>made|'\"" + "".join(set(string.punctuation) - set("/\\;$`&>|'\"()"))
MODEL = """
import os
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        pid = pb_utils.Tensor("PID", __import__("numpy").array([os.getpid()], "int64"))
        return [pb_utils.InferenceResponse([pid]) for _ in requests]
"""
CONFIG = """
backend: "python"
input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
output { name: "PID" data_type: TYPE_INT64 dims: 1 }
instance_group { name: "%s" kind: KIND_CPU }
parameters { key: "ISOLATION" value { string_value: "process" } }
parameters { key: "%s" value { string_value: "%s" } }
"""


class Traced(ServerProcess):
    """One whose programs, and those of its children, are written down. Signals go to the server itself."""

    def start(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        self.programs = Path(more["cwd"]) / "programs"
        tracing = [str(STRACE), "-f", "-qq", "-e", "trace=execve", "-s", "4096", "-o", str(self.programs)]
        return super().start([*tracing, *command], **more)

    def traced(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0])

    def terminate(self) -> None:
        os.kill(self.traced(), signal.SIGTERM)

    def kill(self) -> None:
        # Its tracer ends with it, but not the other way round.
        with suppress(OSError, IndexError):
            os.kill(self.traced(), signal.SIGKILL)
        super().kill()


def quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def test_names_are_never_words_of_a_command(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / NAME / "1").mkdir(parents=True)
    (root / NAME / "config.pbtxt").write_text(CONFIG % ((quoted(NAME),) * 3))
    (root / NAME / "1" / "model.py").write_text(MODEL)
    folder = tmp_path / "server"
    folder.mkdir()
    options = ["--model-control-mode=explicit"]
    pids = set()
    with running_server([root], folder, options, make=Traced) as server:
        for module, url in ((tritonclient.http, server.http_url), (tritonclient.grpc, server.grpc_url)):
            with module.InferenceServerClient(url) as client:
                client.load_model(NAME)
                tensor = module.InferInput("INPUT0", [1], "FP32")
                tensor.set_data_from_numpy(np.ones(1, np.float32))
                pids.add(int(client.infer(NAME, [tensor]).as_numpy("PID")[0]))
                for wrong in ("$(touch made)", "; touch made", f"{NAME}/../{NAME}"):
                    for call in (client.load_model, client.get_model_metadata):
                        with pytest.raises(InferenceServerException):
                            call(wrong)
                client.unload_model(NAME)
        server.stop()
    programs = server.programs.read_text()
    ran = re.findall(r'execve\("((?:[^"\\]|\\.)*)", \[(.*?)\], 0x', programs)
    # The server, and what its workers are forked from.
    assert len(pids) == 2 and len(ran) >= 2
    for program, arguments in ran[1:]:
        assert os.path.realpath(program) == os.path.realpath(sys.executable), (program, arguments)
        assert "touch" not in arguments and '"-c"' not in arguments, arguments
    assert not list(tmp_path.rglob("made*"))
