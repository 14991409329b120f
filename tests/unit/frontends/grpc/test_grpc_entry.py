"""Keys, restricted RPCs and forwarded metadata: the express lane lets in whom the handlers do, with the same bytes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from grpc_harness import Running, serving, write_model
from raw_http2 import INFER, RawClient, message

from triton_async import protos
from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.grpc.calls import Calls

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
OK, UNAUTHENTICATED = 0, 16

TELLS = """
import itertools
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.array([request.parameters()], np.object_))])
            for request in requests
        ]
"""
SHOWN = {
    "nothing": {}, "key": {"x_api_key": "one"}, "bearer": {"authorization": "Bearer two"},
    "wrong key": {"x_api_key": "three"}, "no ASCII": {"x_api_key": "k\xe9"},
}  # fmt: skip
SECRETS = {"": {}, "secret": {"secret": "s"}, "wrong secret": {"secret": "t"}}
MORE = {"": {}, "user": {"x_user": "u"}, "users": {"x_user": "u", "x_user_group": "g"}, "reserved": {"priority": "1"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_model(tmp_path / "models", "tells", dims="1")
    config = tmp_path / "models" / "tells" / "config.pbtxt"
    text = config.read_text().replace('"identity"', '"python"')
    config.write_text(text.replace('"OUTPUT0" data_type: TYPE_FP32', '"OUTPUT0" data_type: TYPE_STRING'))
    (tmp_path / "models" / "tells" / "1" / "model.py").write_text(TELLS)
    (tmp_path / "keys").write_text("one\ntwo\n")
    return tmp_path


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the calls that handlers were asked."""
    found: list[str] = []
    accept = Calls.accept

    def watch(calls: Calls, stream: object, headers: list[tuple[str, str]]) -> None:
        found.append(dict(headers)[":path"])
        accept(calls, stream, headers)  # type: ignore[arg-type]

    monkeypatch.setattr(Calls, "accept", watch)
    return found


def ask(**parameters: str) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name="tells")
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.float32([1]).tobytes())
    for name, value in parameters.items():
        request.parameters[name].string_param = value
    return message(request.SerializeToString())


def told(data: bytes, stream: bool) -> dict[str, str]:
    """The parameters that the model was given."""
    name = "inference.ModelStreamInferResponse" if stream else "inference.ModelInferResponse"
    response = protos.message(name).FromString(data[5:])
    found: dict[str, str] = json.loads((response.infer_response if stream else response).raw_output_contents[0][4:])
    return found


def both(root: Path, gate: Gate, pattern: re.Pattern[str] | None) -> Iterator[tuple[Running, Running]]:
    how = {"gate": gate, "forwarded": pattern}
    with serving(root / "models", **how) as express, serving(root / "models", express=False, **how) as slow:
        yield express, slow


@pytest.mark.parametrize("path", [INFER, STREAM])
def test_callers_are_asked_in_the_express_lane_as_by_the_handlers(root: Path, path: str, handled: list[str]) -> None:
    keys = ApiKeys(str(root / "keys"))
    gate = Gate({"inference": ("secret", "s")}, keys, frozenset({"health"}))
    for express, slow in both(root, gate, re.compile("x-user|priority")):
        good = 0
        with RawClient(express.url) as fast_client, RawClient(slow.url) as slow_client:
            for shown, secret, more in itertools.product(SHOWN.values(), SECRETS.values(), MORE.values()):
                headers = {**shown, **secret, **more}
                handled.clear()
                fast = fast_client.call(path, ask(**{"x-user": "forged", "mine": "1"}), **headers)
                by_express = not handled
                other = slow_client.call(path, ask(**{"x-user": "forged", "mine": "1"}), **headers)
                assert (fast.headers, fast.data) == (other.headers, other.data), headers
                if fast.status == OK and b"reserved" not in fast.data:
                    good += 1
                    assert by_express, headers
                    assert told(fast.data, path == STREAM)["x-user"] == more.get("x_user", "forged")
        assert good == 2 * 3


def test_a_key_that_is_taken_back_no_longer_opens_a_connection_that_it_has_opened(root: Path) -> None:
    keys = ApiKeys(str(root / "keys"))
    with serving(root / "models", gate=Gate(keys=keys)) as server, RawClient(server.url) as client:

        def status(key: str) -> int:
            return client.call(INFER, ask(), x_api_key=key).status

        assert [status(key) for key in ("one", "one", "two", "one")] == [OK] * 4
        (root / "keys").write_text("two")
        server.loop.call_soon_threadsafe(keys.renew())
        while status("one") == OK:
            pass
        assert [status(key) for key in ("two", "one", "two")] == [OK, UNAUTHENTICATED, OK]


def test_forwarded_metadata_are_those_of_each_call(root: Path) -> None:
    pattern = re.compile("^x-")
    with serving(root / "models", forwarded=pattern) as server, RawClient(server.url) as client:
        # Blanks around a value come from Triton's clients, too, and are part of it as they are to Triton.
        for user in ("a", "a", "b", None, None, "a", " a", "b ", " c "):
            headers = {} if user is None else {"x_user": user}
            expected = {} if user is None else {"x-user": user}
            assert told(client.call(INFER, ask(), **headers).data, False) == expected
            assert told(client.call(STREAM, ask(), **headers).data, True) == expected
