"""What of an exported program is looked at before PyTorch sees it, function by function.

Nothing here would do anything if PyTorch took it: what is refused is merely not on a list.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fuzzing_archive import (  # noqa: E402
    CORPUS,
    EMPTY,
    ENTRIES,
    Archive,
    archive_seeds,
    check_archive,
    mutate_archive,
    mutate_bytes,
)

from triton_async.backends.pytorch.archive import Kind, kind_of, read_program  # noqa: E402
from triton_async.backends.pytorch.expressions import check_expression  # noqa: E402
from triton_async.errors import InternalError, ServerError, Unsupported  # noqa: E402

MODEL, WEIGHTS, CONSTANTS = ENTRIES
MUTATIONS = 2000
S = "Symbol('s0', positive=True, integer=True)"


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def program(**more: bytes) -> dict[str, bytes]:
    """The entries of a small program."""
    return {MODEL: (CORPUS / "sum").read_bytes()[1:], WEIGHTS: EMPTY, CONSTANTS: EMPTY, **more}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def payload(path_name: str, pickled: bool = False) -> bytes:
    entry = {"path_name": path_name, "is_param": False, "use_pickle": pickled, "tensor_meta": None}
    return json.dumps({"config": {"w": entry}}).encode()


def changed(old: str, new: str) -> dict[str, bytes]:
    text = program()[MODEL].decode()
    assert old in text
    return {MODEL: text.replace(old, new).encode()}


def test_a_plain_program_is_read() -> None:
    inputs, outputs = read_program(torch, Archive(program()), "m")
    assert [(port.name, port.path) for port in inputs] == [("x", "ARGS[0]"), ("y", "ARGS[1]")]
    assert {port.dims for port in inputs} == {(-1, 4)}
    assert [port.name for port in outputs] == ["OUTPUT__0", "OUTPUT__1"]
    samples = {"data/sample_inputs/model.pt": saved(((torch.zeros(2),), {}))}
    read_program(torch, Archive({**program(), **samples, WEIGHTS: payload("weight_0")}), "m")


OBJECT = saved((Fraction(1, 2),))
DEEP = b"[" * (sys.getrecursionlimit() + 1) + b"]" * (sys.getrecursionlimit() + 1)
REFUSED: dict[str, dict[str, bytes]] = {
    "sample inputs": {"data/sample_inputs/model.pt": OBJECT},
    "old weights": {"data/weights/model.pt": b""},
    "old constants": {"data/constants/model.pt": b""},
    "pickled weight": {WEIGHTS: payload("weight_0", pickled=True)},
    "pickled constant": {CONSTANTS: payload("tensor_0", pickled=True)},
    "object": {CONSTANTS: payload("opaque_obj_0")},
    "custom object": {CONSTANTS: payload("custom_obj_0")},
    "path": {WEIGHTS: payload("a/b")},
    "function": changed("torch.ops.aten.add.Tensor", "torch.nn.functional.relu"),
    "method": changed("torch.ops.aten.add.Tensor", "torch.ops.aten.add.Tensor.name"),
    "namespace": changed("torch.ops.aten.add.Tensor", "torch.ops.aten"),
    "extension": changed("torch.ops.aten.add.Tensor", "#stand.in"),
    "Python's operator": changed("torch.ops.aten.add.Tensor", "_operator.itemgetter"),
    "argument name": changed('"name":"x"', '"name":"x y"'),
    "parameter name": changed('"forward_arg_names":["x"', '"forward_arg_names":["x y"'),
    "symbol": changed("Symbol('s", "len('s') + Symbol('s"),
    "guard": changed('"guards_code":[', '"guards_code":["len(L)", '),
    "container": changed("builtins.tuple", "collections.OrderedDict"),
    "number": changed('"as_int":4', f'"as_int":{2**63}'),
    "native code": {"data/aotinductor/model/notes.txt": b""},
    "two programs": {"models/other.json": b"{}"},
    "not json": {MODEL: b"{"},
    "deep json": {MODEL: b'{"a":' + DEEP + b"}"},
    "empty json": {MODEL: b"{}"},
    "no object": {MODEL: b"[]"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_on_the_lists_is_refused(name: str) -> None:
    with pytest.raises(ServerError, match=r"\Afailed to load model 'm': ."):
        read_program(torch, Archive({**program(), **REFUSED[name]}), "m")


@pytest.mark.parametrize("name", [
    "sample inputs", "old weights", "old constants", "pickled weight", "pickled constant", "object", "custom object",
])  # fmt: skip
def test_pickled_parts_are_named_as_such(name: str) -> None:
    with pytest.raises(Unsupported, match="pickled"):
        read_program(torch, Archive({**program(), **REFUSED[name]}), "m")


@pytest.mark.parametrize("text", [
    S, "Integer(2)", "Float('2.5', precision=53)", "Rational(1, 2)", "Rational('1.5')", f"Add({S}, Integer(-1))",
    f"Mod(Add({S}, Integer(7)), Integer(8))", f"Pow({S}, Integer(2))", f"Pow({S}, Rational(1, 2))", f"({S})**2 // 3",
    f"PowByNatural({S}, Integer(64))", f"Eq({S}, 1)", "s0 + 1", f"Pow(Pow({S}, Integer(2)), Integer(2))",
])  # fmt: skip
def test_symbolic_sizes(text: str) -> None:
    check_expression(text)


@pytest.mark.parametrize("text", [
    "", "1 +", "len(s0)", "s0()", f"{S}.name", f"{S}[0]", "(lambda: 1)()", "[1]", "(1, 2)", "{}", "{'a': 1}", "f'{1}'",
    "1 if s0 else 2", "[s0 for s0 in s1]", "s0 := 1", "__name__", "_s0", "Max(*s0)", "Symbol(**s0)", "b'1'", "...",
    "1j", "(s0 := 1)", "Symbol('s 0')", "Symbol('')", "Integer('1 + 1')", "Float('one')", "1" * 10_001, "None",
])  # fmt: skip
def test_what_is_no_symbolic_size(text: str) -> None:
    with pytest.raises(InternalError, match="symbolic expression that is none"):
        check_expression(text)


@pytest.mark.parametrize("text", [
    "floor('1 + 1')", "Max('1 + 1', Integer(1))", "Abs('s0')", "Add('s0', 1)", "'s0'", "'s0' + 1", "Symbol(floor('1'))",
    "Symbol('s0', positive='1 + 1')", "log('1 + 1')", "Where('1 + 1', 1, 2)", "Identity('1 + 1')",
])  # fmt: skip
def test_texts_that_a_function_would_evaluate(text: str) -> None:
    """SymPy's functions turn texts among their arguments into expressions, so they are names of symbols only."""
    with pytest.raises(InternalError, match="symbolic expression that is none"):
        check_expression(text)


@pytest.mark.parametrize("text", [
    "3 ** 65", "3 ** -65", "3 ** s0", f"3 ** {S}", "1 << 65", "Pow(Integer(3), Integer(65))", "PowByNatural(3, 65)",
    "LShift(1, 65)", "exp(65)", "FloatPow(Float('3.0'), Float('65.0'))", "3 ** (1 + 1)", "Pow(3, exp=2)",
    f"Pow(Pow(Pow({S}, 2), 2), 2)", "Pow(3, Integer('65'))",
])  # fmt: skip
def test_powers_are_bounded(text: str) -> None:
    with pytest.raises(InternalError, match="symbolic expression that is none"):
        check_expression(text)


@pytest.mark.parametrize(("text", "fine"), [
    ("L['x'].size()[0] == L['y'].size()[1]", True), ("L['args'][0].numel() // 2 != 1", True),
    ("(1 + (L['x'].size()[0] % 5)) * 3 >= 2", True), ("L['x'].storage_offset() == 0", True),
    ("L['x y'].size()[0] == 1", False), ("L['x'].item() == 1", False), ("L['x'].size.real == 1", False),
    ("L[s0].size()[0] == 1", False), ("L['x'] == 'y'", False), ("len(L) == 1", False), ("L[0:1] == 1", False),
    ("L['x'].size('y')[0] == 1", False), ("L[-1] == 1", False),
])  # fmt: skip
def test_guards(text: str, fine: bool) -> None:
    if fine:
        check_expression(text, guard=True)
    else:
        with pytest.raises(InternalError):
            check_expression(text, guard=True)
    with pytest.raises(InternalError):
        check_expression(text)


@pytest.mark.parametrize(("names", "kind"), [
    (["constants.pkl", "data.pkl"], Kind.SCRIPT), ([MODEL], Kind.EXPORTED), (["data/aotinductor/m/a"], Kind.COMPILED),
])  # fmt: skip
def test_kinds_of_archives(names: list[str], kind: Kind, tmp_path: Any) -> None:
    assert kind_of(Archive(dict.fromkeys(names, b"")), tmp_path / "f", "m") is kind


# -- the corpus ------------------------------------------------------------------------------------


def checked(data: bytes) -> str:
    try:
        return check_archive(data)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {data!r}") from error


def test_the_corpus_is_read() -> None:
    assert {checked(data) for data in seeds()} == {"read"}
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(archive_seeds())


def test_what_this_pytorch_exports_is_read() -> None:
    """The corpus is one PyTorch's; what the installed one writes has to pass as well."""
    assert {checked(data) for data in archive_seeds().values()} == {"read"}


@pytest.mark.parametrize("mutate", [mutate_archive, mutate_bytes])
def test_mutations_of_the_corpus(mutate: Callable[[random.Random, list[bytes]], bytes]) -> None:
    choose, corpus = random.Random(5), seeds()
    seen: Counter[str] = Counter(checked(mutate(choose, corpus)) for _ in range(MUTATIONS))
    assert seen["read"] > MUTATIONS // 100 and seen["refused"] > MUTATIONS // 10, seen
