"""Cases about several responses, batches and generate: gRPC streams, and server-sent events over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

from .cases import Case, GrpcCase, HttpCase, In, get, infer, target
from .corpus_grpc import Message, message, tensor


def _strings(name: str, *words: str, shape: list[int] | None = None) -> Message:
    contents = {"bytes_contents": [base64.b64encode(word.encode()).decode() for word in words]}
    return tensor(name, "BYTES", [len(words)] if shape is None else shape, contents)


def _script(*words: str, **more: Any) -> Message:
    """A request of the model `stream`: what it is to do, one word after the other."""
    return message("stream", [_strings("SCRIPT", *words)], **more)


def _stream(case_id: str, *messages: Message, **more: Any) -> GrpcCase:
    return GrpcCase(f"python-stream-{case_id}", "ModelStreamInfer", messages, **more)


_EMPTY_FINAL = {"triton_enable_empty_final_response": {"bool_param": True}}

# The first word of each is what `stream` calls a method by.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "one": ("say a", "final"),
    "closed": ("close a",),
    "three": ("say a", "say b", "say c", "final"),
    "three-closed": ("say a", "say b", "close c"),
    "none": ("final",),
    "many": ("count 200", "final"),
    "empty-response": ("empty", "final"),
    "error": ("error went wrong", "final"),
    "error-closed": ("close_error went wrong",),
    "error-between": ("say a", "error in the middle", "say b", "final"),
    "two-senders": ("say a", "other_sender b", "close c"),
    "list": ("list",),
    "list-after-final": ("list", "say a", "final"),
    "fail": ("fail at once",),
    "fail-after-one": ("say a", "fail after one"),
    "fail-after-final": ("say a", "final", "fail after all"),
    "refused": ("refused", "say a", "final"),
    "refused-log": ("tell", "final"),
    "after-final": ("close a", "after_final"),
    "after-final-log": ("tell", "final"),
    "thread": ("thread", "sleep 0.1", "say a", "sleep 0.05", "say b", "final"),
    "thread-joined": ("join", "say joined", "final"),
    "parameters": ("parameters", "final"),
}

STREAMS = (
    *(_stream(name, _script(*words, id=name)) for name, words in SCRIPTS.items()),
    *(
        _stream(f"{name}-empty-final", _script(*SCRIPTS[name], id=name, parameters=_EMPTY_FINAL))
        for name in ("one", "closed", "none", "three", "error", "error-closed", "fail-after-one", "thread")
    ),
    _stream("no-id", _script("say a", "final")),
    _stream("two-requests", _script("say a", "say b", "final", id="1"), _script("say c", "final", id="2")),
    _stream("late-and-soon", _script("thread", "sleep 0.3", "close late", id="1"), _script("close soon", id="2")),
    _stream("one-fails", _script("fail here", id="1"), _script("close good", id="2")),
    _stream(
        "request-parameters",
        _script("parameters", "final", id="p", parameters={"a": {"int64_param": 1}}),
    ),
    _stream("one-output", _script("say a", "final", id="o", outputs=[{"name": "INDEX"}])),
    _stream("unknown-output", _script("say a", "final", id="u", outputs=[{"name": "NOBODY"}])),
    _stream("wrong-dtype", message("stream", [tensor("SCRIPT", "INT32", [1], {"int_contents": [1]})], id="w")),
    _stream("deadline", _script("await_cancel 5", "final", id="d"), timeout=0.5),
    _stream("deadline-log", _script("tell", "final"), pause=0.5),
    _stream(
        "coroutines",
        *(
            message("stream_async", [tensor("DELAY", "FP32", [1], {"fp32_contents": [delay]})], id=f"{delay}")
            for delay in (0.75, 0.5, 0.25)
        ),
    ),
    _stream("default-mode", message("gen", [_strings("PROMPT", "a")], id="g")),
    _stream("default-mode-empty-final", message("gen", [_strings("PROMPT", "a")], id="g", parameters=_EMPTY_FINAL)),
    _stream("default-mode-error", message("gen", [_strings("PROMPT", "error")], id="g")),
    _stream("default-mode-fails", message("gen", [_strings("PROMPT", "fail")], id="g")),
    GrpcCase("python-unary-decoupled", "ModelInfer", (_script("close a"),)),
    GrpcCase("python-unary-error", "ModelInfer", (message("gen", [_strings("PROMPT", "error")]),)),
    GrpcCase("python-unary-fails", "ModelInfer", (message("gen", [_strings("PROMPT", "fail")]),)),
    *(
        GrpcCase(f"python-unary-{code}", "ModelInfer", (message("misbehave", [_strings("WHAT", f"code_{code}")]),))
        for code in (
            "UNKNOWN",
            "INTERNAL",
            "NOT_FOUND",
            "INVALID_ARG",
            "UNAVAILABLE",
            "UNSUPPORTED",
            "ALREADY_EXISTS",
            "CANCELLED",
        )
    ),
    infer("python-http-decoupled", "stream", [In("SCRIPT", "BYTES", [1], data=["close a"])]),
    get("python-stats-stream-async", target("stream_async", "stats"), mask="stats"),
)


def _batch(case_id: str, *words: str) -> GrpcCase:
    """As many requests as the model waits for."""
    messages = (message("batched", [_strings("WHAT", word, shape=[1, 1])], id=word) for word in words)
    return GrpcCase(f"python-batch-{case_id}", "ModelStreamInfer", tuple(messages))


BATCHES = (
    _batch("good", "a", "b", "c"),
    _batch("one-error", "a", "error", "c"),
    _batch("raise", "a", "raise", "c"),
    _batch("few", "a", "few", "c"),
    _batch("write", "a", "write", "c"),
    _batch("good-again", "d", "e", "f"),
    get("python-stats-batched", target("batched", "stats"), mask="stats"),
)


def _generate(case_id: str, model: str, body: str | dict[str, Any], verb: str = "generate") -> HttpCase:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return HttpCase(f"python-{verb.replace('_', '-')}-{case_id}", "POST", target(model, verb), (), raw)


def _streamed(case_id: str, *words: str) -> HttpCase:
    return _generate(case_id, "stream", {"SCRIPT": list(words)}, "generate_stream")


# Bodies that both endpoints get, for a model that answers once.
BODIES: dict[str, str | dict[str, Any]] = {
    "one": {"PROMPT": "hello"},
    "list": {"PROMPT": ["a", "b"]},
    "count": {"PROMPT": "x", "COUNT": 3},
    "count-list": {"PROMPT": "x", "COUNT": [2]},
    "id": {"id": "the id", "PROMPT": "x"},
    "parameters": {"PROMPT": "x", "temperature": 0.5, "seed": 7, "name": "n", "on": True},
    "nested-parameters": {"PROMPT": "x", "parameters": {"seed": 7, "COUNT": 2}},
    "not-ascii": {"PROMPT": "grüß \u2603 \U0001f600"},
    "quotes": {"PROMPT": 'say "hi"\n\\'},
    "empty-text": {"PROMPT": ""},
    "no-elements": {"PROMPT": []},
    "error": {"PROMPT": "error"},
    "fails": {"PROMPT": "fail"},
    "missing-input": {"COUNT": 1},
    "empty-object": {},
    "number-for-text": {"PROMPT": 5},
    "text-for-number": {"PROMPT": "x", "COUNT": "three"},
    "float-for-number": {"PROMPT": "x", "COUNT": 1.5},
    "null": {"PROMPT": None},
    "object-for-text": {"PROMPT": {"a": 1}},
    "two-counts": {"PROMPT": "x", "COUNT": [1, 2]},
    "nested-list": {"PROMPT": [["a"], ["b"]]},
    "parameter-list": {"PROMPT": "x", "stop": ["a"]},
    "parameter-null": {"PROMPT": "x", "stop": None},
    "id-number": {"id": 5, "PROMPT": "x"},
    "bad-json": "{",
    "array": "[]",
    "empty": "",
}

GENERATE = (
    *(_generate(name, "gen", body) for name, body in BODIES.items()),
    *(_generate(name, "gen", body, "generate_stream") for name, body in BODIES.items()),
    _generate("decoupled-one", "stream", {"SCRIPT": ["close a"]}),
    _generate("decoupled-none", "stream", {"SCRIPT": ["final"]}),
    _generate("decoupled-several", "stream", {"SCRIPT": ["say a", "say b", "final"]}),
    _generate("decoupled-error", "stream", {"SCRIPT": ["close_error went wrong"]}),
    _generate("unknown-model", "nobody", {"PROMPT": "x"}),
    _generate("unknown-model", "nobody", {"PROMPT": "x"}, "generate_stream"),
    HttpCase("python-generate-get", "GET", target("gen", "generate")),
    HttpCase("python-generate-version", "POST", target("gen", "generate", 1), (), b'{"PROMPT":"x"}'),
    HttpCase("python-generate-unknown-version", "POST", target("gen", "generate", 5), (), b'{"PROMPT":"x"}'),
    _streamed("decoupled-one", "close a"),
    _streamed("decoupled-three", "say a", "say b", "say c", "final"),
    _streamed("decoupled-none", "final"),
    _streamed("decoupled-error-first", "error went wrong", "final"),
    _streamed("decoupled-error-between", "say a", "error in the middle", "say b", "final"),
    _streamed("decoupled-fails", "fail at once"),
    _streamed("decoupled-fails-after-one", "say a", "fail after one"),
    _streamed("decoupled-thread", "thread", "say a", "sleep 0.1", "say b", "final"),
    _streamed("decoupled-quotes", 'close "quoted" \\ grüß'),
    _streamed("decoupled-parameters", "parameters", "final"),
)

CASES: tuple[Case, ...] = (*STREAMS, *BATCHES, *GENERATE)
