"""Broken configs: each is refused with a message that names file, field and reason, never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from config_models import BATCHED, FIXED, FULL, load_text, make_model

from triton_async.config.load import load
from triton_async.errors import InvalidArg, ServerError, Unsupported


def with_extra(extra: str) -> str:
    return FULL + extra + "\n"


def changed(old: str, new: str) -> str:
    assert old in FULL
    return FULL.replace(old, new, 1)


# What is wrong, the config, what the message must say besides the file.
INVALID = [
    ("syntax: unknown field", with_extra("nosuch: 1"), ['no field named "nosuch"', "line "]),
    (
        "syntax: bad integer",
        changed("max_batch_size: 8", "max_batch_size: many"),
        ["line 4", "max_batch_size"],
    ),
    ("syntax: integer too large", changed("max_batch_size: 8", "max_batch_size: 9999999999"), ["line 4"]),
    ("syntax: unknown enum", changed("TYPE_FP32", "TYPE_FP33"), ["TYPE_FP33", "line 6"]),
    ("syntax: unclosed block", with_extra("instance_group [ { count: 1 "), ["line "]),
    ("syntax: unclosed string", with_extra('parameters { key: "a'), ["line "]),
    ("syntax: scalar twice", with_extra("max_batch_size: 4"), ["max_batch_size", "line "]),
    ("syntax: two schedulers", with_extra("dynamic_batching {} sequence_batching {}"), ["dynamic_batching"]),
    ("syntax: extension", with_extra("[a.b.c] { x: 1 }"), ["line "]),
    ("syntax: not a config", "\x00\x01garbage", ["line 1"]),
    ("name", changed('name: "m"', 'name: "other"'), ["unexpected directory name 'm' for model 'other'"]),
    ("no such platform", changed("onnxruntime_onnx", "nope"), ["unexpected platform type 'nope' for m"]),
    ("pair", with_extra('backend: "tensorrt"'), ["unexpected 'platform' and 'backend' pair", "tensorrt"]),
    ("backend path", 'backend: "../other"', ["backend of model 'm' '../other'", "path traversal"]),
    ("runtime path", with_extra('runtime: "../x.so"'), ["runtime of model 'm'", "path traversal"]),
    (
        "max_batch_size",
        changed("max_batch_size: 8", "max_batch_size: -1"),
        ["'max_batch_size' must be non-neg"],
    ),
    ("input name", changed('name: "image"', 'name: ""'), ["model input must specify 'name'"]),
    (
        "input type number",
        changed("data_type: TYPE_FP32 format", "data_type: 99 format"),
        ["'image' has unknown 'data_type' 99"],
    ),
    (
        "zero dim",
        changed("dims: [ 3, 4, 4 ]", "dims: [ 3, 0, 4 ]"),
        ["'image' dimension must be integer >= 1"],
    ),
    ("negative dim", changed("dims: [ 2 ]", "dims: [ -2 ]"), ["'scale' dimension must be integer >= 1"]),
    ("rank", changed("dims: [ 2 ]", "dims: [" + "1," * 20 + "2]"), ["'scale' has more than 15 dimensions"]),
    ("huge", changed("dims: [ 2 ]", "dims: [4294967296, 4294967296]"), ["'scale'", "more elements"]),
    ("format", changed("dims: [ 3, 4, 4 ]", "dims: [ 3, 16 ]"), ["NHWC/NCHW require 3 dims", "'image'"]),
    ("input twice", changed('name: "scale"', 'name: "image"'), ["input 'image' is specified more than once"]),
    (
        "output twice",
        changed('name: "best"', 'name: "scores"'),
        ["output 'scores' is specified more than once"],
    ),
    (
        "reshape size",
        changed("dims: [ 2 ]", "dims: [ 2 ] reshape { shape: [ 3 ] }"),
        ["'scale' has different size for dims and reshape"],
    ),
    (
        "reshape zero",
        changed("dims: [ 2 ]", "dims: [ 2 ] reshape { shape: [ 2, 0 ] }"),
        ["'scale' reshape dimensions must be integer >= 1"],
    ),
    (
        "reshape variable",
        changed("dims: [ 2 ]", "dims: [ -1, -1 ] reshape { shape: [ -1 ] }"),
        ["'scale' has different number of variable-size dimensions"],
    ),
    (
        "reshape variable against fixed",
        changed("dims: [ 2 ]", "dims: [ -1 ] reshape { shape: [ 2 ] }"),
        ["'scale' has different size for dims and reshape"],
    ),
    (
        "reshape trunks",
        changed("dims: [ 2 ]", "dims: [ 2, -1, 3 ] reshape { shape: [ 3, -1, 2 ] }"),
        ["'scale' has different size for dims and reshape"],
    ),
    (
        "empty reshape",
        changed("max_batch_size: 8", "max_batch_size: 0"),
        ["'best' cannot have empty reshape"],
    ),
    (
        "shape tensor",
        changed("dims: [ 2 ]", "dims: [ 2 ] is_shape_tensor: true"),
        ["shape tensors", "'scale'"],
    ),
    (
        "non-linear",
        changed("dims: [ 2 ]", "dims: [ 2 ] is_non_linear_format_io: true"),
        ["Non-linear", "'scale'"],
    ),
    ("label path", changed("labels.txt", "../../outside"), ["label_filename of output 'scores'"]),
    ("label absolute", changed("labels.txt", "/etc/passwd"), ["label_filename of output 'scores'"]),
    ("label missing", changed("labels.txt", "nope.txt"), ["label file 'nope.txt'", "No such file"]),
    (
        "model path",
        with_extra('default_model_filename: "../../x.onnx"'),
        ["default_model_filename of model 'm'"],
    ),
    (
        "model path NUL",
        with_extra('default_model_filename: "a\\000b"'),
        ["default_model_filename of model 'm'"],
    ),
    (
        "preferred 0",
        with_extra("dynamic_batching { preferred_batch_size: 0 }"),
        ["preferred size must be positive"],
    ),
    (
        "preferred 9",
        with_extra("dynamic_batching { preferred_batch_size: [4, 9] }"),
        ["<= max batch size for m"],
    ),
    (
        "delay",
        with_extra("dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }"),
        ["'max_queue_delay_microseconds' must be <="],
    ),
    (
        "timeout",
        with_extra(
            "dynamic_batching { default_queue_policy { default_timeout_microseconds: 9223372036854775807 } }"
        ),
        ["'default_timeout_microseconds' must be <="],
    ),
    ("priority default", with_extra("dynamic_batching { priority_levels: 2 }"), ["in range [1, 2] for m"]),
    (
        "priority default too high",
        with_extra("dynamic_batching { priority_levels: 2 default_priority_level: 3 }"),
        ["default priority level must be in range [1, 2]"],
    ),
    (
        "priority policy",
        with_extra(
            "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
            "priority_queue_policy { key: 3 value { max_queue_size: 1 } } }"
        ),
        ["priority queue policy must have priority level in range [1, 2]"],
    ),
    (
        "ordering with priorities",
        with_extra(
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }"
        ),
        ["Only one priority level is allowed when 'preserve_ordering'"],
    ),
    (
        "ordering with delay",
        with_extra(
            "dynamic_batching { preserve_ordering: true "
            "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 } }"
        ),
        ["can not have DELAY as timeout action when 'preserve_ordering'"],
    ),
    (
        "versions empty",
        with_extra("version_policy { specific { } }"),
        ["at least one version must be available under the version policy of model 'm'"],
    ),
    ("version 0", with_extra("version_policy { specific { versions: 0 } }"), ["has version 0, must be >= 1"]),
    (
        "version absent",
        with_extra("version_policy { specific { versions: 7 } }"),
        ["version policy of model 'm'"],
    ),
    (
        "GPU",
        with_extra("instance_group { kind: KIND_GPU }"),
        ["m_0 of model m has kind KIND_GPU but no GPUs are"],
    ),
    (
        "CPU with GPUs",
        with_extra("instance_group { kind: KIND_CPU gpus: 0 }"),
        ["KIND_CPU but specifies one or more"],
    ),
    (
        "MODEL with GPUs",
        with_extra("instance_group { kind: KIND_MODEL gpus: 0 }"),
        ["KIND_MODEL but specifies one"],
    ),
    (
        "profile",
        with_extra('instance_group { profile: "0" }'),
        ["specifies profile field which is only supported"],
    ),
    ("instances", with_extra("instance_group { count: 2000 }"), ["has count 2000", "at most 1024 instances"]),
    (
        "instances over groups",
        with_extra("instance_group [ { count: 1000 }, { count: 1000 } ]"),
        ["group m_1 of model m has count 1000"],
    ),
    (
        "group twice",
        with_extra('instance_group [ { name: "g" }, { name: "g" } ]'),
        ["instance group g of model m has the name of another"],
    ),
    (
        "graph level",
        with_extra("optimization { graph { level: 7 } }"),
        ["'optimization.graph.level' must be -1, 0"],
    ),
    ("metric tag", with_extra('metric_tags { key: "a b" value: "c" }'), ["'metric_tags' key 'a b'"]),
    (
        "metric control",
        with_extra("model_metrics { metric_control { } }"),
        ["must specify 'metric_identifier'"],
    ),
    (
        "metric buckets",
        with_extra(
            'model_metrics { metric_control { metric_identifier { family: "f" } '
            "histogram_options { buckets: [2, 1] } } }"
        ),
        ["'buckets' must be ascending"],
    ),
    (
        "metric bucket",
        with_extra(
            'model_metrics { metric_control { metric_identifier { family: "f" } '
            "histogram_options { buckets: nan } } }"
        ),
        ["'buckets' must be ascending"],
    ),
    ("passive", with_extra("instance_group { passive: true }"), ["'m' has passive instances only"]),
    (
        "capability path",
        with_extra('cc_model_filenames { key: "8.0" value: "../x.plan" }'),
        ["cc_model_filenames of model 'm' '../x.plan' must be a relative path"],
    ),
    (
        "capability absolute",
        with_extra('cc_model_filenames { key: "8.0" value: "/x.plan" }'),
        ["cc_model_filenames of model 'm'"],
    ),
    # Against the model.
    (
        "input too many",
        changed("input [", "input [ { name: 'more' data_type: TYPE_FP32 dims: 1 },"),
        ["unable to load model 'm', configuration expects 3 inputs, model provides 2: it has no input 'more'"],
    ),
    (
        "unknown input",
        changed('name: "scale"', 'name: "scales"'),
        ["unexpected inference input 'scales'", "image, scale"],
    ),
    ("unknown output", changed('name: "best"', 'name: "worst"'), ["unexpected inference output 'worst'"]),
    (
        "missing input",
        changed('{ name: "image" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 4, 4 ] },', ""),
        ["configuration expects 1 inputs, model provides 2", "'image' is missing"],
    ),
    (
        "other type",
        changed('"scale" data_type: TYPE_FP32', '"scale" data_type: TYPE_FP16'),
        ["configuration expects datatype TYPE_FP16 for input 'scale', model provides TYPE_FP32"],
    ),
    (
        "other rank",
        changed("dims: [ 2 ]", "dims: [ 1, 2 ]"),
        [
            "model 'm', tensor 'scale': the model expects 2 dimensions (shape [-1,2]) but the model "
            "configuration specifies 3 dimensions (an initial batch dimension because max_batch_size > 0 "
            "followed by the explicit "
            "tensor shape, making complete shape [-1,1,2])"
        ],
    ),
    ("other size", changed("dims: [ 10 ]", "dims: [ 11 ]"), ["tensor 'scores'", "complete shape [-1,11]"]),
    (
        "variable output",
        changed("dims: [ 10 ]", "dims: [ -1 ]"),
        ["tensor 'scores'", "complete shape [-1,-1]"],
    ),
]

# Without completion only: the model would fill these.
INCOMPLETE = [
    (changed("data_type: TYPE_FP32 format", "format"), "'image' must specify 'data_type'"),
    (changed("dims: [ 3, 4, 4 ]", ""), "'image' must specify 'dims'"),
    ('platform: "onnxruntime_onnx"', "must specify one or more 'input'"),
]

UNSUPPORTED = [
    ("instance_group { secondary_devices { device_id: 0 } }", "secondary_devices"),
]


def test_libraries_of_operators_are_for_one_backend(tmp_path: Path) -> None:
    text = "backend: 'python' model_operations { op_library_filename: 'x.so' }"
    with pytest.raises(Unsupported, match=r"'model_operations' of model 'm' .* other backends than onnxruntime"):
        load_text(tmp_path, text)


def test_the_config_that_is_mutated_is_good(tmp_path: Path) -> None:
    assert load_text(tmp_path, FULL).max_batch_size == 8


@pytest.mark.parametrize(("config", "words"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
@pytest.mark.parametrize("auto_complete", [False, True])
def test_an_invalid_config_is_refused(
    tmp_path: Path, config: str, words: list[str], auto_complete: bool
) -> None:
    with pytest.raises(InvalidArg) as caught:
        load_text(tmp_path, config, auto_complete=auto_complete)
    message = caught.value.message
    assert "config.pbtxt" in message
    for word in words:
        assert word in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize(("config", "message"), INCOMPLETE)
def test_an_incomplete_config_is_refused_only_when_it_is_not_completed(
    tmp_path: Path, config: str, message: str
) -> None:
    with pytest.raises(InvalidArg) as caught:
        load_text(tmp_path / "a", config, auto_complete=False)
    assert message in caught.value.message
    assert "config.pbtxt" in caught.value.message
    assert load_text(tmp_path / "b", config).inputs[0].dims == (3, 4, 4)


@pytest.mark.parametrize(("extra", "field"), UNSUPPORTED, ids=[row[1] for row in UNSUPPORTED])
def test_a_capability_that_is_not_built_is_refused_by_name(tmp_path: Path, extra: str, field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        load_text(tmp_path, with_extra(extra))
    assert field in caught.value.message
    assert "not supported yet" in caught.value.message
    assert "config.pbtxt" in caught.value.message


@pytest.mark.filterwarnings("ignore:invalid octal escape")
def test_random_damage_never_gives_anything_but_an_error_for_clients(tmp_path: Path) -> None:
    model = make_model(tmp_path, FULL)
    source = random.Random(7)
    good = FULL.encode()
    pieces = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"-1",
        b"\xff",
        b"\x00",
        b'"',
        b"9" * 40,
        b"dims",
        b"\\777",
        b"#",
        b"1e9",
        b"'",
    ]
    for _ in range(600):
        text = bytearray(good)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(text))
            if source.random() < 0.5:
                del text[at : at + source.randint(1, 12)]
            else:
                text[at:at] = source.choice(pieces)
        (model / "config.pbtxt").write_bytes(bytes(text))
        try:
            load(
                model, "m", inspect=lambda backend, path, proto: BATCHED, auto_complete=source.random() < 0.5
            )
        except ServerError as error:
            assert error.message


def test_files_that_are_no_text_or_no_files_are_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path, "")
    config = model / "config.pbtxt"
    config.write_bytes(b'name: "m"\nplatform: "\xff"')
    with pytest.raises(InvalidArg, match=r"from config\.pbtxt: line 2: not UTF-8"):
        load(model, "m", inspect=lambda backend, path, proto: FIXED)
    config.unlink()
    config.mkdir()
    with pytest.raises(
        InvalidArg, match=r"config\.pbtxt: it is not a regular file|failed to open config\.pbtxt"
    ):
        load(model, "m", inspect=lambda backend, path, proto: FIXED)
