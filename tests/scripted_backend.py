"""A backend whose models do what each request says, line by line: responses of every kind, from every thread.

The lines are the elements of input SCRIPT (TYPE_STRING); each response has one element in output OUT.

    say X       a response, not final          end X     the final response; `end` alone: without outputs
    fail X      an error, not final            abort X   an error, final
    set K V     a response parameter of the next response
    flood N B   N responses of B bytes; waits whenever it is asked to
    rude N B    the same, without waiting
    later       what follows is done by a thread of its own, behind the end of the execution
    hold        stops until the test sets `backend.gate`
    ask M X;Y   asks model M with lines X and Y, and says what comes back; `ask1`: expects one response
    raise X     raises RuntimeError(X)
    drop        lets go of the request
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, InferenceCall, LoadContext, LoadedModel, RequestInstance
from triton_async.errors import InvalidArg, ServerError, UnknownError
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import Tensor, decode_bytes, from_numpy

PATIENCE_S = 60


def write_script(root: Path, name: str, *, decoupled: bool = True, instances: int = 1, more: str = "") -> None:
    """A scripted model."""
    directory = root / name
    (directory / "1").mkdir(parents=True, exist_ok=True)
    (directory / "config.pbtxt").write_text(
        f"""backend: "scripted"
        input {{ name: "SCRIPT" data_type: TYPE_STRING dims: -1 }}
        output {{ name: "OUT" data_type: TYPE_STRING dims: -1 }}
        instance_group {{ kind: KIND_CPU count: {instances} }}
        model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}
        {more}"""
    )


def strings(name: str, *values: str) -> Tensor:
    import numpy as np

    array = np.array([value.encode() for value in values], dtype=object)
    return from_numpy(name, array)


class Asked(InferenceCall):
    """A request to another model."""

    counts_reads = True

    def __init__(self, decoupled: bool, askers: list[InferRequest]) -> None:
        self.decoupled = decoupled
        self.askers = askers
        self.heard: queue.Queue[InferResponse | ServerError] = queue.Queue()

    def responded(self, response: InferResponse) -> None:
        self.heard.put(response)

    def refused(self, error: ServerError) -> None:
        self.heard.put(error)


class ScriptedInstance(RequestInstance):
    def __init__(self, backend: ScriptedBackend, name: str) -> None:
        super().__init__(name)
        self.backend = backend

    def execute_factories(self, factories: list[Any]) -> None:
        while factories:
            factory = factories.pop(0)
            lines = [line.decode() for line in decode_bytes(factory.inputs[0])]
            self.play(factory, lines)
            del factory

    def play(self, factory: Any, lines: list[str]) -> None:
        parameters: dict[str, Any] = {}
        for number, line in enumerate(lines):
            verb, _, rest = line.partition(" ")
            if verb == "later":
                threading.Thread(target=self.play, args=(factory, lines[number + 1 :])).start()
                return
            if verb == "raise":
                raise RuntimeError(rest)
            if verb == "drop":
                return
            if verb == "hold":
                assert self.backend.gate.wait(PATIENCE_S)
            elif verb == "set":
                key, _, value = rest.partition(" ")
                parameters[key] = value
            elif verb in ("flood", "rude"):
                self.flood(factory, verb == "flood", *map(int, rest.split()))
            elif verb in ("ask", "ask1"):
                self.ask(factory, verb == "ask", *rest.split(" ", 1))
            else:
                respond(factory, verb, rest, parameters or None)
                parameters = {}
        factory.release()

    def flood(self, factory: Any, patient: bool, count: int, nbytes: int) -> None:
        for number in range(count):
            if patient:
                while factory.congested:
                    self.backend.waits += 1
                    assert factory.wait(PATIENCE_S), "nobody told the sender to go on"
            if factory.is_cancelled:
                self.backend.cancelled.set()
                return
            factory.send([strings("OUT", str(number).ljust(nbytes, "."))], final=False)
            self.backend.sent += 1

    def ask(self, factory: Any, decoupled: bool, model: str, lines: str) -> None:
        call = Asked(decoupled, [factory.request])
        inference = self.backend.inference
        assert inference is not None
        request = InferRequest(model, inputs=[strings("SCRIPT", *lines.split(";"))])
        handle = inference.submit(request, call, self)
        while True:
            heard = call.heard.get(timeout=PATIENCE_S)
            if isinstance(heard, ServerError):
                respond(factory, "fail", f"refused: {heard.message}", None)
                return
            handle.taken()  # type: ignore[attr-defined]
            if heard.error is not None:
                respond(factory, "fail", f"answered: {heard.error.message}", None)
            for tensor in heard.outputs:
                respond(factory, "say", ",".join(item.decode() for item in decode_bytes(tensor)), None)
            if heard.final:
                return


def respond(factory: Any, verb: str, text: str, parameters: dict[str, Any] | None) -> None:
    if verb in ("fail", "abort"):
        factory.send([], error=UnknownError(text), final=verb == "abort")
    elif verb == "end" and not text:
        factory.send([], final=True)
    elif verb in ("say", "end"):
        factory.send([strings("OUT", text)], parameters, final=verb == "end")
    else:
        raise InvalidArg(f"no such line: {verb}")


class ScriptedModel(LoadedModel):
    thread_bound = True

    def __init__(self, backend: ScriptedBackend) -> None:
        self.backend = backend

    def create_instance(self, name: str, group: Any, device_id: int) -> ScriptedInstance:
        return ScriptedInstance(self.backend, name)

    def close(self) -> None:
        pass


class ScriptedBackend(Backend):
    """Also the `Backends` that has it alone."""

    name = "scripted"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.cancelled = threading.Event()
        self.waits = 0
        self.sent = 0

    def get(self, name: str, place: object = None) -> Backend:
        return self

    def load(self, context: LoadContext) -> LoadedModel:
        return ScriptedModel(self)
