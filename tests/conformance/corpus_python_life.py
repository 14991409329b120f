"""Cases about the life of Python models, in explicit control mode. They build on each other: order matters."""

from __future__ import annotations

from .cases import Case, HttpCase, In, get, infer, target
from .corpus_python import asked

# An unload answers before it is done.
_SETTLE = 2.0


def _post(case_id: str, model: str, verb: str) -> HttpCase:
    return HttpCase(f"python-life-{case_id}", "POST", f"/v2/repository/models/{model}/{verb}", (), b"")


def _load(model: str, case_id: str = "") -> HttpCase:
    return _post(case_id or f"load-{model}", model, "load")


def _unload(model: str, case_id: str = "") -> HttpCase:
    return _post(case_id or f"unload-{model}", model, "unload")


def _infer(case_id: str, model: str) -> HttpCase:
    return infer(f"python-life-{case_id}", model, [In("IN", "FP32", [1, 2], data=[1, 2])])


def _completed(name: str) -> tuple[Case, ...]:
    """Loads a model and looks at what became of its config."""
    model = f"auto_{name}"
    return (_load(model), get(f"python-life-config-{model}", target(model, "config")))


_GOOD = ("plain", "optional", "decoupled", "larger", "added", "dictionary")
_BAD = (
    "smaller", "no_batching", "wrong_type", "wrong_dims", "no_name", "no_dims", "unknown_property", "unknown_policy",
    "raises", "returns_nothing",
)  # fmt: skip
_BROKEN = ("syntax", "indent", "import", "class", "module", "initialize", "key")
_COLD = ("refuses", "short", "missing", "type", "dims", "no_data")
_WORDS = ("arguments", "types", "whole_config", "parameters", "module")


def _ask(case_id: str, model: str, word: str, pause: float = 0.0) -> HttpCase:
    case = asked(f"life-{case_id}", model, word)
    return HttpCase(case.id, case.method, case.target, case.headers, case.body, pause=pause)


CASES: tuple[Case, ...] = (
    # What a model is told, and what it leaves behind
    _load("life"),
    *(_ask(word.replace("_", "-"), "life", word) for word in _WORDS),
    _ask("calls", "life", "calls"),
    get("python-life-config", target("life", "config")),
    _load("journal"),
    _unload("life"),
    _ask("unloaded", "life", "calls", pause=_SETTLE),
    get("python-life-unloaded-ready", target("life", "ready")),
    _ask("finalized", "journal", "read"),
    _load("life", "load-after-unload"),
    _ask("calls-after-unload", "life", "calls"),
    _ask("parameters-after-unload", "life", "parameters"),
    # Configs that code completes
    *(case for name in _GOOD for case in _completed(name)),
    _infer("auto-infer", "auto_plain"),
    _infer("auto-infer-larger", "auto_larger"),
    get("python-life-auto-metadata", target("auto_plain", "")),
    *(_load(f"auto_{name}") for name in _BAD),
    *(_load(f"fails_{name}") for name in _BROKEN),
    _load("no_execute"),
    HttpCase("python-life-index", "POST", "/v2/repository/index", (), b"", mask="reasons"),
    # Backends that are written in Python
    _load("backed"),
    get("python-life-backed-config", target("backed", "config")),
    infer("python-life-backed-infer", "backed", [In("IN", "FP32", [2], data=[1, 2])]),
    # Models that are warmed up
    _load("warm"),
    infer("python-life-warm-asked", "warm", [In("WHAT", "BYTES", [1, 1], data=["tell"])]),
    get("python-life-warm-statistics", target("warm", "stats"), mask="stats"),
    get("python-life-warm-config", target("warm", "config")),
    *(_load(f"warm_{name}") for name in _COLD),
    # Models that load models
    _load("control_bls"),
    _ask("bls-ready-before", "control_bls", "ready inner"),
    _ask("bls-load", "control_bls", "load inner"),
    _ask("bls-ready-after", "control_bls", "ready inner"),
    _ask("bls-ready-version", "control_bls", "ready inner 1"),
    _ask("bls-ready-other-version", "control_bls", "ready inner 9"),
    _ask("bls-ready-unknown", "control_bls", "ready nobody"),
    _ask("bls-unload", "control_bls", "unload inner"),
    _ask("bls-ready-unloaded", "control_bls", "ready inner", pause=_SETTLE),
    _ask("bls-unload-unknown", "control_bls", "unload nobody"),
    # Metrics that a load makes and an unload takes away
    _load("metrics"),
    _ask("metrics-count", "metrics", "count"),
    HttpCase("python-life-metrics", "GET", "/metrics", mask="own-metrics", port="metrics"),
)
