"""Replays the corpus against a server that it starts and, when a case ends it, starts again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import servers
from .cases import Case, HttpCase
from .corpus import GROUPS
from .corpus_options import FORWARD, RESTRICTIONS
from .corpus_regions import KEY, STRINGS
from .models import CONTROL_MODELS, MAIN_MODELS, Model, write_repository
from .models_ensembles import write_ensembles
from .models_python_files import write_backends, write_control, write_main, write_one
from .models_scheduling import write_scheduling
from .models_sequences import write_sequences
from .normalise import normalise
from .servers import Server
from .setup_oracle import Oracle
from .wire import Answer, send_grpc, send_http

Start = Callable[[str], Server]
# Those that the Python models call.
_CALLED = tuple(model for model in MAIN_MODELS if model.name.startswith("identity_"))
# All that groups about calls and routes need.
_FEW = tuple(model for model in MAIN_MODELS if model.name in (
    "identity_int32", "identity_bytes", "versions", "latest", "classify", "classify_int",
))  # fmt: skip
def _two(*names: str) -> tuple[Model, ...]:
    """Models for one of two repositories."""
    return tuple(dataclasses.replace(CONTROL_MODELS[0], name=name) for name in names)


# What `KEY` of a case stands for: files of a client's, that no other run uses.
_REGIONS = f"conformance-{os.getpid()}"
# What a server with the front door of a cloud is started with: variables, and options.
_CLOUDS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "sagemaker": (
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "versions"},
        ("--allow-sagemaker=true", f"--sagemaker-port={servers.CLOUD}", "--model-control-mode=explicit",
         "--load-model=*"),
    ),
    "vertex_ai": (
        {"AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/health"},
        ("--allow-vertex-ai=true", f"--vertex-ai-port={servers.CLOUD}", "--vertex-ai-default-model=versions"),
    ),
}  # fmt: skip
# Python models that are isolated, or share model processes, answer as those in the server's process.
ISOLATED = ("--backend-config=python,isolation=process",)
IN_MODEL_PROCESSES = ("--model-processes=2",)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to start a server: the real one with `oracle`, else ours; `form` is that of the models in both forms."""

    oracle: Oracle | None = None
    form: str = "onnx"
    options: tuple[str, ...] = ()


def starter(work: Path, variant: Variant) -> Start:
    """A function that starts a server on the repository of a group."""
    oracle, form = variant.oracle, variant.form
    made: dict[str, Path] = {}

    def once(name: str, write: Callable[[Path], Path]) -> Path:
        if name not in made:
            made[name] = write(work / f"{form}-{name}")
        return made[name]

    def repository(group: str) -> Path:
        if group in ("control", "override", "broken"):
            return once(group, lambda root: write_repository(root, CONTROL_MODELS, form))
        if group == "python_life":
            return once(group, write_control)
        if group == "python_sequences":
            return once(group, write_sequences)
        if group == "python_scheduling":
            return once(group, write_scheduling)
        if group == "ensembles":
            return once(group, write_ensembles)
        if group == "forwarded":
            return once(group, lambda root: write_one(root, "tell"))
        if group == "namespaces":
            once("namespaces-two", lambda root: write_repository(root, _two("first", "third"), form))
            return once(group, lambda root: write_repository(root, _two("first", "second"), form))
        if group in ("regions", "routes", "calls", "restricted", "polled", "sagemaker", "vertex_ai"):
            return once("few", lambda root: write_repository(root, _FEW, form))
        if group.startswith("python"):
            return once("python", lambda root: write_repository(write_main(root), _CALLED, "python"))
        return once("main", lambda root: write_repository(root, MAIN_MODELS, form))

    def start(group: str) -> Server:
        models, options = repository(group), list(variant.options)
        if group in ("control", "override", "python_life", "ensembles"):
            options.append("--model-control-mode=explicit")
        if group == "trace":
            # It stands in the answers. Nothing is traced.
            options += ["--trace-config=triton,file=/dev/null", "--trace-config=level=TIMESTAMPS"]
        if group in ("operations", "regions", "calls") and not oracle:
            options.append("--allow-client-shm=true")
        if group == "python_life":
            backends = once("backends", lambda root: write_backends(root, oracle.backends if oracle else None))
            options.append(f"--backend-directory={backends}")
        if group == "restricted":
            options += RESTRICTIONS
        if group == "forwarded":
            options += FORWARD
        if group == "polled":
            options += ["--model-control-mode=poll", "--repository-poll-secs=1"]
        if group == "broken":
            options += ["--exit-on-error=false", "--strict-readiness=false"]
        if group == "namespaces":
            options += [f"--model-repository={made['namespaces-two']}", "--model-namespacing=true",
                        "--model-control-mode=explicit", "--load-model=*"]  # fmt: skip
        variables, more = _CLOUDS.get(group, ({}, ()))
        options += more
        log = work / f"{form}-{group}.log"
        if oracle:
            command = servers.triton_command(oracle, models, *options)
            server = Server("tritonserver", command, oracle.server_env() | variables, log)
        else:
            command = servers.ours_command(models, *options)
            server = Server("triton-async", command, servers.ours_env() | variables, log)
        server.repository = str(models)
        server.wait_ready()
        return server

    return start


@contextlib.contextmanager
def _regions() -> Iterator[None]:
    """The files that cases about shared memory find."""
    numbers = np.arange(64, dtype="<i4").tobytes()
    contents = {**dict.fromkeys("adefghi", numbers), "c": bytes(4096) + numbers,
                "b": np.arange(100, 116, dtype="<i4").tobytes(), "s": STRINGS}  # fmt: skip
    paths = {Path("/dev/shm", f"{_REGIONS}-{name}"): content for name, content in contents.items()}
    try:
        for path, content in paths.items():
            path.write_bytes(content)
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _renamed(value: Any, old: str, new: str) -> Any:
    return json.loads(json.dumps(value).replace(old, new))


def _with_regions(case: Case) -> Case:
    if isinstance(case, HttpCase):
        body = None if case.body is None else case.body.replace(KEY.encode(), _REGIONS.encode())
        return dataclasses.replace(case, body=body)
    messages = [item if isinstance(item, bytes) else _renamed(item, KEY, _REGIONS) for item in case.messages]
    return dataclasses.replace(case, messages=tuple(messages))


def send(case: Case, server: Server) -> Answer:
    """The normalised answer of `server` to one case."""
    time.sleep(case.pause)
    has_regions = case.id.startswith("regions-")
    case = _with_regions(case) if has_regions else case
    if isinstance(case, HttpCase):
        answer = send_http(case, server.port(case.port))
    else:
        answer = send_grpc(case, server.grpc_port)
    if has_regions:
        answer = _renamed(answer, _REGIONS, KEY)
    return normalise(case.mask, answer, server.repository)


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
    with _regions():
        yield from _replay(group, start)


def _replay(group: str, start: Start) -> Iterator[tuple[Case, Answer]]:
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
