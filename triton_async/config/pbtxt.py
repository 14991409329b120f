"""Reads config.pbtxt (protobuf text format) of a model; errors name the file, the line and the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from triton_async import defines
from triton_async.config.paths import read_bounded, safe_name
from triton_async.errors import InvalidArg
from triton_async.protos import POOL, ModelConfig

FILENAME = "config.pbtxt"

# The parser starts its messages with `line:column : `.
_POSITION = re.compile(r"\A\d+:\d+ : ")
# Comments and strings, and the one field whose zero says something that leaving it out does not.
_NO_CODE = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_UNBATCHED = re.compile(r"\bmax_batch_size\s*:\s*-?0(?:x0+|0*)(?![\w.])", re.IGNORECASE)


def find(model_dir: Path, config_name: str = "") -> str | None:
    """Path, relative to the model, of the config to use: configs/<config_name>.pbtxt when there is one, else
    config.pbtxt, else None.
    """
    if config_name:
        custom = f"configs/{safe_name(config_name, 'model config name')}.pbtxt"
        if (model_dir / custom).exists():
            return custom
    return FILENAME if (model_dir / FILENAME).exists() else None


def read(model_dir: Path, filename: str) -> tuple[Any, bool]:
    """New `inference.ModelConfig` of the file, and whether it says `max_batch_size: 0`. InvalidArg when it cannot be
    read or parsed.
    """
    content = read_bounded(model_dir / filename, filename, defines.CONFIG_MAX_NBYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArg(f"failed to read text proto from {filename}: line {line}: not UTF-8") from None
    return parse(text, filename), _UNBATCHED.search(_NO_CODE.sub("", text)) is not None


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
    _drop_empty_entries(proto)
    return proto


def _drop_empty_entries(proto: Any) -> None:
    """A map without entries is printed as `metric_tags: {}`, which text format reads as one entry of nothing."""
    for field, value in proto.ListFields():
        message = field.message_type
        if message is None:
            continue
        if not message.GetOptions().map_entry:
            for part in value if field.is_repeated else (value,):
                _drop_empty_entries(part)
            continue
        of_messages = message.fields_by_name["value"].message_type is not None
        for key in list(value):
            if of_messages:
                _drop_empty_entries(value[key])
            if not key and not (value[key].ByteSize() if of_messages else value[key]):
                del value[key]


def _describe(text: str, error: text_format.ParseError) -> str:
    line, column = error.GetLine(), error.GetColumn()
    reason = _POSITION.sub("", str(error)).rstrip(".")
    if line is None:
        return reason
    lines = text.split("\n")
    source = lines[line - 1].strip()[:80] if 0 < line <= len(lines) else ""
    where = f"line {line}" + (f", column {column}" if column else "")
    return f'{where}, at "{source}": {reason}' if source else f"{where}: {reason}"
