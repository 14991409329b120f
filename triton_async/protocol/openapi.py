"""The OpenAPI document of the HTTP calls, made of the table of routes. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

# What a last segment of a path does, by method.
_SUMMARIES = {
    ("GET", "live"): "Whether the server runs", ("GET", "ready"): "Whether requests are welcome",
    ("GET", "v2"): "What the server is", ("GET", "stats"): "Statistics", ("POST", "infer"): "Run a model",
    ("POST", "generate"): "Run a model, with a body of its inputs by name",
    ("POST", "generate_stream"): "The same, with the responses as server-sent events",
    ("GET", "config"): "The completed config of a model", ("GET", "model"): "What a model takes and returns",
    ("GET", "openapi.json"): "This document",
    ("POST", "index"): "The models of the repositories", ("POST", "load"): "Load or reload a model",
    ("POST", "unload"): "Take a model out of service", ("GET", "setting"): "Trace settings",
    ("POST", "setting"): "Change trace settings", ("GET", "logging"): "Log settings",
    ("POST", "logging"): "Change log settings", ("GET", "status"): "The registered regions of shared memory",
    ("POST", "register"): "Register a region of shared memory",
    ("POST", "unregister"): "Forget regions of shared memory",
}  # fmt: skip
# What a group of a pattern is called, by the segment in front of it.
_NAMES = {"models": "model", "versions": "version", "repository": "repository", "region": "region"}
_OPTIONAL = re.compile(r"\(\?:([^?]*?)\)\?")
_CHOICE = re.compile(r"\(((?:[a-z_]+\|)+[a-z_]+)\)")
_GROUP = re.compile(r"/([a-z0-9_]+)/\((\[[^\]]+\]\+)\)")

_TENSOR = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": [
            "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
            "BYTES", "BF16",
        ]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array", "description": "flat, or nested as the shape says"},
        "parameters": {"$ref": "#/components/schemas/Parameters"},
    },
}  # fmt: skip
_SCHEMAS: dict[str, Any] = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "Parameters": {
        "type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    },
    "Tensor": _TENSOR,
    "RequestedOutput": {
        "type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "parameters": {"$ref": "#/components/schemas/Parameters"}},
    },
    "InferRequest": {
        "type": "object", "required": ["inputs"],
        "properties": {
            "id": {"type": "string"}, "parameters": {"$ref": "#/components/schemas/Parameters"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/RequestedOutput"}},
        },
    },
    "InferResponse": {
        "type": "object", "required": ["model_name", "outputs"],
        "properties": {
            "id": {"type": "string"}, "model_name": {"type": "string"}, "model_version": {"type": "string"},
            "parameters": {"$ref": "#/components/schemas/Parameters"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
}  # fmt: skip
_BODIES = {"infer": ("InferRequest", "InferResponse")}


def document(
    routes: Iterable[tuple[str, str, str]], name: str, version: str, key_categories: frozenset[str]
) -> dict[str, Any]:
    """OpenAPI 3.1. `routes`: (pattern, method, category) of each, as http/routes has them. `key_categories`: those
    whose calls need an API key.
    """
    paths: dict[str, dict[str, Any]] = {}
    for pattern, method, category in routes:
        for path, parameters in templates(pattern):
            operation = _operation(path, method, category)
            if parameters:
                operation["parameters"] = [
                    {"name": each, "in": "path", "required": True, "schema": {"type": "string"}} for each in parameters
                ]
            if category in key_categories:
                operation["security"] = [{"bearer": []}, {"key": []}]
                operation["responses"]["401"] = _error("An API key is required")
            paths.setdefault(path, {})[method.lower()] = operation
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header",
                                                                     "name": "X-API-Key"}}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": name, "version": version, "description": "Open Inference Protocol v2, with Triton's extensions",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _SCHEMAS, **({"securitySchemes": schemes} if key_categories else {})},
    }  # fmt: skip


def templates(pattern: str) -> Iterator[tuple[str, list[str]]]:
    """The paths that a pattern stands for, with the names of their parameters."""
    optional = _OPTIONAL.search(pattern)
    if optional is not None:
        for part in ("", optional[1]):
            yield from templates(pattern[: optional.start()] + part + pattern[optional.end() :])
        return
    choice = _CHOICE.search(pattern)
    if choice is not None:
        for part in choice[1].split("|"):
            yield from templates(pattern[: choice.start()] + part + pattern[choice.end() :])
        return
    names: list[str] = []

    def named(found: re.Match[str]) -> str:
        names.append(_NAMES[found[1]])
        return f"/{found[1]}/{{{_NAMES[found[1]]}}}"

    path = _GROUP.sub(named, pattern).replace(r"\.", ".")
    yield path, names


def _operation(path: str, method: str, category: str) -> dict[str, Any]:
    last = path.rstrip("/").rpartition("/")[2]
    last = "model" if last.startswith("{") else last
    request, response = _BODIES.get(last, (None, None))
    success: dict[str, Any] = {"description": "Done"}
    if response is not None:
        success["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{response}"}}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": _SUMMARIES[method, last],
        "tags": [category],
        "responses": {"200": success, "default": _error("What is wrong")},
    }
    if method == "POST":
        schema = {"$ref": f"#/components/schemas/{request}"} if request is not None else {"type": "object"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
