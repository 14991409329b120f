"""HTTP cases about Python models: what they return, raise and see, and what they get from other models."""

from __future__ import annotations

import ast

from .cases import Case, Headers, HttpCase, In, get, infer, out, target
from .models_python_files import FILES

BINARY = {"binary_data": True}


def asked(case_id: str, model: str, word: str, *more: In, outputs: list[str] | None = None, **top: object) -> HttpCase:
    """Asks `model` for what `word` names."""
    wanted = None if outputs is None else [out(name) for name in outputs]
    return infer(f"python-{case_id}", model, [In("WHAT", "BYTES", [1], data=[word]), *more], wanted, **top)  # type: ignore[arg-type]


def _words(model: str, table: str) -> list[str]:
    """The words that a model answers: keys of `table`, or the methods that take nothing but self and a request."""
    tree = ast.parse((FILES / model / "1" / "model.py").read_text())
    if table:
        found = next(
            node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table
        )
        assert isinstance(found.value, ast.Dict)
        return [ast.literal_eval(key) for key in found.value.keys if key is not None]
    model_class = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TritonPythonModel"
    )
    methods = [node.name for node in model_class.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [name for name in methods if name not in ("initialize", "execute", "finalize", "answer")]


_FP = In("FP", "FP32", [3], data=[1.5, -2, 3])
_STRINGS = In("STRINGS", "BYTES", [3], data=["a", "", "grüß"])
_MORE = {
    "returned_input": (_FP,), "renamed_input": (_FP,), "written_input": (_FP,), "strings_in": (_STRINGS,),
    "dlpack_in": (_FP,), "dlpack_again": (_FP,),
}  # fmt: skip

MAKE = (
    *(asked(f"make-{word}", "make", word, *_MORE.get(word, ())) for word in _words("make", "MAKERS")),
    *(
        asked(f"make-{word}-binary", "make", word, parameters={"binary_data_output": True})
        for word in ("bytes", "not_utf8", "half", "special", "zero_dim", "empty", "empty_strings", "two_dims", "all")
    ),
    asked("make-all-one", "make", "all", outputs=["MORE"]),
    asked("make-all-two-reversed", "make", "all", outputs=["MORE", "OUT"]),
    asked("make-some-asked-other", "make", "some", outputs=["OUT"]),
    asked("make-empty-input", "make", "renamed_input", In("FP", "FP32", [0], data=[])),
    asked("make-binary-strings-in", "make", "strings_in", In("STRINGS", "BYTES", [2], raw=b"\x02\0\0\0\xff\0\0\0\0\0")),
)

_A = In("A", "FP32", [2], data=[1, 2])
_B = In("B", "INT32", [1, 2], data=[1, 2])
_C = In("C", "BYTES", [2], data=["a", "b"])


def _tell(
    case_id: str, *inputs: In, outputs: list[str] | None = None, headers: Headers = (), **top: object
) -> HttpCase:
    wanted = None if outputs is None else [out(name) for name in outputs]
    return infer(f"python-tell-{case_id}", "tell", inputs or (_A,), wanted, headers=headers, **top)  # type: ignore[arg-type]


TELL = (
    _tell("plain"),
    _tell("three", _A, _B, _C),
    _tell("reversed", _C, _B, _A),
    _tell("empty-tensors", In("A", "FP32", [0], data=[]), In("B", "INT32", [0, 2], data=[])),
    _tell("id", id="the id"),
    _tell("id-not-ascii", id="grüß"),
    _tell("one-output", outputs=["TEXT"]),
    _tell("both-outputs", outputs=["MORE", "TEXT"]),
    _tell("unknown-output", outputs=["OTHER"]),
    _tell("unknown-input", In("Z", "FP32", [1], data=[1])),
    _tell(
        "parameters", parameters={"a": 1, "b": "x", "c": True, "f": 1.5, "ü": "ö", "neg": -(2**63), "pos": 2**63 - 1}
    ),
    _tell("parameters-order", parameters={"z": 1, "a": 2, "m": 3}),
    _tell("parameters-empty", parameters={}),
    _tell("parameters-quotes", parameters={'q"k': 'v"\\\n'}),
    _tell("reserved", parameters={"sequence_id": 5, "sequence_start": True, "sequence_end": True}),
    _tell("sequence-text", parameters={"sequence_id": "five"}),
    _tell("start-only", parameters={"sequence_id": 5, "sequence_start": True}),
    _tell("end-only", parameters={"sequence_end": True}),
    _tell("priority-timeout", parameters={"priority": 3, "timeout": 5000000, "own": 1}),
    _tell("binary-output", outputs=["TEXT"], parameters={"binary_data_output": True}),
    _tell("parameter-null", parameters={"f": None}),
    _tell("parameter-list", parameters={"f": [1]}),
    _tell("parameter-object", parameters={"f": {}}),
    _tell("parameter-triton", parameters={"triton_x": 1}),
    _tell("priority-negative", parameters={"priority": -1}),
    _tell("sequence-negative", parameters={"sequence_id": -1}),
    _tell("sequence-float", parameters={"sequence_id": 1.5}),
    _tell("headers", headers=(("X-Own", "1"), ("triton_header", "x"))),
)

_CODES = (
    "UNKNOWN",
    "INTERNAL",
    "NOT_FOUND",
    "INVALID_ARG",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
)
_CLEAN = ("good", "asked_log")
_SENT = ("sent_and_none", "sent_and_returned", "sent_twice", "sent_without_response", "sent_nothing", "sent_error")

MISBEHAVE = (
    asked("misbehave-good", "misbehave", "good"),
    *(
        asked(f"misbehave-{word}", "misbehave", word)
        for word in _words("misbehave", "")
        if word not in (*_CLEAN, *_SENT)
    ),
    *(asked(f"misbehave-{code}", "misbehave", f"code_{code}", id="7") for code in _CODES),
    *(
        case
        for word in _SENT
        for case in (
            asked(f"misbehave-{word}", "misbehave", word),
            asked(f"misbehave-{word}-log", "misbehave", "asked_log"),
        )
    ),
    asked("misbehave-good-at-end", "misbehave", "good"),
    get("python-misbehave-ready", target("misbehave", "ready")),
)

SURFACE = (
    *(asked(f"surface-{word}", "surface", word) for word in _words("surface", "")),
    *(
        infer(f"python-keeps-{number}", "keeps", [In("FP", "FP32", [size], data=[number] * size)])
        for number, size in enumerate((2, 1000, 3))
    ),
)


def _x(*values: float) -> In:
    return In("X", "FP32", [len(values)], data=list(values))


BLS = (
    *(asked(f"bls-{word}", "bls", word) for word in _words("bls", "")),
    *(asked(f"bls-async-{word}", "bls_async", word) for word in _words("bls_async", "")),
    infer("python-bls-early", "bls_early", [In("WHAT", "BYTES", [1], data=["x"])]),
    infer("python-chain", "middle", [_x(1, 2)]),
    infer("python-twins", "twins", [_x(1)]),
    infer("python-twins-other", "twins", [_x(2)]),
    get("python-stats-middle", target("middle", "stats"), mask="stats"),
    get("python-stats-twins", target("twins", "stats"), mask="stats"),
    get("python-stats-bls-early", target("bls_early", "stats"), mask="stats"),
)

METRICS = (
    asked("metrics-count", "metrics", "count"),
    asked("metrics-move", "metrics", "move"),
    HttpCase("python-metrics", "GET", "/metrics", mask="own-metrics", port="metrics"),
    asked("metrics-again", "metrics", "again"),
    HttpCase("python-metrics-after", "GET", "/metrics", mask="own-metrics", port="metrics"),
)

DESCRIBED = (
    get("python-config-make", target("make", "config")),
    get("python-config-stream", target("stream", "config")),
    get("python-metadata-make", target("make", "")),
    get("python-metadata-stream", target("stream", "")),
    get("python-metadata-gen", target("gen", "")),
    get("python-stats-never", target("batched", "stats"), mask="stats"),
)

CASES: tuple[Case, ...] = (*DESCRIBED, *MAKE, *TELL, *MISBEHAVE, *SURFACE, *BLS, *METRICS)
