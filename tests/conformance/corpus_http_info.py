"""HTTP cases that ask about the server and its models, and cases of routing."""

from __future__ import annotations

from .cases import HttpCase, In, get, infer, out, post, target


def _post(case_id: str, path: str, body: bytes = b"", mask: str = "") -> HttpCase:
    return HttpCase(case_id, "POST", path, (), body, mask=mask)


HEALTH = (
    get("health-live", "/v2/health/live"),
    get("health-ready", "/v2/health/ready"),
    get("health-bare", "/v2/health"),
    get("health-query", "/v2/health/live?x=1"),
    get("health-slash", "/v2/health/live/"),
    _post("health-post", "/v2/health/live"),
    HttpCase("health-head", "HEAD", "/v2/health/live"),
    get("model-ready", target("add_sub", "ready")),
    get("model-ready-version", target("versions", "ready", 1)),
    get("model-ready-unknown", target("nobody", "ready")),
    get("model-ready-unknown-version", target("add_sub", "ready", 9)),
    _post("model-ready-post", target("add_sub", "ready")),
)

METADATA = (
    get("server-metadata", "/v2", mask="server"),
    get("server-metadata-slash", "/v2/"),
    get("server-metadata-query", "/v2?a=b&c", mask="server"),
    _post("server-metadata-post", "/v2"),
    get("model-metadata", target("add_sub", "")),
    get("model-metadata-version", target("add_sub", "", 1)),
    get("model-metadata-versions", target("versions", "")),
    get("model-metadata-one-of-versions", target("versions", "", 1)),
    get("model-metadata-latest", target("latest", "")),
    get("model-metadata-not-latest", target("latest", "", 1)),
    get("model-metadata-nobatch", target("fixed23", "")),
    get("model-metadata-dynamic", target("dyn2", "")),
    get("model-metadata-bytes", target("identity_bytes", "")),
    get("model-metadata-bf16", target("identity_bf16", "")),
    get("model-metadata-reshape", target("reshape22", "decoupled", "")),
    get("model-metadata-reshape-batch", target("reshape_batch", "")),
    get("model-metadata-optional", target("optional", "")),
    get("model-metadata-two-types", target("swap", "")),
    get("model-metadata-slash", "/v2/models/add_sub/"),
    get("model-metadata-unknown", target("nobody", "")),
    get("model-metadata-unknown-version", target("add_sub", "", 7)),
    get("model-metadata-version-zero", target("add_sub", "", 0)),
    get("model-metadata-version-text", target("add_sub", "", "latest")),
    get("model-metadata-version-negative", target("add_sub", "", -1)),
    get("model-metadata-version-huge", target("add_sub", "", 99999999999999999999999)),
    get("model-metadata-version-zeros", target("add_sub", "", "0001")),
    get("model-metadata-escaped", "/v2/models/add%5Fsub"),
    get("model-metadata-space", "/v2/models/add%20sub"),
    _post("model-metadata-post", target("add_sub", "")),
)

CONFIG = (
    *(
        get(f"config-{name}", target(name, "config"), mask="config")
        for name in (
            "add_sub",
            "classify",
            "versions",
            "batching",
            "optional",
            "reshape_batch",
            "reshape22",
            "identity_bytes",
            "dyn2",
        )
    ),
    get("config-version", target("versions", "config", 1), mask="config"),
    get("config-unknown", target("nobody", "config")),
    get("config-unknown-version", target("add_sub", "config", 2)),
    _post("config-post", target("add_sub", "config")),
)

STATISTICS = (
    get("stats-model", target("latest", "stats"), mask="stats"),
    get("stats-model-version", target("versions", "stats", 3), mask="stats"),
    get("stats-model-versions", target("versions", "stats"), mask="stats"),
    infer("counted-one", "counted", [In("INPUT0", "INT32", [1, 2], data=[1, 2])]),
    infer("counted-three", "counted", [In("INPUT0", "INT32", [3, 2], data=[1, 2, 3, 4, 5, 6])]),
    infer("counted-three-more", "counted", [In("INPUT0", "INT32", [3, 2], data=[1, 2, 3, 4, 5, 6])]),
    infer("counted-refused", "counted", [In("INPUT0", "INT32", [1, 3], data=[1, 2, 3])]),
    infer("counted-refused-output", "counted", [In("INPUT0", "INT32", [1, 2], data=[1, 2])], [out("OUTPUT1")]),
    get("stats-counted", target("counted", "stats"), mask="stats"),
    HttpCase("metrics", "GET", "/metrics", mask="metrics", port="metrics"),
    HttpCase("metrics-slash", "GET", "/metrics/", mask="metrics", port="metrics"),
    HttpCase("metrics-query", "GET", "/metrics?x=1", mask="metrics", port="metrics"),
    HttpCase("metrics-post", "POST", "/metrics", body=b"", port="metrics"),
    HttpCase("metrics-other-path", "GET", "/other", port="metrics"),
    get("stats-all", "/v2/models/stats", mask="stats-names"),
    get("stats-unknown", target("nobody", "stats")),
    get("stats-unknown-version", target("add_sub", "stats", 5)),
    _post("stats-post", target("add_sub", "stats")),
)

REPOSITORY = (
    _post("index", "/v2/repository/index"),
    _post("index-empty-object", "/v2/repository/index", b"{}"),
    _post("index-ready", "/v2/repository/index", b'{"ready":true}'),
    _post("index-ready-false", "/v2/repository/index", b'{"ready":false}'),
    _post("index-ready-text", "/v2/repository/index", b'{"ready":"yes"}'),
    _post("index-bad-json", "/v2/repository/index", b"{"),
    _post("index-named-repository", "/v2/repository/other/index"),
    get("index-get", "/v2/repository/index"),
    _post("load-in-mode-none", "/v2/repository/models/add_sub/load"),
    _post("load-unknown-in-mode-none", "/v2/repository/models/nobody/load"),
    _post("unload-in-mode-none", "/v2/repository/models/add_sub/unload"),
    _post("unload-unknown-in-mode-none", "/v2/repository/models/nobody/unload"),
    get("load-get", "/v2/repository/models/add_sub/load"),
    get("unload-get", "/v2/repository/models/add_sub/unload"),
    _post("repository-unknown-verb", "/v2/repository/models/add_sub/reload"),
)

ROUTING = (
    get("root", "/"),
    get("unknown-path", "/v3/models"),
    get("unknown-v2-path", "/v2/nothing"),
    get("models-list", "/v2/models"),
    get("double-slash", "//v2"),
    get("unknown-verb", target("add_sub", "predict")),
    get("infer-get", target("add_sub")),
    HttpCase("infer-put", "PUT", target("add_sub"), (), b"{}"),
    HttpCase("infer-delete", "DELETE", target("add_sub")),
    HttpCase("infer-options", "OPTIONS", target("add_sub")),
    post("infer-slash", "add_sub/infer/..", "{}"),
    HttpCase("infer-trailing-slash", "POST", target("add_sub") + "/", (), b"{}"),
    HttpCase("infer-version-text", "POST", target("add_sub", version="one"), (), b"{}"),
    HttpCase("infer-version-unknown", "POST", target("add_sub", version=4), (), b"{}"),
    HttpCase("infer-version-zero", "POST", target("add_sub", version=0), (), b"{}"),
    HttpCase("infer-version-not-latest", "POST", target("latest", version=1), (), b"{}"),
    HttpCase("infer-model-unknown", "POST", target("nobody"), (), b"{}"),
    HttpCase("infer-model-unknown-version", "POST", target("nobody", version=1), (), b"{}"),
    HttpCase("infer-decoupled", "POST", target("decoupled"), (), b"{}"),
    HttpCase("http-1.0", "GET", "/v2", mask="server", raw=b"GET /v2 HTTP/1.0\r\n\r\n"),
    HttpCase("absolute-uri", "GET", "http://localhost/v2", mask="server"),
    HttpCase("not-http", "GET", "", raw=b"hello\r\n\r\n"),
    HttpCase("lower-case-method", "get", "/v2"),
)

CASES: tuple[HttpCase, ...] = (*HEALTH, *METADATA, *CONFIG, *STATISTICS, *REPOSITORY, *ROUTING)
