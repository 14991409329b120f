"""What models do wrong is told alike in the server and in a worker, and costs nobody else anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from python_stage import IDENTITY, IO, Stage, body, request, stage, write

X = np.arange(4, dtype=np.float32)
ISOLATED = 'parameters { key: "ISOLATION" value { string_value: "process" } }'
PLACES = {"local": "", "isolated": ISOLATED}
WRONG = "incompatible constructor arguments"


def model(execute: str, more: str = "") -> str:
    inner = execute.strip().replace("\n", "\n        ")
    return f"class TritonPythonModel:\n    def execute(self, requests):\n        {inner}\n{more}"


def method(lines: str) -> str:
    return IDENTITY + f"\n    {lines}\n"


def answer(tensors: str) -> str:
    return model(f"return [pb_utils.InferenceResponse([{tensors}])]")


# Models that do not load, and what the reason has.
UNLOADED = {
    "syntax": ("class X(:\n", "SyntaxError: invalid syntax (model.py, line 3)"),
    "bytes": ("x = '\0'\n", "source code string cannot contain null bytes"),
    "classless": ("x = 1\n", "AttributeError: module '1.model' has no attribute 'TritonPythonModel'"),
    "importing": ("import nobody_has_this\n", "ModuleNotFoundError: No module named 'nobody_has_this'\n\nAt:\n"),
    "executeless": ("class TritonPythonModel:\n    pass\n", "does not implement `execute` method."),
    "making": (method("def __init__(self):\n        raise ValueError('v')"), "ValueError: v\n\nAt:\n"),
    "initializing": (method("def initialize(self, args):\n        raise ValueError('v')"), "ValueError: v\n\nAt:\n"),
    "completing": (
        method("@staticmethod\n    def auto_complete_config(config):\n        raise ValueError('v')"),
        "ValueError: v\n\nAt:\n",
    ),
    "completed": (
        method("@staticmethod\n    def auto_complete_config(config):\n        return {}"),
        "must return a valid pb.ModelConfig object.",
    ),
}  # fmt: skip
# Models that fail their requests, and what the error has; None: they do not.
FAILING = {
    "raising": (model("raise ValueError('v')"), "message: ValueError: v\n\nAt:\n"),
    "exiting": (model("raise SystemExit(3)"), "message: SystemExit: 3\n\nAt:\n"),
    "untold": (model("class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E"), "message: E: "),
    "tuple": (model("return ()"), "Expected a list in the execute return, found type '<class 'tuple'>'."),
    "few": (model("return []"), "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n"),
    "many": (model("return [pb_utils.InferenceResponse()] * 2"), "InferenceResponse(s) size is:2\n"),
    "text": (model("return ['x']"), "Expected an 'InferenceResponse' object"),
    "none": (model("return [None]"), "execute returned None for a request whose response sender was not used"),
    "number": (answer("1"), WRONG),
    "listed": (answer("pb_utils.Tensor('OUT', [1.0])"), WRONG),
    "unnamed": (answer("pb_utils.Tensor(1, np.zeros(1))"), WRONG),
    "complex": (answer("pb_utils.Tensor('OUT', np.zeros(1, np.complex64))"), "NumPy dtype is not supported."),
    "masked": (answer("pb_utils.Tensor('OUT', np.ma.zeros(1))"), "NumPy dtype is not supported."),
    "deep": (answer("pb_utils.Tensor('OUT', np.zeros([1] * 17))"), "has 17 dimensions, at most 16 are supported"),
    "twice": (answer("pb_utils.Tensor('OUT', np.zeros(1)), pb_utils.Tensor('OUT', np.zeros(1))"),
              "gave output 'OUT' more than once"),
    "error": (model("return [pb_utils.InferenceResponse(error='x')]"), WRONG),
    "other_type": (answer("pb_utils.Tensor('OUT', np.zeros([1, 2], np.int8))"), None),
    "other_name": (answer("pb_utils.Tensor('ELSE', np.zeros(1))"), None),
    "writing": (body("x[:] = -1\n"
                     "response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x)])"), None),
    "again": (body("sender = request.get_response_sender()\nresponse = None\n"
                   "sender.send(pb_utils.InferenceResponse(), 1)\n"
                   "sender.send(pb_utils.InferenceResponse(), 1)"), None),
    "late": (body("sender = request.get_response_sender()\nresponse = None\nsender.send(flags=1)"),
             "Non-decoupled model cannot send complete final before sending a response."),
    "finalizing": (method("def finalize(self):\n        raise ValueError('v')"), None),
}  # fmt: skip
KEEPING = """
class TritonPythonModel:
    kept = []
    def execute(self, requests):
        self.kept += requests
        total = sum(float(r.inputs()[0].as_numpy().sum()) for r in self.kept)
        tensor = pb_utils.Tensor("OUT", np.float32([total]))
        return [pb_utils.InferenceResponse([tensor]) for _ in requests]
"""
STREAMS = {
    "behind": "sender.send(flags=1)\n            sender.send(flags=1)",
    "nothing": "sender.send()",
    "returning": "return [pb_utils.InferenceResponse()]",
    "dropping": "pass",
    "odd": "sender.send('x')",
}
STREAM = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            {lines}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


def told(server: Stage, model: str) -> list[str]:
    """What clients see of one request to it, without what only tells which of two models it was."""
    place = model.rpartition("_")[2]
    found = []
    for response in server.send(request(model, IN=X)).all():
        if response.error is not None:
            found.append(f"{response.error.code}: {response.error.message}".replace(place, "PLACE"))
        else:
            found += [f"{t.name} {t.datatype} {t.shape} {t.numpy().tolist()}" for t in response.outputs]
    return found


def test_bad_models(root: Path) -> None:
    for place, parameters in PLACES.items():
        for name, (code, _) in {**UNLOADED, **FAILING}.items():
            write(root, f"{name}_{place}", code, IO + parameters)
        for name, lines in STREAMS.items():
            config = IO + parameters + "model_transaction_policy { decoupled: true }"
            write(root, f"{name}_{place}", STREAM.replace("{lines}", lines), config)
        write(root, f"keeping_{place}", KEEPING, IO + parameters)
        write(root, f"other_{place}", IDENTITY, IO + parameters)
    with stage(root) as server:
        for name, (_, reason) in UNLOADED.items():
            local, isolated = (server.reason(f"{name}_{place}").replace(place, "PLACE") for place in PLACES)
            assert reason in local and local == isolated, name
        for name, (_, text) in FAILING.items():
            for _ in range(2):  # the instance goes on
                local, isolated = (told(server, f"{name}_{place}") for place in PLACES)
                assert local == isolated, name
                assert len(local) == (name not in ("other_name", "again"))
                assert (text or "") in "".join(local), name
                assert any(line[0].isdigit() for line in local) == (text is not None), name
        for name in STREAMS:
            local, isolated = (told(server, f"{name}_{place}") for place in PLACES)
            assert local == isolated, name
            assert len(local) == (name != "behind")
        for times in (1, 2, 3):
            assert all(server.ask(f"keeping_{place}", X).tolist() == [6.0 * times] for place in PLACES)
        for place in PLACES:
            assert server.ask(f"other_{place}", X).tolist() == X.tolist()
