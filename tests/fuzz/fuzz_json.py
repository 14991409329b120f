"""Guided fuzzing of the JSON reader of all other bodies against Python's own; see guided.py."""

from __future__ import annotations

from typing import Any

import atheris
from guided import run

with atheris.instrument_imports(include=["fuzzing", "triton_async"]):
    from fuzzing import mutate, plain_json

    from triton_async.errors import ServerError
    from triton_async.protocol import http_control
    from triton_async.protocol.json_text import dumps, loads

SEEDS = [
    b'{"ready":true}', b'{"parameters":{"config":"{}","file:1/model.onnx":"QUJD"}}', b"[]", b"",
    b'{"parameters":{"unload_dependents":true}}', b'{"a":[1,-2.5e10,null,"\\u00e9\\ud83d\\ude00",{"b":[]}]}',
]  # fmt: skip


def check(data: bytes) -> str:
    for parse in (http_control.parse_index, http_control.parse_load, http_control.parse_unload):
        try:
            parse(data)
        except ServerError as error:
            error.message.encode()
    try:
        found: Any = loads(data)
    except ServerError:
        return "refused"
    plain = plain_json(data)
    assert plain is None or repr(found) == repr(plain)
    dumps(found)
    return "read"


if __name__ == "__main__":
    run(check, SEEDS, [mutate])
