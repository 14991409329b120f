"""Response caches that are shared libraries, compiled here, in real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import native_libraries
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from server_process import ServerProcess, package_root, poll, running_server
from tritonclient.utils import np_to_triton_dtype

pytestmark = native_libraries.needs_compiler

CONFIG = """
    backend: "identity" max_batch_size: 4 response_cache { enable: true }
    input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    native_libraries.build(folder / "caches" / "kept" / "libtritoncache_kept.so", "kept.c")
    native_libraries.build(folder / "caches" / "wrong" / "libtritoncache_wrong.so", "identity.c")
    (folder / "models" / "identity" / "1").mkdir(parents=True)
    (folder / "models" / "identity" / "config.pbtxt").write_text(CONFIG)
    return folder


def ask(server: ServerProcess, value: int) -> None:
    array = np.full((1, 1000), value, np.float32)
    tensor = grpc_client.InferInput("INPUT0", [1, 1000], np_to_triton_dtype(np.float32))
    tensor.set_data_from_numpy(array)
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        np.testing.assert_array_equal(client.infer("identity", [tensor]).as_numpy("OUTPUT0"), array)


def counts(server: ServerProcess) -> tuple[int, int]:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        found = client.get_inference_statistics("identity", as_json=True)["model_stats"][0]["inference_stats"]
    return int(found["cache_hit"].get("count", 0)), int(found["cache_miss"].get("count", 0))


@pytest.mark.parametrize("name", ["kept", "local"])
def test_answers_are_kept_in_a_library(folder: Path, tmp_path: Path, name: str) -> None:
    options = [f"--cache-directory={folder / 'caches'}", f"--cache-config={name},size=1048576"]
    if name == "local":  # which is built in otherwise
        native_libraries.build(folder / "caches" / "local" / "libtritoncache_local.so", "kept.c")
        options.append("--cache-config=local,native=true")
    with running_server([folder / "models"], tmp_path, options) as server:
        for value in (1, 2, 3):
            ask(server, value)
        assert counts(server) == (0, 3)

        def hit() -> bool:  # what is inserted is there a little later
            before, _ = counts(server)
            for value in (1, 2, 3):
                ask(server, value)
            return counts(server)[0] == before + 3

        poll(hit, "all answers to come from the cache", 20)
        server.stop()
        assert "the cache is finalised" in server.output()


@pytest.mark.parametrize(("mode", "operation", "reason"), [
    ("lookup", "lookup", "error"), ("insert", "insert", "error"), ("slow", "lookup", "busy"),
    ("zero", "lookup", "broken"),
])  # fmt: skip
def test_a_library_that_fails_costs_no_answer(
    folder: Path, tmp_path: Path, mode: str, operation: str, reason: str
) -> None:
    options = [f"--cache-directory={folder / 'caches'}", f"--cache-config=kept,mode={mode}"]
    with running_server([folder / "models"], tmp_path, options) as server:
        sample = f'triton_async_cache_failures_total{{operation="{operation}",reason="{reason}"}}'

        def told() -> bool:
            ask(server, 1)
            return server.metrics().get(sample, 0) > 0

        poll(told, sample, 20)
        assert counts(server)[0] == 0


@pytest.mark.parametrize(("option", "text"), [
    ("kept,mode=refuse", "these settings are not to its taste"),
    ("absent,size=1", "unable to find cache library 'libtritoncache_absent.so' in the folder 'absent' of the cache "
                      "directory"),
    ("wrong,size=1", "unable to find required entrypoint 'TRITONCACHE_CacheInitialize' in cache library "
                     "'libtritoncache_wrong.so'"),
    ("../kept,size=1", "cache"),
])  # fmt: skip
def test_what_is_no_cache_ends_the_start(folder: Path, tmp_path: Path, option: str, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "triton_async.cli", f"--model-repository={folder / 'models'}", "--allow-http=false",
         "--allow-grpc=false", "--allow-metrics=false", f"--cache-directory={folder / 'caches'}",
         f"--cache-config={option}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(package_root())}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert text in done.stdout + done.stderr
