"""Requests of unequal lengths that share executions: each is answered as if it were alone, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import uneven_models
from server_process import ServerProcess, running_server
from triton_clients import PROTOCOLS, Array, client_module, infer, make_inputs
from tritonclient.utils import InferenceServerException

LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 1, 7, 40, 16)
RAGGED = ["ragged", pytest.param("torch", marks=pytest.mark.skipif(not find_spec("torch"), reason="no PyTorch"))]


PADDED = [
    "padded", "bucketed",
    pytest.param("openvino", marks=pytest.mark.skipif(not find_spec("openvino"), reason="no OpenVINO")),
]  # fmt: skip


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the models of `uneven_models`."""
    repository = tmp_path_factory.mktemp("uneven")
    uneven_models.build(repository)
    if find_spec("torch"):
        directory = uneven_models.write(
            repository, "torch", "platform: 'pytorch_libtorch'" + uneven_models.RAGGED, "model.pt", b""
        )
        uneven_models.torch_centred(directory / "1" / "model.pt")
        config = uneven_models.TORCH_PADDED + uneven_models.padding(outputs={"twice": ["length"]})
        directory = uneven_models.write(repository, "totals", config, "model.pt", b"")
        uneven_models.torch_totals(directory / "1" / "model.pt")
    options = ["--allow-client-shm=true"]
    if find_spec("openvino"):
        padded = uneven_models.ENCODER.replace("onnxruntime", "openvino") + uneven_models.padding()
        uneven_models.write(
            repository, "openvino", padded + uneven_models.EXACT, "model.onnx",
            uneven_models.encoder().SerializeToString(),
        )  # fmt: skip
    with running_server([repository], tmp_path_factory.mktemp("uneven-server"), options) as process:
        yield process
        process.stop()


@pytest.fixture(scope="module")
def alone() -> Any:
    """Runs the encoder for one request, without a server."""
    model = uneven_models.encoder().SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(ids: Array) -> list[Array]:
        found: list[Array] = session.run(["logits", "scores", "pooled"], {"ids": ids, "mask": np.ones_like(ids)})
        return found

    return run


def ask_at_once(server: ServerProcess, protocol: str, model: str, requests: list[dict[str, Array]]) -> list[Any]:
    """Sends all before the first is answered. Results of tritonclient, or errors, in order."""
    module = client_module(protocol, ".aio")

    async def main() -> list[Any]:
        async with module.InferenceServerClient(server.url(protocol)) as client:
            return await asyncio.gather(
                *(client.infer(model, make_inputs(module, arrays)) for arrays in requests), return_exceptions=True
            )

    return asyncio.run(main())


def executions(server: ServerProcess, model: str) -> int:
    with client_module("http").InferenceServerClient(server.http_url) as client:
        (entry,) = client.get_inference_statistics(model)["model_stats"]
    return int(entry["execution_count"])


def sentence(length: int, rows: int = 1) -> Array:
    random = np.random.default_rng(length + 100 * rows)
    return random.integers(0, uneven_models.WORDS, (rows, length), np.int64)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", PADDED)
def test_padded_requests_are_answered_as_if_they_were_alone(
    uneven: ServerProcess, alone: Any, model: str, protocol: str
) -> None:
    sent = [sentence(length, 1 + (length == 3)) for length in LENGTHS]
    before = executions(uneven, model)
    answers = ask_at_once(uneven, protocol, model, [{"ids": ids} for ids in sent])
    assert executions(uneven, model) - before < len(sent)
    for ids, answer in zip(sent, answers, strict=True):
        for name, expected in zip(("logits", "scores", "pooled"), alone(ids), strict=True):
            found = answer.as_numpy(name)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not find_spec("torch"), reason="no PyTorch")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_of_pytorch_models_are_padded(uneven: ServerProcess, protocol: str) -> None:
    sent = [sentence(length, 1 + (length == 3)) for length in LENGTHS]
    before = executions(uneven, "totals")
    answers = ask_at_once(uneven, protocol, "totals", [{"ids": ids} for ids in sent])
    assert executions(uneven, "totals") - before < len(sent)
    for ids, answer in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("twice"), 2 * ids)
        np.testing.assert_array_equal(answer.as_numpy("total"), ids.sum(1, keepdims=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_request_is_padded_to_its_bucket_and_cut_again(uneven: ServerProcess, alone: Any, protocol: str) -> None:
    ids = sentence(5, 2)
    found = infer(uneven, protocol, "bucketed", {"ids": ids}, ["pooled", "logits"])
    logits, _, pooled = alone(ids)
    np.testing.assert_allclose(found[0], pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, uneven_models.LONGEST + 1), "input 'ids' has 49 for length 'length', but the longest that model"),
        ((3, uneven_models.LONGEST), "more than 128 padded elements, which is what 'max_elements'"),
    ],
)
def test_what_no_batch_can_hold_is_refused_and_nobody_else(
    uneven: ServerProcess, alone: Any, protocol: str, shape: tuple[int, int], words: str
) -> None:
    rows, length = shape
    fitting = sentence(uneven_models.LONGEST, rows - 1 if rows > 1 else 1)
    answers = ask_at_once(uneven, protocol, "bucketed", [{"ids": sentence(length, rows)}, {"ids": fitting}])
    assert isinstance(answers[0], InferenceServerException)
    assert words in str(answers[0])
    np.testing.assert_allclose(answers[1].as_numpy("pooled"), alone(fitting)[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_has_no_more_padded_elements_than_allowed(uneven: ServerProcess, protocol: str) -> None:
    before = executions(uneven, "bucketed")
    answers = ask_at_once(uneven, protocol, "bucketed", [{"ids": sentence(20)}] * 6)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    # 6 rows of 48 are 288 elements: two rows in a batch of 128 at most.
    assert executions(uneven, "bucketed") - before >= 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_server_makes_no_client_sends(uneven: ServerProcess, protocol: str) -> None:
    ids = sentence(3)
    with pytest.raises(InferenceServerException, match="mask"):
        infer(uneven, protocol, "padded", {"ids": ids, "mask": np.ones_like(ids)}, ["pooled"])
    with client_module("http").InferenceServerClient(uneven.http_url) as client:
        assert [io["name"] for io in client.get_model_metadata("padded")["inputs"]] == ["ids"]
        assert [io["name"] for io in client.get_model_metadata("ragged")["inputs"]] == ["X"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", RAGGED)
def test_ragged_requests_are_answered_as_if_they_were_alone(uneven: ServerProcess, model: str, protocol: str) -> None:
    sent = [np.random.default_rng(length).normal(size=(1, length)).astype(np.float32) for length in LENGTHS]
    before = executions(uneven, model)
    answers = ask_at_once(uneven, protocol, model, [{"X": array} for array in sent])
    assert executions(uneven, model) - before < len(sent)
    for array, answer in zip(sent, answers, strict=True):
        assert answer.as_numpy("Y").shape == array.shape
        np.testing.assert_allclose(answer.as_numpy("Y"), array - array.mean(), atol=1e-4)
        np.testing.assert_allclose(answer.as_numpy("SUM"), [[array.sum()]], atol=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", ["python", "isolated"])
def test_python_models_get_unequal_requests_together_where_the_input_allows_it(
    uneven: ServerProcess, model: str, protocol: str
) -> None:
    sent = [np.full((1, length), length, np.float32) for length in LENGTHS]
    answers = ask_at_once(uneven, protocol, model, [{"X": array} for array in sent])
    for array, answer in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("Y"), 2 * array)
    assert max(int(answer.as_numpy("TOGETHER")[0, 0]) for answer in answers) > 1


def test_other_python_models_get_equal_requests_alone(uneven: ServerProcess) -> None:
    sent = [np.full((1, length), length, np.float32) for length in range(1, 9)]
    answers = ask_at_once(uneven, "grpc", "equal", [{"X": array} for array in sent])
    assert {int(answer.as_numpy("TOGETHER")[0, 0]) for answer in answers} == {1}


def test_padded_outputs_go_to_shared_memory(uneven: ServerProcess, alone: Any, tmp_path: Path) -> None:
    # Through the ordinary path of placements: each request's part is cut before it is copied.
    import tritonclient.utils.shared_memory as shm

    module = client_module("http")
    ids = sentence(5, 2)
    expected = alone(ids)[0]
    with module.InferenceServerClient(uneven.http_url) as client:
        region = shm.create_shared_memory_region("cut", f"/cut-{id(ids)}", expected.nbytes)
        try:
            try:
                client.register_system_shared_memory("cut", f"/cut-{id(ids)}", expected.nbytes)
            except InferenceServerException:
                pytest.skip("client shared memory is off")
            wanted = module.InferRequestedOutput("logits")
            wanted.set_shared_memory("cut", expected.nbytes)
            client.infer("bucketed", make_inputs(module, {"ids": ids}), outputs=[wanted])
            found = shm.get_contents_as_numpy(region, np.float32, expected.shape).copy()
            client.unregister_system_shared_memory("cut")
        finally:
            shm.destroy_shared_memory_region(region)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
