"""The commands `check` and `config`: all mistakes at once, the completed config, exit statuses; nothing is served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from triton_async import cli
from triton_async.config.pbtxt import parse

GOOD = """
    backend: "identity"
    input { name: "INPUT0" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }
"""


@pytest.fixture(autouse=True)
def interrupts_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def write(root: Path, name: str, config: str = GOOD, *versions: str) -> Path:
    for version in versions or ("1",):
        (root / name / version).mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)
    return root / name


def write_onnx(root: Path, name: str, version: str = "1") -> Path:
    tensors = [helper.make_tensor_value_info(io, TensorProto.FLOAT, ["b", 4]) for io in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (root / name / version).mkdir(parents=True)
    onnx.save(model, root / name / version / "model.onnx")
    return root / name


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    status = cli.main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_a_good_repository_has_no_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a")
    write_onnx(tmp_path, "b")
    status, output = run(capsys, "check", tmp_path)
    assert status == 0
    lines = output.splitlines()
    assert lines[-1] == "2 models, 0 errors, 1 warnings"
    assert lines[0].startswith(f"{tmp_path}/b: warning: autofilled max_batch_size to 4 for model 'b'")


@pytest.mark.parametrize("command", ["check", "config"])
def test_a_reader_that_has_enough_is_no_error(tmp_path: Path, command: str) -> None:
    model = write(tmp_path, "a")
    argv = [sys.executable, "-m", "triton_async.cli", command, str(tmp_path if command == "check" else model)]
    package = Path(cli.__file__).parents[1]
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", *argv], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_all_mistakes_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "syntax", "max_batch_size: many")
    write(tmp_path, "several", """
        platform: "onnxruntime_onnx" max_batch_size: -1 dynamic_batching { priority_levels: 2 }
        input { name: "x" data_type: TYPE_FP32 dims: 0 }
        input { name: "x" data_type: TYPE_FP32 dims: 1 reshape { shape: 2 } }
        output { name: "y" data_type: TYPE_FP32 dims: 1 label_filename: "/etc/labels" }
    """)
    write(tmp_path, "later", GOOD + "instance_group { secondary_devices { } }")
    write(tmp_path, "file", 'platform: "onnxruntime_onnx"')
    write(tmp_path, "passive", GOOD + "instance_group { passive: true }")
    write(tmp_path, "none", GOOD, "v1")
    (tmp_path / "lost+found").mkdir()
    broken = write_onnx(tmp_path, "versions")
    (broken / "config.pbtxt").write_text("version_policy { all { } }")
    write_onnx(tmp_path, "versions", "2")
    (broken / "1" / "model.onnx").write_bytes(b"no model")
    status, output = run(capsys, "check", tmp_path)
    assert status == 1
    for words in (
        "repository: warning: ignore ",
        f"{tmp_path}/syntax: error: failed to read text proto from config.pbtxt: line 1",
        f"{tmp_path}/several: error: 'max_batch_size' must be non-negative value for several (in config.pbtxt)",
        f"{tmp_path}/several: error: default priority level must be in range [1, 2]",
        f"{tmp_path}/several: error: model input 'x' dimension must be integer >= 1",
        f"{tmp_path}/several: error: model input 'x' is specified more than once",
        f"{tmp_path}/several: error: model input 'x' has different size for dims and reshape",
        f"{tmp_path}/several: error: label_filename of output 'y' of model 'several' '/etc/labels' must be a relative",
        f"{tmp_path}/later: error: 'instance_group secondary_devices' of model 'later' is not supported yet",
        f"{tmp_path}/file: error: unable to find 'file/1/model.onnx' for model 'file': its folder holds nothing",
        f"{tmp_path}/passive: error: model 'passive' has passive instances only",
        f"{tmp_path}/none: warning: ignore version directory 'v1' which fails to convert to integral number",
        f"{tmp_path}/none: error: at least one version must be available under the version policy of model 'none'",
        f"{tmp_path}/versions/1: error: ",
    ):
        assert words in output
    assert f"{tmp_path}/versions/2" not in output
    assert output.splitlines()[-1] == "7 models, 12 errors, 3 warnings"


def test_names_in_two_repositories_and_places_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in ("a", "b"):
        write(tmp_path / root, "m")
    status, output = run(capsys, "check", tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert status == 1
    assert f"{tmp_path}/c: error: it is no directory" in output
    assert f"m: error: model appears in two or more repositories: {tmp_path}/a, {tmp_path}/b." in output
    status, output = run(capsys, "check", tmp_path / "a" / "m")
    assert "looks like a model, not like a repository of models: give --model-repository=" in output


def test_options_of_the_server_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(tmp_path, "m")
    assert run(capsys, "check", tmp_path, "--backend-config=default-max-batch-size=0")[0] == 0
    status, output = run(capsys, "check", tmp_path, "--disable-auto-complete-config")
    assert status == 1
    assert "m/config.pbtxt: No such file or directory" in output


def test_the_completed_config_can_be_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_onnx(tmp_path, "m")
    status, output = run(capsys, "config", model)
    assert status == 0
    assert output.startswith("# autofilled max_batch_size to 4")
    proto = parse(output)
    assert (proto.max_batch_size, list(proto.input[0].dims), proto.platform) == (4, [4], "onnxruntime_onnx")
    (model / "config.pbtxt").write_text(output)
    status, again = run(capsys, "config", model)
    assert (status, parse(again)) == (0, proto)
    assert not again.startswith("#")


def test_a_config_without_batching_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_onnx(tmp_path, "m")
    (model / "config.pbtxt").write_text("max_batch_size: 0")
    status, output = run(capsys, "config", model)
    assert status == 0
    assert "max_batch_size: 0\n" in output
    assert list(parse(output).input[0].dims) == [-1, 4]


def test_a_model_without_a_config_to_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "config", write(tmp_path, "a", "oops"))[0] == 1
    status, output = run(capsys, "config", write(tmp_path, "b", 'backend: "unknown"'))
    assert status == 1
    assert f"{tmp_path}/b: error: unable to find backend" in output
    for argv in (["config"], ["config", tmp_path / "a", tmp_path / "b"], ["config", tmp_path / "nope"], ["check"],
                 ["check", tmp_path, "--nosuch=1"]):  # fmt: skip
        status, output = run(capsys, *argv)
        assert status == 1
        assert len(output.splitlines()) <= 2
