"""How far we answer as the real server does, call by call: python -m tests.conformance.agreement.

Counted from what was recorded and what we declare to answer otherwise; that our answers are these is what the other
tests of this folder check.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from triton_async.frontends.http import routes

from .cases import Case, GrpcCase
from .corpus import GROUPS
from .deviation import Deviation
from .deviations import DEVIATIONS
from .record import read
from .wire import Answer

# What stands at the head of the reason for a deviation that a release after 2.51 answers so, too.
NEWER = "(release 2.73)"

# The HTTP calls by what their paths are, and what each is called here.
_PATHS: dict[str, str] = {
    "health/live": routes.LIVE,
    "health/ready": routes.READY,
    "server metadata": routes.SERVER,
    "all statistics": routes.ALL_STATISTICS,
    "infer": routes.INFER,
    "generate": routes.GENERATE.replace("(generate|generate_stream)", "generate"),
    "generate_stream": routes.GENERATE.replace("(generate|generate_stream)", "generate_stream"),
    "model ready": routes.MODEL_READY,
    "model config": routes.MODEL_CONFIG,
    "model statistics": routes.MODEL_STATISTICS,
    "model trace settings": routes.MODEL_TRACE,
    "trace settings": routes.TRACE,
    "log settings": routes.LOGGING,
    "repository index": routes.INDEX,
    "load": routes.LOAD,
    "unload": routes.UNLOAD,
    **{
        f"{kind} region {verb}": pattern.replace("(system|cuda)", kind)
        for kind in ("system", "cuda")
        for verb, pattern in (
            ("status", routes.REGION_STATUS), ("register", routes.REGION_REGISTER),
            ("unregister", routes.REGION_UNREGISTER),
        )
    },
    "model metadata": routes.MODEL,
}  # fmt: skip
OTHER = "other paths"


@dataclasses.dataclass
class Count:
    """Of the cases of a call: `same` are answered alike, `newer` as a later release does, `status` with the same status
    and other words.
    """

    cases: int = 0
    same: int = 0
    newer: int = 0
    status: int = 0
    accepted: int = 0

    @property
    def alike(self) -> int:
        """The same status and kind of message, the newest documented behaviour counting."""
        return self.same + self.newer + self.status


def call_of(case: Case) -> str:
    """Which call a case is of."""
    if isinstance(case, GrpcCase):
        return f"gRPC {case.method}"
    path = routes.path_of(case.target)
    if case.port == "metrics":
        return "HTTP metrics"
    if case.port == "cloud":
        return "HTTP SageMaker" if case.id.startswith("sagemaker-") else "HTTP Vertex AI"
    found = (name for name, pattern in _PATHS.items() if re.fullmatch(pattern, path))
    return f"HTTP {next(found, OTHER)}"


def calls() -> Iterator[str]:
    """All calls that clients have."""
    from tritonclient.grpc import service_pb2

    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name:
        yield f"gRPC {method}"
    yield "gRPC Health/Check"
    for name in _PATHS:
        yield f"HTTP {name}"
    yield from ("HTTP metrics", "HTTP SageMaker", "HTTP Vertex AI")


def result_of(answer: Answer) -> object:
    """Status or code; what ends a connection is "dropped"."""
    return "dropped" if answer.get("dropped") else answer.get("status", answer.get("code"))


def is_accepted(answer: Answer) -> bool:
    """Whether the real server did what it was asked."""
    if any("error_message" in response for response in answer.get("responses", ())):
        return False
    return result_of(answer) in (200, "OK")


def same_status(deviation: Deviation, real: Answer) -> bool:
    """Whether what we answer instead has the real answer's status, or its kind: a mistake of the client's."""
    if deviation.lacks or deviation.instead or deviation.or_real:
        return True
    result = result_of(real)
    mistakes = {400, 500} if isinstance(result, int) else {"INVALID_ARGUMENT", "INTERNAL"}
    ours = {found for found in deviation.results if type(found) is type(result)}
    return result in ours or (result in mistakes and ours <= mistakes)


def count() -> dict[str, Count]:
    """Of every call, in the order of `calls`."""
    counts = {call: Count() for call in (*calls(), f"HTTP {OTHER}")}
    for group, cases in GROUPS.items():
        recorded = read(group)
        for case in cases:
            real, deviation = recorded[case.id], DEVIATIONS.get(case.id)
            found = counts.setdefault(call_of(case), Count())
            found.cases += 1
            found.accepted += is_accepted(real)
            if deviation is None:
                found.same += 1
            elif deviation.why.startswith(NEWER):
                found.newer += 1
            elif same_status(deviation, real):
                found.status += 1
    return counts


def total(counts: dict[str, Count]) -> Count:
    """Over all calls."""
    rows = [dataclasses.astuple(found) for found in counts.values()]
    return Count(*(sum(column) for column in zip(*rows, strict=True)))


def main() -> None:
    """Prints a line for each call, and one for all."""
    counts = count()
    print(f"{'call':45}{'cases':>7}{'the same':>10}{'as 2.73':>9}{'same status':>13}{'on purpose':>12}{'alike':>9}")
    for name, found in [*counts.items(), ("all", total(counts))]:
        share = 100 * found.alike / found.cases if found.cases else 100
        other = found.cases - found.alike
        print(f"{name:45}{found.cases:7}{found.same:10}{found.newer:9}{found.status:13}{other:12}{share:8.1f}%")


if __name__ == "__main__":
    main()
