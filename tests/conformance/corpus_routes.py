"""HTTP cases about every route: methods it does not have, paths beside it, headers that say something of the body."""

from __future__ import annotations

import gzip
import json
import zlib

from .cases import Headers, HttpCase, In, get, infer, out, target

_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
_BARE = ("GET", "DELETE", "HEAD")
_GET, _POST, _BOTH = ("GET",), ("POST",), ("GET", "POST")

# Of a server whose models are all there; the regions are unknown.
ROUTES: dict[str, tuple[tuple[str, ...], str]] = {
    "live": (_GET, "/v2/health/live"),
    "ready": (_GET, "/v2/health/ready"),
    "server": (_GET, "/v2"),
    "metadata": (_GET, "/v2/models/versions"),
    "metadata-version": (_GET, "/v2/models/versions/versions/3"),
    "model-ready": (_GET, "/v2/models/versions/ready"),
    "model-ready-version": (_GET, "/v2/models/versions/versions/3/ready"),
    "config": (_GET, "/v2/models/versions/config"),
    "config-version": (_GET, "/v2/models/versions/versions/3/config"),
    "stats": (_GET, "/v2/models/versions/stats"),
    "stats-version": (_GET, "/v2/models/versions/versions/3/stats"),
    "stats-all": (_GET, "/v2/models/stats"),
    "infer": (_POST, "/v2/models/versions/infer"),
    "infer-version": (_POST, "/v2/models/versions/versions/3/infer"),
    "generate": (_POST, "/v2/models/versions/generate"),
    "generate-version": (_POST, "/v2/models/versions/versions/3/generate"),
    "generate-stream": (_POST, "/v2/models/versions/generate_stream"),
    "generate-stream-version": (_POST, "/v2/models/versions/versions/3/generate_stream"),
    "trace": (_BOTH, "/v2/trace/setting"),
    "model-trace": (_BOTH, "/v2/models/versions/trace/setting"),
    "logging": (_BOTH, "/v2/logging"),
    "index": (_POST, "/v2/repository/index"),
    "index-named": (_POST, "/v2/repository/one/index"),
    "load": (_POST, "/v2/repository/models/versions/load"),
    "load-named": (_POST, "/v2/repository/one/models/versions/load"),
    "unload": (_POST, "/v2/repository/models/versions/unload"),
    "unload-named": (_POST, "/v2/repository/one/models/versions/unload"),
    "system-status": (_GET, "/v2/systemsharedmemory/status"),
    "system-region-status": (_GET, "/v2/systemsharedmemory/region/r/status"),
    "system-register": (_POST, "/v2/systemsharedmemory/region/r/register"),
    "system-unregister": (_POST, "/v2/systemsharedmemory/region/r/unregister"),
    "system-unregister-all": (_POST, "/v2/systemsharedmemory/unregister"),
    "cuda-status": (_GET, "/v2/cudasharedmemory/status"),
    "cuda-region-status": (_GET, "/v2/cudasharedmemory/region/r/status"),
    "cuda-register": (_POST, "/v2/cudasharedmemory/region/r/register"),
    "cuda-unregister": (_POST, "/v2/cudasharedmemory/region/r/unregister"),
    "cuda-unregister-all": (_POST, "/v2/cudasharedmemory/unregister"),
}

METHODS = tuple(
    HttpCase(f"routes-{name}-{method.lower()}", method, path, (), None if method in _BARE else b"{}")
    for name, (allowed, path) in ROUTES.items()
    for method in _METHODS
    if method not in allowed
)

SLASHES = tuple(
    HttpCase(f"routes-{name}-slash", allowed[0], path + "/", (), None if allowed[0] == "GET" else b"{}")
    for name, (allowed, path) in ROUTES.items()
)

PATHS = (
    *(
        get(f"routes-path-{name}", path)
        for name, path in {
            "upper-case": "/V2/health/live",
            "upper-case-verb": "/v2/models/versions/READY",
            "health-other": "/v2/health/alive",
            "health-deeper": "/v2/health/live/now",
            "empty-model": "/v2/models//ready",
            "empty-version": "/v2/models/versions/versions//ready",
            "no-version": "/v2/models/versions/versions/ready",
            "version-bare": "/v2/models/versions/versions",
            "version-twice": "/v2/models/versions/versions/3/versions/3",
            "version-suffix": "/v2/models/versions/versions/3x/ready",
            "version-negative": "/v2/models/versions/versions/-1/ready",
            "version-plus": "/v2/models/versions/versions/+3/ready",
            "version-float": "/v2/models/versions/versions/3.0/ready",
            "stats-of-stats": "/v2/models/stats/stats",
            "models-slash": "/v2/models/",
            "trace-bare": "/v2/trace",
            "trace-other": "/v2/trace/settings",
            "logging-deeper": "/v2/logging/log_info",
            "repository": "/v2/repository",
            "v1": "/v1/models/versions:predict",
            "v2-prefix": "/v2x",
            "metrics": "/metrics",
            "dots": "/v2/models/../health/live",
            "semicolon": "/v2/health/live;x=1",
        }.items()
    ),
    get("routes-query-live", "/v2/health/live?"),
    get("routes-query-model", "/v2/models/versions?versions=1"),
    get("routes-query-config", "/v2/models/versions/versions/3/config?x", mask="config"),
    HttpCase("routes-query-index", "POST", "/v2/repository/index?ready=true", (), b""),
    HttpCase("routes-query-logging", "GET", "/v2/logging?x=/v2/trace/setting"),
)

# Versions and models in the path, for each of what asks for one.
VERSIONS = tuple(
    HttpCase(
        f"routes-{verb.replace('_', '-') or 'metadata'}-{kind}",
        "POST" if verb in ("infer", "generate", "generate_stream") else "GET",
        target(model, verb, version),
        (),
        b"{}" if verb in ("infer", "generate", "generate_stream") else None,
    )
    for verb in ("", "ready", "config", "stats", "infer", "generate", "generate_stream")
    for kind, model, version in (
        ("version-zero", "versions", 0),
        ("version-between", "versions", 2),
        ("version-zeros", "versions", "007"),
        ("version-int64", "versions", 2**63 - 1),
        ("version-over-int64", "versions", 2**63),
        ("version-over-uint64", "versions", 2**64 + 3),
        ("not-latest", "latest", 1),
        ("unknown-model", "nobody", None),
        ("unknown-model-version", "nobody", 1),
        ("unknown-model-version-over", "nobody", 2**64 + 3),
    )
)

_ONE = In("INPUT0", "INT32", [2], data=[7, 8])
_BODY = json.dumps({"inputs": [_ONE.header()]}).encode()
_LENGTH, _ENCODING = "Inference-Header-Content-Length", "Content-Encoding"


def _with(case_id: str, path: str, body: bytes | None, *headers: tuple[str, str], method: str = "POST") -> HttpCase:
    return HttpCase(f"routes-{case_id}", method, path, tuple(headers), body)


def _infer(case_id: str, *headers: tuple[str, str], body: bytes = _BODY) -> HttpCase:
    return _with(f"infer-{case_id}", "/v2/models/versions/infer", body, *headers)


_ASK = b'{"INPUT0":[7,8]}'
_GENERATE = "/v2/models/versions/generate"

HEADERS = (
    _with("length-of-get", "/v2/models/versions", None, (_LENGTH, "5"), method="GET"),
    _with("length-of-index", "/v2/repository/index", b"{}", (_LENGTH, "1")),
    _with("length-of-logging", "/v2/logging", b"{}", (_LENGTH, "xx")),
    _with("length-of-generate", _GENERATE, _ASK, (_LENGTH, str(len(_ASK)))),
    _with("length-of-generate-zero", _GENERATE, _ASK, (_LENGTH, "0")),
    _with("length-of-generate-text", _GENERATE, _ASK, (_LENGTH, "xx")),
    _with("generate-plain", _GENERATE, _ASK),
    _with("generate-gzip", _GENERATE, gzip.compress(_ASK, mtime=0), (_ENCODING, "gzip")),
    _with("generate-deflate", _GENERATE, zlib.compress(_ASK), (_ENCODING, "deflate")),
    _with("generate-identity", _GENERATE, _ASK, (_ENCODING, "identity")),
    _with("generate-encoding-unknown", _GENERATE, _ASK, (_ENCODING, "br")),
    _with("generate-accept-gzip", _GENERATE, _ASK, ("Accept-Encoding", "gzip")),
    _with("index-gzip", "/v2/repository/index", gzip.compress(b'{"ready":true}', mtime=0), (_ENCODING, "gzip")),
    _with("index-encoding-unknown", "/v2/repository/index", b'{"ready":true}', (_ENCODING, "br")),
    _with("logging-gzip", "/v2/logging", gzip.compress(b"{}", mtime=0), (_ENCODING, "gzip")),
    _with("trace-gzip", "/v2/trace/setting", gzip.compress(b"{}", mtime=0), (_ENCODING, "gzip")),
    _with("metadata-accept-gzip", "/v2/models/versions", None, ("Accept-Encoding", "gzip"), method="GET"),
    _with("stats-accept-gzip", "/v2/models/nobody/stats", None, ("Accept-Encoding", "gzip"), method="GET"),
    _infer("encoding-empty", (_ENCODING, "")),
    _infer("encoding-case", (_ENCODING, "Identity")),
    _infer("encoding-x-gzip", (_ENCODING, "x-gzip"), body=gzip.compress(_BODY, mtime=0)),
    _infer("encoding-spaces", (_ENCODING, "  gzip "), body=gzip.compress(_BODY, mtime=0)),
    _infer("encoding-weight", (_ENCODING, "gzip;q=1"), body=gzip.compress(_BODY, mtime=0)),
    _infer("encoding-identity-gzip", (_ENCODING, "identity, gzip"), body=gzip.compress(_BODY, mtime=0)),
    _infer("encoding-twice", (_ENCODING, "gzip"), (_ENCODING, "gzip"), body=gzip.compress(_BODY, mtime=0)),
    _infer("type-form", ("Content-Type", "application/x-www-form-urlencoded")),
    _infer("type-text", ("Content-Type", "text/plain; charset=latin-1")),
    _infer("type-nonsense", ("Content-Type", "nonsense")),
    _infer("accept-text", ("Accept", "text/plain")),
    _infer("traceparent-broken", ("traceparent", "00-zz-1-x")),
    _infer("authorization", ("Authorization", "Basic eDp5")),
    _infer("length-equal", (_LENGTH, str(len(_BODY)))),
    _infer("length-equal-zeros", (_LENGTH, f"00{len(_BODY)}")),
    _infer("length-equal-tab", (_LENGTH, f"\t{len(_BODY)}")),
    _infer("length-inside-space", (_LENGTH, f"{len(_BODY)} 0")),
    _infer("length-comma", (_LENGTH, f"{len(_BODY)},{len(_BODY)}")),
    _infer("length-zero-and-json", (_LENGTH, "0")),
    _infer("length-minus-zero", (_LENGTH, "-0")),
    _infer("length-int-max", (_LENGTH, "2147483647")),
)

_FIVE = In("INPUT0", "FP32", [1, 5], data=[0.5, 2.25, -1.0, 2.5, 1e10])


def _class(name: str, count: object, headers: Headers = ()) -> HttpCase:
    return infer(f"routes-class-{name}", "classify", [_FIVE], [out("OUTPUT0", classification=count)], headers=headers)


CLASSES = (
    _class("all", 5),
    _class("one-more", 6),
    _class("bool", True),
    _class("null", None),
    _class("float", 2.0),
    _class("list", [2]),
    _class("int32-over", 2**31),
    _class("uint32-over", 2**32),
    _class("uint64-over", 2**64),
    _class("accept-gzip-zero", 2, (("Accept-Encoding", "identity"),)),
    infer(
        "routes-class-and-binary-false",
        "classify",
        [_FIVE],
        [out("OUTPUT0", classification=2, binary_data=False)],
    ),
    infer(
        "routes-class-request-binary",
        "classify",
        [_FIVE],
        [out("OUTPUT0", classification=2)],
        parameters={"binary_data_output": True},
    ),
    infer("routes-class-unknown-output", "classify", [_FIVE], [out("OUTPUT9", classification=2)]),
    infer("routes-class-fewer-labels", "classify_int", [In("INPUT0", "INT32", [3], data=[1, 2, 9])],
          [out("OUTPUT0", classification=1)]),
)  # fmt: skip

# Bodies of what takes one, and needs none.
BODIES = tuple(
    HttpCase(f"routes-{name}-{kind}", "POST", path, (), body)
    for name, path in (
        ("index", "/v2/repository/index"),
        ("unload", "/v2/repository/models/versions/unload"),
        ("load", "/v2/repository/models/versions/load"),
    )
    for kind, body in (
        ("no-body", None),
        ("number", b"5"),
        ("list", b"[]"),
        ("text", b'"x"'),
        ("null", b"null"),
        ("ready-null", b'{"ready":null}'),
        ("ready-number", b'{"ready":1}'),
        ("unknown-member", b'{"colour":"red"}'),
        ("trailing", b"{} x"),
        ("not-utf8", b'{"a":"\xff"}'),
    )
)

CASES: tuple[HttpCase, ...] = (*METHODS, *SLASHES, *PATHS, *VERSIONS, *HEADERS, *CLASSES, *BODIES)
