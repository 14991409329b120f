"""Cases about dynamic batching: a stream whose first request holds the one instance up while the others line up.

What each says of its batch depends on the rules alone. That is why there are few preferred sizes: the real server makes
batches before an instance is there for them, of as many as have come by then.
"""

from __future__ import annotations

from typing import Any

from .cases import Case, GrpcCase, get, target
from .corpus_grpc import message, tensor

_HELD_UP_S = 0.6


def _one(model: str, number: int, rows: int = 1, *, columns: int = 1, value: float = 0.0, **parameters: int) -> Any:
    inputs = [tensor("X", "FP32", [rows, columns], {"fp32_contents": [value] * rows * columns})]
    given = {name: {"int64_param": item} for name, item in parameters.items()}
    return message(model, inputs, id=str(number), **({"parameters": given} if given else {}))


def _line(case_id: str, model: str, *waiting: dict[str, int], more: tuple[Any, ...] = ()) -> GrpcCase:
    """Those that wait, in this order, each with its `rows` and its parameters."""
    messages = [_one(model, 0, columns=2, value=_HELD_UP_S)]
    messages += [_one(model, number, **one) for number, one in enumerate(waiting, 1)]
    return GrpcCase(f"scheduling-{case_id}", "ModelStreamInfer", (*messages, *more), mask="by-id", gap=0.15)


_ONE: dict[str, int] = {}

CASES: tuple[Case, ...] = (
    get("scheduling-config", target("level_sizes", "config"), mask="config"),
    _line("all-of-them", "plain", *[_ONE] * 5),
    _line("more-than-fit", "plain", *[_ONE] * 11),
    _line("rows-count", "plain", {"rows": 3}, {"rows": 4}, {"rows": 2}),
    _line("too-many-rows", "plain", {"rows": 9}, _ONE),
    _line("delay-is-over", "waits", *[_ONE] * 3),
    _line("delay-is-over-beyond", "waits", *[_ONE] * 6),
    _line("delay-of-the-rest", "patient", *[_ONE] * 5),
    _line("delay-another-shape", "patient", *[_ONE] * 2, more=(_one("patient", 9, columns=2),)),
    _line("levels", "levels", *[{"priority": level} for level in (3, 3, 2, 1, 0, 1)]),
    _line("levels-unknown", "levels", *[{"priority": level} for level in (3, 7, 1)]),
    _line("level-size", "level_sizes", *[{"priority": level} for level in (3, 3, 2, 2)]),
    _line("timeout-rejects", "rejects", *[_ONE] * 3),
    _line("timeout-not-overridden", "rejects", {"timeout": 3_000_000}, _ONE),
    _line("timeout-delays", "delays", *[_ONE] * 3),
    _line("timeout-delays-some", "delays", _ONE, {"timeout": 1_000}, {"timeout": 100_000}),
    _line("timeout-overridden", "overrides", {"timeout": 100_000}, _ONE, {"timeout": 4_000_000}),
    _line("timeout-longer-than-the-default", "overrides", {"timeout": 60_000_000}),
    _line("queue-full", "bounded", *[_ONE] * 6),
    _line("order-kept", "ordered", *[_ONE] * 6),
    *(get(f"scheduling-statistics-{model}", target(model, "stats"), mask="stats")
      for model in ("plain", "waits", "levels", "rejects", "delays", "overrides", "bounded")),
)  # fmt: skip
