"""A file system that fails, at whichever of its calls: a load fails with a reason, and what serves goes on."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_harness import request, run, running, write_model

from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError

PATIENCE = 400
GIVEN = json.dumps({
    "backend": "identity", "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
})  # fmt: skip


class Faults:
    """Of calls of the file system by the server's threads for files and loads: the one at `place` fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = -1
        self.made = 0
        for module, name in (
            (os, "open"), (os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir"), (os, "read"), (io, "open"),
            (builtins, "open"), (os, "mkdir"), (os, "fstat"),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, self._failing(getattr(module, name)))

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.place >= 0 and threading.current_thread().name.startswith(("load", "files")):
                self.made += 1
                if self.made == self.place + 1:
                    raise OSError(errno.EIO, "Input/output error", str(arguments[0]))
            return function(*arguments, **more)

        return call

    def at(self, place: int) -> None:
        self.place, self.made = place, 0

    def over(self) -> bool:
        """Whether there was none any more, as there are fewer calls."""
        reached = self.made > self.place
        self.place = -1
        return not reached


async def serves(server: InferenceServer, *names: str) -> None:
    for name in names:
        response = await server.infer(request(name, [1.0, 2.0]))
        assert response.outputs[0].numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("what", ["first load", "reload", "files of a request", "index"])
def test_every_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    root = tmp_path / "models"
    write_model(root, "steady")
    directory = write_model(root, "m")
    (directory / "1" / "data").write_bytes(b"x")
    config = (directory / "config.pbtxt").read_text()
    faults = Faults(monkeypatch)

    async def attempt(server: InferenceServer, place: int) -> None:
        if what == "first load":
            await server.unload_model("m")
        if what == "reload":
            (directory / "config.pbtxt").write_text(f"{config}\n# {place}")
        faults.at(place)
        if what == "index":
            await server.repository_index()
        elif what == "files of a request":
            await server.load_model("m", {"config": GIVEN, "file:1/x": b"x", "file:2/y": b"y"})
        else:
            await server.load_model("m")

    async def test() -> None:
        async with running(root, "--model-control-mode=explicit", "--load-model=*") as server:
            for place in itertools.count():
                try:
                    await attempt(server, place)
                except ServerError as error:
                    assert str(tmp_path) not in error.message, error.message
                    assert not faults.over(), error
                else:
                    if faults.over():
                        break
                assert place < PATIENCE
                await serves(server, "steady", *([] if what == "first load" else ["m"]))
            await server.load_model("m")
            await serves(server, "m", "steady")

    run(test)
