"""Reading a model's directory: config files, versions, labels, paths, and the JSON form."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from config_models import BATCHED, FULL, load_text, make_model
from tritonclient.grpc import model_config_pb2

from triton_async import defines
from triton_async.config.config_json import config_json
from triton_async.config.labels import read_labels
from triton_async.config.load import complete_config, load, mistakes, model_path, read, select_versions
from triton_async.config.model_config import TimeoutAction, VersionPolicy
from triton_async.config.paths import read_bounded, safe_join, safe_name
from triton_async.config.pbtxt import parse
from triton_async.config.versions import ignored_versions, list_versions, look
from triton_async.errors import InvalidArg
from triton_async.protos import POOL


def test_the_text_format_is_read_as_tolerantly_as_triton_does() -> None:
    proto = parse(
        """# comment
        name: 'm', max_batch_size: 0x10;
        input: [ { name: "a", dims: [ 1, -1 ] }, { name: "b" dims: 2 dims: 3 } ]
        output [ { name: "c" } ]
        output < name: "d" label_filename: "x" ".txt" >
        parameters: { key: "k", value: { string_value: "v" } }
        dynamic_batching { }
        """
    )
    assert proto.max_batch_size == 16
    assert [list(io.dims) for io in proto.input] == [[1, -1], [2, 3]]
    assert [io.name for io in proto.output] == ["c", "d"]
    assert proto.output[1].label_filename == "x.txt"
    assert proto.parameters["k"].string_value == "v"
    assert proto.HasField("dynamic_batching")


def test_a_named_config_is_used_where_a_model_has_it(tmp_path: Path) -> None:
    model = make_model(tmp_path, "max_batch_size: 2")
    (model / "configs").mkdir()
    (model / "configs" / "h100.pbtxt").write_text("max_batch_size: 5")

    def size(config_name: str) -> int:
        inspect = lambda backend, path, proto: BATCHED  # noqa: E731
        return load(model, "m", inspect=inspect, config_name=config_name).max_batch_size

    assert (size("h100"), size("other"), size("")) == (5, 2, 2)
    (model / "configs" / "h100.pbtxt").write_text("max_batch_size: -5")
    with pytest.raises(InvalidArg, match=r"\(in configs/h100\.pbtxt\)"):
        size("h100")


def test_versions_are_positive_numbers_without_leading_zero(tmp_path: Path) -> None:
    largest, stamp = 2**63 - 1, 1_753_968_123_456_789_012
    for name in ("1", "3", "20", "003", "0", "-1", "x", "٣", str(largest), str(largest + 1), str(stamp), "9" * 20):
        (tmp_path / name).mkdir()
    for name in ("configs", "warmup", "initial_state", ".git"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert list_versions(tmp_path) == (1, 3, 20, stamp, largest)
    assert list_versions(tmp_path / "nowhere") == ()
    assert ignored_versions(look(tmp_path)[1]) == [
        "ignore version directory '-1' which fails to convert to integral number",
        f"ignore version directory '0' which is not in the range from 1 to {largest}",
        "ignore version directory '003' which contains leading zeros in its directory name",
        f"ignore version directory '{largest + 1}' which is not in the range from 1 to {largest}",
        f"ignore version directory '{'9' * 20}' which is not in the range from 1 to {largest}",
        "ignore version directory 'x' which fails to convert to integral number",
        "ignore version directory '٣' which fails to convert to integral number",
    ]
    assert look(tmp_path / "nowhere") == ((), [])


def test_version_policies() -> None:
    available = (1, 3, 20)
    assert VersionPolicy().select(available) == (20,)
    assert VersionPolicy(latest=2).select(available) == (3, 20)
    assert VersionPolicy(latest=0).select(available) == available
    assert VersionPolicy(latest=0, specific=(3, 4)).select(available) == (3,)


def test_the_highest_served_version_is_inspected_unless_one_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path, "version_policy { specific { versions: [ 1, 2 ] } }")
    for version in ("2", "3"):
        (model / version).mkdir()
        (model / version / "model.onnx").write_bytes(b"x")
    seen: list[tuple[str, Path]] = []

    def inspect(backend: str, path: Path, proto: Any) -> Any:
        seen.append((backend, path))
        return BATCHED

    load(model, "m", inspect=inspect)
    load(model, "m", inspect=inspect, version=1)
    assert seen == [("onnxruntime", model / v / "model.onnx") for v in ("2", "1")]
    assert select_versions(read(model, "m"), list_versions(model)) == (1, 2)


def test_a_model_without_versions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InvalidArg, match="at least one version must be available"):
        model_path(parse('name: "m"'), tmp_path / "m")


def test_model_files_may_be_links_of_the_operator(tmp_path: Path) -> None:
    model = make_model(tmp_path, None)
    (tmp_path / "weights").write_bytes(b"x")
    (model / "1" / "linked.onnx").symlink_to(tmp_path / "weights")
    proto = parse('name: "m" default_model_filename: "linked.onnx"')
    assert model_path(proto, model, 1).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0", "a\\b"])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArg):
        safe_name(name, "model name")


@pytest.mark.parametrize(
    "relative", ["", "/etc/passwd", "../x", "a/../../x", "a\0b", "..", "a\\b"]
)
def test_unsafe_paths_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(InvalidArg) as caught:
        safe_join(tmp_path, relative, "label_filename")
    assert "label_filename" in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_links_of_the_operator_may_lead_anywhere(tmp_path: Path) -> None:
    """As ConfigMaps, caches and stores of contents lay a model out."""
    away = tmp_path / "store"
    away.mkdir()
    model = make_model(tmp_path / "models", None)
    for name, text in (("config.pbtxt", FULL), ("fast.pbtxt", "max_batch_size: 2"), ("labels.txt", "a\nb\n")):
        (away / name).write_text(text)
    (model / "labels.txt").unlink()
    (model / "configs").mkdir()
    (model / "..data").symlink_to(away)
    (model / "config.pbtxt").symlink_to("..data/config.pbtxt")
    (model / "configs" / "fast.pbtxt").symlink_to(away / "fast.pbtxt")
    (model / "labels.txt").symlink_to("..data/labels.txt")
    inspect = lambda backend, path, proto: BATCHED  # noqa: E731
    assert load(model, "m", inspect=inspect).outputs[0].label_filename == "labels.txt"
    assert load(model, "m", inspect=inspect, config_name="fast").max_batch_size == 2
    assert read_labels(model, "labels.txt") == ("a", "b")
    (model / "labels.txt").unlink()
    (model / "labels.txt").symlink_to("labels.txt")
    with pytest.raises(InvalidArg, match=r"label file 'labels\.txt': Too many levels of symb"):
        load(model, "m", inspect=inspect)


@pytest.mark.parametrize(("config", "words"), [
    ("platform: 'nope'", "unexpected platform type 'nope' for m"),
    ("backend: 'onnxruntime' max_batch_size: -1", "'max_batch_size' must be non-negative"),
    ("backend: 'onnxruntime' dynamic_batching { priority_levels: 2 }", "default priority level must be in range"),
    ("backend: 'onnxruntime' max_batch_size: 2 dynamic_batching { preserve_ordering: true default_queue_policy "
     "{ timeout_action: DELAY default_timeout_microseconds: 1 } }", "can not have DELAY as timeout action"),
])  # fmt: skip
def test_a_config_is_checked_before_a_version_is_looked_for(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    with pytest.raises(InvalidArg, match=words) as caught:
        read(tmp_path / "m", "m")
    assert caught.value.message.endswith("(in config.pbtxt)")


def untouched(backend: str, path: Path, proto: Any) -> Any:
    pytest.fail(f"somebody looked into {path}")


_STEPS = "sequence_batching { state { input_name: 's' output_name: 't' data_type: TYPE_FP32 dims: 1"


@pytest.mark.parametrize(("config", "words"), [
    ("input { name: 'a' data_type: TYPE_FP32 dims: 0 }", "'a' dimension must be integer >= 1"),
    ("input { name: 'a' dims: 4 reshape { shape: 3 } }", "'a' has different size for dims and"),
    ("output { name: 'b' is_shape_tensor: true }", "shape tensors are only supported for TensorRT"),
    (_STEPS + " initial_state { name: 'z' data_type: TYPE_FP32 dims: 2 zero_data: true } } }", r"dims \[2\], which do"),
])  # fmt: skip
def test_what_is_wrong_with_tensors_is_a_failure_of_the_load(tmp_path: Path, config: str, words: str) -> None:
    """As in Triton: the file could be read, its versions could not be loaded. Nobody looks into the model."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text("backend: 'onnxruntime' max_batch_size: 2 " + config)
    file = read(tmp_path / "m", "m")
    with pytest.raises(InvalidArg, match=words) as caught:
        complete_config(file, tmp_path / "m", "m", inspect=untouched)
    assert caught.value.message.endswith("(in config.pbtxt)")


def test_what_is_left_out_is_missed_before_anybody_looks_into_the_model_without_completion(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text("backend: 'x' input { name: 'a' dims: 1 } output { name: 'b' }")
    file = read(tmp_path / "m", "m", auto_complete=False)
    with pytest.raises(InvalidArg, match="model input 'a' must specify 'data_type' for m"):
        complete_config(file, tmp_path / "m", "m", inspect=untouched, auto_complete=False)


@pytest.mark.parametrize("control", ["kind: CONTROL_SEQUENCE_START", "kind: 9 int32_false_true: [0, 1]"])
def test_a_control_that_is_none_hides_no_other_mistake(tmp_path: Path, control: str) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(
        "backend: 'x' input { name: 'a' dims: 0 } "
        f"sequence_batching {{ control_input {{ name: 'c' control {{ {control} }} }} }}"
    )
    found = [problem.message for problem in mistakes(tmp_path / "m", "m")]
    assert any("control" in message for message in found)
    assert any("'a' dimension must be integer >= 1" in message for message in found)


def test_what_the_json_form_prints_for_an_empty_map_can_be_written() -> None:
    """Text format takes `{}` for an entry of nothing."""
    maps = [field.name for field in POOL.FindMessageTypeByName("inference.ModelConfig").fields
            if field.message_type is not None and field.message_type.GetOptions().map_entry]  # fmt: skip
    assert {"metric_tags", "parameters", "cc_model_filenames"} <= set(maps)
    for name in maps:
        assert not parse(f"{name}: {{}}").ListFields()
    nested = "dynamic_batching { priority_queue_policy: {} } model_warmup { inputs: {} }"
    assert str(parse(nested)) == str(parse("dynamic_batching {} model_warmup {}"))
    assert dict(parse("metric_tags: {} metric_tags { key: 'a' value: 'b' }").metric_tags) == {"a": "b"}
    assert list(parse("parameters { key: '' value { string_value: 'x' } }").parameters) == [""]


def test_the_text_that_a_config_is_printed_as_can_be_read_back(tmp_path: Path) -> None:
    completed = load_text(tmp_path, FULL + "dynamic_batching { } metric_tags { } optimization { graph { level: 2 } }")
    assert parse(str(completed.proto)) == completed.proto
    (tmp_path / "m" / "config.pbtxt").write_text(str(completed.proto))
    again = load(tmp_path / "m", "m", inspect=lambda backend, path, proto: BATCHED)
    assert (again.proto, again.graph_level) == (completed.proto, 2)


def test_labels_are_lines(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes("\ufeffcat\r\n\ndog é\nlast".encode())
    assert read_labels(tmp_path, "l") == ("cat", "", "dog é", "last")
    (tmp_path / "l").write_bytes(b"")
    assert read_labels(tmp_path, "l") == ()


def test_bad_label_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "l").write_bytes(b"cat\n\xff")
    with pytest.raises(InvalidArg, match="label file 'l': byte 4 is not UTF-8"):
        read_labels(tmp_path, "l")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArg, match="not a regular file"):
        read_labels(tmp_path, "pipe")
    monkeypatch.setattr(defines, "LABELS_MAX_NBYTES", 3)
    with pytest.raises(InvalidArg, match="larger than 3 bytes"):
        read_labels(tmp_path, "l")
    assert read_bounded(tmp_path / "l", "x", 5) == b"cat\n\xff"


def test_the_frozen_config_carries_what_schedulers_need(tmp_path: Path) -> None:
    batching = """
    dynamic_batching {
      preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 100
      priority_levels: 2 default_priority_level: 2
      default_queue_policy { max_queue_size: 5 }
      priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 7
                                             allow_timeout_override: true } }
    }
    parameters { key: "intra_op_thread_count" value { string_value: "2" } }
    optimization { graph { level: -1 } }
    """
    got = load_text(tmp_path, FULL + batching)
    assert got.dynamic_batching is not None
    assert got.dynamic_batching.preferred_batch_sizes == (4, 8)
    assert got.dynamic_batching.max_queue_delay_us == 100
    first, second = got.dynamic_batching.policy(1), got.dynamic_batching.policy(2)
    assert (first.timeout_action, first.default_timeout_us) == (TimeoutAction.DELAY, 7)
    assert first.allow_timeout_override
    assert second.max_queue_size == 5
    assert got.parameters == {"intra_op_thread_count": "2"}
    assert got.graph_level == -1
    assert got.outputs[0].label_filename == "labels.txt"
    assert got.platform_or_backend == "onnxruntime_onnx"
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.name = "x"  # type: ignore[misc]


def test_as_many_priority_levels_as_there_are_numbers(tmp_path: Path) -> None:
    batching = """
    dynamic_batching {
      priority_levels: 18446744073709551615 default_priority_level: 4294967296
      priority_queue_policy { key: 18446744073709551615 value { max_queue_size: 3 } }
    }
    """
    config = load_text(tmp_path, FULL + batching)
    got = config.dynamic_batching
    assert got is not None
    assert (got.priority_levels, got.default_priority_level) == (2**64 - 1, 2**32)
    assert [got.policy(level).max_queue_size for level in (1, 2**63, 2**64 - 1)] == [0, 0, 3]
    printed = config.json()["dynamic_batching"]
    assert (printed["priority_levels"], printed["default_priority_level"]) == (2**64 - 1, 2**32)
    assert printed["priority_queue_policy"][str(2**64 - 1)]["max_queue_size"] == 3
    assert orjson.loads(orjson.dumps(printed)) == printed


def test_the_json_form_prints_defaults_numbers_and_proto_order(tmp_path: Path) -> None:
    got = load_text(tmp_path, FULL + "dynamic_batching { max_queue_delay_microseconds: 9 }").json()
    order = [field.name for field in POOL.FindMessageTypeByName("inference.ModelConfig").fields]
    assert list(got) == [name for name in order if name in got]
    assert got["runtime"] == ""
    assert got["batch_input"] == []
    assert got["cc_model_filenames"] == {}
    assert got["input"][0] == {
        "name": "image",
        "data_type": "TYPE_FP32",
        "format": "FORMAT_NCHW",
        "dims": [3, 4, 4],
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": False,
        "is_non_linear_format_io": False,
    }
    assert got["output"][1]["reshape"] == {"shape": []}
    assert got["optimization"]["input_pinned_memory"] == {"enable": True}
    assert got["optimization"]["priority"] == "PRIORITY_DEFAULT"
    assert got["dynamic_batching"]["max_queue_delay_microseconds"] == 9
    assert got["instance_group"][0]["kind"] == "KIND_CPU"
    assert got["version_policy"] == {"latest": {"num_versions": 1}}
    assert "sequence_batching" not in got
    assert "ensemble_scheduling" not in got
    json.dumps(got)


def test_the_json_form_covers_every_kind_of_field() -> None:
    proto = parse(
        """version_policy { specific { versions: [ 9007199254740993 ] } }
        parameters { key: "b" value { string_value: "2" } }
        parameters { key: "a" value { string_value: "1" } }
        sequence_batching { direct { minimum_slot_utilization: 0.1 } iterative_sequence: true }
        model_metrics { metric_control { metric_identifier { family: "f" }
                                         histogram_options { buckets: [0.1, inf] } } }
        """
    )
    got = config_json(proto)
    assert got["version_policy"]["specific"]["versions"] == [9007199254740993]
    assert list(got["parameters"].items()) == [("a", {"string_value": "1"}), ("b", {"string_value": "2"})]
    assert got["sequence_batching"]["direct"]["minimum_slot_utilization"] == 0.1
    assert got["model_metrics"]["metric_control"][0]["histogram_options"]["buckets"] == [0.1, "Infinity"]


def test_our_description_has_every_field_that_clients_have() -> None:
    theirs = model_config_pb2.DESCRIPTOR

    def compare(ours: Any, other: Any) -> None:
        for field in other.fields:
            mine = ours.fields_by_name[field.name]
            assert (mine.number, mine.type, mine.is_repeated) == (field.number, field.type, field.is_repeated)
            for kind in ("message_type", "enum_type", "containing_oneof"):
                a, b = getattr(mine, kind), getattr(field, kind)
                assert (a and a.full_name) == (b and b.full_name)
        for nested in other.nested_types:
            compare(ours.nested_types_by_name[nested.name], nested)
        for enum in other.enum_types:
            mine = ours.enum_types_by_name[enum.name]
            assert {v.name: v.number for v in mine.values} == {v.name: v.number for v in enum.values}

    for name, descriptor in theirs.message_types_by_name.items():
        compare(POOL.FindMessageTypeByName(f"inference.{name}"), descriptor)
