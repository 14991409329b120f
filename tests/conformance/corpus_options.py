"""Cases that depend on how a server is started: with restricted calls, with models that failed, with models of one name
in two repositories.
"""

from __future__ import annotations

import json
from typing import Any

from .cases import Case, GrpcCase, Headers, HttpCase, In, get, infer, target
from .corpus_grpc import message, tensor

_ONE = In("INPUT0", "INT32", [2], data=[7, 8])
_TENSOR = tensor("INPUT0", "INT32", [2], {"int_contents": [7, 8]})


def _grpc(case_id: str, method: str, request: dict[str, Any], metadata: Headers = (), mask: str = "") -> GrpcCase:
    return GrpcCase(case_id, method, (request,), metadata, mask)


# The calls that options restrict, in groups, by a header each. Health is open, by which a server is waited for.
RESTRICTIONS = (
    "--http-restricted-api=inference:Infer-Key=i", "--http-restricted-api=model-config,statistics:Shared=s",
    "--http-restricted-api=model-repository,shared-memory,trace,logging:O=o",
    "--grpc-restricted-protocol=inference:infer-key=i", "--grpc-restricted-protocol=model-config,statistics:shared=s",
    "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:o=o",
)  # fmt: skip
_HTTP: dict[str, tuple[str, str, str, str]] = {
    "live": ("GET", "/v2/health/live", "", ""),
    "model-ready": ("GET", "/v2/models/versions/ready", "", ""),
    "metadata": ("GET", "/v2/models/versions", "", ""),
    "server": ("GET", "/v2", "", ""),
    "config": ("GET", "/v2/models/versions/config", "Shared", "s"),
    "stats": ("GET", "/v2/models/versions/stats", "Shared", "s"),
    "infer": ("POST", "/v2/models/versions/infer", "Infer-Key", "i"),
    "generate": ("POST", "/v2/models/versions/generate", "Infer-Key", "i"),
    "generate-stream": ("POST", "/v2/models/versions/generate_stream", "Infer-Key", "i"),
    "index": ("POST", "/v2/repository/index", "O", "o"),
    "load": ("POST", "/v2/repository/models/versions/load", "O", "o"),
    "unload": ("POST", "/v2/repository/models/versions/unload", "O", "o"),
    "region-status": ("GET", "/v2/systemsharedmemory/status", "O", "o"),
    "cuda-status": ("GET", "/v2/cudasharedmemory/status", "O", "o"),
    "trace": ("GET", "/v2/trace/setting", "O", "o"),
    "logging": ("GET", "/v2/logging", "O", "o"),
}
_MASKS = {"server": "server-name", "config": "config", "stats": "stats"}
_RPCS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "live": ("ServerLive", {}, "", ""),
    "metadata": ("ModelMetadata", {"name": "versions"}, "", ""),
    "config": ("ModelConfig", {"name": "versions"}, "shared", "s"),
    "stats": ("ModelStatistics", {"name": "versions"}, "shared", "s"),
    "infer": ("ModelInfer", message("versions", [_TENSOR]), "infer-key", "i"),
    "stream": ("ModelStreamInfer", message("versions", [_TENSOR]), "infer-key", "i"),
    "index": ("RepositoryIndex", {}, "o", "o"),
    "load": ("RepositoryModelLoad", {"model_name": "versions"}, "o", "o"),
    "unload": ("RepositoryModelUnload", {"model_name": "versions"}, "o", "o"),
    "region-status": ("SystemSharedMemoryStatus", {}, "o", "o"),
    "cuda-status": ("CudaSharedMemoryStatus", {}, "o", "o"),
    "trace": ("TraceSetting", {}, "o", "o"),
    "logging": ("LogSettings", {}, "o", "o"),
}


def _http_restricted(name: str) -> tuple[HttpCase, ...]:
    method, path, header, value = _HTTP[name]
    body = None if method == "GET" else b"{}"
    shown: dict[str, Headers] = {"without": ()}
    if header:
        shown |= {
            "wrong": ((header, "x"),), "right": ((header, value),), "other-case": ((header.upper(), value),),
            "value-other-case": ((header, value.upper()),), "empty": ((header, ""),),
            "twice": ((header, "x"), (header, value)),
        }  # fmt: skip
    return tuple(
        HttpCase(f"restricted-{name}-{kind}", method, path, headers, body, mask=_MASKS.get(name, ""))
        for kind, headers in shown.items()
    )


def _grpc_restricted(name: str) -> tuple[GrpcCase, ...]:
    method, request, header, value = _RPCS[name]
    shown: dict[str, Headers] = {"without": ()}
    if header:
        key = f"triton-grpc-protocol-{header}"
        shown |= {"wrong": ((key, "x"),), "right": ((key, value),), "bare": ((header, value),)}
    return tuple(
        _grpc(f"restricted-grpc-{name}-{kind}", method, request, metadata, _MASKS.get(name, ""))
        for kind, metadata in shown.items()
    )


RESTRICTED: tuple[Case, ...] = (
    *(case for name in _HTTP for case in _http_restricted(name)),
    *(
        HttpCase(f"restricted-{name}-method", "PUT", path, (), b"{}")
        for name, (_, path, _, _) in _HTTP.items()
    ),
    HttpCase("restricted-nowhere", "GET", "/v2/nothing"),
    *(case for name in _RPCS for case in _grpc_restricted(name)),
)  # fmt: skip

# All models of the repository of control cases were asked for, and most of them failed.
_FAILED = ("broken_config", "broken_name", "broken_model", "broken_scalar", "no_version")
BROKEN: tuple[Case, ...] = (
    get("broken-live", "/v2/health/live"),
    get("broken-ready", "/v2/health/ready"),
    HttpCase("broken-index", "POST", "/v2/repository/index", (), b"", mask="reasons"),
    HttpCase("broken-index-ready", "POST", "/v2/repository/index", (), b'{"ready":true}'),
    get("broken-stats", "/v2/models/stats", mask="stats-names"),
    _grpc("broken-grpc-index-ready", "RepositoryIndex", {"ready": True}),
    *(
        case
        for model in ("second", *_FAILED)
        for case in (
            *(
                get(f"broken-{model}-{verb or 'metadata'}", target(model, verb), mask=_MASKS.get(verb, ""))
                for verb in ("", "ready", "config", "stats")
            ),
            get(f"broken-{model}-ready-version", target(model, "ready", 1)),
            infer(f"broken-{model}-infer", model, [_ONE]),
            infer(f"broken-{model}-infer-version", model, [_ONE], version=1),
            HttpCase(f"broken-{model}-generate", "POST", target(model, "generate"), (), b"{}"),
            *(
                _grpc(f"broken-grpc-{model}-{rpc.lower()}", rpc, {"name": model}, mask=_MASKS.get(rpc[5:].lower(), ""))
                for rpc in ("ModelReady", "ModelMetadata")
            ),
            _grpc(f"broken-grpc-{model}-infer", "ModelInfer", message(model, [_TENSOR])),
            GrpcCase(f"broken-grpc-{model}-stream", "ModelStreamInfer", (message(model, [_TENSOR], id="x"),)),
        )
    ),
)

# Both repositories have a model `first`, one has `second`, the other `third`.
_NAMES = ("first", "second", "third", "nobody")
NAMESPACES: tuple[Case, ...] = (
    get("namespaces-ready", "/v2/health/ready"),
    *(
        case
        for model in _NAMES
        for case in (
            *(
                get(f"namespaces-{model}-{verb or 'metadata'}", target(model, verb), mask=_MASKS.get(verb, ""))
                for verb in ("", "ready", "config", "stats")
            ),
            infer(f"namespaces-{model}-infer", model, [_ONE]),
            infer(f"namespaces-{model}-infer-version", model, [_ONE], version=1),
            _grpc(f"namespaces-grpc-{model}-metadata", "ModelMetadata", {"name": model}),
            _grpc(f"namespaces-grpc-{model}-ready", "ModelReady", {"name": model}),
            _grpc(f"namespaces-grpc-{model}-infer", "ModelInfer", message(model, [_TENSOR])),
        )
    ),
    HttpCase("namespaces-load-ambiguous", "POST", "/v2/repository/models/first/load", (), b""),
    HttpCase("namespaces-load-one", "POST", "/v2/repository/models/third/load", (), b""),
    HttpCase("namespaces-load-unknown", "POST", "/v2/repository/models/nobody/load", (), b""),
    HttpCase("namespaces-unload-one", "POST", "/v2/repository/models/third/unload", (), b""),
    HttpCase("namespaces-third-after-unload", "GET", target("third", "ready"), pause=3.0),
    infer("namespaces-infer-after-unload", "third", [_ONE]),
    get("namespaces-metadata-after-unload", target("third", "")),
    get("namespaces-config-after-unload", target("third", "config")),
    get("namespaces-stats-after-unload", target("third", "stats")),
    infer("namespaces-infer-version-after-unload", "third", [_ONE], version=1),
    _grpc("namespaces-grpc-metadata-after-unload", "ModelMetadata", {"name": "third"}),
    _grpc("namespaces-grpc-infer-after-unload", "ModelInfer", message("third", [_TENSOR])),
    HttpCase("namespaces-unload-ambiguous", "POST", "/v2/repository/models/first/unload", (), b""),
    HttpCase("namespaces-first-after-unload", "GET", target("first", "ready"), pause=3.0),
    infer("namespaces-first-infer-after-unload", "first", [_ONE]),
)

# Headers that match become parameters of requests; `tell` says which it has.
FORWARD = tuple(
    f"--{protocol}-header-forward-pattern=(?i)^(my-|authorization|priority|timeout|sequence_|triton_|headers|binary_data_output)"
    for protocol in ("http", "grpc")
)
_A = In("A", "FP32", [2], data=[0.5, 1.5])
_SHOWN: dict[str, Headers] = {
    "none": (),
    "other": (("other", "x"), ("x-my-user", "x")),
    "one": (("my-user", "u"),),
    "two": (("my-user", "u"), ("my-group", "g"), ("other", "x")),
    "empty": (("my-user", ""),),
    "blanks": (("my-user", "a b"),),
    "number": (("my-user", "5"),),
    "long": (("my-user", "v" * 1000),),
    "quotes": (("my-user", 'a"b\\c'),),
    **{
        f"reserved-{name.replace('_', '-')}": ((name, "1"),)
        for name in ("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "triton_x", "headers",
                     "binary_data_output")
    },
}  # fmt: skip
_PARAMETERS: dict[str, Any] = {"my-user": "of the body", "other": 1}
_CONTENTS = tensor("A", "FP32", [2], {"fp32_contents": [0.5, 1.5]})
_ASKED = json.dumps({"inputs": [_A.header()]}).encode()
_TELL = message("tell", [_CONTENTS])

FORWARDED: tuple[Case, ...] = (
    *(infer(f"forwarded-{name}", "tell", [_A], headers=headers) for name, headers in _SHOWN.items()),
    infer("forwarded-upper-case", "tell", [_A], headers=(("MY-USER", "U"),)),
    *(
        HttpCase(f"forwarded-known-{name}", "POST", target("tell") + query, ((header, "x y"),), _ASKED)
        for header in ("authorization", "Authorization", "AUTHORIZATION")
        for name, query in ((header, ""), (f"{header}-query", "?x=1"))
    ),
    infer("forwarded-not-ascii", "tell", [_A], headers=(("my-user", "grüße"),)),
    infer("forwarded-and-body", "tell", [_A], headers=(("my-user", "u"),), parameters=_PARAMETERS),
    infer("forwarded-body-alone", "tell", [_A], parameters=_PARAMETERS),
    *(
        HttpCase(f"forwarded-{name}", "POST", target("tell", "generate"), headers, b'{"A":[0.5,1.5]}')
        for name, headers in (("generate", (("my-user", "u"),)), ("generate-reserved", (("priority", "1"),)))
    ),
    *(
        GrpcCase(f"forwarded-grpc-{name}", "ModelInfer", (_TELL,), metadata)
        for name, metadata in _SHOWN.items()
    ),
    GrpcCase("forwarded-grpc-and-body", "ModelInfer",
             ({**_TELL, "parameters": {"my-user": {"string_param": "of the body"}}},), (("my-user", "u"),)),
    GrpcCase("forwarded-grpc-stream", "ModelStreamInfer", ({**_TELL, "id": "a"}, {**_TELL, "id": "b"}),
             (("my-user", "u"),)),
    GrpcCase("forwarded-grpc-stream-reserved", "ModelStreamInfer", ({**_TELL, "id": "a"},), (("priority", "1"),)),
)  # fmt: skip

# A server that follows its repository takes no orders.
POLLED: tuple[Case, ...] = (
    *(
        case
        for verb, rpc in (("load", "RepositoryModelLoad"), ("unload", "RepositoryModelUnload"))
        for model in ("versions", "nobody")
        for case in (
            HttpCase(f"polled-{verb}-{model}", "POST", f"/v2/repository/models/{model}/{verb}", (), b""),
            HttpCase(f"polled-{verb}-{model}-body", "POST", f"/v2/repository/models/{model}/{verb}", (),
                     b'{"parameters":{"config":"{}"}}'),
            _grpc(f"polled-grpc-{verb}-{model}", rpc, {"model_name": model}),
        )
    ),
    HttpCase("polled-index", "POST", "/v2/repository/index", (), b""),
    _grpc("polled-grpc-index", "RepositoryIndex", {}),
    get("polled-ready", "/v2/health/ready"),
)  # fmt: skip
