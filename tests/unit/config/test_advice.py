"""Errors that say which file, what is wrong and what to write: of models' folders, and of folders that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_models import BATCHED, FULL, make_model

from triton_async.config.advice import directory_warnings, no_version, repository_warnings
from triton_async.config.load import load
from triton_async.config.versions import look
from triton_async.errors import ServerError


def refusal(model: Path) -> str:
    with pytest.raises(ServerError) as caught:
        load(model, model.name, inspect=lambda backend, path, proto: BATCHED)
    assert str(model.parent) not in caught.value.message
    return caught.value.message


def files(directory: Path, *names: str) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return directory


@pytest.mark.parametrize(("names", "words"), [
    (["1/best.onnx", "1/notes.txt"], "'m/1' holds best.onnx, notes.txt; looked for model.onnx, model.graphdef, "),
    (["1/saved_model.pb"], "'m/1' holds saved_model.pb; looked for model.onnx"),
    (["model.onnx"], "'m/model.onnx' is in no version folder: move it to 'm/1/model.onnx'"),
    (["readme"], "'m' holds readme: make a version folder in it, such as 'm/1/model.onnx'"),
    ([f"1/{number:02}" for number in range(20)], "'m/1' holds 00, 01, 02, 03, 04, 05, 06, 07 and 12 more; looked"),
])  # fmt: skip
def test_a_model_of_unknown_kind_names_what_lies_there(tmp_path: Path, names: list[str], words: str) -> None:
    message = refusal(files(tmp_path / "m", *names))
    assert message.startswith("Invalid model name: Could not determine backend for model 'm' with no backend in")
    assert words in message


def test_an_empty_version_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    assert "'m/1' holds nothing; looked for model.onnx" in refusal(tmp_path / "m")


def test_a_missing_file_is_named_with_what_is_there_instead(tmp_path: Path) -> None:
    model = make_model(tmp_path, FULL, filename="resnet.onnx")
    assert refusal(model) == (
        "unable to find 'm/1/model.onnx' for model 'm': its folder holds resnet.onnx. Rename the model's file, or set "
        "'default_model_filename' in 'm/config.pbtxt' (in config.pbtxt)"
    )
    (model / "config.pbtxt").write_text(FULL + 'default_model_filename: "resnet.onnx"')
    assert load(model, "m", inspect=lambda *_: BATCHED).default_model_filename == "resnet.onnx"


def test_python_code_in_the_place_of_a_pytorch_model_is_told_of_its_runtime(tmp_path: Path) -> None:
    model = make_model(tmp_path, 'backend: "pytorch"', filename="model.py")
    assert refusal(model) == (
        "unable to find 'm/1/model.pt' for model 'm': its folder holds model.py. Rename the model's file, or set "
        "'default_model_filename' in 'm/config.pbtxt', or 'runtime: \"model.py\"' for a model that is the code in "
        "model.py (in config.pbtxt)"
    )
    (model / "config.pbtxt").write_text('backend: "onnxruntime"')
    assert "runtime" not in refusal(model)


def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path: Path) -> None:
    model = make_model(tmp_path, FULL)
    (model / "1" / "model.onnx").unlink()
    (model / "1" / "model.onnx").symlink_to("model.onnx")
    assert refusal(model).startswith("failed to open 'm/1/model.onnx': Too many levels of symbolic links")
    (model / "1" / "model.onnx").unlink()
    (model / "1" / "model.onnx").symlink_to(tmp_path / "gone")
    assert refusal(model).startswith("failed to open 'm/1/model.onnx': No such file or directory")


@pytest.mark.parametrize("name", ["1/model.onnx", "config.pbtxt", "labels.txt"])
def test_a_pointer_of_git_lfs_is_told_from_the_file(tmp_path: Path, name: str) -> None:
    model = make_model(tmp_path, FULL)
    (model / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    message = refusal(model)
    assert "it is a Git LFS pointer in the place of the file: run 'git lfs pull' in the repository" in message
    assert name in message


def test_what_is_ignored_in_a_models_folder_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path, FULL)
    assert directory_warnings(model, *look(model)) == []
    files(model, "1/config.pbtxt", "v2/model.onnx")
    assert directory_warnings(model, *look(model)) == [
        "ignore version directory 'v2' which fails to convert to integral number",
        "ignore 'm/1/config.pbtxt': a version has no config of its own, move it to 'm/config.pbtxt'",
    ]
    assert no_version(model) == "'m' has the versions 1, none of which its version_policy selects"


def test_a_repository_of_models_is_left_in_peace(tmp_path: Path) -> None:
    root = files(tmp_path / "models", "a/1/model.onnx", "b/config.pbtxt", "README.md", ".git/config")
    (root / "link").symlink_to(root / "a")
    assert repository_warnings(root) == []
    # A model may be called by a number.
    assert repository_warnings(files(tmp_path / "numbers", "1/1/model.onnx", "2/config.pbtxt")) == []
    assert repository_warnings(tmp_path / "nowhere") == []


def test_folders_that_are_no_repository_are_named(tmp_path: Path) -> None:
    root = files(tmp_path / "models", "a/1/model.onnx", "b/1/model.pt", "b/config.pbtxt", "lost+found/x")
    (root / "__pycache__").mkdir()
    assert repository_warnings(root) == [
        f"ignore '{root}/__pycache__', which is no model", f"ignore '{root}/lost+found', which is no model",
    ]  # fmt: skip
    for model in ("a", "b"):
        assert repository_warnings(root / model) == [
            f"'{root}/{model}' looks like a model, not like a repository of models: give --model-repository={root}"
        ]
    assert repository_warnings(root / "a" / "1") == [
        f"'{root}/a/1' looks like the version of a model, not like a repository of models: give "
        f"--model-repository={root}"
    ]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert repository_warnings(empty) == [
        f"no models found in '{empty}', which holds nothing: a model is a folder with a version folder and a file, "
        f"such as '{empty}/my_model/1/model.onnx'"
    ]
