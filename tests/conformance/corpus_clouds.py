"""Cases about the ports of SageMaker and Vertex AI: their routes, bodies in their framing, what they refuse."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping

from .cases import Headers, HttpCase, In, out

_SAGEMAKER = "application/vnd.sagemaker-triton.binary+json;json-header-size="
_VERTEX = "application/vnd.vertex-ai-triton.binary+json;json-header-size="
_DATA = In("INPUT0", "INT32", [2], data=[7, 8])
_RAW = In("INPUT0", "INT32", [2], raw=(7).to_bytes(4, "little") + (8).to_bytes(4, "little"))


def _document(tensor: In, **more: object) -> bytes:
    return json.dumps({"inputs": [tensor.header()], **more}).encode()


_JSON = _document(_DATA)
_HEAD = _document(_RAW, outputs=[out("OUTPUT0", binary_data=True)])
_BODY = _HEAD + (_RAW.raw or b"")


def _bodies(framing: str, other: str) -> dict[str, tuple[bytes | None, Headers]]:
    """Bodies of inference on `versions`, and their headers."""

    def typed(value: object) -> Headers:
        return (("Content-Type", f"{framing}{value}"),)

    return {
        "json": (_JSON, ()),
        "json-typed": (_JSON, (("Content-Type", "application/json"),)),
        "json-id": (_document(_DATA, id="7"), ()),
        "binary": (_BODY, typed(len(_HEAD))),
        "binary-size-of-all": (_JSON, typed(len(_JSON))),
        "binary-size-over": (_BODY, typed(len(_BODY) + 1)),
        "binary-size-short": (_BODY, typed(5)),
        "binary-size-negative": (_BODY, typed(-1)),
        "binary-size-text": (_BODY, typed("x")),
        "binary-size-empty": (_BODY, typed("")),
        "binary-other-framing": (_BODY, (("Content-Type", f"{other}{len(_HEAD)}"),)),
        "length-header": (_BODY, (("Inference-Header-Content-Length", str(len(_HEAD))),)),
        "gzip": (gzip.compress(_JSON, mtime=0), (("Content-Encoding", "gzip"),)),
        "encoding-unknown": (_JSON, (("Content-Encoding", "br"),)),
        "no-body": (None, ()),
        "empty": (b"", ()),
        "no-json": (b"{", ()),
        "no-inputs": (b"{}", ()),
        "wrong-datatype": (_document(In("INPUT0", "INT64", [2], data=[7, 8])), ()),
        "wrong-shape": (_document(In("INPUT0", "INT32", [3], data=[7, 8, 9])), ()),
        "unknown-output": (_document(_DATA, outputs=[out("OUTPUT9")]), ()),
    }


def _cases(prefix: str, path: str, bodies: Mapping[str, tuple[bytes | None, Headers]]) -> tuple[HttpCase, ...]:
    return tuple(
        HttpCase(f"{prefix}-{name}", "POST", path, headers, body, port="cloud")
        for name, (body, headers) in bodies.items()
    )


def _ask(case_id: str, method: str, path: str, body: bytes | None = None, headers: Headers = ()) -> HttpCase:
    return HttpCase(case_id, method, path, headers, body, port="cloud")


def _paths(prefix: str, known: Mapping[str, tuple[str, str]]) -> tuple[HttpCase, ...]:
    """Methods that routes do not have, and paths beside them."""
    return tuple(
        _ask(f"{prefix}-{name}-{method.lower()}", method, path, None if method in ("GET", "DELETE") else b"{}")
        for name, (allowed, path) in known.items()
        for method in ("GET", "POST", "PUT", "DELETE")
        if method not in allowed.split()
    ) + tuple(
        _ask(f"{prefix}-{name}-slash", allowed.split()[0], f"{path}/", None) for name, (allowed, path) in known.items()
    )


# The server has the models of a repository, and may be told of more.
SAGEMAKER: tuple[HttpCase, ...] = (
    _ask("sagemaker-ping", "GET", "/ping"),
    _ask("sagemaker-ping-query", "GET", "/ping?x=1"),
    *_cases("sagemaker-invocations", "/invocations", _bodies(_SAGEMAKER, _VERTEX)),
    *_paths("sagemaker", {"ping": ("GET", "/ping"), "invocations": ("POST", "/invocations")}),
    *(
        _ask(f"sagemaker-other-{name}", "GET", path)
        for name, path in {"root": "/", "v2": "/v2", "health": "/v2/health/ready", "case": "/Ping"}.items()
    ),
    _ask("sagemaker-models", "GET", "/models"),
    _ask("sagemaker-model-unknown", "GET", "/models/nobody"),
    _ask("sagemaker-model-of-repository", "GET", "/models/versions"),
    _ask("sagemaker-invoke-unknown", "POST", "/models/nobody/invoke", _JSON),
    _ask("sagemaker-unload-unknown", "DELETE", "/models/nobody"),
    _ask("sagemaker-load-no-folder", "POST", "/models", b'{"model_name":"m","url":"/opt/ml/models/nobody/model"}'),
    _ask("sagemaker-models-after", "GET", "/models"),
)

_REDIRECT = "X-Vertex-Ai-Triton-Redirect"


def _redirect(name: str, target: str, body: bytes | None = b"") -> HttpCase:
    return _ask(f"vertex-redirect-{name}", "POST", "/predict", body, ((_REDIRECT, target),))


VERTEX_AI: tuple[HttpCase, ...] = (
    _ask("vertex-health", "GET", "/health"),
    *_cases("vertex-predict", "/predict", _bodies(_VERTEX, _SAGEMAKER)),
    *_paths("vertex", {"health": ("GET", "/health"), "predict": ("POST", "/predict")}),
    *(
        _ask(f"vertex-other-{name}", "GET", path)
        for name, path in {"root": "/", "v2": "/v2", "ready": "/v2/health/ready", "case": "/Health"}.items()
    ),
    _redirect("live", "v2/health/live"),
    _redirect("ready", "v2/health/ready"),
    _redirect("metadata", "v2/models/versions"),
    _redirect("model-ready", "v2/models/versions/ready"),
    _redirect("infer", "v2/models/versions/infer", _JSON),
    _redirect("infer-version", "v2/models/versions/versions/1/infer", _JSON),
    _redirect("infer-unknown", "v2/models/nobody/infer", _JSON),
    _redirect("metadata-unknown", "v2/models/nobody"),
    _redirect("index", "v2/repository/index"),
    _redirect("region-status", "v2/systemsharedmemory/status"),
    _redirect("unknown", "v2/nothing"),
    _redirect("empty", ""),
    _redirect("slash", "/v2/health/live"),
    _redirect("of-get", "v2/health/live", None),
)
