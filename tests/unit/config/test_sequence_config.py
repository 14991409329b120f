"""`sequence_batching` in configs: what is completed, what is refused and how, and what a load makes of states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from triton_async import datatypes
from triton_async.backends.registry import BackendRegistry
from triton_async.config.load import complete_config, read
from triton_async.config.model_config import ModelConfig
from triton_async.config.sequences import ControlKind
from triton_async.core.initial_states import read_initial_states
from triton_async.errors import InvalidArg, ServerError
from triton_async.infer.tensor import decode_bytes
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

FP32 = datatypes.from_name("FP32")
START = 'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }'
STATE = 'state { input_name: "SIN" output_name: "SOUT" data_type: TYPE_FP32 dims: [ 3 ] }'


def write_model(root: Path, batching: str, *, rows: int = 4) -> None:
    """A model with the inputs X, START and SIN, and the outputs Y and SOUT."""
    first: list[Any] = ["batch"] if rows else []
    nodes = [
        helper.make_node("Cast", ["START"], ["started"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["X", "SIN"], ["sum"]),
        helper.make_node("Add", ["sum", "started"], ["SOUT"]),
        helper.make_node("Identity", ["SOUT"], ["Y"]),
    ]

    def tensor(name: str, kind: int, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [*first, width])

    graph = helper.make_graph(
        nodes, "steps",
        [tensor("X", TensorProto.FLOAT, 3), tensor("START", TensorProto.INT32, 1), tensor("SIN", TensorProto.FLOAT, 3)],
        [tensor("Y", TensorProto.FLOAT, 3), tensor("SOUT", TensorProto.FLOAT, 3)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    directory = root / "steps"
    (directory / "1").mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "1" / "model.onnx")
    (directory / "config.pbtxt").write_text(f"max_batch_size: {rows} sequence_batching {{ {batching} }}")


def load(root: Path, batching: str, **more: int) -> ModelConfig:
    write_model(root, batching, **more)
    backends = BackendRegistry({}, Pools(SlabPool(1 << 20)))

    def inspect(backend: str, path: Path, proto: Any) -> Any:
        return backends.get(backend).inspect(path, proto)

    return complete_config(read(root / "steps", "steps"), root / "steps", "steps", inspect=inspect)


def test_controls_and_states_are_no_inputs_and_outputs_of_clients(tmp_path: Path) -> None:
    config = load(tmp_path, START + STATE)
    assert [io.name for io in config.inputs] == ["X"]
    assert [io.name for io in config.outputs] == ["Y"]
    assert [io.name for io in config.engine_inputs] == ["X", "START", "SIN"]
    assert [io.name for io in config.engine_outputs] == ["Y", "SOUT"]
    assert config.dynamic_batching is None


def test_defaults_are_triton_s(tmp_path: Path) -> None:
    config = load(tmp_path, "oldest { max_candidate_sequences: 7 }" + START + STATE)
    assert config.json()["sequence_batching"]["max_sequence_idle_microseconds"] == 1_000_000
    assert config.json()["sequence_batching"]["oldest"]["preferred_batch_size"] == [4]
    sequences = config.sequences
    assert sequences is not None
    assert (sequences.oldest, sequences.candidates, sequences.idle_us) == (True, 7, 1_000_000)
    assert [(control.name, control.kind, control.false_true) for control in sequences.controls] == [
        ("START", ControlKind.START, (0, 1))
    ]
    direct = load(tmp_path, START + STATE).sequences
    assert direct is not None
    assert (direct.oldest, direct.candidates) == (False, 4)
    alone = load(tmp_path, START + STATE, rows=0).sequences
    assert alone is not None
    assert alone.candidates == 1


BAD = [
    (START.replace('name: "START"', "") + STATE, "sequence batching control tensor must have a name for steps"),
    (START + START + STATE, "control tensor 'START' is specified for multiple control kinds for steps"),
    (START + START.replace('"START"', '"S2"') + STATE, "specifies multiple CONTROL_SEQUENCE_START tensors for steps"),
    (START.replace("[ 0, 1 ]", "[ 0 ]") + STATE,
     "sequence batching control 'int32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_START for steps"),
    (START.replace("int32_false_true: [ 0, 1 ]", "") + STATE,
     "must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for CONTROL_SEQUENCE_START"),
    (START.replace("[ 0, 1 ]", "[ 0, 1 ] bool_false_true: [ false, true ]") + STATE,
     "specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true'"),
    (START.replace("START int32", "CORRID int32") + STATE, "must not specify either 'int32_false_true'"),
    (START.replace("START int32_false_true: [ 0, 1 ]", "CORRID data_type: TYPE_FP32") + STATE,
     "unexpected data type TYPE_FP32 for control 'START' of kind CONTROL_SEQUENCE_CORRID"),
    (START.replace("START int32_false_true: [ 0, 1 ]", "CORRID") + STATE, "unexpected data type"),
    (START.replace("int32_false_true", "data_type: TYPE_FP32 int32_false_true") + STATE, "'data_type' TYPE_FP32, but"),
    ('control_input { name: "START" }' + STATE, "control tensor 'START' must specify 'control'"),
    ("oldest { preferred_batch_size: 5 }" + START + STATE,
     "sequence batching preferred batch size must be <= max batch size for steps"),
    ("oldest { preferred_batch_size: 0 }" + START + STATE,
     "sequence batching preferred batch size must be positive for steps"),
    ("oldest { max_candidate_sequences: -1 }" + START + STATE, "'max_candidate_sequences' must be in range"),
    ("oldest { max_candidate_sequences: 2000000 }" + START + STATE, "'max_candidate_sequences' must be in range"),
    ("direct { minimum_slot_utilization: 1.5 }" + START + STATE, "must be in range [0.0, 1.0] for steps"),
    ("max_sequence_idle_microseconds: 10000000000000000 " + START + STATE,
     "sequence batching 'max_sequence_idle_microseconds' must be <= 1000000000000000 for steps"),
    (START + STATE.replace('input_name: "SIN"', ""), "must specify 'input_name' and 'output_name' for steps"),
    (START + STATE.replace("data_type: TYPE_FP32", ""), "state 'SIN' must specify 'data_type' for steps"),
    (START + STATE.replace("dims: [ 3 ]", ""), "state 'SIN' must specify 'dims' for steps"),
    (START + STATE.replace("[ 3 ]", "[ 0 ]"), "state 'SIN' dimension must be integer >= 1"),
    (START + STATE.replace("[ 3 ]", "[ 3 ] use_growable_memory: true"), "'use_growable_memory' is for CUDA memory"),
    (START + STATE + STATE, "sequence batching has 'SIN' as a control or state"),
    # Closes `sequence_batching`.
    (START + STATE + '} output { name: "SOUT" data_type: TYPE_FP32 dims: [ 2 ]',
     "output 'SOUT' is a state of sequence batching too, and must have its 'data_type' and 'dims'"),
    (START + STATE.replace("[ 3 ]", "[ 3 ] initial_state { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }"),
     "has dims [2], which do not fit [3]"),
    (START + STATE.replace("[ 3 ]", "[ 3 ] initial_state { name: 'i' data_type: TYPE_INT32 dims: 3 zero_data: true }"),
     "'initial_state' 'i' must have the 'data_type' of the state"),
    (START + STATE.replace("[ 3 ]", "[ 3 ] initial_state { name: 'i' data_type: TYPE_FP32 dims: 3 }"),
     "must specify 'zero_data' or 'data_file'"),
    (START + STATE.replace("[ 3 ]", "[ 3 ] initial_state { data_type: TYPE_FP32 dims: 3 data_file: '../x' }"),
     "must not contain path traversal characters"),
    (START + STATE.replace("[ 3 ]", "[ 3 ]" + 2 * "initial_state { data_type: TYPE_FP32 dims: 3 zero_data: true }"),
     "must contain exactly one or zero element. Found '2' elements"),
    # Of the model:
    (START.replace("int32_false_true", "fp32_false_true") + STATE,
     "configuration expects datatype TYPE_FP32 for input 'START', model provides TYPE_INT32"),
    (START + STATE.replace("TYPE_FP32", "TYPE_FP16"),
     "configuration expects datatype TYPE_FP16 for input 'SIN', model provides TYPE_FP32"),
    (START + STATE.replace("[ 3 ]", "[ 4 ]"), "tensor 'SIN': the model expects 2 dimensions"),
    (START + STATE.replace('"SOUT"', '"NONE"'), "unexpected inference output 'NONE', allowed outputs are: SOUT, Y"),
    (START + STATE + 'control_input { name: "MORE" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] } }',
     "it has no input 'MORE'"),
]  # fmt: skip


@pytest.mark.parametrize(("batching", "text"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_said_with_file_and_field(tmp_path: Path, batching: str, text: str) -> None:
    with pytest.raises(ServerError) as caught:
        load(tmp_path, batching)
    assert text in caught.value.message
    assert "steps" in caught.value.message
    assert "(in config.pbtxt)" in caught.value.message


def test_states_begin_with_zeros_or_with_a_file(tmp_path: Path) -> None:
    (zeros,) = read_initial_states(load(tmp_path, START + STATE), tmp_path / "steps")
    assert np.array_equal(zeros.numpy(), np.zeros((1, 3), np.float32))
    written = STATE.replace("[ 3 ]", "[ 3 ] initial_state { data_type: TYPE_FP32 dims: 3 data_file: 'first' }")
    config = load(tmp_path, START + written)
    folder = tmp_path / "steps" / "initial_state"
    with pytest.raises(InvalidArg, match="'SIN' of model 'steps': 'initial_state/first' can not be read: No such file"):
        read_initial_states(config, tmp_path / "steps")
    folder.mkdir()
    (folder / "first").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    (first,) = read_initial_states(config, tmp_path / "steps")
    assert first.numpy().tolist() == [[1, 2, 3]]
    (folder / "first").write_bytes(b"1234")
    with pytest.raises(InvalidArg, match="'SIN' of model 'steps' expects 12 bytes, but 'initial_state/first' has 4"):
        read_initial_states(config, tmp_path / "steps")


def test_states_of_strings(tmp_path: Path) -> None:
    text = "state { input_name: 'I' output_name: 'O' data_type: TYPE_STRING dims: 2 "
    directory = tmp_path / "words"
    (directory / "1").mkdir(parents=True)
    (directory / "initial_state").mkdir()
    (directory / "1" / "model.py").write_text("class TritonPythonModel:\n    def execute(self, requests): pass\n")

    def load_words(more: str) -> ModelConfig:
        (directory / "config.pbtxt").write_text(f"backend: 'python' sequence_batching {{ {text} {more} }} }}")
        return complete_config(read(directory, "words"), directory, "words", inspect=lambda *_: None)

    (empty,) = read_initial_states(load_words(""), directory)
    assert decode_bytes(empty) == [b"", b""]
    config = load_words("initial_state { data_type: TYPE_STRING dims: 2 data_file: 'w' }")
    (directory / "initial_state" / "w").write_bytes(b"\x02\0\0\0ab\0\0\0\0")
    (words,) = read_initial_states(config, directory)
    assert decode_bytes(words) == [b"ab", b""]
    for data, problem in ((b"\x02\0\0\0ab", "expects 2 strings, but 'initial_state/w' has 1"),
                          (b"\x09\0\0\0ab", "does not consist of strings with their lengths")):
        (directory / "initial_state" / "w").write_bytes(data)
        with pytest.raises(InvalidArg, match=problem):
            read_initial_states(config, directory)
