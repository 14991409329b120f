"""Regular expressions of options: RE2's syntax means what it means to Triton."""

from __future__ import annotations

import re

import pytest

from triton_async.config.re2 import compile_re2


@pytest.mark.parametrize(("pattern", "matches", "others"), [
    ("my_header.*", ["my_header_1", "MY_HEADER"], ["my-header"]),
    ("(?-i)MY_HEADER.*", ["MY_HEADER_1"], ["my_header_1"]),
    ("my_(?-i)HEADER|other", ["MY_HEADER", "other"], ["my_header", "OTHER"]),
    ("(a(?-i)b|c)D", ["Abd", "cD"], ["aBD", "CD"]),
    ("(?i:a(?-i)B|C)d", ["aBD", "Cd"], ["abd", "cd"]),
    ("(?s-i)^X-.*$", ["X-A"], ["x-a"]),
    ("^[[:alpha:]]+[[:punct:]][^[:space:][:alpha:]]$", ["ab-1"], ["a1-1", "ab-c"]),
    ("^[]a[]+$", ["a]["], ["b"]),
    (r"^[\]x]$", ["]", "x"], ["\\"]),
    (r"^\Qa.b\E$", ["a.b"], ["axb"]),
    (r"\Qa.b", ["a.b"], ["axb"]),
    (r"header\z", ["header"], ["header_1"]),
    ("(?<name>my)_", ["my_"], ["my"]),
    ("(?U)my.*_(?i-U)x", ["MY__X"], ["my"]),
    (r"^my\Ch\z", ["my_h"], ["my_hh"]),
    (r"my\x{5f}h\x2d", ["my_h-"], ["my-h-"]),
    (r"\(x\)", ["(x)"], ["x"]),
    ("(?:a|b){2}c", ["abc"], ["ac"]),
])  # fmt: skip
def test_a_pattern_finds_what_it_finds_with_re2(pattern: str, matches: list[str], others: list[str]) -> None:
    found = compile_re2(pattern, re.IGNORECASE)
    assert [text for text in matches + others if found.search(text)] == matches


@pytest.mark.parametrize(
    "pattern", ["(", ")", "[", "*", "a**", "\\", "(?X)a", "(?-i", "[[:nothing:]]", "[a-[:digit:]]x["]
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(re.error):
        compile_re2(pattern, re.IGNORECASE)
