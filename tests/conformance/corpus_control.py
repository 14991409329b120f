"""Cases for a server in explicit control mode. They build on each other: order matters."""

from __future__ import annotations

import json
from typing import Any

from .cases import Case, GrpcCase, HttpCase, In, get, infer, target

# An unload answers before it is done.
_SETTLE = 3.0
_INPUT = [In("INPUT0", "INT32", [2], data=[1, 2])]


def _load(case_id: str, model: str, body: bytes = b"", verb: str = "load", pause: float = 0.0) -> HttpCase:
    return HttpCase(f"control-{case_id}", "POST", f"/v2/repository/models/{model}/{verb}", (), body, pause=pause)


def _index(case_id: str, body: bytes = b"", pause: float = 0.0) -> HttpCase:
    return HttpCase(f"control-{case_id}", "POST", "/v2/repository/index", (), body, mask="reasons", pause=pause)


def _get(case_id: str, path: str) -> HttpCase:
    return get(f"control-{case_id}", path)


def _grpc(case_id: str, method: str, pause: float = 0.0, **request: object) -> GrpcCase:
    return GrpcCase(f"control-grpc-{case_id}", method, (request,), pause=pause)


def _given(case_id: str, parameters: Any, verb: str = "load") -> HttpCase:
    return _load(f"{verb}-parameter-{case_id}", "first", json.dumps({"parameters": parameters}).encode(), verb)


# What a load and an unload may be told, of all kinds; the model is loaded or not, which makes no difference.
_PARAMETERS: tuple[Case, ...] = (
    _given("none", None),
    _given("empty", {}),
    _given("number-for-all", 5),
    _given("config-number", {"config": 5}),
    _given("config-null", {"config": None}),
    _given("config-list", {"config": []}),
    _given("file-number", {"config": "{}", "file:1/x": 5}),
    _given("file-null", {"config": "{}", "file:1/x": None}),
    _given("bool", {"colour": True}),
    _given("number", {"colour": 1.5}),
    _given("empty-name", {"": "x"}),
    _given("dependents-null", {"unload_dependents": None}, "unload"),
    _given("dependents-number", {"unload_dependents": 1}, "unload"),
    _given("dependents-false", {"unload_dependents": False}, "unload"),
    _given("unknown", {"colour": "red"}, "unload"),
    _given("number-for-all", 5, "unload"),
    _load("unload-array", "first", b"[]", "unload"),
    *(
        _grpc(f"load-config-{kind}", "RepositoryModelLoad", model_name="first", parameters={"config": value})
        for kind, value in {
            "int64": {"int64_param": 1}, "unset": {}, "text-empty": {"string_param": ""},
        }.items()
    ),
    _grpc("load-file-unset", "RepositoryModelLoad", model_name="first",
          parameters={"config": {"string_param": "{}"}, "file:1/x": {}}),
    _grpc("unload-dependents-unset", "RepositoryModelUnload", model_name="first", parameters={"unload_dependents": {}}),
    _grpc("unload-dependents-int64", "RepositoryModelUnload", model_name="first",
          parameters={"unload_dependents": {"int64_param": 1}}),
    _grpc("unload-parameter-unknown", "RepositoryModelUnload", model_name="first",
          parameters={"colour": {"string_param": "red"}}),
    _grpc("unload-named-repository", "RepositoryModelUnload", repository_name="r", model_name="first"),
    _grpc("index-named", "RepositoryIndex", repository_name="r"),
)  # fmt: skip

# Names that no model has, and paths that name a repository.
_NAMED: tuple[Case, ...] = (
    *(
        _load(f"{verb}-name-{kind}", name, verb=verb)
        for verb in ("load", "unload")
        for kind, name in {"dot": ".", "case": "First", "long": "n" * 300, "colons": "a::b", "tilde": "~"}.items()
    ),
    *(
        _grpc(f"{rpc.removeprefix('RepositoryModel').lower()}-name-{kind}", rpc, model_name=name)
        for rpc in ("RepositoryModelLoad", "RepositoryModelUnload")
        for kind, name in {
            "dots": "..", "slash": "a/b", "absolute": "/etc", "space": " ", "case": "First", "long": "n" * 300,
            "line": "a\nb",
        }.items()
    ),
    HttpCase("control-load-of-repository", "POST", "/v2/repository/one/models/first/load", (), b""),
    HttpCase("control-unload-of-repository", "POST", "/v2/repository/one/models/first/unload", (), b""),
    HttpCase("control-index-of-repository", "POST", "/v2/repository/one/index", (), b'{"ready":true}'),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    _index("index-at-start"),
    _get("ready-at-start", "/v2/health/ready"),
    _get("metadata-never-loaded", target("first", "")),
    _get("ready-never-loaded", target("first", "ready")),
    _get("stats-never-loaded", target("first", "stats")),
    _get("stats-all-at-start", "/v2/models/stats"),
    infer("control-infer-never-loaded", "first", _INPUT),
    _load("unload-never-loaded", "first", verb="unload"),
    _load("load", "first"),
    _get("ready-after-load", target("first", "ready")),
    infer("control-infer-after-load", "first", _INPUT),
    _index("index-after-load"),
    _index("index-ready-after-load", b'{"ready":true}'),
    _load("load-again", "first"),
    _load("load-empty-object", "first", b"{}"),
    _load("load-versions", "second"),
    infer("control-infer-version", "second", _INPUT, version=1),
    _get("metadata-versions", target("second", "")),
    _load("load-unknown", "nobody"),
    _load("load-escaped-dots", "%2e%2e"),
    _load("load-escaped-slash", "a%2fb"),
    _load("load-broken-config", "broken_config"),
    _load("load-broken-name", "broken_name"),
    _load("load-broken-model", "broken_model"),
    _load("load-broken-scalar", "broken_scalar"),
    _index("index-after-failures"),
    _get("ready-after-failures", "/v2/health/ready"),
    _get("live-after-failures", "/v2/health/live"),
    _get("metadata-of-failed", target("broken_model", "")),
    _get("ready-of-failed", target("broken_model", "ready")),
    infer("control-infer-of-failed", "broken_model", _INPUT),
    infer("control-infer-of-failed-version", "broken_model", _INPUT, version=1),
    _load("load-bad-json", "first", b"{"),
    _load("load-array", "first", b"[]"),
    _load("load-parameters-array", "first", b'{"parameters":[]}'),
    _load("load-parameter-unknown", "first", b'{"parameters":{"colour":"red"}}'),
    _load("unload", "first", verb="unload"),
    HttpCase("control-infer-after-unload", "POST", target("first"), (), b"{}", pause=_SETTLE),
    infer("control-infer-version-after-unload", "first", _INPUT, version=1),
    _get("metadata-after-unload", target("first", "")),
    _get("config-after-unload", target("first", "config")),
    _get("ready-after-unload", target("first", "ready")),
    _get("stats-after-unload", target("first", "stats")),
    _index("index-after-unload"),
    _index("index-ready-after-unload", b'{"ready":true}'),
    _load("unload-again", "first", verb="unload"),
    _load("unload-unknown", "nobody", verb="unload"),
    _load("unload-dependents", "second", b'{"parameters":{"unload_dependents":true}}', "unload"),
    _load("unload-dependents-text", "second", b'{"parameters":{"unload_dependents":"x"}}', "unload", _SETTLE),
    _load("unload-bad-json", "second", b"{", "unload"),
    _grpc("load", "RepositoryModelLoad", model_name="first"),
    _grpc("ready", "ModelReady", name="first"),
    _grpc("ready-unloaded", "ModelReady", name="second"),
    _grpc("ready-unloaded-version", "ModelReady", name="second", version="1"),
    _grpc("metadata-unloaded", "ModelMetadata", name="second"),
    _grpc("infer-unloaded", "ModelInfer", model_name="second"),
    _grpc("load-unknown", "RepositoryModelLoad", model_name="nobody"),
    _grpc("load-empty-name", "RepositoryModelLoad"),
    _grpc("load-broken-config", "RepositoryModelLoad", model_name="broken_config"),
    _grpc("load-named-repository", "RepositoryModelLoad", repository_name="r", model_name="first"),
    _grpc(
        "load-parameter-unknown",
        "RepositoryModelLoad",
        model_name="first",
        parameters={"colour": {"string_param": "red"}},
    ),
    _grpc(
        "load-config-not-text",
        "RepositoryModelLoad",
        model_name="first",
        parameters={"config": {"bool_param": True}},
    ),
    _grpc(
        "unload-dependents-text",
        "RepositoryModelUnload",
        model_name="first",
        parameters={"unload_dependents": {"string_param": "x"}},
    ),
    _grpc("unload", "RepositoryModelUnload", model_name="first"),
    _grpc("unload-unknown", "RepositoryModelUnload", model_name="nobody"),
    _grpc("unload-empty-name", "RepositoryModelUnload"),
    _grpc("index-ready", "RepositoryIndex", _SETTLE, ready=True),
    _get("ready-at-end", "/v2/health/ready"),
    _load("load-no-version", "no_version"),
    *_PARAMETERS,
    _get("ready-after-parameters", target("first", "ready")),
    _index("index-at-end", pause=_SETTLE),
    *_NAMED,
)
