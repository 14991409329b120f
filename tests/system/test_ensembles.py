"""Ensembles in a real server, asked by Triton's own clients over both protocols."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.utils.shared_memory as shm
from server_process import ServerProcess, running_server
from triton_clients import PROTOCOLS, client_module, make_inputs

IO = 'input {{ name: "{0}" data_type: TYPE_FP32 dims: {2} }}\noutput {{ name: "{1}" data_type: TYPE_FP32 dims: {2} }}\n'
COUNT = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for i in range(int(request.inputs()[0].as_numpy()[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.float32([i]))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def step(model: str, takes: str, gives: str) -> str:
    return (
        f'step {{ model_name: "{model}" model_version: -1 input_map {{ key: "INPUT0" value: "{takes}" }} '
        f'output_map {{ key: "OUTPUT0" value: "{gives}" }} }}\n'
    )


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("ensembles")
    head = 'platform: "ensemble"\n' + IO.format("IN", "OUT", -1)
    batched = "max_batch_size: 8\n"
    configs = {
        "row": 'backend: "identity"\n' + batched + IO.format("INPUT0", "OUTPUT0", -1) + "dynamic_batching { }\n",
        "plain": 'backend: "identity"\n' + IO.format("INPUT0", "OUTPUT0", -1),
        "count": 'backend: "python"\n' + IO.format("INPUT0", "OUTPUT0", -1)
        + "model_transaction_policy { decoupled: true }\n",
        "chain": batched + head.replace('name: "OUT"', 'name: "OUT" label_filename: "labels.txt"')
        + f'ensemble_scheduling {{ {step("row", "IN", "a")} {step("row", "a", "b")} {step("row", "b", "OUT")} }}',
        "stream": head + f'ensemble_scheduling {{ {step("count", "IN", "t")} {step("plain", "t", "OUT")} }}',
    }  # fmt: skip
    for name, config in configs.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
    (repository / "count" / "1" / "model.py").write_text(COUNT)
    (repository / "chain" / "labels.txt").write_text("zero\none\ntwo\n")
    with running_server([repository], tmp_path_factory.mktemp("server"), ["--allow-client-shm=true"]) as process:
        yield process
        process.stop()


@pytest.fixture(autouse=True)
def idle_afterwards(ensembles: ServerProcess) -> Iterator[None]:
    yield
    ensembles.wait_until_idle()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shape", [(1, 3), (8, 1 << 16)])
def test_infer(ensembles: ServerProcess, protocol: str, shape: tuple[int, int]) -> None:
    module: Any = client_module(protocol)
    given = np.random.default_rng(1).random(shape, np.float32)
    with module.InferenceServerClient(ensembles.url(protocol)) as client:
        result = client.infer("chain", make_inputs(module, {"IN": given}), request_id="7", priority=2)
        assert np.array_equal(result.as_numpy("OUT"), given)
        with pytest.raises(Exception, match="batch-size must be <= 8 for 'chain'"):
            client.infer("chain", make_inputs(module, {"IN": np.zeros((9, 1), np.float32)}))
        assert client.is_model_ready("chain")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_at_once_get_their_own_rows(ensembles: ServerProcess, protocol: str) -> None:
    module: Any = client_module(protocol)

    def ask(number: int) -> bool:
        with module.InferenceServerClient(ensembles.url(protocol)) as client:
            given = np.full((number % 3 + 1, 4), number, np.float32)
            return all(
                np.array_equal(client.infer("chain", make_inputs(module, {"IN": given})).as_numpy("OUT"), given)
                for _ in range(20)
            )

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(16)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classification_by_the_labels_of_the_ensemble(ensembles: ServerProcess, protocol: str) -> None:
    module: Any = client_module(protocol)
    with module.InferenceServerClient(ensembles.url(protocol)) as client:
        wanted = [module.InferRequestedOutput("OUT", class_count=2)]
        given = np.float32([[0.1, 0.3, 0.2]])
        result = client.infer("chain", make_inputs(module, {"IN": given}), outputs=wanted)
        assert [entry.split(b":")[2] for entry in result.as_numpy("OUT").reshape(-1)] == [b"one", b"two"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_outputs_in_shared_memory(ensembles: ServerProcess, protocol: str) -> None:
    module: Any = client_module(protocol)
    given = np.float32([[1, 2, 3, 4]])
    region = shm.create_shared_memory_region("out", f"/ensembles_{protocol}", given.nbytes)
    try:
        with module.InferenceServerClient(ensembles.url(protocol)) as client:
            client.register_system_shared_memory("out", f"/ensembles_{protocol}", given.nbytes)
            wanted = module.InferRequestedOutput("OUT")
            wanted.set_shared_memory("out", given.nbytes)
            client.infer("chain", make_inputs(module, {"IN": given}), outputs=[wanted])
            assert np.array_equal(shm.get_contents_as_numpy(region, np.float32, [1, 4]), given)
            wanted.set_shared_memory("out", 8)
            with pytest.raises(Exception, match=r"in ensemble 'chain', shared memory size specified"):
                client.infer("chain", make_inputs(module, {"IN": given}), outputs=[wanted])
            client.unregister_system_shared_memory("out")
    finally:
        shm.destroy_shared_memory_region(region)


def test_a_stream_of_responses_in_order(ensembles: ServerProcess) -> None:
    module: Any = client_module("grpc")
    found: queue.Queue[Any] = queue.Queue()
    with module.InferenceServerClient(ensembles.grpc_url) as client:
        client.start_stream(lambda result, error: found.put(error or result))
        client.async_stream_infer("stream", make_inputs(module, {"IN": np.float32([2000])}))
        values = [found.get(timeout=30).as_numpy("OUT")[0] for _ in range(2000)]
        client.stop_stream()
    assert values == list(range(2000))
    assert found.empty()
