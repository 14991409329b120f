"""What classical models and those of other domains need: probabilities that ZipMap made maps of, custom operators."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from backend_models import FLOAT, INT64, STRING, Loaded, model, node, tensor, write
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from triton_async.backends.onnxruntime.zipmap import unzip
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable, Unsupported
from triton_async.memory.slab import SlabPool

ML = "ai.onnx.ml"


def classifier(labels: list[Any], tail: Any = ()) -> Any:
    """A linear classifier as scikit-learn converters write it: labels, and probabilities as a sequence of maps."""
    strings = isinstance(labels[0], str)
    named = {"classlabels_strings" if strings else "classlabels_ints": labels}
    zipped = {"classlabels_strings" if strings else "classlabels_int64s": labels}
    nodes = [
        node("LinearClassifier", ["x"], ["label", "scores"], domain=ML, post_transform="SOFTMAX",
             coefficients=[0.5, -1.0, 2.0, 0.25, 1.5, -0.75], intercepts=[0.1, 0.2, -0.3], **named),
        node("ZipMap", ["scores"], ["probability"], domain=ML, **zipped),
    ]  # fmt: skip
    kind = STRING if strings else INT64
    maps = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(FLOAT, []))
    outputs = [
        tensor("label", kind, ["n"]),
        helper.make_value_info("probability", helper.make_sequence_type_proto(maps)),
    ]
    made = model(nodes, [tensor("x", FLOAT, ["n", 2])], outputs)
    made.opset_import.append(helper.make_opsetid(ML, 3))
    return made


@pytest.mark.parametrize("labels", [[3, -1, 7], ["cat", "dog", "ox"]])
def test_probabilities_in_maps_are_served_as_their_tensor(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture, labels: list[Any]
) -> None:
    caplog.set_level(logging.INFO)
    directory = write(tmp_path, classifier(labels))
    loaded = Loaded(directory, pool)
    assert [(io.name, io.dims) for io in loaded.config.outputs] == [("label", (1,)), ("probability", (3,))]
    assert f"output 'probability' is served as the tensor that ZipMap makes maps of, its columns: {labels[0]}, " in (
        caplog.text
    )
    rows = np.random.default_rng(3).standard_normal((4, 2)).astype(np.float32)
    found = loaded.run_one(x=rows)
    session = onnxruntime.InferenceSession(str(directory / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    names, maps = session.run(["label", "probability"], {"x": rows})
    assert np.array_equal(found["probability"], [[one[label] for label in labels] for one in maps])
    told = [label.decode() if isinstance(label, bytes) else label for label in found["label"].ravel()]
    assert told == list(names)


def test_other_sequences_are_refused_with_a_word(tmp_path: Path, pool: SlabPool) -> None:
    output = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    made = model([node("SequenceConstruct", ["x", "x"], ["y"])], [tensor("x", FLOAT, ["n"])], [output])
    with pytest.raises(Unsupported, match=r"'ONNX_TYPE_SEQUENCE' for I/O 'y', .*only what ZipMap makes .* Concat"):
        Loaded(write(tmp_path, made), pool)


def test_a_map_that_something_else_uses_is_left_alone(tmp_path: Path, pool: SlabPool) -> None:
    made = classifier([1, 2, 3])
    made.graph.node.append(node("SequenceLength", ["probability"], ["count"]))
    made.graph.output.append(tensor("count", INT64, []))
    with pytest.raises(ServerError):
        Loaded(write(tmp_path, made), pool)


@given(data=st.data())
def test_any_bytes_are_looked_through(data: Any) -> None:
    good = classifier([3, -1, 7]).SerializeToString()
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(good)))])
    found = unzip(cut)
    assert found is None or set(found.labels)
    assert unzip(b"") is None
    unchanged = unzip(good)
    assert unchanged is not None and unchanged.labels == {"probability": ("3", "-1", "7")}
    onnx.checker.check_model(onnx.load_model_from_string(unchanged.model))


def library() -> Path:
    extensions = pytest.importorskip("onnxruntime_extensions", reason="onnxruntime-extensions is not installed")
    return Path(extensions.get_library_path())


def upper() -> Any:
    made = model([node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")],
                 [tensor("x", STRING, ["n"])], [tensor("y", STRING, ["n"])])  # fmt: skip
    made.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    return made


def config(name: str) -> str:
    return (
        'backend: "onnxruntime"\nmax_batch_size: 0\ninput { name: "x" data_type: TYPE_STRING dims: -1 }\n'
        'output { name: "y" data_type: TYPE_STRING dims: -1 }\n'
        f'model_operations {{ op_library_filename: "{name}" }}'
    )


@pytest.mark.parametrize("place", ["absolute", "version", "model"])
def test_custom_operators(tmp_path: Path, pool: SlabPool, place: str) -> None:
    source = library()
    directory = write(tmp_path, upper(), config(str(source) if place == "absolute" else "lib/ops.so"))
    if place != "absolute":
        folder = (directory / "1" if place == "version" else directory) / "lib"
        folder.mkdir()
        shutil.copyfile(source, folder / "ops.so")
    loaded = Loaded(directory, pool)
    assert loaded.run_one(x=np.array([b"abc", b"Xy"], object))["y"].tolist() == [b"ABC", b"XY"]


@pytest.mark.parametrize(("name", "error", "message"), [
    ("lib/ops.so", Unavailable, "unable to load model 'm': the library of operators 'lib/ops.so' is not there"),
    ("no-such-library.so", Unavailable, "library of operators 'no-such-library.so' can not be loaded"),
    ("libm.so.6", InvalidArg, r"'libm\.so\.6' is no library of operators .*does not export RegisterCustomOps"),
    ("../../x.so", InvalidArg, "op_library_filename of model 'm'"),
    ("bad.so", Unavailable, r"library of operators 'bad\.so' can not be loaded: .*bad\.so"),
])  # fmt: skip
def test_libraries_that_are_none(
    tmp_path: Path, pool: SlabPool, name: str, error: type[ServerError], message: str
) -> None:
    directory = write(tmp_path, upper(), config(name))
    (directory / "bad.so").write_bytes(b"\x7fELF not really")
    with pytest.raises(error, match=message) as caught:
        Loaded(directory, pool)
    assert str(tmp_path) not in caught.value.message


def test_operators_without_their_library_are_named(tmp_path: Path, pool: SlabPool) -> None:
    with pytest.raises(InternalError, match=r"ai\.onnx\.contrib"):
        Loaded(write(tmp_path, upper()), pool)
