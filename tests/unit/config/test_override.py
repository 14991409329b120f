"""What a load request brings: which paths and configs are taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_async import defines
from triton_async.config import override
from triton_async.config.override import parse_override
from triton_async.errors import InvalidArg


def parsed(config: Any = None, **files: bytes) -> override.Override:
    return parse_override({"config": json.dumps(config or {}), **files})


def test_a_config_of_the_config_call_is_taken_as_it_is() -> None:
    document = {
        "name": "m", "max_batch_size": 4, "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1, 3]}],
        "instance_group": [{"kind": "KIND_CPU", "count": 2}], "parameters": {"a": {"string_value": "b"}},
        "dynamic_batching": {"max_queue_delay_microseconds": 100},
    }  # fmt: skip
    proto = parsed(document).config.proto
    assert (proto.max_batch_size, list(proto.input[0].dims), proto.instance_group[0].count) == (4, [-1, 3], 2)
    assert proto.dynamic_batching.max_queue_delay_microseconds == 100


@pytest.mark.parametrize(("document", "unbatched"), [
    ({}, False), ({"max_batch_size": 0}, True), ({"maxBatchSize": 0}, True),
])  # fmt: skip
def test_a_batch_size_of_zero_is_not_the_same_as_none(document: Any, unbatched: bool) -> None:
    assert parsed(document).config.unbatched is unbatched


def test_paths_are_normalised_and_stay_below_the_directory() -> None:
    paths = {"file:1/model.onnx": b"a", "file:1/./more//x": b"b", "file:labels.txt": b"", "file:2/../3/y": b"c"}
    found = parsed(**paths)
    assert found.files == {"1/model.onnx": b"a", "1/more/x": b"b", "labels.txt": b"", "3/y": b"c"}


@pytest.mark.parametrize("path", [
    "", ".", "..", "../x", "1/../../x", "/x", "//x", "1/..", "a\0b", "a\\b", "/etc/passwd",
])  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(InvalidArg, match="must stay within model directory"):
        parsed(**{f"file:{path}": b"x"})


@pytest.mark.parametrize("paths", [
    ["1/" + "x" * 256], ["é" * 128], ["/".join(["x" * 200] * 11)], ["1", "1/x"], ["1/x/y", "1/x"],
])  # fmt: skip
def test_paths_that_no_file_system_takes_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidArg, match="Invalid file path '"):
        parsed(**{f"file:{path}": b"x" for path in paths})
    assert parsed(**{"file:1/" + "x" * 255: b"", "file:1/xx": b""}).files


@given(st.text(max_size=40))
def test_no_path_leads_out(path: str) -> None:
    try:
        found = parsed(**{f"file:{path}": b"x"})
    except InvalidArg:
        return
    (normal,) = found.files
    assert normal and not normal.startswith("/") and ".." not in normal.split("/") and "\0" not in normal


def test_files_need_a_config() -> None:
    with pytest.raises(InvalidArg, match="'config' must be specified for model file override"):
        parse_override({"file:1/x": b""})


@pytest.mark.parametrize("text", [
    "", "{", "[]", "1", '{"volume": 1}', '{"max_batch_size": "many"}', "[" * 5000, "null",
])  # fmt: skip
def test_what_is_no_config_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidArg, match="Invalid config override: ") as caught:
        parse_override({"config": text})
    assert "\n" not in caught.value.message


def test_bounds_are_taken_and_refused_one_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(override, "OVERRIDE_MAX_FILES", 8)
    assert len(parsed(**{f"file:{i}": b"" for i in range(8)}).files) == 8
    with pytest.raises(InvalidArg, match="at most 8 files"):
        parsed(**{f"file:{i}": b"" for i in range(9)})
    text = "{" + " " * (defines.OVERRIDE_CONFIG_MAX_NBYTES - 2) + "}"
    parse_override({"config": text})
    with pytest.raises(InvalidArg, match="larger than"):
        parse_override({"config": text + " "})


def test_configs_are_nested_as_deep_as_any_json_of_clients() -> None:
    def nested(depth: int) -> str:
        return '{"\\"[[{{":"' + "[" * 200 + '","x":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"

    with pytest.raises(InvalidArg, match="no field named"):
        parse_override({"config": nested(defines.JSON_MAX_DEPTH)})
    with pytest.raises(InvalidArg, match=r"JSON nesting depth exceeds maximum allowed limit \(100\)"):
        parse_override({"config": nested(defines.JSON_MAX_DEPTH + 1)})


@pytest.mark.parametrize("key", [
    "EXECUTION_ENV_PATH", "optimized_model_filepath", "profile_file_prefix", "plan-cache-directory", "log_dir",
    "CPU_EXTENSION_PATH", "CACHE_DIR",
])  # fmt: skip
def test_what_names_files_is_for_the_owner_of_the_repository(key: str) -> None:
    with pytest.raises(InvalidArg, match="names a file"):
        parsed({"parameters": {key: {"string_value": "x"}}})


def test_so_are_libraries_of_operators() -> None:
    with pytest.raises(InvalidArg, match=r"'model_operations\.op_library_filename' names a file"):
        parsed({"model_operations": {"op_library_filename": ["ops.so"]}})


def test_so_do_settings_of_accelerators_and_others_are_taken() -> None:
    def with_key(key: str) -> Any:
        accelerator = {"name": "tensorrt", "parameters": {key: "x"}}
        return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}}

    with pytest.raises(InvalidArg, match=r"tensorrt\.trt_engine_cache_path' names a file"):
        parsed(with_key("trt_engine_cache_path"))
    parsed(with_key("trt_profile_min_shapes"))
    parsed({"parameters": {"metadata": {"string_value": "{}"}, "intra_op_thread_count": {"string_value": "1"}}})
