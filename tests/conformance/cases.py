"""What a case of the corpus is, and the builders that corpus files are written with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

Headers = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class HttpCase:
    """One HTTP exchange on a connection of its own.

    `body` None sends no Content-Length; `chunks` sends the body chunked; `mask` names what differs by
    nature between two runs or two backends (see normalise.py).
    """

    id: str
    method: str
    target: str
    headers: Headers = ()
    body: bytes | None = None
    chunks: tuple[bytes, ...] | None = None
    mask: str = ""
    # For HTTP/1.0, broken framing and the like: these bytes go out as they are.
    raw: bytes | None = None
    # Seconds to wait before sending, where the case before has an effect that comes later.
    pause: float = 0.0
    # "http", "metrics" or "cloud": which of the server's ports is meant.
    port: str = "http"

    def wire(self) -> bytes:
        """The bytes of the request."""
        if self.raw is not None:
            return self.raw
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        payload = b"" if self.body is None else self.body
        if self.chunks is not None:
            lines.append("Transfer-Encoding: chunked")
            payload = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in self.chunks) + b"0\r\n\r\n"
        elif self.body is not None and not any(name.lower() == "content-length" for name, _ in self.headers):
            lines.append(f"Content-Length: {len(payload)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + payload


@dataclasses.dataclass(frozen=True)
class GrpcCase:
    """One gRPC call: a method of the inference service (or "Health/Check") and its messages.

    Messages are given as dicts in protobuf's JSON form, or as bytes that are sent unparsed. A stream
    method takes several.
    """

    id: str
    method: str
    messages: tuple[dict[str, Any] | bytes, ...]
    metadata: Headers = ()
    mask: str = ""
    timeout: float = 10.0
    compression: str = ""
    pause: float = 0.0
    # Seconds between the first message of a stream and the others.
    gap: float = 0.0


Case = HttpCase | GrpcCase


@dataclasses.dataclass(frozen=True)
class In:
    """An input of an HTTP infer request: `data` goes as JSON, `raw` as binary."""

    name: str
    dtype: str
    shape: Any
    data: Any = None
    raw: bytes | None = None
    parameters: dict[str, Any] | None = None

    def header(self) -> dict[str, Any]:
        """The entry in the JSON header."""
        entry: dict[str, Any] = {"name": self.name, "shape": self.shape, "datatype": self.dtype}
        parameters = dict(self.parameters or {})
        if self.raw is not None:
            parameters.setdefault("binary_data_size", len(self.raw))
        if parameters:
            entry["parameters"] = parameters
        if self.data is not None:
            entry["data"] = self.data
        return entry


def out(name: str, **parameters: Any) -> dict[str, Any]:
    """A requested output."""
    return {"name": name, "parameters": parameters} if parameters else {"name": name}


def target(model: str, verb: str = "infer", version: object = None) -> str:
    """Path of a model's endpoint."""
    middle = "" if version is None else f"/versions/{version}"
    return f"/v2/models/{model}{middle}" + (f"/{verb}" if verb else "")


def infer(
    case_id: str,
    model: str,
    inputs: Sequence[In],
    outputs: Sequence[dict[str, Any]] | None = None,
    *,
    version: object = None,
    headers: Headers = (),
    **top: Any,
) -> HttpCase:
    """An infer request in JSON, with the binary extension when an input is binary.

    `top` are further members of the request, such as `id` and `parameters`.
    """
    document: dict[str, Any] = {**top, "inputs": [item.header() for item in inputs]}
    if outputs is not None:
        document["outputs"] = list(outputs)
    text = json.dumps(document, separators=(",", ":")).encode()
    tail = b"".join(item.raw for item in inputs if item.raw is not None)
    names = [name.lower() for name, _ in headers]
    if any(item.raw is not None for item in inputs) and "inference-header-content-length" not in names:
        headers = (*headers, ("Inference-Header-Content-Length", str(len(text))))
    return HttpCase(case_id, "POST", target(model, version=version), headers, text + tail)


def post(case_id: str, model: str, body: str | bytes, headers: Headers = (), **more: Any) -> HttpCase:
    """An infer request with this very body."""
    raw = body.encode() if isinstance(body, str) else body
    return HttpCase(case_id, "POST", target(model), headers, raw, **more)


def get(case_id: str, path: str, *, mask: str = "", headers: Headers = ()) -> HttpCase:
    """A GET."""
    return HttpCase(case_id, "GET", path, headers, mask=mask)


def byte_strings(*items: bytes) -> bytes:
    """A BYTES tensor in the binary representation."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)
