"""The identity models as subjects of a comparison, checked before they are measured."""

from __future__ import annotations

from collections.abc import Iterable

from tests.conformance.servers import Server

from . import models
from .echo import echo_check
from .versus import OURS, TRITON, Subject


def identities(running: dict[str, Server]) -> list[Subject]:
    """The identity models of the servers that run."""
    subjects = []
    if TRITON in running:
        subjects.append(Subject("tritonserver 2.51, Python backend", running[TRITON], models.IDENTITY))
    if OURS in running:
        subjects.append(Subject("triton-async, ONNX Runtime", running[OURS], models.IDENTITY))
        subjects.append(Subject("triton-async, built-in identity", running[OURS], models.BUILT_IN))
    return subjects


def check(subjects: list[Subject], protocols: Iterable[str]) -> None:
    """Echoes tensors of mixed shapes; raises for one that comes back changed."""
    for protocol in protocols:
        for subject in subjects:
            count = echo_check(protocol, subject.server.port(protocol), subject.model)
            print(f"{subject.name}: {count} tensors echoed over {protocol}", flush=True)
