"""Cases about the trace settings, of a server that was told where traces go. Order matters: settings last."""

from __future__ import annotations

import json
from typing import Any

from .cases import Case, GrpcCase, HttpCase, get

_ALL = "/v2/trace/setting"
_MODEL = "/v2/models/identity_fp32/trace/setting"


def _set(case_id: str, body: Any, path: str = _ALL) -> HttpCase:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpCase(f"trace-{case_id}", "POST", path, (), data)


def _grpc(case_id: str, model: str = "", **settings: list[str]) -> GrpcCase:
    message = {"modelName": model, "settings": {name: {"value": value} for name, value in settings.items()}}
    return GrpcCase(f"trace-grpc-{case_id}", "TraceSetting", (message,))


# Values of every kind, and of none.
_MORE: dict[str, Any] = {
    "level-null-inside": {"trace_level": [None]},
    "level-object": {"trace_level": {}},
    "level-case": {"trace_level": ["timestamps"]},
    "level-twice": {"trace_level": ["TIMESTAMPS", "TIMESTAMPS"]},
    "rate-array": {"trace_rate": ["5"]},
    "rate-bool": {"trace_rate": True},
    "rate-space": {"trace_rate": " 5"},
    "rate-most": {"trace_rate": "4294967295"},
    "rate-one-more": {"trace_rate": "4294967296"},
    "rate-back": {"trace_rate": None},
    "count-number": {"trace_count": 5},
    "count-empty": {"trace_count": ""},
    "count-minus-one": {"trace_count": "-1"},
    "count-most": {"trace_count": "2147483647"},
    "count-one-more": {"trace_count": "2147483648"},
    "count-back": {"trace_count": None},
    "frequency-number": {"log_frequency": 5},
    "frequency-negative": {"log_frequency": "-1"},
    "frequency-over": {"log_frequency": "4294967296"},
    "frequency-back": {"log_frequency": None},
    "file-number": {"trace_file": 5},
    "one-of-two-wrong": {"trace_rate": "9", "trace_count": "x"},
    "after-one-of-two": {},
    "text": "x",
    "number": 5,
    "trailing": b"{} x",
}
_OF_MODEL: dict[str, Any] = {
    "level-off": {"trace_level": ["OFF"]},
    "level-off-and": {"trace_level": ["OFF", "TENSORS"]},
    "level-back": {"trace_level": None},
    "count": {"trace_count": "6"},
    "count-text": {"trace_count": "x"},
    "count-back": {"trace_count": None},
    "frequency": {"log_frequency": "4"},
    "frequency-back": {"log_frequency": None},
    "rate-zero": {"trace_rate": "0"},
    "unknown": {"volume": "1"},
    "not-json": b"{",
    "empty-object": {},
}

CASES: tuple[Case, ...] = (
    get("trace-at-start", _ALL),
    get("trace-model-at-start", _MODEL),
    get("trace-version", "/v2/models/identity_fp32/versions/1/trace/setting"),
    get("trace-unknown-model", "/v2/models/nobody/trace/setting"),
    _set("set-unknown-model", {"trace_rate": "3"}, "/v2/models/nobody/trace/setting"),
    _set("model-rate", {"trace_rate": "3"}, _MODEL),
    get("trace-after-model-rate", _ALL),
    _set("rate", {"trace_rate": "7"}),
    get("trace-model-after-rate", _MODEL),
    _set("model-rate-clear", {"trace_rate": None}, _MODEL),
    _set("model-level", {"trace_level": ["TENSORS"]}, _MODEL),
    get("trace-after-model-level", _ALL),
    _set("model-level-clear", {"trace_level": None}, _MODEL),
    _set("level-two", {"trace_level": ["TIMESTAMPS", "TENSORS"]}),
    _set("level-old-names", {"trace_level": ["MIN", "MAX"]}),
    _set("level-off", {"trace_level": ["OFF"]}),
    _set("level-off-and", {"trace_level": ["OFF", "TIMESTAMPS"]}),
    _set("level-unknown", {"trace_level": ["LOUD"]}),
    _set("level-none", {"trace_level": []}),
    _set("level-text", {"trace_level": "OFF"}),
    _set("level-number", {"trace_level": [1]}),
    _set("level-clear", {"trace_level": None}),
    _set("rate-number", {"trace_rate": 5}),
    _set("rate-text", {"trace_rate": "x"}),
    _set("rate-text-after", {"trace_rate": "5x"}),
    _set("rate-clear-again", {"trace_rate": None}),
    _set("rate-negative", {"trace_rate": "-1"}),
    _set("rate-clear-negative", {"trace_rate": None}),
    _set("rate-zero", {"trace_rate": "0"}),
    _set("rate-empty", {"trace_rate": ""}),
    _set("rate-over", {"trace_rate": "99999999999999999999"}),
    _set("count-negative", {"trace_count": "-2"}),
    _set("count-text", {"trace_count": "x"}),
    _set("count-over", {"trace_count": "99999999999"}),
    _set("count", {"trace_count": "3"}),
    get("trace-model-after-count", _MODEL),
    _set("count-clear", {"trace_count": None}),
    _set("frequency-text", {"log_frequency": "x"}),
    _set("frequency", {"log_frequency": "3"}),
    _set("frequency-clear", {"log_frequency": None}),
    _set("file", {"trace_file": "x"}),
    _set("file-null", {"trace_file": None}),
    _set("model-file", {"trace_file": "x"}, _MODEL),
    _set("unknown", {"volume": "1"}),
    _set("mode", {"trace_mode": "opentelemetry"}),
    _set("not-json", b"{"),
    _set("list", b"[]"),
    _set("empty", b""),
    _set("empty-object", {}),
    _grpc("get"),
    _grpc("get-model", "identity_fp32"),
    _grpc("get-unknown-model", "nobody"),
    _grpc("set-unknown-model", "nobody", trace_rate=["3"]),
    _grpc("rate", trace_rate=["9"]),
    _grpc("rate-two", trace_rate=["9", "10"]),
    _grpc("rate-text", trace_rate=["x"]),
    _grpc("rate-over", trace_rate=["99999999999999999999"]),
    _grpc("rate-zero", trace_rate=["0"]),
    _grpc("rate-clear", trace_rate=[]),
    _grpc("count", trace_count=["4"]),
    _grpc("count-negative", trace_count=["-2"]),
    _grpc("count-clear", trace_count=[]),
    _grpc("level", "identity_fp32", trace_level=["TENSORS", "TIMESTAMPS"]),
    _grpc("level-off-and", trace_level=["OFF", "TIMESTAMPS"]),
    _grpc("level-unknown", trace_level=["LOUD"]),
    _grpc("level-clear", "identity_fp32", trace_level=[]),
    _grpc("frequency", log_frequency=["2"]),
    _grpc("file", trace_file=["x"]),
    _grpc("unknown", volume=["1"]),
    get("trace-at-end", _ALL),
    *(_set(f"more-{kind}", body) for kind, body in _MORE.items()),
    *(_set(f"model-{kind}", body, _MODEL) for kind, body in _OF_MODEL.items()),
    get("trace-all-at-end", _ALL),
    get("trace-model-at-end", _MODEL),
)
