"""Mutations of exported programs, and what must hold of every one that is let through: shared by the seeded tests and
tests/fuzz. Harmless all of them: what stands in for code is merely on no list, and no mutation is given to PyTorch.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from triton_async.backends.pytorch.archive import read_program
from triton_async.errors import ServerError

CORPUS = Path(__file__).resolve().parents[2] / "fuzz/corpus/archive"
# The first byte of an input says which entry the rest of it is; the others are those of a small program.
ENTRIES = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
EMPTY = b'{"config": {}}'


class Archive:
    """A file as PyTorch's reader of archives shows it."""

    def __init__(self, entries: dict[str, bytes]) -> None:
        self.entries = entries

    def get_all_records(self) -> list[str]:
        return list(self.entries)

    def get_record(self, name: str) -> bytes:
        return self.entries[name]


# -- seeds -----------------------------------------------------------------------------------------


class Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return x + y, x - y


class Nested(torch.nn.Module):
    def forward(self, x: Any, pair: Any, *, scale: Any = None) -> Any:
        return {"sum": pair["a"] + pair["b"] * scale, "rest": (x.to(torch.int64), 3)}


class Shapes(torch.nn.Module):
    """Sizes that are computed: powers, divisions, remainders, and the guards that come of them."""

    def forward(self, x: torch.Tensor) -> Any:
        n = x.shape[0]
        return x.new_zeros(n * n + 2 * n + 1), x[: n // 3], x.new_zeros((n + 7) // 8, n % 5 + 1)


def entries_of(module: Any, *args: Any, dynamic: Any = None, **kwargs: Any) -> dict[str, bytes]:
    """The archive of a module that is exported, without the folder that all lies in."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, args, kwargs, dynamic_shapes=dynamic), buffer)
    with zipfile.ZipFile(buffer) as source:
        return {name.split("/", maxsplit=1)[1]: source.read(name) for name in source.namelist()}


def without_places(value: Any) -> Any:
    """The same without what says where and from what it was exported."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else without_places(item) for key, item in value.items()}
    return [without_places(item) for item in value] if isinstance(value, list) else value


def archive_seeds() -> dict[str, bytes]:
    batch = torch.export.Dim("batch", min=1, max=64)
    x = torch.zeros(2, 4)
    found = {
        "sum": entries_of(Sum(), x, x, dynamic={"x": {0: batch}, "y": {0: batch}}),
        "nested": entries_of(Nested(), x, {"a": x, "b": x}, scale=x),
        "shapes": entries_of(Shapes(), torch.zeros(12, 4), dynamic={"x": {0: torch.export.Dim.AUTO}}),
        "linear": entries_of(torch.nn.Linear(2, 2), torch.zeros(1, 2)),
    }
    seeds = {name: b"\0" + _json(without_places(json.loads(entries[ENTRIES[0]]))) for name, entries in found.items()}
    seeds["weights"] = b"\1" + _json(json.loads(found["linear"][ENTRIES[1]]))
    seeds["constants"] = b"\2" + found["linear"][ENTRIES[2]]
    return seeds


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


# -- mutations -------------------------------------------------------------------------------------

STAND_INS: list[Any] = [
    None, True, 0, -1, 2**63 - 1, 2**63, 1.5, "", [], {}, [[]], {"a": 1}, "x", "stand in", "stand/in", "stand_in()",
    "stand\nin", "stand.in", "__name__", "torch.stand_in", "torch.nn.functional.relu", "torch.ops.aten.stand_in",
    "torch.ops.aten.relu.default", "torch.ops.aten", "_operator.stand_in", "_operator.add", "stand_in#", "custom_obj_0",
    "hex(1)", "(lambda: 1)()", "Symbol('s0')", "Symbol('stand in')", "Symbol('s0').name", "floor('1 + 1')",
    "Max('2', Integer(1))", "Integer('2')", "2 ** 64", "2 ** 65", "Pow(Integer(2), Integer(65))", "L['x'].size()[0]",
    "L['stand in'].size()[0] == 1", "L['x'].stand_in() == 1", "len(L) == 1", "{'a': 1}", "f'{1}'", "[1, {}]",
    '[1, {"type": "builtins.list", "context": "null", "children_spec": []}]',
    '[1, {"type": "collections.OrderedDict", "context": "null", "children_spec": []}]',
]  # fmt: skip


def mutate_bytes(choose: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with one to four of its bytes, or pieces of it, changed."""
    data = bytearray(choose.choice(seeds))
    for _ in range(choose.randint(1, 4)):
        at, span = choose.randint(0, len(data)), choose.choice([0, 1, 1, 4, 20])
        kind = choose.randrange(3)
        if kind == 0:
            data[at : at + span] = choose.choice([b"", b'"', b"(", b")", b"'", b"\\", b",", b"{", b"]", b" ", b"0"])
        elif kind == 1:
            start = choose.randint(0, len(data))
            data[at : at + span] = data[start : start + span * 2]
        elif at < len(data):
            data[at] = choose.randrange(256)
    return bytes(data)


def mutate_archive(choose: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with one to three values of its document replaced, removed, doubled, or put into a text of it."""
    data = choose.choice(seeds)
    try:
        document = json.loads(data[1:])
    except ValueError:
        return mutate_bytes(choose, seeds)
    for _ in range(choose.randint(1, 3)):
        places = list(_places(document))
        if not places:
            break
        holder, key = choose.choice(places)
        stand_in = copy.deepcopy(choose.choice(STAND_INS))
        kind = choose.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder, dict) and isinstance(stand_in, str):
            holder[stand_in] = holder.pop(key)
        elif kind == 3 and isinstance(holder[key], str) and isinstance(stand_in, str):
            at = choose.randint(0, len(holder[key]))
            holder[key] = holder[key][:at] + stand_in + holder[key][at:]
        else:
            holder[key] = stand_in
    return data[:1] + _json(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member of every object and array, with what holds it."""
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])


# -- what must hold --------------------------------------------------------------------------------

NAMED = re.compile(r"[A-Za-z0-9_.+-]*")
CALLED = re.compile(r"([A-Za-z_0-9.]*)\s*\(")
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
FUNCTIONS = {
    "", ".size", ".stride", ".storage_offset", ".dim", ".numel", "Symbol", "Integer", "Float", "Rational", "Add", "Mul",
    "Pow", "Max", "Min", "Mod", "FloorDiv", "PythonMod", "and", "or", "not",
}  # fmt: skip
FREE = {"as_string", "as_strings", "as_string_to_argument", "torch_version", "stack_trace"}


def check_archive(data: bytes) -> str:
    """`refused`, with a reason, or `read`: then it holds nothing that PyTorch evaluates, imports or looks up but what
    an export writes. Anything else is an AssertionError, or an error that is nobody's reason.
    """
    name, text = ENTRIES[data[0] % len(ENTRIES)] if data else ENTRIES[0], data[1:]
    base = {ENTRIES[0]: (CORPUS / "sum").read_bytes()[1:], ENTRIES[1]: EMPTY, ENTRIES[2]: EMPTY}
    try:
        read_program(torch, Archive({**base, name: text}), "m")
    except ServerError as error:
        error.message.encode("utf-8", "replace")
        assert error.message.startswith("failed to load model 'm': ")
        return "refused"
    for key, value in _strings(json.loads(text), ""):
        _check_string(key, value)
    return "read"


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield "name of a member", name
            if name != "metadata":
                yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _check_string(key: str, value: str) -> None:
    if key in ("expr_str", "guards_code"):
        assert set(CALLED.findall(value)) <= FUNCTIONS, value
        for one, other in QUOTED.findall(value):
            assert NAMED.fullmatch(one or other), value
        assert not re.search(r"\blambda\b|\bif\b|\bfor\b|__|[{}:;\\]|\*\*\s*[0-9]{3}", value), value
    elif key == "target":
        found: Any = {"torch": torch}.get(value.split(".", maxsplit=1)[0])
        for part in value.split(".")[1:]:
            found = getattr(found, part, None)
        operators = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)
        assert isinstance(found, operators) or re.fullmatch(r"(_operator|math)\.\w+|torch\.(_?sym_|_check)\w+", value)
    elif key in ("in_spec", "out_spec"):
        kinds = {node["type"] for node in _nodes(json.loads(value)[1])} if value else set()
        assert kinds <= {None, "builtins.tuple", "builtins.list", "builtins.dict"}, value
    else:
        assert key in FREE or NAMED.fullmatch(value), value


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("children_spec", []):
        yield from _nodes(child)
