"""Regular expressions as Triton's options have them, in RE2's syntax, as Python's `re` reads them. Pure."""

from __future__ import annotations

import re

# Flags for the rest of a group: `(?i)`, `(?-i)`, `(?s-i)`. Python has them at the very beginning only.
_FLAGS = re.compile(r"\(\?([a-zA-Z]*(?:-[a-zA-Z]+)?)\)")
_HEXADECIMAL = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
# Escapes of one letter: the end, any byte.
_OTHERS = {"z": r"\Z", "C": r"[\s\S]"}
_POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")
_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\t-\r ",
    "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip


def compile_re2(text: str, flags: re.RegexFlag) -> re.Pattern[str]:
    """What `text` means with RE2. What only one of the two knows is Python's to take, or to refuse by re.error."""
    pattern: list[str] = []
    # Of each group that is open, the outermost first: the flags that hold for the rest of it.
    groups: list[list[str]] = [[]]
    at = 0
    while at < len(text):
        piece, at = _piece(text, at)
        if (found := _FLAGS.fullmatch(piece)) is not None:
            # How much is taken (U) has no say in whether something is found.
            groups[-1].append(f"(?{found[1].replace('U', '').removesuffix('-')}:")
            pattern.append(groups[-1][-1])
        elif piece == "|":
            # They hold for the other branches, too.
            pattern += [")" * len(groups[-1]), "|", *groups[-1]]
        elif piece == ")" and len(groups) > 1:
            pattern.append(")" * (len(groups.pop()) + 1))
        else:
            if piece.startswith("("):
                groups.append([])
            pattern.append(piece)
    pattern.append(")" * len(groups[0]))
    return re.compile("".join(pattern), flags)


def _piece(text: str, at: int) -> tuple[str, int]:
    """What begins at `at`, in Python's syntax, and where the next piece begins."""
    if text[at] == "\\":
        return _escape(text, at)
    if text[at] == "[":
        return _set(text, at)
    if (flags := _FLAGS.match(text, at)) is not None:
        return flags[0], flags.end()
    if text.startswith("(?<", at) and text[at + 3 : at + 4] not in ("=", "!"):
        return "(?P<", at + 3
    return text[at], at + 1


def _escape(text: str, at: int) -> tuple[str, int]:
    if text.startswith(r"\Q", at):
        end = text.find(r"\E", at)
        end = len(text) if end < 0 else end
        return re.escape(text[at + 2 : end]), min(end + 2, len(text))
    if text[at + 1 : at + 2] in _OTHERS:
        return _OTHERS[text[at + 1]], at + 2
    if (code := _HEXADECIMAL.match(text, at)) is not None and int(code[1], 16) <= 0x10FFFF:
        return re.escape(chr(int(code[1], 16))), code.end()
    return text[at : at + 2], at + 2


def _set(text: str, at: int) -> tuple[str, int]:
    """A set of characters, `[...]`, in which RE2 knows classes by name, and a bracket means itself."""
    found = "["
    at += 1
    if text.startswith("^", at):
        found, at = "[^", at + 1
    first = at
    while at < len(text) and (text[at] != "]" or at == first):
        if (named := _POSIX_CLASS.match(text, at)) is not None:
            if named[1] or named[2] not in _POSIX:
                raise re.error(f"invalid character class {named[0]}")
            found, at = found + _POSIX[named[2]], named.end()
        elif text[at] == "\\":
            piece, at = _escape(text, at)
            found += piece
        else:
            found += "\\" + text[at] if text[at] in "[]" else text[at]
            at += 1
    return found + text[at : at + 1], at + 1
