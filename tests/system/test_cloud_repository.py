"""Repositories in object storage: served, loaded, followed and left, over a real S3 server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as httpclient
from server_process import poll
from started import started
from storages import S3_ENVIRONMENT, bucket, put, put_folder, s3_server
from tritonclient.utils import InferenceServerException

CONFIG = b"""
    backend: "python"
    input { name: "X" data_type: TYPE_FP32 dims: -1 }
    output { name: "Y" data_type: TYPE_FP32 dims: -1 }
"""
MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy() * %d)])
            for request in requests
        ]
"""
ENSEMBLE = b"""
    platform: "ensemble"
    input { name: "X" data_type: TYPE_FP32 dims: -1 }
    output { name: "Y" data_type: TYPE_FP32 dims: -1 }
    ensemble_scheduling { step {
        model_name: "m" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }
    } }
"""


def model(name: str, factor: int) -> dict[str, bytes]:
    return {f"models/{name}/config.pbtxt": CONFIG, f"models/{name}/1/model.py": (MODEL % factor).encode()}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies go."""
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setenv("TRITON_AWS_MOUNT_DIRECTORY", str(folder))
    return folder


def infer(client: httpclient.InferenceServerClient, name: str = "m") -> float:
    tensor = httpclient.InferInput("X", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    return float(client.infer(name, [tensor]).as_numpy("Y")[0])


def copied(copies: Path) -> set[str]:
    """Models of which there are copies."""
    return {path.name for path in copies.glob("triton-async-cloud-*/*/*")}


def test_clouds_and_directories_are_served_together(s3: str, copies: Path, tmp_path: Path) -> None:
    put(bucket(s3, "one"), model("m", 2) | {"models/ensemble/config.pbtxt": ENSEMBLE})
    put_folder(s3, "models/ensemble/1", "one")
    put(bucket(s3, "two"), model("n", 3))
    local = tmp_path / "local" / "here"
    (local / "1").mkdir(parents=True)
    (local / "config.pbtxt").write_bytes(CONFIG)
    (local / "1" / "model.py").write_text(MODEL % 4)
    places = (f"s3://{s3}/one/models", f"s3://http://{s3}/two/models", str(local.parent))
    with started(tmp_path, *(f"--model-repository={place}" for place in places)) as server:
        server.wait_until_it_answers()
        with httpclient.InferenceServerClient(f"127.0.0.1:{server.http_port}") as triton:
            assert [infer(triton, name) for name in ("m", "ensemble", "n", "here")] == [2, 2, 3, 4]
            assert triton.is_server_ready()
        assert copied(copies) == {"m", "n"}
        server.process.terminate()
        assert server.end() == 0
        assert S3_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in server.output()
    assert not list(copies.iterdir())


def test_models_are_loaded_and_unloaded_from_the_cloud(s3: str, copies: Path, tmp_path: Path) -> None:
    store = bucket(s3, "explicit")
    put(store, model("m", 2) | {"models/bad/config.pbtxt": b"what", "models/bad/1/model.py": b""})
    options = (f"--model-repository=s3://{s3}/explicit/models", "--model-control-mode=explicit", "--load-model=m")
    with started(tmp_path, *options) as server:
        server.wait_until_it_answers()
        with httpclient.InferenceServerClient(f"127.0.0.1:{server.http_port}") as triton:
            index = {row["name"]: row.get("state") for row in triton.get_model_repository_index()}
            assert index == {"m": "READY", "bad": None} and infer(triton) == 2
            put(store, model("m", 5))
            triton.load_model("m")
            assert infer(triton) == 5
            triton.load_model("m")  # nothing has changed
            assert server.output().count("successfully loaded 'm'") == 2
            with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
                triton.load_model("nowhere")
            with pytest.raises(InferenceServerException) as caught:
                triton.load_model("bad")
            assert "config.pbtxt" in str(caught.value) and str(copies) not in str(caught.value)
            triton.unload_model("m")
            poll(lambda: not copied(copies), "the copies to go", 30)
            triton.load_model("m")
            assert infer(triton) == 5 and copied(copies) == {"m"}
            # A config of the request's own, and the repository's files.
            triton.load_model("m", config='{"backend": "python", "max_batch_size": 7, "input": [{"name": "X", '
                              '"data_type": "TYPE_FP32", "dims": [-1]}], "output": [{"name": "Y", "data_type": '
                              '"TYPE_FP32", "dims": [-1]}]}')  # fmt: skip
            assert triton.get_model_config("m")["max_batch_size"] == 7
        server.process.terminate()
        assert server.end() == 0
    assert not list(copies.iterdir())


def test_clouds_are_followed(copies: Path, tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    options = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with s3_server(tmp_path / "s3") as s3:
        store = bucket(s3, "poll")
        put(store, model("m", 2))
        with started(tmp_path, f"--model-repository=s3://{s3}/poll/models", *options) as server:
            server.wait_until_it_answers()
            with httpclient.InferenceServerClient(f"127.0.0.1:{server.http_port}") as triton:
                assert infer(triton) == 2
                put(store, {"models/m/1/model.py": (MODEL % 3).encode()} | model("more", 4))
                poll(lambda: infer(triton) == 3 and triton.is_model_ready("more"), "changes", 30)
                # What was loaded from an older copy is gone, and with it the copy.
                poll(lambda: len(list(copies.glob("*/*/m"))) == 1, "the old copy to go", 30)
                assert "fetched 1 of 2 objects" in server.output()
                store.delete(list(model("more", 4)))
                poll(lambda: not triton.is_model_ready("more"), "the model to go", 30)
                store.delete(["models/m/1/model.py", "models/m/config.pbtxt"])
                put(store, model("m", 6))
                poll(lambda: triton.is_model_ready("m") and infer(triton) == 6, "the model to come back", 30)
            server.process.terminate()
            assert server.end() == 0


def test_what_cannot_be_read_is_named_at_start(s3: str, copies: Path, tmp_path: Path) -> None:
    for place in (f"s3://{s3}/nowhere/models", "s3://127.0.0.1:1/b"):
        with started(tmp_path, f"--model-repository={place}") as server:
            assert server.end() == 1
            shown = place.replace("s3://", "s3://http://", 1)
            assert "error: creating server" in server.output() and shown in server.output()
            assert S3_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in server.output()
    assert not list(copies.iterdir())


def test_a_repository_in_the_cloud_is_checked(s3: str, copies: Path, tmp_path: Path) -> None:
    put(bucket(s3, "check"), model("m", 2) | {"models/bad/config.pbtxt": b"what", "models/bad/1/model.py": b""})
    command = [sys.executable, "-m", "triton_async.cli", "check", f"s3://{s3}/check/models"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1 and "2 models, 1 errors" in run.stdout and "config.pbtxt" in run.stdout, run.stdout
    assert not list(copies.iterdir())
