"""What `execute` may return, raise and do, in default mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from python_stage import IDENTITY, IO, body, of, request, stage, write

from triton_async.errors import Code, ServerError

X = np.arange(4, dtype=np.float32)
FAILED = "Failed to process the request(s) for model 'm_0', message: "


def model(execute: str, more: str = "") -> str:
    """A model whose `execute` has these lines."""
    inner = execute.strip().replace("\n", "\n        ")
    return f"class TritonPythonModel:\n    def execute(self, requests):\n        {inner}\n{more}"


def test_identity(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY)
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == X.tolist()
        large = np.random.default_rng(1).random(1 << 18, np.float32)
        for _ in range(2):
            assert np.array_equal(server.ask("m", large), large)
        assert server.ask("m", []).tolist() == []


def test_the_fields_of_a_request(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import json
        class TritonPythonModel:
            def execute(self, requests):
                out = []
                for r in requests:
                    text = json.dumps([
                        r.request_id(), r.correlation_id(), r.flags(), r.timeout(), r.parameters(),
                        sorted(r.requested_output_names()), [t.name() for t in r.inputs()], r.is_cancelled(),
                        [t.shape() for t in r.inputs()], [t.triton_dtype() for t in r.inputs()],
                        r.inputs()[0] is pb_utils.get_input_tensor_by_name(r, "B"), r.trace().get_context(),
                        pb_utils.get_input_tensor_by_name(r, "C") is None, isinstance(r, pb_utils.InferenceRequest),
                        type(r.requested_output_names()).__name__,
                    ])
                    out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([text], np.object_))]))
                return out
    """, """
        input { name: "A" data_type: TYPE_FP32 dims: -1 }
        input { name: "B" data_type: TYPE_STRING dims: -1 }
        input { name: "C" data_type: TYPE_FP32 dims: -1 optional: true }
        output { name: "OUT" data_type: TYPE_STRING dims: -1 }
        output { name: "OTHER" data_type: TYPE_FP32 dims: -1 }
    """)  # fmt: skip
    plain = request("m", B=np.array(["x"], np.object_), A=np.zeros(2, np.float32))
    full = of(
        request("m", "OUT", B=np.array([b"\xff"], np.object_), A=np.zeros(2, np.float32)),
        id="nö", sequence_id="s", flags=3, timeout_us=5, parameters={"a": 1, "b": "ö", "c": True, "f": 1.5},
    )  # fmt: skip
    rest = [False, [[1], [2]], [13, 11], True, None, True, True, "set"]
    with stage(tmp_path) as server:
        import json

        assert json.loads(server.infer(plain)["OUT"][0]) == [
            "", 0, 0, 0, "{}", ["OTHER", "OUT"], ["B", "A"], *rest
        ]  # fmt: skip
        assert json.loads(server.infer(full)["OUT"][0]) == [
            "nö", "s", 3, 5, '{"a":1,"b":"ö","c":true,"f":1.5}', ["OUT"], ["B", "A"], *rest
        ]  # fmt: skip


@pytest.mark.parametrize(("lines", "text"), [
    ("return ()", "Expected a list in the execute return, found type '<class 'tuple'>'."),
    ("return 'OUT'", "Expected a list in the execute return, found type '<class 'str'>'."),
    ("return ['x']", "Expected an 'InferenceResponse' object in the execute function return list, found type "
                     "'<class 'str'>'."),
    ("return []", "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                  "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n"),
    ("return [None]", "execute returned None for a request whose response sender was not used"),
    ("return None", "execute returned None for a request whose response sender was not used"),
    ("raise KeyError()", "KeyError: <EMPTY MESSAGE>\n\nAt:\n  {file}(5): execute\n"),
    ("raise KeyboardInterrupt('k')", "KeyboardInterrupt: k\n\nAt:\n  {file}(5): execute\n"),
    ("raise SystemExit(3)", "SystemExit: 3\n\nAt:\n  {file}(5): execute\n"),
    ("try:\n    [][0]\nexcept IndexError:\n    raise ValueError('outer')",
     "ValueError: outer\n\nAt:\n  {file}(8): execute\n"),
    ("return [pb_utils.InferenceResponse([1])]", None),
    ("return [pb_utils.InferenceResponse(error='text')]", None),
    ("requests[0].set_release_flags(2)\nreturn [pb_utils.InferenceResponse()]",
     "Expected a None object in the execute function return list for reschduled request, found type "
     "'<class 'c_python_backend_utils.InferenceResponse'>'."),
])  # fmt: skip
def test_wrong_results(tmp_path: Path, lines: str, text: str | None) -> None:
    write(tmp_path, "m", model(lines))
    write(tmp_path, "other", IDENTITY)
    with stage(tmp_path) as server:
        for _ in range(2):  # the instance goes on
            error = server.error(request("m", IN=X))
            assert error.code == Code.INTERNAL
            file = tmp_path / "m" / "1" / "model.py"
            if text is None:
                assert error.message.startswith(f"{FAILED}TypeError: __init__(): incompatible constructor arguments.")
            else:
                assert error.message == FAILED + text.format(file=file)
        assert server.ask("other", X).tolist() == X.tolist()
        statistics = server.statistics("m")
        assert statistics["inference_stats"]["fail"]["count"] == 2
        assert statistics["inference_stats"]["success"]["count"] == 0
        assert statistics["inference_count"] == 0
        assert statistics["execution_count"] == 2
        assert server.metrics('nv_inference_request_failure{model="m",reason="BACKEND"')[0].endswith(" 2")


@pytest.mark.parametrize(("code", "expected"), [
    ("", Code.INTERNAL), ("pb_utils.TritonError.UNKNOWN", Code.UNKNOWN),
    ("pb_utils.TritonError.NOT_FOUND", Code.NOT_FOUND), ("pb_utils.TritonError.INVALID_ARG", Code.INVALID_ARG),
    ("pb_utils.TritonError.UNAVAILABLE", Code.UNAVAILABLE), ("pb_utils.TritonError.UNSUPPORTED", Code.UNSUPPORTED),
    ("pb_utils.TritonError.ALREADY_EXISTS", Code.ALREADY_EXISTS),
    ("pb_utils.TritonError.CANCELLED", Code.CANCELLED),
])  # fmt: skip
def test_error_responses(tmp_path: Path, code: str, expected: Code) -> None:
    write(tmp_path, "m", body(f"""
        error = pb_utils.TritonError({", ".join(filter(None, ["'t'", code]))})
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)], error)
        assert response.has_error() and response.error().message() == "t" and response.output_tensors() == []
    """))  # fmt: skip
    with stage(tmp_path) as server:
        error = server.error(request("m", IN=X))
        assert (error.code, error.message) == (expected, "t")
        assert server.statistics("m")["inference_stats"]["fail"]["count"] == 1


def test_one_request_of_a_batch_fails_alone(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
        if x[0, 0] < 0:
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero"))
    """), IO + "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 200000 }")  # fmt: skip
    with stage(tmp_path) as server:
        collectors = [server.send(request("m", IN=np.full((1, 2), value, np.float32))) for value in (1, -1, 2)]
        one, two, three = [collector.all()[0] for collector in collectors]
        assert one.outputs[0].numpy().tolist() == [[1, 1]]
        assert two.error is not None and two.error.message == "below zero"
        assert three.outputs[0].numpy().tolist() == [[2, 2]]
        statistics = server.statistics("m")
        assert [entry["batch_size"] for entry in statistics["batch_stats"]] == [3]
        assert (statistics["inference_count"], statistics["execution_count"]) == (2, 1)


def test_outputs_are_picked_by_name(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        response = pb_utils.InferenceResponse([
            pb_utils.Tensor("NOBODYS", x), pb_utils.Tensor("B", x + 1), pb_utils.Tensor("A", x),
        ], parameters={"n": 1, "s": "t", "b": True})
        assert response.parameters() == '{"n":1,"s":"t","b":true}'
    """), """
        input { name: "IN" data_type: TYPE_FP32 dims: -1 }
        output { name: "A" data_type: TYPE_FP32 dims: -1 }
        output { name: "B" data_type: TYPE_FP32 dims: -1 }
        output { name: "NEVER" data_type: TYPE_FP32 dims: -1 }
    """)  # fmt: skip
    with stage(tmp_path) as server:
        (response,) = server.send(request("m", IN=X)).all()
        assert [tensor.name for tensor in response.outputs] == ["B", "A"]
        assert response.parameters == {"n": 1, "s": "t", "b": True}
        assert list(server.infer(request("m", "A", IN=X))) == ["A"]
        assert server.infer(request("m", "NEVER", IN=X)) == {}


def test_an_output_given_twice(tmp_path: Path) -> None:
    write(tmp_path, "m", body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x)] * 2)"))
    with stage(tmp_path) as server:
        assert server.error(request("m", IN=X)).message == "model 'm' gave output 'OUT' more than once"


def test_shapes_and_types_are_not_checked(tmp_path: Path) -> None:
    write(tmp_path, "m", body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.int8([[1], [2]]))])"))
    with stage(tmp_path) as server:
        (response,) = server.send(request("m", IN=X)).all()
        assert response.outputs[0].numpy().dtype == np.int8
        assert response.outputs[0].shape == (2, 1)


def test_one_response_object_for_all(tmp_path: Path) -> None:
    write(tmp_path, "m", model("""
response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.ones(40000, np.float32))])
return [response] * len(requests)
"""), IO + "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 100000 }")  # fmt: skip
    with stage(tmp_path) as server:
        collectors = [server.send(request("m", IN=np.zeros((1, 2), np.float32))) for _ in range(3)]
        for collector in collectors:
            assert collector.all()[0].outputs[0].numpy().sum() == 40000


def test_reshape(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        assert x.shape == (2, 2, 3), x.shape
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x[:, :, :1] + 0)])
    """), """
        max_batch_size: 4
        input { name: "IN" data_type: TYPE_FP32 dims: 6 reshape { shape: [2, 3] } }
        output { name: "OUT" data_type: TYPE_FP32 dims: 2 reshape { shape: [2, 1] } }
    """)  # fmt: skip
    with stage(tmp_path) as server:
        given = np.arange(12, dtype=np.float32).reshape(2, 6)
        assert server.ask("m", given).tolist() == [[0, 3], [6, 9]]


@pytest.mark.parametrize(("dims", "reshape", "made", "given"), [
    ("[1]", "[]", "(2, 1)", [2, 1]), ("[1]", "[]", "(2, 1, 1)", [2, 1]), ("[1, 4]", "[4, 1]", "(2, 4)", [2, 1, 4]),
    ("[-1, 4]", "[-1, 2, 2]", "(2, 3, 4)", [2, 3, 4]), ("[-1]", "[-1, 1]", "(2, 5)", [2, 5]),
    ("[1]", "[]", "(2, 2)", None), ("[1]", "[]", "()", None),
    ("[-1, 4]", "[-1, 2, 2]", "(2, 12)", None), ("[-1, 4]", "[-1, 2, 2]", "(2, 3, 2)", None),
])  # fmt: skip
def test_outputs_that_are_not_as_their_reshape_says(
    tmp_path: Path, dims: str, reshape: str, made: str, given: list[int] | None
) -> None:
    """The client's shape, and any with as many elements in place of one that is known, as in Triton."""
    write(tmp_path, "m", body(f"""
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros({made}, np.float32))])
    """), f"""
        max_batch_size: 4
        input {{ name: "IN" data_type: TYPE_FP32 dims: 6 }}
        output {{ name: "OUT" data_type: TYPE_FP32 dims: {dims} reshape {{ shape: {reshape} }} }}
    """)  # fmt: skip
    with stage(tmp_path) as server:
        sent = np.zeros((2, 6), np.float32)
        if given is not None:
            assert list(server.ask("m", sent).shape) == given
            return
        with pytest.raises(ServerError, match="which its reshape does not allow"):
            server.ask("m", sent)


def test_async_execute_runs_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import asyncio
        class TritonPythonModel:
            async def execute(self, requests):
                await asyncio.sleep(0.01)
                xs = [pb_utils.get_input_tensor_by_name(r, "IN").as_numpy() for r in requests]
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x * 2)]) for x in xs]
    """)
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == (X * 2).tolist()
        assert server.ask("m", X).tolist() == (X * 2).tolist()


def test_the_sender_in_default_mode(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import threading
        class TritonPythonModel:
            def execute(self, requests):
                for request in requests:
                    sender = request.get_response_sender()
                    assert sender is request.get_response_sender()
                    texts = []
                    for response, flags in ((None, 1), (None, 0)):
                        try:
                            sender.send(response, flags)
                        except pb_utils.TritonModelException as error:
                            texts.append(str(error))
                    x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
                    made = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
                    if x[0] == 0:
                        threading.Thread(target=sender.send, args=(made, 1)).start()
                    else:
                        sender.send(made, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                        try:
                            sender.send(made)
                        except pb_utils.TritonModelException as error:
                            texts.append(str(error))
                        assert texts == [
                            "Unable to send response. Non-decoupled model cannot send complete final before sending a "
                            "response.",
                            "Inference Response object must be provided when the response flags is set to zero.",
                            "Unable to send response. Response sender has been closed.",
                        ], texts
                return [None] * len(requests)
    """)  # fmt: skip
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == X.tolist()
        assert server.ask("m", X + 1).tolist() == (X + 1).tolist()


def test_the_final_flag_behind_the_only_response(tmp_path: Path) -> None:
    """Says what is known, once: models do so that serve in both modes."""
    write(tmp_path, "m", body("""
        sender = request.get_response_sender()
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        texts = []
        for response, flags in ((None, 1), (pb_utils.InferenceResponse(), 0)):
            try:
                sender.send(response, flags)
            except pb_utils.TritonModelException as error:
                texts.append(str(error))
        assert texts == [
            "Unable to send response. Response sender has been closed.",
            "Unable to send response. Non-decoupled model cannot send more than one response.",
        ], texts
        response = None
    """))
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == X.tolist()
        assert server.statistics("m")["inference_stats"]["fail"]["count"] == 0


def test_a_sender_and_a_response_the_first_wins(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        request.get_response_sender().send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)]), 1)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x + 1)])
    """))
    with stage(tmp_path) as server:
        assert server.ask("m", X).tolist() == X.tolist()


def test_a_sender_that_is_dropped_ends_its_request(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        class TritonPythonModel:
            kept = None

            def execute(self, requests):
                x = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()
                if x[0] == 1:
                    self.kept = None
                    return [pb_utils.InferenceResponse()]
                self.kept = requests[0].get_response_sender()
                return [None]
    """)
    with stage(tmp_path) as server:
        first = server.send(request("m", IN=X))
        server.infer(request("m", IN=X + 1))
        (response,) = first.all()
        assert response.error is not None
        assert response.error.message == FAILED + (
            "execute returned None for a request whose response sender was not used"
        )


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_coroutine_answers_behind_its_return(tmp_path: Path, isolation: str) -> None:
    """By a task, or whatever else it has left in its event loop, which goes on; later executions share that."""
    write(tmp_path, "m", """
        import asyncio

        class TritonPythonModel:
            async def execute(self, requests):
                loop = asyncio.get_running_loop()
                self.loops = getattr(self, "loops", set()) | {id(loop)}
                kept = []
                for request in requests:
                    x = request.inputs()[0].as_numpy()
                    if x[0] == 0:
                        return [self.made(len(self.loops))]
                    if x[0] == 1:
                        kept.append(asyncio.ensure_future(self.later(request.get_response_sender(), x)))
                    else:
                        loop.call_later(0.05, request.get_response_sender().send, self.made(x[0]))
                self.kept = kept
                return None

            async def later(self, sender, x):
                await asyncio.sleep(0.05)
                sender.send(self.made(x[0]))

            def made(self, value):
                return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([value]))])
    """, IO + f'parameters {{ key: "ISOLATION" value {{ string_value: "{isolation}" }} }}')
    with stage(tmp_path) as server:
        for value in (0, 2, 1, 2, 1):
            assert server.ask("m", np.float32([value])).tolist() == [value or 1]
        assert server.ask("m", np.float32([0])).tolist() == [1]
