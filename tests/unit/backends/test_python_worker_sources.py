"""Workers run our code compiled, and as plain Python where their interpreter is another one than the server's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from python_stage import IDENTITY, IO, Stage, body, request, stage, write

from triton_async.backends.python.isolated import zygote

ISOLATED = ("--backend-config=python,isolation=process",)
X = np.arange(4, dtype=np.float32)
WHERE = body("""
import sys
kind = sys.modules["triton_async_worker.wire"].__file__.rsplit(".", 1)[1]
response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([kind == "py"], np.float32))])
""")
ASKS = body("""
inner = pb_utils.InferenceRequest(
    model_name="same", inputs=[pb_utils.Tensor("IN", x)], requested_output_names=["OUT"]
)
response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", inner.exec().output_tensors()[0].as_numpy())])
""")
AWAITS = ASKS.replace("def execute", "async def execute").replace("inner.exec()", "(await inner.async_exec())")
STREAMS = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(100):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.full(2, number, np.float32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.fixture(params=["compiled", "sources"])
def form(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sources":
        shutil.copytree(zygote.MAIN.parent, tmp_path / "worker", ignore=shutil.ignore_patterns("*.so", "*.c", "*.pxd"))
        monkeypatch.setattr(zygote, "MAIN", tmp_path / "worker" / zygote.MAIN.name)
    elif not list(zygote.MAIN.parent.glob("wire.*.so")):
        pytest.skip("this package was not compiled")
    return str(request.param)


def test_both_forms_do_the_same(tmp_path: Path, form: str) -> None:
    root = tmp_path / "models"
    write(root, "where", WHERE)
    write(root, "same", IDENTITY)
    write(root, "asks", ASKS)
    write(root, "awaits", AWAITS)
    write(root, "streams", STREAMS, IO + "model_transaction_policy { decoupled: true }")
    write(root, "fails", body("raise ValueError('v')"))
    write(root, "wrong", body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', 3)])"))
    with stage(root, *ISOLATED) as server:
        assert bool(server.ask("where", X)[0]) == (form == "sources")
        check(server)


def check(server: Stage) -> None:
    for size in (0, 4, 1 << 18):
        values = np.arange(size, dtype=np.float32)
        for name in ("same", "asks", "awaits"):
            assert np.array_equal(server.ask(name, values), values)
    responses = server.send(request("streams", IN=X)).all()
    assert [one.outputs[0].numpy()[0] for one in responses[:-1]] == list(range(100))
    assert responses[-1].final
    prefix = "Failed to process the request(s) for model '{}_0', message: "
    failed = server.error(request("fails", IN=X)).message
    assert failed.startswith(prefix.format("fails") + "ValueError: v\n\nAt:\n")
    # Nothing of ours is among the frames.
    for text in (failed, server.error(request("wrong", IN=X)).message):
        _, _, frames = text.partition("\n\nAt:\n")
        assert [line.rsplit("/", 1)[1].partition("(")[0] for line in frames.splitlines()] == ["model.py"]


def test_shapes_and_names_may_change_with_every_request(tmp_path: Path, form: str) -> None:
    """What a worker remembers of the heads of tensors is bounded, and of each exactly this one."""
    root = tmp_path / "models"
    write(root, "same", IDENTITY)
    write(root, "asked", body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x), "
                              "pb_utils.Tensor('NOT_ASKED', x)])"))  # fmt: skip
    with stage(root, *ISOLATED) as server:
        for size in [*range(600), *range(0, 600, 7)]:
            values = np.arange(size, dtype=np.float32)
            assert np.array_equal(server.ask("same", values), values)
        for identity, parameters in (("", None), ("i", None), ("", {"p": 1}), ("é" * 300, {"q": "x" * 70_000})):
            sent = request("asked", IN=X)
            sent.id, sent.parameters = identity, parameters
            assert np.array_equal(server.infer(sent)["OUT"], X)
