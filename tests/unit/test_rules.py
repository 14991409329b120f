"""Rules that keep whole kinds of weaknesses out of the package, each looked for in all of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from triton_async import protos
from triton_async.config.paths import safe_join, safe_name
from triton_async.defines import MAX_PARAMETERS_PER_REQUEST as MOST_PARAMETERS
from triton_async.defines import MAX_RANK
from triton_async.defines import MAX_TENSORS_PER_REQUEST as MOST_TENSORS
from triton_async.errors import InvalidArg
from triton_async.protocol.grpc_codec import decode_request

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "triton_async"


def put(parameters: Any, number: int) -> None:
    parameters[f"p{number}"].int64_param = number


def add_input(message: Any, number: int) -> Any:
    """An input without elements, and its data."""
    message.raw_input_contents.append(b"")
    return message.inputs.add(name=str(number), datatype="UINT8", shape=[0])


def add_dimension(message: Any, number: int) -> None:
    (message.inputs[0] if message.inputs else add_input(message, number)).shape.append(1)


# How often a part of a request may repeat, by the field that repeats: what adds one to a message, and the bound.
Adder = Callable[[Any, int], object]
REPEATS: dict[str, tuple[Adder, int]] = {
    "ModelInferRequest.inputs": (add_input, MOST_TENSORS),
    "ModelInferRequest.outputs": (lambda m, i: m.outputs.add(name=str(i)), MOST_TENSORS),
    "ModelInferRequest.parameters": (lambda m, i: put(m.parameters, i), MOST_PARAMETERS),
    "InferInputTensor.shape": (add_dimension, MAX_RANK - 1),
}
# Read over where nobody asks for them: no object and no step but their bytes.
SKIPPED = {"InferInputTensor.parameters", "InferRequestedOutputTensor.parameters"}


def fields_below(name: str) -> Iterator[FieldDescriptor]:
    """Each field of a message and of the messages in it, once."""
    known, waiting = {name}, [protos.message(name).DESCRIPTOR]
    while waiting:
        for field in waiting.pop().fields:
            yield field
            if field.message_type is not None and field.message_type.full_name not in known:
                known.add(field.message_type.full_name)
                waiting.append(field.message_type)


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(), str(path))


def test_nothing_is_run_through_a_shell() -> None:
    """Commands are lists of arguments: no name or path can become another command."""
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            shells = any(word.arg == "shell" for word in node.keywords)
            if shells or name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_nothing_is_evaluated() -> None:
    """No text becomes code, whoever sent it, but that of `model.py` files."""
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.append(str(path.relative_to(PACKAGE)))
    assert found == ["backends/python/worker/loader.py"]


def test_sizes_of_requests_are_never_sizes_of_the_stack() -> None:
    """C has no arrays of a length that is known only when it runs, and takes nothing from the stack by a number."""
    constant = re.compile(r"[\d *+]+|.*[A-Z]{2}.*")
    local = re.compile(r"^\s+(?:const\s+|unsigned\s+|struct\s+)*[a-z_]\w*\s+\**\w+\[([^\]]+)\]\s*(?:=|;)")
    found = []
    for path in sorted([*(ROOT / "csrc").glob("*.[ch]"), *PACKAGE.rglob("*.pyx")]):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"\balloca\s*\(|\bstrcpy\s*\(|\bstrcat\s*\(|\bsprintf\s*\(|\bgets\s*\(", line):
                found.append(f"{path.name}:{number}")
            declared = local.match(line)
            if declared and path.suffix != ".pyx" and not constant.fullmatch(declared[1].strip()):
                found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []


@given(st.text(max_size=300))
def test_whatever_a_client_names_stays_in_its_folder(text: str) -> None:
    root = Path("/repository/model")
    try:
        path = safe_join(root, text, "file")
    except InvalidArg:
        return
    parts: list[str] = []
    for part in path.parts[len(root.parts) :]:
        assert part != ".."
        parts.append(part)
    assert path.parts[: len(root.parts)] == root.parts


@given(st.text(max_size=300))
def test_a_name_is_one_part_of_a_path(text: str) -> None:
    try:
        name = safe_name(text, "name")
    except InvalidArg:
        return
    assert len(Path(name).parts) == 1 and Path(name).name == name and name not in (".", "..")


@pytest.mark.parametrize("name", ["model", "a.b", "x" * 255, "a b", "..a", "ä"])
def test_ordinary_names_are_taken(name: str) -> None:
    assert safe_name(name, "name") == name


def test_every_part_of_a_request_that_repeats_is_bounded() -> None:
    """A new one fails here until it has a bound, and a line above. Values of `contents` are counted by the shape."""
    repeated = {
        field.full_name.rsplit(".", 2)[-2] + "." + field.name
        for field in fields_below("inference.ModelInferRequest")
        if field.is_repeated and not field.name.endswith("_contents")
    }
    assert repeated == set(REPEATS) | SKIPPED


@pytest.mark.parametrize("name", sorted(REPEATS))
def test_parts_of_a_request_are_taken_up_to_their_bound(name: str) -> None:
    add, bound = REPEATS[name]
    message = protos.message("inference.ModelInferRequest")(model_name="m")
    for number in range(bound):
        add(message, number)
    decode_request(message.SerializeToString())
    add(message, bound)
    with pytest.raises(InvalidArg):
        decode_request(message.SerializeToString())


def test_every_path_of_a_config_is_known_to_the_checks() -> None:
    """A new field that names a file fails here until it goes through `config.paths`, with a test of a path that leads
    out: test_config_mutations, test_config_warmup, test_sequence_config and test_onnxruntime_classical have the others.
    """
    found = set()

    for field in fields_below("inference.ModelConfig"):
        if field.message_type is None and re.search(r"(^|_)file(name)?s?$|path|folder|director", field.name):
            found.add(field.full_name.removeprefix("inference."))
    assert found == {
        "ModelConfig.default_model_filename",
        "ModelOperations.op_library_filename",
        "ModelOutput.label_filename",
        "ModelSequenceBatching.InitialState.data_file",
        "ModelWarmup.Input.input_data_file",
    }


def test_the_guards_that_the_documents_name_are_tests() -> None:
    document = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", document)
    assert len(named) > 40
    gone = [
        f"{path}::{name}" for path, name in named if f"\ndef {name}(" not in (ROOT / "tests" / path).read_text()
    ]
    assert gone == []
