"""The real perf_analyzer with our library in its own process: --service-kind=triton_c_api."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from triton_async import native

from .setup_oracle import prepare

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(not sysconfig.get_config_var("Py_ENABLE_SHARED"), reason="a Python without a shared library"),
]
MODELS = {
    "same": """backend: "identity"
input { name: "IN" data_type: TYPE_FP32 dims: -1 }
output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
""",
    "strings": """backend: "identity"
input { name: "IN" data_type: TYPE_STRING dims: -1 }
output { name: "OUT" data_type: TYPE_STRING dims: -1 }
""",
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_it_measures_us(model: str, concurrency: int, tmp_path: Path) -> None:
    for name, config in MODELS.items():
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text(config)
    (tmp_path / "there" / "lib").mkdir(parents=True)
    (tmp_path / "there" / "backends").mkdir()
    (tmp_path / "there" / "lib" / native.LIBRARY.name).symlink_to(native.LIBRARY)
    oracle = prepare()
    command = [
        str(oracle.perf_analyzer), "-m", model, "--service-kind=triton_c_api", "--shape", "IN:16",
        f"--triton-server-directory={tmp_path / 'there'}", f"--model-repository={tmp_path / 'models'}",
        "--measurement-mode", "count_windows", "--measurement-request-count", "200", "-s", "999", "--max-trials", "3",
        "--concurrency-range", str(concurrency),
    ]  # fmt: skip
    environment = oracle.perf_env() | {"TRITON_ASYNC_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "Throughput: " in text and "Failed" not in text and "Failed Request" not in text, text
