"""Sequences as clients use them: over HTTP, gRPC, gRPC streams and from models, on all engines."""

from __future__ import annotations

import asyncio
import json
import queue
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import build_models
import numpy as np
import onnxruntime
import pytest
import sequence_models
import speech.client as speech
import tritonclient.grpc
import tritonclient.http
from server_process import ServerProcess, running_server
from tritonclient.utils import InferenceServerException, shared_memory

PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}
_NO_TORCH = pytest.mark.skipif(not sequence_models.has_torch(), reason="PyTorch is not installed")
ENGINES = ["sums", "rows", "python", "isolated", "ensemble", pytest.param("torch", marks=_NO_TORCH)]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the models of `sequence_models`."""
    repository = tmp_path_factory.mktemp("sequences")
    sequence_models.build(repository)
    options = ["--allow-client-shm=true"]
    with running_server([repository], tmp_path_factory.mktemp("sequence-server"), options) as process:
        yield process
        process.stop()


def inputs(module: Any, value: float) -> list[Any]:
    tensor = module.InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.full((1, 1), value, np.float32))
    return [tensor]


def total(result: Any) -> float:
    return float(result.as_numpy("Y")[0, 0])


def run(client: Any, module: Any, model: str, sequence: int | str, values: list[float]) -> list[float]:
    """A whole sequence, step by step."""
    return [
        total(client.infer(
            model, inputs(module, value), sequence_id=sequence, sequence_start=place == 0,
            sequence_end=place == len(values) - 1,
        ))
        for place, value in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ENGINES)
def test_the_server_keeps_the_state_of_each_sequence(sequences: ServerProcess, protocol: str, model: str) -> None:
    module = PROTOCOLS[protocol]
    with module.InferenceServerClient(sequences.url(protocol)) as client:
        # Two at the same time, of both kinds of ids.
        for place, value in enumerate([1, 2, 3]):
            for factor, sequence in ((1, 2**63 + 5 if protocol == "http" else 77), (100, "a text")):
                got = client.infer(
                    model, inputs(module, factor * value), sequence_id=sequence, sequence_start=place == 0,
                    sequence_end=place == 2,
                )  # fmt: skip
                assert total(got) == factor * [1, 3, 6][place]
        assert run(client, module, model, 5, [4, 5]) == [4, 9]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["shown", "shown_python"])
def test_states_among_the_outputs_are_for_clients_too(sequences: ServerProcess, protocol: str, model: str) -> None:
    module = PROTOCOLS[protocol]
    asked = {name: module.InferRequestedOutput(name) for name in ("Y", "SUM_OUT")}
    with module.InferenceServerClient(sequences.url(protocol)) as client:
        steps: list[tuple[int, list[str]]] = [(1, []), (3, ["Y"]), (6, ["SUM_OUT"]), (10, ["Y", "SUM_OUT"])]
        for place, (expected, names) in enumerate(steps):
            result = client.infer(
                model, inputs(module, place + 1), sequence_id=9, sequence_start=place == 0, sequence_end=place == 3,
                outputs=[asked[name] for name in names] or None,
            )  # fmt: skip
            got = {name: result.as_numpy(name) for name in asked if result.as_numpy(name) is not None}
            assert {name: value.item() for name, value in got.items()} == dict.fromkeys(names or asked, expected)
        with pytest.raises(InferenceServerException, match="unexpected inference output 'SUM_OUT' for model 'sums'"):
            client.infer("sums", inputs(module, 1), sequence_id=8, sequence_start=True, outputs=[asked["SUM_OUT"]])
        # The next step would read what the client may write to meanwhile.
        region = shared_memory.create_shared_memory_region("states", f"/states-{protocol}-{model}", 4)
        client.register_system_shared_memory("states", f"/states-{protocol}-{model}", 4)
        asked["SUM_OUT"].set_shared_memory("states", 4)
        with pytest.raises(InferenceServerException, match="is a state of its sequences, which can not be placed in"):
            client.infer(model, inputs(module, 1), sequence_id=8, sequence_start=True, outputs=[asked["SUM_OUT"]])
        client.unregister_system_shared_memory("states")
        shared_memory.destroy_shared_memory_region(region)


@pytest.mark.parametrize("model", ENGINES)
def test_streams_send_all_steps_at_once(sequences: ServerProcess, model: str) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(sequences.url("grpc")) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        for place in range(20):
            for sequence in range(1, 11):
                client.async_stream_infer(
                    model, inputs(tritonclient.grpc, sequence), sequence_id=sequence, sequence_start=place == 0,
                    sequence_end=place == 19, request_id=f"{sequence}/{place}",
                )  # fmt: skip
        got = [answers.get(timeout=30) for _ in range(200)]
        client.stop_stream()
    sums = {answer.get_response().id: total(answer) for answer in got}
    assert sums == {f"{sequence}/{place}": sequence * (place + 1) for sequence in range(1, 11) for place in range(20)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_belongs_to_no_sequence_is_refused(sequences: ServerProcess, protocol: str) -> None:
    module = PROTOCOLS[protocol]
    with module.InferenceServerClient(sequences.url(protocol)) as client:
        for options, text in (
            ({"sequence_id": 0}, "must specify a non-zero or non-empty correlation ID"),
            ({"sequence_id": 31}, "inference request for sequence 31 to model 'sums' must specify the START flag on "
                                  "the first request of the sequence"),
            ({"sequence_id": "x" * 129, "sequence_start": True}, "string correlation ID cannot be longer than 128"),
        ):  # fmt: skip
            with pytest.raises(module.InferenceServerException, match=text):
                client.infer("sums", inputs(module, 1), **options)
        tensor = module.InferInput("X", [2, 1], "FP32")
        tensor.set_data_from_numpy(np.ones((2, 1), np.float32))
        with pytest.raises(module.InferenceServerException, match="must specify batch-size 1 due to requirements"):
            client.infer("sums", [tensor], sequence_id=9, sequence_start=True)
        asked = module.InferRequestedOutput("SUM_OUT")
        with pytest.raises(module.InferenceServerException, match="unexpected inference output 'SUM_OUT' for model"):
            client.infer("sums", inputs(module, 1), outputs=[asked], sequence_id=9, sequence_start=True)
        start = module.InferInput("START", [1, 1], "FP32")
        start.set_data_from_numpy(np.ones((1, 1), np.float32))
        with pytest.raises(module.InferenceServerException, match="expected 1 inputs but got 2 inputs for model"):
            client.infer("sums", [*inputs(module, 1), start], sequence_id=9, sequence_start=True)


def test_metadata_show_what_clients_send_and_get(sequences: ServerProcess) -> None:
    with tritonclient.http.InferenceServerClient(sequences.url("http")) as client:
        metadata = client.get_model_metadata("sums")
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["X"]
        assert [tensor["name"] for tensor in metadata["outputs"]] == ["Y"]
        assert "sequence" in client.get_server_metadata()["extensions"]
        config = client.get_model_config("sums")
        assert config["sequence_batching"]["oldest"]["max_candidate_sequences"] == 64


def test_a_client_that_leaves_its_stream_frees_its_slot_at_once(sequences: ServerProcess) -> None:
    first: queue.Queue[Any] = queue.Queue()
    client = tritonclient.grpc.InferenceServerClient(sequences.url("grpc"))
    client.start_stream(lambda result, error: first.put(error or result))
    client.async_stream_infer("one", inputs(tritonclient.grpc, 7), sequence_id=1, sequence_start=True)
    assert total(first.get(timeout=30)) == 7
    waiting: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(sequences.url("grpc")) as other:
        other.start_stream(lambda result, error: waiting.put(error or result))
        other.async_stream_infer(
            "one", inputs(tritonclient.grpc, 9), sequence_id=2, sequence_start=True, sequence_end=True
        )
        with pytest.raises(queue.Empty):
            waiting.get(timeout=0.3)  # the model has one slot, and its sequences a minute of idleness
        client.stop_stream(cancel_requests=True)
        assert total(waiting.get(timeout=5)) == 9
        other.stop_stream()
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="must specify the START flag"):
        client.infer("one", inputs(tritonclient.grpc, 1), sequence_id=1)
    client.close()


def test_a_stream_that_ends_properly_leaves_its_sequence_alone(sequences: ServerProcess) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(sequences.url("grpc")) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer("sums", inputs(tritonclient.grpc, 7), sequence_id=3, sequence_start=True)
        assert total(answers.get(timeout=30)) == 7
        client.stop_stream()
        assert total(client.infer("sums", inputs(tritonclient.grpc, 1), sequence_id=3, sequence_end=True)) == 8


@pytest.mark.parametrize("where", ["python", "isolated"])
def test_python_models_have_requests_run_again(sequences: ServerProcess, where: str) -> None:
    model = f"counts_{where}"
    with tritonclient.http.InferenceServerClient(sequences.url("http"), concurrency=8) as client:
        pending = [client.async_infer(model, inputs(tritonclient.http, value)) for value in (1, 5, 3, 2)]
        assert [total(one.get_result()) for one in pending] == [1, 5, 3, 2]
        assert total(client.infer(model, inputs(tritonclient.http, 4), sequence_id=9, sequence_start=True)) == 4
        (statistics,) = client.get_inference_statistics(model)["model_stats"]
    assert statistics["inference_count"] == 1 + 5 + 3 + 2 + 4
    assert statistics["inference_stats"]["success"]["count"] == 5
    assert statistics["inference_stats"]["fail"]["count"] == 0


@pytest.mark.parametrize("where", ["python", "isolated"])
def test_a_decoupled_model_answers_in_each_pass(sequences: ServerProcess, where: str) -> None:
    body = json.dumps({"X": 4}).encode()
    url = f"http://{sequences.url('http')}/v2/models/streams_{where}/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
        events = [json.loads(line[6:])["Y"] for line in answer.read().decode().splitlines() if line]
    assert events == [1, 2, 3, 4]


def test_models_ask_models_of_sequences(sequences: ServerProcess) -> None:
    values = tritonclient.http.InferInput("VALUES", [3], "FP32")
    values.set_data_from_numpy(np.array([1, 2, 4], np.float32))
    sequence = tritonclient.http.InferInput("ID", [1], "INT64")
    sequence.set_data_from_numpy(np.array([4242]))
    with tritonclient.http.InferenceServerClient(sequences.url("http")) as client:
        assert total(client.infer("asks", [values, sequence])) == 7


def test_the_backlog_timeout_is_the_request_s(sequences: ServerProcess) -> None:
    with tritonclient.http.InferenceServerClient(sequences.url("http")) as client:
        client.infer("one", inputs(tritonclient.http, 1), sequence_id=1, sequence_start=True)
        begun = time.monotonic()
        with pytest.raises(tritonclient.http.InferenceServerException, match="timeout of the corresponding sequence"):
            client.infer("one", inputs(tritonclient.http, 1), sequence_id=2, sequence_start=True, timeout=200_000)
        assert 0.2 <= time.monotonic() - begun < 5
        client.infer("one", inputs(tritonclient.http, 1), sequence_id=1, sequence_end=True)


# -- a real recurrent network --------------------------------------------------------------------------------------


@pytest.mark.skipif("speech" in build_models.left_out(), reason="silero-vad is not installed")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_200_streams_of_sound_hear_what_each_hears_alone(
    server: ServerProcess, example_models: Path, protocol: str
) -> None:
    """The state kept by the server equals the state kept by the client."""
    voice = speech.made_up(0, 1.0)
    sounds = [np.roll(voice, 487 * number) for number in range(200)]
    session = onnxruntime.InferenceSession(str(example_models / "speech" / "1" / "model.onnx"))
    expected = []
    for sound in sounds:
        state, found = np.zeros((1, 2, 128), np.float32), []
        for step in speech.steps(sound):
            probability, state = session.run(None, {"input": step, "state_in": state})
            found.append(float(probability[0, 0]))
        expected.append(found)
    assert max(map(max, expected)) > 0.9
    assert min(map(min, expected)) < 0.1
    got = asyncio.run(speech.detect(sounds, url=server.url(protocol), http=protocol == "http"))
    # Rows of a batch may be summed up in another order.
    assert np.allclose(got, expected, atol=1e-4)
