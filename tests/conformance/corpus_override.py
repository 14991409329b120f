"""Loads that bring a config or files of their own. They build on each other: order matters."""

from __future__ import annotations

import base64
import json
from typing import Any

from .cases import Case, GrpcCase, HttpCase, get, target

_FIRST = "/v2/repository/models/first/load"
_FILE = base64.b64encode(b"not a model").decode()


def _load(case_id: str, config: Any = None, model: str = "first", **files: str) -> HttpCase:
    parameters: dict[str, Any] = {f"file:{path}": content for path, content in files.items()}
    if config is not None:
        parameters["config"] = config if isinstance(config, str) else json.dumps(config)
    body = json.dumps({"parameters": parameters}).encode()
    return HttpCase(f"override-{case_id}", "POST", f"/v2/repository/models/{model}/load", (), body)


def _grpc(case_id: str, model: str = "first", **parameters: Any) -> GrpcCase:
    message = {"modelName": model, "parameters": parameters}
    return GrpcCase(f"override-grpc-{case_id}", "RepositoryModelLoad", (message,))


CASES: tuple[Case, ...] = (
    _load("empty-object", {}),
    get("override-ready-after-empty-object", target("first", "ready")),
    _load("name-left-out", {"name": ""}),
    _load("other-name", {"name": "other"}),
    _load("not-json", "{"),
    _load("empty-text", ""),
    _load("list", "[]"),
    _load("number", "1"),
    _load("unknown-field", {"volume": 1}),
    _load("wrong-type", {"max_batch_size": "many"}),
    _load("unknown-model", {}, model="nobody"),
    _load("no-version", {"version_policy": {"specific": {"versions": [7]}}}),
    _load("config-number", '{"max_batch_size": 1.5}'),
    get("override-ready-after-failures", target("first", "ready")),
    _load("files-without-config", **{"1/model.x": _FILE}),
    _load("file-above", {}, **{"../model.x": _FILE}),
    _load("file-above-inside", {}, **{"1/../../model.x": _FILE}),
    _load("file-without-path", {}, **{"": _FILE}),
    _load("file-config-only", {}, **{"config.pbtxt": _FILE}),
    _load("file-without-config-unknown-model", model="nobody", **{"1/model.x": _FILE}),
    HttpCase("override-config-no-text", "POST", _FIRST, (), b'{"parameters":{"config":{}}}'),
    HttpCase("override-unknown-key", "POST", _FIRST, (), b'{"parameters":{"volume":"x"}}'),
    _grpc("empty-object", config={"stringParam": "{}"}),
    _grpc("not-json", config={"stringParam": "{"}),
    _grpc("config-bytes", config={"bytesParam": "e30="}),
    _grpc("unknown-key", volume={"stringParam": "x"}),
    _grpc("file-text", **{"config": {"stringParam": "{}"}, "file:1/model.x": {"stringParam": "x"}}),
    _grpc("file-without-config", **{"file:1/model.x": {"bytesParam": _FILE}}),
    _grpc("file-above", **{"config": {"stringParam": "{}"}, "file:../x": {"bytesParam": _FILE}}),
    get("override-ready-at-end", target("first", "ready")),
)
