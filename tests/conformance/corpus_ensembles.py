"""Cases about ensembles, for a server in explicit control mode. They build on each other: order matters."""

from __future__ import annotations

from typing import Any

from .cases import Case, GrpcCase, HttpCase, In, get, infer, out, target
from .corpus_grpc import message, tensor

# An unload answers before it is done.
_SETTLE = 3.0


def _control(case_id: str, model: str, verb: str = "load", body: bytes = b"", pause: float = 0.0) -> HttpCase:
    return HttpCase(f"ensemble-{case_id}", "POST", f"/v2/repository/models/{model}/{verb}", (), body, pause=pause)


def _index(case_id: str, pause: float = 0.0) -> HttpCase:
    body = b'{"ready":true}'
    return HttpCase(f"ensemble-index-{case_id}", "POST", "/v2/repository/index", (), body, pause=pause)


def _get(case_id: str, path: str, mask: str = "") -> HttpCase:
    return get(f"ensemble-{case_id}", path, mask=mask)


_EX = In("EX", "FP32", [2], data=[1.5, 2])
_EZ = In("EZ", "FP32", [1], data=[5])


def _infer(case_id: str, model: str, *inputs: In, outputs: list[str] | None = None, **top: Any) -> HttpCase:
    wanted = None if outputs is None else [out(name) for name in outputs]
    return infer(f"ensemble-{case_id}", model, inputs or (_EX,), wanted, **top)


_TOLD = {"a": 1, "b": "s", "sequence_id": 5, "sequence_start": True, "priority": 1, "timeout": 5000000}
_EMPTY_FINAL = {"triton_enable_empty_final_response": {"bool_param": True}}


def _stream(case_id: str, model: str, count: float, way: float, *outputs: str) -> GrpcCase:
    wanted = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    asked = message(
        model, [tensor("EX", "FP32", [2], {"fp32_contents": [count, way]})], parameters=_EMPTY_FINAL, **wanted
    )
    return GrpcCase(f"ensemble-stream-{case_id}", "ModelStreamInfer", (asked,))


def _generate(case_id: str, model: str, verb: str, count: int = 2) -> HttpCase:
    body = b'{"EX":[%d,1]}' % count
    return HttpCase(f"ensemble-{case_id}", "POST", target(model, verb), (), body)


_INFERRED = (
    _infer("plain", "plain"),
    _infer("plain-told", "plain", id="7", parameters=_TOLD),
    _infer("plain-binary", "plain", parameters={"binary_data_output": True}),
    _infer("chain", "chain"),
    _infer("version", "version"),
    _infer("told", "told"),
    _infer("told-all", "told", _EX, _EZ, id="x", parameters=_TOLD),
    _infer("told-end", "told", parameters={"sequence_id": "five", "sequence_end": True}),
    _infer("optional-needed", "needed"),
    _infer("optional-given", "needed", _EX, _EZ),
    _infer("unmapped-optional", "unmapped_optional"),
    _infer("failing", "failing"),
    _infer("nested-failing", "nested"),
    _infer("without-output", "empty"),
    _infer("without-output-between", "empty_between"),
    _infer("batch-to-none", "batch_to_none", In("EX", "FP32", [1, 2], data=[1, 2])),
    _infer("batch-of-two-to-none", "batch_to_none", In("EX", "FP32", [2, 1], data=[1, 2])),
    _infer("none-to-batch", "none_to_batch"),
    _infer("batch", "smaller", In("EX", "FP32", [2, 2], data=[1, 2, 3, 4])),
    _infer("batch-too-large", "smaller", In("EX", "FP32", [5, 1], data=[1, 2, 3, 4, 5])),
    _infer("halves-one", "halves", outputs=["EY2"]),
    _infer("halves-other", "halves", outputs=["EY"]),
    _infer("through", "through", outputs=["EX"]),
    _infer("wrong-type", "plain", In("EX", "INT32", [1], data=[1])),
    _infer("wrong-input", "plain", In("X", "FP32", [1], data=[1])),
    _infer("wrong-output", "plain", outputs=["Y"]),
    _infer("no-inputs", "needed", _EZ),
    _infer("decoupled-over-http", "stream"),
    _generate("generate", "plain", "generate"),
    _generate("generate-stream", "stream", "generate_stream"),
    _generate("generate-one", "stream", "generate", 1),
    _stream("plain", "plain", 1, 0),
    _stream("closes", "stream", 2, 1),
    _stream("none", "stream", 0, 0),
    _stream("error", "stream", 3, 2),
    _stream("fails", "stream_fails", 1, 1),
    _stream("twice", "stream_twice", 2, 1),
    _stream("one-part", "stream_parts", 2, 1, "A"),
    GrpcCase("ensemble-grpc-plain", "ModelInfer", (
        message("plain", [tensor("EX", "FP32", [1], {"fp32_contents": [3]})], id="g"),
    )),
    GrpcCase("ensemble-grpc-decoupled", "ModelInfer", (
        message("stream", [tensor("EX", "FP32", [2], {"fp32_contents": [1, 1]})]),
    )),
)  # fmt: skip
_GOOD = (
    "plain", "chain", "version", "failing", "empty", "empty_between", "told", "needed", "unmapped_optional", "nested",
    "batch_to_none", "none_to_batch", "smaller", "halves", "through", "stream", "stream_twice", "stream_fails",
    "stream_parts", "says_decoupled",
)  # fmt: skip
_BAD = (
    "two_streams", "no_input", "no_output", "unmapped", "types_in", "types_between", "types_out",
    "shape_in", "shape_between", "reshaped", "larger", "missing", "version_missing", "over_broken", "over_over_broken",
    "itself",
)  # fmt: skip
_DEPENDENTS = b'{"parameters":{"unload_dependents":true}}'

CASES: tuple[Case, ...] = (
    *(_control(f"load-{name}", name) for name in _GOOD),
    _index("of-the-good"),
    _get("metadata", target("plain", "")),
    _get("metadata-batching", target("smaller", "")),
    _get("config", target("chain", "config")),
    _get("config-decoupled", target("stream", "config")),
    _get("config-not-decoupled", target("says_decoupled", "config")),
    _get("ready", target("plain", "ready")),
    *_INFERRED,
    _get("stats-chain", target("chain", "stats"), mask="stats"),
    _get("stats-failing", target("failing", "stats"), mask="stats"),
    _get("stats-batch", target("smaller", "stats"), mask="stats"),
    *(_control(f"load-{name}", name) for name in _BAD),
    _index("of-all"),
    _get("ready-of-the-bad", target("types_in", "ready")),
    _infer("of-the-bad", "types_in"),
    _control("load-over_left", "over_left"),
    _control("unload-step", "left", "unload"),
    _index("without-step", _SETTLE),
    _infer("without-step", "over_left"),
    _get("ready-without-step", target("over_left", "ready")),
    _control("load-step", "left"),
    _index("with-step", _SETTLE),
    _infer("with-step", "over_left"),
    _control("unload-with-steps", "over_left", "unload", _DEPENDENTS),
    _index("step-that-was-asked-for", _SETTLE),
    _control("unload-with-own-steps", "halves", "unload", _DEPENDENTS),
    _index("without-own-steps", _SETTLE),
    _control("unload-shared", "chain", "unload", _DEPENDENTS),
    _index("shared-step-stays", _SETTLE),
    _infer("shared-step-serves", "plain"),
    _control("load-stream_and_not", "stream_and_not"),
)
