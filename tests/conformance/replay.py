"""Replays the corpus against a server that it starts and, when a case ends it, starts again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import servers
from .cases import Case, HttpCase
from .corpus import GROUPS
from .models import CONTROL_MODELS, MAIN_MODELS, write_repository
from .normalise import normalise
from .servers import Server
from .setup_oracle import Oracle
from .wire import Answer, send_grpc, send_http

Start = Callable[[str], Server]


def starter(work: Path, oracle: Oracle | None) -> Start:
    """A function that starts the real server (with an oracle) or ours on the repository of a group."""
    form = "python" if oracle else "onnx"
    main = write_repository(work / f"{form}-main", MAIN_MODELS, form)
    control = write_repository(work / f"{form}-control", CONTROL_MODELS, form)

    def start(group: str) -> Server:
        repository, options = main, []
        if group == "control":
            repository, options = control, ["--model-control-mode=explicit"]
        log = work / f"{form}-{group}.log"
        if oracle:
            command = servers.triton_command(oracle, repository, *options)
            server = Server("tritonserver", command, oracle.server_env(), log)
        else:
            server = Server("triton-async", servers.ours_command(repository, *options), servers.ours_env(), log)
        server.wait_ready()
        return server

    return start


def send(case: Case, server: Server) -> Answer:
    """The normalised answer of `server` to one case."""
    time.sleep(case.pause)
    if isinstance(case, HttpCase):
        return normalise(case.mask, send_http(case, server.port(case.port)))
    return normalise(case.mask, send_grpc(case, server.grpc_port))


def _died(server: Server, answer: Answer) -> bool:
    """True when the server did not survive the case. A crash takes a moment to show."""
    suspicious = answer.get("dropped") or answer.get("silent") or answer.get("code") == "UNAVAILABLE"
    if suspicious and server.alive():
        time.sleep(1.0)
    return not server.alive()


def survived(answer: Answer) -> bool:
    """False for the answer to a case that ended or hung the server, or the process of its Python model."""
    return not any(answer.get(key) for key in ("crashed", "stub_crashed", "silent"))


def _stub_died(answer: Answer) -> bool:
    """True when the process of a Python model is gone; the model then answers nothing any more."""
    return "Stub process" in str(answer)


def replay(group: str, start: Start) -> Iterator[tuple[Case, Answer]]:
    """Each case of `group` with its answer, in order."""
    server = start(group)
    try:
        for case in GROUPS[group]:
            answer = send(case, server)
            if _died(server, answer):
                answer = {"crashed": True}
            elif _stub_died(answer):
                answer = {**answer, "stub_crashed": True}
            yield case, answer
            if "crashed" in answer or "stub_crashed" in answer:
                with contextlib.suppress(ProcessLookupError):
                    server.stop()
                server = start(group)
    finally:
        server.stop()
