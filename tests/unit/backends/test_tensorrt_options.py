"""Settings and parameters of the TensorRT backend, and which file of a version is the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_models import config, parameters

from triton_async.backends.tensorrt.options import (
    ShapeRange,
    allocation_strategy,
    backend_settings,
    build_parameters,
    find_model,
    plan_filename,
    version_directory,
)
from triton_async.errors import InvalidArg


def shapes(minimum: str, optimum: str, maximum: str) -> str:
    return parameters(
        trt_profile_min_shapes=minimum, trt_profile_opt_shapes=optimum, trt_profile_max_shapes=maximum
    )


def test_settings() -> None:
    given = {
        "library": "rtx",
        "plugins": "a.so;b.so",
        "version-compatible": "true",
        "plan-cache-directory": "/var/cache/plans",
        "plan-cache-byte-size": "0",
        "coalesce-request-input": "1",
        "execution-policy": "BLOCKING",
        "default-max-batch-size": "4",
    }
    found = backend_settings(given)
    assert (found.library, found.plugins, found.version_compatible) == ("rtx", "a.so;b.so", True)
    assert (found.cache_directory, found.cache_nbytes) == ("/var/cache/plans", 0)
    assert not backend_settings({}).version_compatible


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version-compatible", "yes"),
        ("coalesce-request-input", "maybe"),
        ("execution-policy", "blocking"),
        ("plan-cache-byte-size", "-1"),
        ("plan-cache-byte-size", "1e9"),
        ("plan-cache-byte-size", "9223372036854775808"),
    ],
)
def test_settings_that_cannot_be(key: str, value: str) -> None:
    with pytest.raises(InvalidArg) as error:
        backend_settings({key: value})
    assert f"--backend-config=tensorrt,{key} is '{value}'" in error.value.message


def test_the_allocation_strategy() -> None:
    key = "execution_context_allocation_strategy"
    assert allocation_strategy(config("")) == "STATIC"
    assert allocation_strategy(config(parameters(**{key: "ON_PROFILE_CHANGE"}))) == "ON_PROFILE_CHANGE"
    with pytest.raises(InvalidArg, match=f"'{key}' is 'USER_MANAGED'"):
        allocation_strategy(config(parameters(**{key: "USER_MANAGED"})))


def test_profiles_of_parameters() -> None:
    text = shapes("a:1x2,b:1,a:4x2,b:1", "a:2x2,b:3, a:6x2,b:3", "a:4x2,b:8,a:8x2,b:8,")
    found = build_parameters(config(text))
    assert found.profiles == (
        {"a": ShapeRange((1, 2), (2, 2), (4, 2)), "b": ShapeRange((1,), (3,), (8,))},
        {"a": ShapeRange((4, 2), (6, 2), (8, 2)), "b": ShapeRange((1,), (3,), (8,))},
    )


def test_build_parameters() -> None:
    text = parameters(precision_mode="fp16", max_workspace_size_bytes="1073741824", trt_builder_optimization_level="0")
    found = build_parameters(config(text + parameters(something_else="x")))
    assert (found.precision, found.workspace_nbytes, found.level, found.profiles) == ("FP16", 1 << 30, 0, ())
    assert build_parameters(config("")).level == -1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (shapes("a:1", "a:1", "b:1"), "must name the same inputs"),
        (shapes("a:1,a:1", "a:1", "a:1"), "must name the same inputs"),
        (shapes("a:1,a:1,b:1", "a:1,a:1,b:1", "a:1,a:1,b:1"), "as often as there are profiles"),
        (parameters(trt_profile_min_shapes="a:1"), "must name the same inputs"),
        (shapes("a:2", "a:1", "a:3"), "minimum <= optimum <= maximum"),
        (shapes("a:0", "a:1", "a:3"), "1 <= minimum"),
        (shapes("a:1x1", "a:1", "a:3"), "as many dimensions as each other"),
        (shapes("a", "a:1", "a:1"), "'trt_profile_min_shapes' has 'a', expected"),
        (shapes("a:1x-1", "a:1", "a:1"), "'a:1x-1'"),
        (shapes("a:1x", "a:1", "a:1"), "'a:1x'"),
        (shapes(":1", "a:1", "a:1"), "':1'"),
        (shapes("a:1", "a:99999999999", "a:1"), "'a:99999999999'"),
        (parameters(trt_builder_optimization_level="6"), "is '6', expected a number from 0 to 5"),
        (parameters(max_workspace_size_bytes="1G"), "'max_workspace_size_bytes' is '1G'"),
        (parameters(precision_mode="FP8"), "expected FP32, FP16, BF16 or INT8"),
        (parameters(trt_profile_min_shape="a:1"), "parameter 'trt_profile_min_shape' is not known"),
    ],
)
def test_parameters_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InvalidArg) as error:
        build_parameters(config(text))
    assert message in error.value.message
    assert "model 'm'" in error.value.message


FILENAMES = """
default_model_filename: 'other.plan'
cc_model_filenames { key: '8.6' value: 'ampere.plan' }
cc_model_filenames { key: '9.0' value: 'hopper.plan' }
"""


@pytest.mark.parametrize(
    ("text", "capability", "name"),
    [
        ("", None, "model.plan"),
        ("", (9, 0), "model.plan"),
        (FILENAMES, None, "other.plan"),
        (FILENAMES, (9, 0), "hopper.plan"),
        (FILENAMES, (8, 6), "ampere.plan"),
        (FILENAMES, (8, 9), "other.plan"),
        (FILENAMES, (86, 0), "other.plan"),
    ],
)
def test_the_compute_capability_chooses_the_file(text: str, capability: tuple[int, int] | None, name: str) -> None:
    assert plan_filename(config(text), capability) == name


@pytest.mark.parametrize("name", ["../a.plan", "a/b.plan", "..", "/etc/passwd"])
def test_a_file_name_cannot_lead_elsewhere(name: str) -> None:
    proto = config(f"cc_model_filenames {{ key: '9.0' value: '{name}' }}")
    with pytest.raises(InvalidArg, match="cc_model_filenames of model 'm'"):
        plan_filename(proto, (9, 0))


def test_the_directory_of_a_version(tmp_path: Path) -> None:
    version = tmp_path / "1"
    assert version_directory(version / "model.plan", config("default_model_filename: 'model.plan'")) == version
    assert version_directory(version / "a" / "b", config("default_model_filename: 'a/b'")) == version
    assert version_directory(version, config("")) == version


def test_a_plan_comes_before_an_onnx_model(tmp_path: Path) -> None:
    proto = config("default_model_filename: 'model.plan'")
    with pytest.raises(InvalidArg) as error:
        find_model(tmp_path, proto, None)
    assert "unable to find 'model.plan' of version" in error.value.message
    assert str(tmp_path) not in error.value.message
    (tmp_path / "model.onnx").touch()
    assert find_model(tmp_path, proto, None) == (tmp_path / "model.onnx", True)
    (tmp_path / "model.plan").touch()
    assert find_model(tmp_path, proto, None) == (tmp_path / "model.plan", False)


def test_an_onnx_model_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    proto = config("default_model_filename: 'net.onnx'")
    assert find_model(tmp_path, proto, (9, 0)) == (tmp_path / "net.onnx", True)


def test_an_onnx_model_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "model.onnx" / "model.onnx").touch()
    found = find_model(tmp_path, config("default_model_filename: 'model.plan'"), None)
    assert found == (tmp_path / "model.onnx" / "model.onnx", True)
