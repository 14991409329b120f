"""Requests of Python models to other models, in the server process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from python_stage import IDENTITY, IO, body, of, request, stage, write

X = np.arange(3, dtype=np.float32)
DECOUPLED = IO + "model_transaction_policy { decoupled: true }"
COUNT = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for i in range(int(request.inputs()[0].as_numpy()[0])):
                response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([i]))])
                if i == 2:
                    response = pb_utils.InferenceResponse(error=pb_utils.TritonError("two"))
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CALL = "inner = pb_utils.InferenceRequest(model_name={name!r}, inputs=[pb_utils.Tensor('IN', x)], "


def call(name: str, more: str = "requested_output_names=['OUT']") -> str:
    return CALL.format(name=name) + more + ")"


TEXT_OUT = """
    input { name: "IN" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUT" data_type: TYPE_STRING dims: -1 }
"""
TELL = "response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.array([text], np.object_))])"


def test_exec(tmp_path: Path) -> None:
    write(tmp_path, "plus", body("""
        import json
        assert request.request_id() == "inner" and json.loads(request.parameters()) == {"a": 1}
        assert request.timeout() == 0 and request.correlation_id() == 7 and request.flags() == 3
        x += 1
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)], parameters={"p": "q"})
    """))  # fmt: skip
    more = "requested_output_names=[], request_id='inner', correlation_id=7, flags=3, parameters={'a': 1}"
    write(tmp_path, "m", body(f"""
        before = x.copy()
        {call("plus", more)}
        found = inner.exec()
        assert not found.has_error(), found.error().message()
        assert (x == before).all()
        assert found.parameters() == '{{"p":"q"}}'
        assert (pb_utils.get_output_tensor_by_name(found, "OUT").as_numpy() == x + 1).all()
        response = found
    """))
    with stage(tmp_path) as server:
        for given in (X, np.zeros(1 << 17, np.float32)):
            assert np.array_equal(server.ask("m", given), given + 1)
        assert server.statistics("plus")["inference_count"] == 2


@pytest.mark.parametrize(("name", "more", "text"), [
    ("nobody", "requested_output_names=['OUT']", "Model nobody - Error when running inference: Failed for execute the "
     "inference request. Model 'nobody' is not ready."),
    ("i", "requested_output_names=['OUT'], model_version=9", "Model i - Error when running inference: Failed for "
     "execute the inference request. Model 'i' is not ready."),
    ("i", "requested_output_names=['N']", "Model i - Error when running inference: unexpected inference output 'N' for "
     "model 'i'"),
    ("count", "requested_output_names=['OUT']", "Model count - Error when running inference: Model count is using the "
     "decoupled. The current BLS request call doesn't support models using the decoupled transaction policy. Please "
     "use 'decoupled=True' argument to the 'exec' or 'async_exec' calls for decoupled models.'"),
    ("bad", "requested_output_names=['OUT']", "inner"),
])  # fmt: skip
def test_errors_are_values(tmp_path: Path, name: str, more: str, text: str) -> None:
    write(tmp_path, "i", IDENTITY)
    write(tmp_path, "count", COUNT, DECOUPLED)
    write(tmp_path, "bad", body("""
        error = pb_utils.TritonError("inner", pb_utils.TritonError.NOT_FOUND)
        response = pb_utils.InferenceResponse(error=error)
    """))
    write(tmp_path, "m", body(f"""
        {call(name, more)}
        found = inner.exec()
        assert found.has_error()
        text = found.error().message()
        if {name!r} == "bad":
            assert found.error().code() == pb_utils.TritonError.NOT_FOUND
        {TELL}
    """), TEXT_OUT)
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == [text.encode()]


def test_a_decoupled_model(tmp_path: Path) -> None:
    write(tmp_path, "count", COUNT, DECOUPLED)
    write(tmp_path, "m", body(f"""
        import asyncio
        def seen(responses):
            return [r.error().message() if r.has_error() else [t.as_numpy()[0] for t in r.output_tensors()]
                    for r in responses]
        {call("count")}
        iterator = inner.exec(decoupled=True)
        first = seen(iterator)
        assert seen(iterator) == first
        async def collect():
            again = await inner.async_exec(decoupled=True)
            return [r async for r in again]
        assert seen(asyncio.run(collect())) == first
        text = str(first)
        {TELL}
    """), TEXT_OUT)
    with stage(tmp_path) as server:
        assert server.ask("m", [4.0]).tolist() == [
            str([[np.float32(0)], [np.float32(1)], "two", [np.float32(3)], []]).encode()
        ]  # fmt: skip


def test_an_iterator_that_is_given_up(tmp_path: Path) -> None:
    """The model that sends is held back by who does not read, and goes on when that goes."""
    write(tmp_path, "count", COUNT, DECOUPLED)
    write(tmp_path, "m", body(f"""
        {call("count")}
        iterator = inner.exec(decoupled=True)
        next(iterator)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
    """))
    with stage(tmp_path) as server:
        assert server.ask("m", [5000.0]).tolist() == [5000]
        assert server.ask("m", [5000.0]).tolist() == [5000]


def test_several_at_once(tmp_path: Path) -> None:
    write(tmp_path, "i", "import time\n" + body("""
        time.sleep(0.05)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x * 2)])
    """), IO + "instance_group { count: 4 }")  # fmt: skip
    write(tmp_path, "m", f"""
import asyncio
class TritonPythonModel:
    async def execute(self, requests):
        responses = []
        for request in requests:
            x = request.inputs()[0].as_numpy()
            {call("i")}
            found = await asyncio.gather(*(inner.async_exec() for _ in range(4)))
            total = sum(pb_utils.get_output_tensor_by_name(r, "OUT").as_numpy() for r in found)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total)]))
        return responses
""")
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == (X * 8).tolist()


@pytest.mark.parametrize(("lines", "text"), [
    ("pb_utils.InferenceRequest(inputs=[])", "TypeError: __init__(): incompatible constructor arguments."),
    ("pb_utils.InferenceRequest(model_name='i', inputs=[x], requested_output_names=[])", "TypeError: __init__()"),
    ("pb_utils.InferenceRequest(model_name='i', inputs=[], requested_output_names=[], parameters={'a': 1.5})",
     "TritonModelException: Expect parameters values to have type bool/int/str, found type <class 'float'>"),
    ("pb_utils.InferenceRequest(model_name='i', inputs=[], requested_output_names=[], correlation_id=-1)",
     "RuntimeError: correlation_id must be 0 to 2^64 - 1, got -1"),
    ("request.exec()", "TritonModelException: exec() is for requests that the model has made"),
    ("pb_utils.InferenceRequest(model_name='i', inputs=[], requested_output_names=[]).async_exec()",
     "RuntimeError: no running event loop"),
])  # fmt: skip
def test_requests_that_are_none(tmp_path: Path, lines: str, text: str) -> None:
    write(tmp_path, "m", body(f"response = {lines}"))
    with stage(tmp_path) as server:
        error = server.error(request("m", IN=X))
        assert error.message.startswith(f"Failed to process the request(s) for model 'm_0', message: {text}")


def test_not_before_execute(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY + """
    def initialize(self, args):
        try:
            pb_utils.InferenceRequest(model_name="m", inputs=[], requested_output_names=[]).exec()
        except pb_utils.TritonModelException as error:
            assert "is only supported during the 'execute' function." in str(error)
        else:
            raise AssertionError

    @staticmethod
    def auto_complete_config(config):
        for ask in pb_utils.load_model, pb_utils.unload_model, pb_utils.is_model_ready:
            try:
                ask("m")
            except pb_utils.TritonModelException as error:
                assert "is only supported during 'initialize' and 'execute'." in str(error)
            else:
                raise AssertionError
        return config
    """)  # fmt: skip
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == X.tolist()


@pytest.mark.parametrize("where", ["@staticmethod\n    def auto_complete_config(config)", "def finalize(self)"])
def test_models_are_not_loaded_for_a_model_before_and_behind_its_life(tmp_path: Path, where: str) -> None:
    write(tmp_path, "m", IDENTITY + f"""
    {where}:
        for ask in (pb_utils.load_model, pb_utils.unload_model, pb_utils.is_model_ready):
            try:
                ask("m")
            except pb_utils.TritonModelException as error:
                open({str(tmp_path / "said")!r}, "a").write(str(error) + "\\n")
        return locals().get("config")
    """)
    with stage(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        assert server.ask("m", X).tolist() == X.tolist()
    said = (tmp_path / "said").read_text().splitlines()
    assert len(said) == 3 and all("is only supported during 'initialize' and 'execute'." in x for x in said)


def test_what_is_none_among_tensors(tmp_path: Path) -> None:
    """Triton's own tests of arguments tell these apart from other wrong objects."""
    write(tmp_path, "m", body("""
        said = []
        for make in (
            lambda: pb_utils.InferenceRequest(model_name="n", inputs=[None], requested_output_names=[], request_id="7"),
            lambda: pb_utils.InferenceRequest(model_name="n", inputs=[], requested_output_names=[""], request_id="7"),
            lambda: pb_utils.InferenceResponse([None]),
        ):
            try:
                make()
            except pb_utils.TritonModelException as error:
                said.append(str(error))
        assert said == [
            "Input tensor for request with id '7' and model name 'n' should not be empty.",
            "Requested output name for request with id '7' and model name 'n' should not be empty.",
            "Output tensor for response should not be empty.",
        ], said
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
    """))
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == X.tolist()


def test_model_control(tmp_path: Path) -> None:
    write(tmp_path, "i", IDENTITY)
    write(tmp_path, "m", body("""
        found = [pb_utils.is_model_ready("i")]
        pb_utils.load_model("i")
        found += [pb_utils.is_model_ready("i"), pb_utils.is_model_ready(model_name="i", model_version="1"),
                  pb_utils.is_model_ready("i", "2"), pb_utils.is_model_ready("nobody")]
        pb_utils.unload_model(model_name="i")
        pb_utils.unload_model("nobody")
        try:
            pb_utils.load_model("nobody")
        except pb_utils.TritonModelException as error:
            text = str(error)
            assert text.startswith("Failed to load model: Failed to process the request for model 'm_0', message: ")
            assert "'nobody'" in text
        assert found == [False, True, True, False, False], found
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
    """))
    with stage(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        assert server.ask("m", X).tolist() == X.tolist()


def test_a_model_that_calls_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "m", body(f"""
        {call("m")}
        found = inner.exec()
        response = pb_utils.InferenceResponse(error=found.error())
    """))
    with stage(tmp_path) as server:
        error = server.error(of(request("m", IN=X), id="r"))
        assert error.message.startswith("Model m - Error when running inference: ")
