"""Reads config.pbtxt (protobuf text format) of a model; errors name the file, the line and the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from triton_async import defines
from triton_async.config.paths import read_bounded, safe_join, safe_name
from triton_async.errors import InvalidArg
from triton_async.protos import POOL, ModelConfig

FILENAME = "config.pbtxt"

# The parser starts its messages with `line:column : `.
_POSITION = re.compile(r"\A\d+:\d+ : ")


def find(model_dir: Path, config_name: str = "") -> str | None:
    """Path, relative to the model, of the config to use: configs/<config_name>.pbtxt when there is one, else
    config.pbtxt, else None.
    """
    if config_name:
        custom = f"configs/{safe_name(config_name, 'model config name')}.pbtxt"
        if (model_dir / custom).exists():
            return custom
    return FILENAME if (model_dir / FILENAME).exists() else None


def read(model_dir: Path, filename: str) -> Any:
    """New `inference.ModelConfig` of the file. InvalidArg when it cannot be read or parsed."""
    content = read_bounded(safe_join(model_dir, filename, "config file"), filename, defines.CONFIG_MAX_NBYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArg(f"failed to read text proto from {filename}: line {line}: not UTF-8") from None
    return parse(text, filename)


def parse(text: str, filename: str = FILENAME) -> Any:
    """New `inference.ModelConfig` of `text`. InvalidArg: `<file>: line N, column M, at "<text>": ...`."""
    proto = ModelConfig()
    try:
        text_format.Parse(text, proto, descriptor_pool=POOL)
    except text_format.ParseError as error:
        raise InvalidArg(f"failed to read text proto from {filename}: {_describe(text, error)}") from None
    except (ValueError, TypeError, KeyError, RecursionError, Warning) as error:
        # Values the parser lets through to the message, such as escapes that are not UTF-8, and warnings
        # where Python runs with -W error.
        raise InvalidArg(f"failed to read text proto from {filename}: {error}") from None
    return proto


def _describe(text: str, error: text_format.ParseError) -> str:
    line, column = error.GetLine(), error.GetColumn()
    reason = _POSITION.sub("", str(error)).rstrip(".")
    if line is None:
        return reason
    lines = text.split("\n")
    source = lines[line - 1].strip()[:80] if 0 < line <= len(lines) else ""
    where = f"line {line}" + (f", column {column}" if column else "")
    return f'{where}, at "{source}": {reason}' if source else f"{where}: {reason}"
