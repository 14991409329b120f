"""Whether a model's code is the same on any thread: then its instances may be run by threads that wait for them.

Told from what its files import and name: what nothing is known of counts as bound to its thread.
"""

from __future__ import annotations

import dis
from collections.abc import Mapping
from pathlib import Path
from types import CodeType

# Nothing in them belongs to the thread that calls: neither settings, nor objects that no other thread may use.
_NEUTRAL = frozenset({
    "PIL", "__future__", "abc", "array", "base64", "binascii", "bisect", "builtins", "collections", "contextlib",
    "copy", "csv", "cv2", "dataclasses", "datetime", "difflib", "enum", "errno", "fractions", "functools", "glob",
    "gzip", "hashlib", "heapq", "hmac", "html", "io", "itertools", "json", "keyword", "logging", "math", "mimetypes",
    "numbers", "numpy", "operator", "orjson", "os", "pathlib", "pprint", "random", "re", "regex", "secrets",
    "sentencepiece", "shutil", "stat", "statistics", "string", "struct", "sys", "tempfile", "textwrap", "time",
    "tokenizers", "traceback", "types", "typing", "typing_extensions", "unicodedata", "urllib", "uuid", "zipfile",
    "zlib", "triton_python_backend_utils", "c_python_backend_utils",
})  # fmt: skip
# Calls by which code may reach anything.
_ANYTHING = frozenset({"__import__", "compile", "eval", "exec"})
# What is set for one thread alone.
_SETTINGS = frozenset({"seterr", "seterrcall", "setbufsize", "set_printoptions", "setprofile", "settrace"})
_NAMES = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})


def is_neutral(files: Mapping[Path, CodeType]) -> bool:
    """Of a model's files, compiled, which it has all imported by now; what it would import later is none of them."""
    own = {path.parent.name if path.stem == "__init__" else path.stem for path in files}
    return all(_code_is_neutral(code, own) for code in files.values())


def _code_is_neutral(code: CodeType, own: set[str]) -> bool:
    if not _SETTINGS.isdisjoint(code.co_names):
        return False
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname == "IMPORT_NAME":
            top = name.partition(".")[0]
            if top not in _NEUTRAL and top not in own:
                return False
        elif instruction.opname in _NAMES and name in _ANYTHING:
            return False
    return all(_code_is_neutral(inner, own) for inner in code.co_consts if isinstance(inner, CodeType))
