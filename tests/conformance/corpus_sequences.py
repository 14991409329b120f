"""Cases about sequences. They build on each other: order matters."""

from __future__ import annotations

import dataclasses
from typing import Any

from .cases import Case, GrpcCase, HttpCase, In, get, infer, out, target
from .corpus_grpc import message, tensor


def _step(case_id: str, model: str, value: float, sequence: Any = None, *, start: Any = None, end: Any = None,
          rows: int = 1, more: tuple[In, ...] = (), outputs: list[str] | None = None, pause: float = 0.0,
          timeout: int | None = None) -> HttpCase:  # fmt: skip
    """One request; members that are None are left out."""
    given = {"sequence_id": sequence, "sequence_start": start, "sequence_end": end, "timeout": timeout}
    parameters = {name: item for name, item in given.items() if item is not None}
    shape = [1] if model == "alone" else [rows, 1]
    wanted = None if outputs is None else [out(name) for name in outputs]
    case = infer(
        f"sequence-{case_id}", model, [In("X", "FP32", shape, data=[value] * rows), *more], wanted,
        parameters=parameters,
    )  # fmt: skip
    return dataclasses.replace(case, pause=pause)


def _whole(model: str, sequence: Any) -> tuple[HttpCase, ...]:
    return (
        _step(f"{model}-start", model, 1, sequence, start=True),
        _step(f"{model}-middle", model, 2, sequence),
        _step(f"{model}-false", model, 3, sequence, start=False, end=False),
        _step(f"{model}-end", model, 4, sequence, end=True),
        _step(f"{model}-behind-end", model, 5, sequence),
        _step(f"{model}-both", model, 6, sequence, start=True, end=True),
        _step(f"{model}-end-alone", model, 7, sequence, end=True),
    )


def _grpc_step(model: str, value: float, sequence: Any, **flags: bool) -> Any:
    kind = "string_param" if isinstance(sequence, str) else "int64_param"
    parameters = {"sequence_id": {kind: sequence}, **{name: {"bool_param": flag} for name, flag in flags.items()}}
    return message(model, [tensor("X", "FP32", [1, 1], {"fp32_contents": [value]})], parameters=parameters)


_START = In("START", "INT32", [1, 1], data=[1])

CASES: tuple[Case, ...] = (
    get("sequence-metadata", target("direct", "")),
    *(get(f"sequence-config-{model}", target(model, "config"), mask="config") for model in ("direct", "oldest",
      "alone", "defaults", "iterative")),
    *_whole("direct", 42),
    *_whole("oldest", 42),
    *_whole("alone", 42),
    *_whole("bare", "a text"),
    # What belongs to no sequence
    _step("no-id", "direct", 1),
    _step("zero", "direct", 1, 0, start=True),
    _step("empty", "direct", 1, "", start=True),
    _step("unknown", "direct", 1, 99),
    _step("unknown-oldest", "oldest", 1, 99),
    _step("two-rows", "direct", 1, 42, start=True, rows=2),
    _step("two-rows-no-id", "direct", 1, rows=2),
    _step("too-many-rows", "direct", 1, 42, start=True, rows=5),
    _step("control-sent", "direct", 1, 42, start=True, more=(_START,)),
    _step("unknown-output", "direct", 1, 42, start=True, outputs=["NOTHING"]),
    _step("one-output", "direct", 1, 42, start=True, end=True, outputs=["TOTAL"]),
    _step("id-negative", "direct", 1, -5, start=True),
    _step("id-float", "direct", 1, 1.5, start=True),
    _step("id-bool", "direct", 1, True, start=True),
    _step("start-text", "direct", 1, 42, start="true"),
    _step("start-number", "direct", 1, 42, start=1),
    _step("end-null-start", "direct", 1, 42, end="x"),
    # Ids of all kinds
    _step("large-id", "direct", 1, 2**64 - 1, start=True, end=True),
    _step("text-for-number", "direct", 1, "abc", start=True, end=True),
    _step("text-long", "bare", 1, "x" * 128, start=True, end=True),
    _step("text-too-long", "bare", 1, "x" * 129, start=True, end=True),
    _step("text-not-ascii", "bare", 1, "grüß", start=True, end=True),
    _step("int32-id", "small", 1, 2**31 - 1, start=True, end=True),
    _step("int32-id-over", "small", 1, 2**31 + 5, start=True, end=True),
    # A start on a live id, and ids that are numbers or texts
    _step("again-start", "oldest", 10, 7, start=True),
    _step("again-middle", "oldest", 1, 7),
    _step("again-anew", "oldest", 5, 7, start=True),
    _step("again-end", "oldest", 1, 7, end=True),
    _step("number", "bare", 1, 1, start=True),
    _step("number-as-text", "bare", 100, "1", start=True),
    _step("number-end", "bare", 1, 1, end=True),
    _step("number-as-text-end", "bare", 100, "1", end=True),
    # A slot that is taken, idle time
    _step("slot-taken", "small", 1, 1, start=True),
    _step("slot-waits", "small", 1, 2, start=True, timeout=300000),
    _step("slot-waited", "small", 1, 2),
    _step("slot-end", "small", 1, 1, end=True),
    _step("idle-start", "short", 1, 1, start=True),
    _step("idle-over", "short", 1, 1, pause=2.5),
    _step("idle-next", "short", 1, 2, start=True, end=True),
    # Requests that run again
    _step("iterative-once", "iterative", 1),
    _step("iterative-thrice", "iterative", -3),
    _step("iterative-id", "iterative", -2, 5),
    _step("iterative-rows", "iterative", 1, rows=2),
    # Over gRPC
    GrpcCase("sequence-grpc", "ModelInfer", (_grpc_step("direct", 1, 5, sequence_start=True, sequence_end=True),)),
    GrpcCase("sequence-grpc-unknown", "ModelInfer", (_grpc_step("direct", 1, 5),)),
    GrpcCase("sequence-grpc-no-id", "ModelInfer", (_grpc_step("direct", 1, 0, sequence_start=True),)),
    GrpcCase("sequence-grpc-text", "ModelInfer", (_grpc_step("bare", 1, "t", sequence_start=True, sequence_end=True),)),
    GrpcCase("sequence-stream", "ModelStreamInfer", (
        _grpc_step("oldest", 1, 5, sequence_start=True), _grpc_step("oldest", 2, 5), _grpc_step("oldest", 3, 6),
        _grpc_step("oldest", 3, 5, sequence_end=True), _grpc_step("oldest", 3, 5),
    )),
    get("sequence-statistics", target("oldest", "stats"), mask="stats"),
)  # fmt: skip
