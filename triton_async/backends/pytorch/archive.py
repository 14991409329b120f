"""Files of `torch.export`: what they hold, what it takes and returns, and whether loading them runs foreign code.

PyTorch unpickles parts of an exported program without restriction and compiles strings of it as Python. All of them
are looked at here before PyTorch does, with PyTorch's own reader of archives, so that both see the same bytes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from triton_async import datatypes
from triton_async.backends.pytorch.expressions import check_expression
from triton_async.backends.pytorch.program import Port
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable, Unsupported

MODEL = "models/model.json"
_PACKAGE = "data/aotinductor/"
_SAMPLES = "data/sample_inputs/"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")

# torch._export.serde.schema.ScalarType -> v2 name.
_SCALARS = {
    1: "UINT8", 2: "INT8", 3: "INT16", 4: "INT32", 5: "INT64", 6: "FP16", 7: "FP32", 8: "FP64", 12: "BOOL",
    13: "BF16", 28: "UINT16", 34: "UINT32", 35: "UINT64",
}  # fmt: skip

_IDENTIFIER = re.compile(r"\w*\Z", re.ASCII)
_WORD = re.compile(r"[\w.+\-]*\Z", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.[a-zA-Z]\w*(\.\w+){1,2}\Z", re.ASCII)
_PURE = re.compile(r"(math\.[a-z]\w*|torch\._?sym_\w+|torch\._check\w*)\Z", re.ASCII)
_PYTHON_OPERATOR = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|lshift|rshift"
    r"|index|invert|abs)\Z"
)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")


class Kind(Enum):
    """What a model file is, by what lies in its archive."""

    SCRIPT = "a TorchScript file"
    EXPORTED = "an exported program"
    COMPILED = "an AOTInductor package"


def open_archive(torch: Any, path: Path, model: str) -> Any:
    """PyTorch's reader of the file. ServerError, without the path, when it is none of PyTorch's archives."""
    if not path.exists():
        raise Unavailable(f"unable to find '{path.name}' for model '{model}'")
    if not path.is_file():
        raise InvalidArg(f"failed to load model '{model}': '{path.name}' is not a file")
    try:
        reader = torch._C.PyTorchFileReader(str(path))
    except RuntimeError as error:
        reason = str(error).split(". ", maxsplit=1)[0].splitlines()[0]
        raise InternalError(
            f"failed to load model '{model}': '{path.name}' is not a TorchScript file, an exported program or an "
            f"AOTInductor package ({reason})"
        ) from None
    names = reader.get_all_records()
    if len(set(names)) != len(names) or any(".." in name.split("/") or name.startswith("/") for name in names):
        raise InternalError(f"failed to load model '{model}': '{path.name}' has entries with names it can not have")
    return reader


def kind_of(reader: Any, path: Path, model: str) -> Kind:
    """Kind of the archive; InternalError when it holds no model, as a checkpoint's."""
    names = set(reader.get_all_records())
    if "constants.pkl" in names:
        return Kind.SCRIPT
    if MODEL in names:
        return Kind.EXPORTED
    if any(name.startswith(_PACKAGE) for name in names):
        return Kind.COMPILED
    raise InternalError(
        f"failed to load model '{model}': '{path.name}' holds no model that can run: it is neither a TorchScript file "
        "(torch.jit.save), nor an exported program (torch.export.save), nor an AOTInductor package"
    )


def device_of_package(reader: Any) -> str:
    """Device type that an AOTInductor package was compiled for, '' when it does not say."""
    for name in reader.get_all_records():
        if name.startswith(_PACKAGE) and name.endswith("_metadata.json"):
            return str(_json(reader, name).get("AOTI_DEVICE_KEY", ""))
    return ""


def read_program(torch: Any, reader: Any, model: str) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Arguments and results of an exported program, one for each leaf of its signature.

    Unsupported or InternalError unless loading it runs nothing but what PyTorch means it to.
    """
    try:
        _check_payloads(torch, reader, model)
        document = _json(reader, MODEL)
        _check(torch, document, "")
        for guard in document.get("guards_code") or ():
            check_expression(str(guard), guard=True)
        return _ports(document)
    except ServerError as error:
        raise type(error)(f"failed to load model '{model}': {error.message}") from None
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise InternalError(
            f"failed to load model '{model}': the exported program is broken ({type(error).__name__})"
        ) from None


def _ports(document: dict[str, Any]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    graph = document["graph_module"]
    call = graph["module_call_graph"][0]["signature"]
    values = graph["graph"]["tensor_values"]
    inputs = [spec["user_input"]["arg"] for spec in graph["signature"]["input_specs"] if "user_input" in spec]
    outputs = [spec["user_output"]["arg"] for spec in graph["signature"]["output_specs"] if "user_output" in spec]
    names = call.get("forward_arg_names") or []
    paths = argument_paths(call["in_spec"])
    found = []
    for argument, path in zip(inputs, paths, strict=True):
        name = argument.get("as_tensor", {}).get("name", "")
        match = re.match(r"ARGS\[(\d+)\]\Z", path)
        if match and int(match[1]) < len(names):
            name = names[int(match[1])]
        elif path.startswith("KWARGS[") and path.count("[") == 1:
            name = path[7:-1]
        found.append(_port(name, path, argument, values))
    results = []
    for place, (argument, path) in enumerate(zip(outputs, result_paths(call["out_spec"]), strict=True)):
        key = path[7:-1] if path.count("[") == 1 else ""
        name = key if key and not key.isdigit() else f"OUTPUT__{place}"
        results.append(_port(name, path, argument, values))
    return tuple(found), tuple(results)


def argument_paths(spec: str) -> list[str]:
    """Names of a call's leaves as Triton makes them: `ARGS[0]`, `ARGS[1][key]`, `KWARGS[name]`."""
    positional, named = _tree(spec)["children_spec"]
    return [f"ARGS{path}" for path in _leaves(positional)] + [f"KWARGS{path}" for path in _leaves(named)]


def result_paths(spec: str) -> list[str]:
    """Names of a result's leaves: `RESULT` when it is one tensor, else `RESULT[0]`, `RESULT[key]`."""
    return [f"RESULT{path}" for path in _leaves(_tree(spec))]


def _port(name: str, path: str, argument: dict[str, Any], values: dict[str, Any]) -> Port:
    if "as_tensor" not in argument:
        return Port("", "")
    tensor = values[argument["as_tensor"]["name"]]
    dims = tuple(size.get("as_int", -1) for size in tensor["sizes"])
    return Port(name, path, datatypes.from_name(_SCALARS.get(tensor["dtype"], "")), dims)


def _tree(spec: str) -> dict[str, Any]:
    _, tree = json.loads(spec)
    assert isinstance(tree, dict)
    return tree


def _leaves(node: dict[str, Any]) -> Iterator[str]:
    if node["type"] is None:
        yield ""
        return
    children: Sequence[dict[str, Any]] = node["children_spec"]
    keys = json.loads(node["context"]) if node["type"] == "builtins.dict" else range(len(children))
    for key, child in zip(keys, children, strict=True):
        for rest in _leaves(child):
            yield f"[{key}]{rest}"


def _json(reader: Any, name: str) -> dict[str, Any]:
    document = json.loads(reader.get_record(name))
    if not isinstance(document, dict):
        raise ValueError
    return document


def _check_payloads(torch: Any, reader: Any, model: str) -> None:
    names = reader.get_all_records()
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder == "models" and name != MODEL:
            raise Unsupported("the file holds more than one exported program")
        if name.startswith(_PACKAGE):
            raise Unsupported("the file holds an exported program and native code")
        if folder in ("data/weights", "data/constants") and file.endswith(".pt"):
            raise Unsupported("weights of an exported program in the pickled form of PyTorch 2.7 are not loaded; "
                              "save it again with a newer PyTorch")
    for config in _CONFIGS:
        document = _json(reader, config)
        for payload in document["config"].values():
            path = str(payload["path_name"])
            if payload["use_pickle"] or path.startswith(("custom_obj", "opaque_obj")):
                raise Unsupported("the exported program has pickled weights or objects, which could run any code")
            if not _IDENTIFIER.match(path):
                raise InternalError("the exported program has entries with names it can not have")
        _check(torch, document, "")
    for name in names:
        if name.startswith(_SAMPLES):
            try:
                torch.load(io.BytesIO(reader.get_record(name)), weights_only=True, map_location="cpu")
            except Exception:  # what it is made of is what is refused
                raise Unsupported(
                    "the sample inputs of the exported program are pickled objects, which could run any code"
                ) from None


def _check(torch: Any, value: Any, key: str) -> None:
    """Refuses strings that PyTorch would compile, import or look up and that are not what an export writes, and numbers
    that are no sizes.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            if not _WORD.match(name):
                raise InternalError(f"the exported program has the name '{name[:50]}'")
            if name not in ("metadata", "guards_code"):
                _check(torch, item, name)
    elif isinstance(value, list):
        for item in value:
            _check(torch, item, key)
    elif isinstance(value, str):
        _check_string(torch, value, key)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InternalError(f"the exported program has the number {str(value)[:50]}")


def _check_string(torch: Any, value: str, key: str) -> None:
    if key in ("as_string", "as_strings", "as_string_to_argument", "torch_version", "stack_trace"):
        return
    if key == "expr_str":
        check_expression(value)
    elif key == "target":
        _check_target(torch, value)
    elif key in ("in_spec", "out_spec"):
        if value:
            _check_tree(_tree(value), 0)
    elif not (_IDENTIFIER if key in ("name", "as_name") else _WORD).match(value):
        raise InternalError(f"the exported program has the name '{value[:50]}'")


def _check_target(torch: Any, target: str) -> None:
    if _PYTHON_OPERATOR.match(target) or _PURE.match(target):
        return
    if _OPERATOR.match(target):
        found: Any = torch
        for name in target.split(".")[1:]:
            found = getattr(found, name, None)
        kinds = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)
        if isinstance(found, kinds):
            return
    raise Unsupported(f"the exported program calls '{target[:100]}', which is no operator of this PyTorch")


def _check_tree(node: dict[str, Any], depth: int) -> None:
    if node["type"] is None:
        return
    if node["type"] not in _CONTAINERS or depth > 16:
        raise Unsupported(f"the exported program takes or returns a '{str(node['type'])[:50]}'")
    if node["type"] == "builtins.dict":
        keys = json.loads(node["context"])
        if not all(isinstance(key, str) and _IDENTIFIER.match(key) for key in keys):
            raise Unsupported("the exported program has a dictionary whose keys are no names")
    elif node["context"] != "null":
        raise Unsupported("the exported program has a container with a context")
    for child in node["children_spec"]:
        _check_tree(child, depth + 1)
