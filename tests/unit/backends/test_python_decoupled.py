"""Decoupled Python models: any number of responses, from any thread, and what goes wrong there."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import pytest
from python_stage import IO, Collector, Stage, request, stage, write

from triton_async.infer.request import live_requests
from triton_async.infer.response import live_responses

X = np.arange(3, dtype=np.float32)
DECOUPLED = IO + "model_transaction_policy { decoupled: true }"
FAILED = "Failed to process the request(s) for model 'm_0', message: "


def model(lines: str, more: str = "") -> str:
    """A model whose `execute` has these lines for each request; `send(values, final)` and `end()` answer it."""
    inner = lines.strip().replace("\n", "\n            ")
    return f"""
import threading, time

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

def made(values):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32(values))])

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            x = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            {inner}
{more}
"""


def shown(collector: Collector) -> list[tuple[object, bool]]:
    """Values, or the error's text, of every response, and whether it is final."""
    found: list[tuple[object, bool]] = []
    for response in collector.all():
        if response.error is not None:
            found.append((response.error.message, response.final))
        else:
            found.append(([tensor.numpy().tolist() for tensor in response.outputs], response.final))
    return found


@pytest.mark.parametrize(("lines", "expected"), [
    ("sender.send(made([1]))\nsender.send(flags=FINAL)", [([[1]], False), ([], True)]),
    ("sender.send(made([1]), FINAL)", [([[1]], True)]),
    ("sender.send(flags=FINAL)", [([], True)]),
    ("for i in range(5):\n    sender.send(made([i]))\nsender.send(made([9]), FINAL)",
     [*(([[i]], False) for i in range(5)), ([[9]], True)]),
    ("sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError('mid')))\nsender.send(made([1]), FINAL)",
     [("mid", False), ([[1]], True)]),
    ("sender.send(made([1]), FINAL)\nraise ValueError('behind')", [([[1]], True)]),
    ("def later():\n    time.sleep(0.05)\n    sender.send(made(x), FINAL)\nthreading.Thread(target=later).start()",
     [([[0, 1, 2]], True)]),
])  # fmt: skip
def test_responses(tmp_path: Path, lines: str, expected: list[tuple[object, bool]]) -> None:
    write(tmp_path, "m", model(lines), DECOUPLED)
    with stage(tmp_path) as server:
        for _ in range(2):
            assert shown(server.send(request("m", IN=X))) == expected
        assert server.statistics("m")["inference_count"] == 2
        assert server.statistics("m")["execution_count"] == 2


@pytest.mark.parametrize(("lines", "before", "text"), [
    ("raise ValueError('v')", [], "ValueError: v\n\nAt:\n"),
    ("sender.send(made([1]))\nraise ValueError('v')", [([[1]], False)], "ValueError: v\n\nAt:\n"),
    ("sender.send(made([1]))\nreturn [made([2])]", [([[1]], False)],
     "Python model 'm_0' is using the decoupled mode and the execute function must return None."),
    ("sender.send(made([1]))\nsender.send(flags=8)", [([[1]], False)],
     "TritonModelException: Unable to send response."),
    ("sender.send()", [], "TritonModelException: Inference Response object must be provided when the response flags is "
                          "set to zero."),
    ("sender.send(3)", [], "TypeError: send(): expected an InferenceResponse"),
])  # fmt: skip
def test_failures(tmp_path: Path, lines: str, before: list[object], text: str) -> None:
    write(tmp_path, "m", model(lines), DECOUPLED)
    with stage(tmp_path) as server:
        *others, (last, final) = shown(server.send(request("m", IN=X)))
        assert others == before
        assert final and isinstance(last, str) and last.startswith(FAILED + text)
        assert server.statistics("m")["inference_stats"]["fail"]["count"] == 1


def test_nothing_follows_the_end(tmp_path: Path) -> None:
    write(tmp_path, "m", model("""
sender.send(made([1]), FINAL)
for arguments in ((made([2]),), (made([2]), FINAL), (None, FINAL)):
    try:
        sender.send(*arguments)
    except pb_utils.TritonModelException as error:
        assert str(error) == "Unable to send response. Response sender has been closed."
    else:
        raise AssertionError
    """), DECOUPLED)  # fmt: skip
    with stage(tmp_path) as server:
        assert shown(server.send(request("m", IN=X))) == [([[1]], True)]


def test_a_sender_that_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, "m", model("sender.send(made([1]))"), DECOUPLED)
    with stage(tmp_path) as server:
        first, (last, final) = shown(server.send(request("m", IN=X)))
        assert first == ([[1]], False)
        assert (last, final) == (
            "model 'm' dropped a request and its response sender without a final response", True
        )  # fmt: skip


def test_asynchronous_executions_overlap(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        import asyncio
        class TritonPythonModel:
            waiting = 0
            everybody = None

            async def execute(self, requests):
                self.everybody = self.everybody or asyncio.Event()
                self.waiting += 1
                if self.waiting == 3:
                    self.everybody.set()
                await asyncio.wait_for(self.everybody.wait(), 10)
                for request in requests:
                    x = request.inputs()[0].as_numpy()
                    if x[0] == 2:
                        raise ValueError("two")
                    made = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
                    request.get_response_sender().send(made, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    """, DECOUPLED)  # fmt: skip
    with stage(tmp_path) as server:
        collectors = [server.send(request("m", IN=X[:1] + i)) for i in range(3)]
        assert shown(collectors[0]) == [([[0]], True)]
        assert shown(collectors[1]) == [([[1]], True)]
        ((text, final),) = shown(collectors[2])
        assert final and isinstance(text, str) and text.startswith(FAILED + "ValueError: two\n\nAt:\n")


def test_a_model_that_ends_while_it_waits(tmp_path: Path) -> None:
    """Requests that a coroutine still has are answered before the model is closed."""
    write(tmp_path, "m", """
        import asyncio
        class TritonPythonModel:
            async def execute(self, requests):
                await asyncio.sleep(0.2)
                for request in requests:
                    request.get_response_sender().send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    """, DECOUPLED)  # fmt: skip
    with stage(tmp_path, "--model-control-mode=explicit", "--load-model=m") as server:
        collector = server.send(request("m", IN=X))
        server.run(server.server.unload_model("m"))
        assert shown(collector) == [([], True)]


def test_cancellation_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "m", model("""
def watch():
    while not sender.is_cancelled():
        time.sleep(0.005)
    assert request.is_cancelled()
    sender.send(made([1]), FINAL)
    pb_utils.Logger.log_info("cancelled")
threading.Thread(target=watch).start()
    """), DECOUPLED)  # fmt: skip
    with stage(tmp_path) as server:
        made = request("m", IN=X)
        collector = server.send(made)
        time.sleep(0.05)
        server.call(server.server.cancel, made)
        assert collector.items.get(timeout=10) is None  # released, and nothing delivered
        del made
        assert server.statistics("m")["inference_count"] == 0
        assert server.metrics('nv_inference_request_failure{model="m",reason="CANCELED"')[0].endswith(" 1")


def test_a_sender_that_the_collector_takes_away_together_with_its_instance_harms_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "m", model("kept = [sender, self]\nkept.append(kept)"), DECOUPLED)
    gc.collect()
    before = live_requests(), live_responses()
    server = Stage(tmp_path)
    gc.collect()  # which takes the older ones apart first: the instance before what keeps the sender
    server.send(request("m", IN=X))
    server.end_instances("m")
    server.drop()
    assert live_requests() > before[0]
    del server
    gc.collect()
    assert (live_requests(), live_responses()) == before
    assert not capsys.readouterr().err, "nothing went wrong in a finalizer"
