"""Symbolic shapes and guards of exported programs: text that PyTorch evaluates as Python, checked to be arithmetic."""

from __future__ import annotations

import ast
import re

from triton_async.errors import InternalError

_IDENTIFIER = re.compile(r"\w+\Z", re.ASCII)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,3})?\Z")
# Functions of symbolic shapes; any other name that is called could be a Python function.
_FUNCTION = re.compile(
    r"(Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|Abs|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|FloorDiv|CleanDiv"
    r"|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|RoundDecimal|ToFloat|PythonMod|ModularIndexing|Where"
    r"|IntTrueDiv|FloatTrueDiv|FloatPow|PowByNatural|LShift|RShift|Identity|ceiling|floor|sqrt|log|exp"
    r"|IsNonOverlappingAndDenseIndicator|BitwiseFn_bitwise_and|BitwiseFn_bitwise_or)\Z"
)
_NUMBERS = ("Integer", "Float", "Rational")
_POWERS = ("Pow", "PowByNatural", "FloatPow", "LShift", "exp")
_GUARD_METHODS = frozenset(("size", "stride", "storage_offset", "dim", "numel"))
_PLAIN = (
    ast.Expression, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.keyword, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_MAX_LENGTH = 10_000  # characters; deeper nesting than Python parses is refused by itself
# What is raised to more, or a power of a power of a power, is no size of a tensor, and could be computed for hours.
_MAX_EXPONENT = 64
_MAX_POWERS = 2


def check_expression(text: str, guard: bool = False) -> None:
    """InternalError unless `text` is arithmetic on symbols, or for a `guard` on the sizes of arguments."""
    if len(text) > _MAX_LENGTH:
        raise _refused()
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError):
        raise _refused() from None
    # Strings are names of symbols and keys of arguments: everywhere else PyTorch's functions would evaluate them too.
    words: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words |= _words(node, guard)
        elif isinstance(node, ast.Subscript):
            words |= _key(node, guard)
        elif isinstance(node, ast.Attribute):
            if not guard or node.attr not in _GUARD_METHODS:
                raise _refused()
        elif isinstance(node, ast.Constant):
            if node not in words and not isinstance(node.value, int | float):
                raise _refused()
        elif not isinstance(node, _PLAIN) or (isinstance(node, ast.Name) and node.id.startswith("_")):
            raise _refused()
    _check_powers(tree, 0)


def _refused() -> InternalError:
    return InternalError("the exported program has a symbolic expression that is none")


def _words(call: ast.Call, guard: bool) -> set[ast.AST]:
    """The strings among the arguments of a call that are what they may be."""
    if guard and isinstance(call.func, ast.Attribute):
        return set()
    if not isinstance(call.func, ast.Name) or not _FUNCTION.match(call.func.id):
        raise _refused()
    form = _IDENTIFIER if call.func.id == "Symbol" else _NUMBER if call.func.id in _NUMBERS else None
    if call.keywords and (form is None or any(keyword.arg is None for keyword in call.keywords)):
        raise _refused()
    texts = [node for node in call.args if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {node for node in texts if form and form.match(str(node.value))}


def _key(subscript: ast.Subscript, guard: bool) -> set[ast.AST]:
    """The key of an argument that a guard names."""
    key = subscript.slice
    if guard and isinstance(key, ast.Constant):
        if isinstance(key.value, str) and _IDENTIFIER.match(key.value):
            return {key}
        if isinstance(key.value, int):
            return set()
    raise _refused()


def _check_powers(node: ast.AST, powers: int) -> None:
    exponent: ast.AST | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
        exponent = node.right
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS and node.args:
        exponent = node.args[-1]
    if exponent is not None:
        powers += 1
        if powers > _MAX_POWERS or not _is_exponent(exponent):
            raise _refused()
    for child in ast.iter_child_nodes(node):
        _check_powers(child, powers)


def _is_exponent(node: ast.AST) -> bool:
    """A number of at most _MAX_EXPONENT, however it is written. A symbol's value is the file's to say."""
    if isinstance(node, ast.UnaryOp):
        return _is_exponent(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        value = float(node.value) if isinstance(node.value, str) else node.value
        return abs(value) <= _MAX_EXPONENT
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in _NUMBERS and all(map(_is_exponent, node.args))
    return False
