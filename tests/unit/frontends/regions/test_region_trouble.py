"""What goes wrong while CUDA shared memory is in use: failing copies and GPUs, clients that go, regions that go."""

from __future__ import annotations

import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import fake_cuda_sync
import numpy as np
import pytest
from region_harness import Client, Server, code, floats, until, with_own

BROKEN = "CUDA_ERROR_ILLEGAL_ADDRESS: as the test asked for"


def test_copies_that_fail(client: Client) -> None:
    client.register("r", 64)
    internal = code(client, "INTERNAL")
    with fake_cuda_sync.failing(copy=700):
        assert client.refusal(client.infer, "fp32", client.input([2], "r", 8)) == (
            internal, f"failed to copy input 'INPUT0' of model 'fp32' from GPU 0: {BROKEN}"
        )  # fmt: skip
        assert client.refusal(client.infer, "fp32", client.values(floats(2)), outputs=[client.output("r", 8)]) == (
            internal, f"failed to copy output 'OUTPUT0' to its shared memory region: {BROKEN}"
        )  # fmt: skip
    with fake_cuda_sync.failing(synchronise=700):
        assert client.refusal(client.infer, "fp32", client.values(floats(2)), outputs=[client.output("r", 8)]) == (
            internal, f"failed to wait for copies to GPU memory: {BROKEN}"
        )  # fmt: skip
        # Lost on one GPU before the other one's turn.
        client.register("far", 64, 1)
        sent = client.module.InferInput("INPUT1", [2], "FP32")
        sent.set_data_from_numpy(floats(2))
        outputs = [client.output("r", 8), client.output("far", 8, name="OUTPUT1")]
        assert client.refusal(client.infer, "two", client.values(floats(2)), sent, outputs=outputs) == (
            internal, f"failed to wait for copies to GPU memory: {BROKEN}"
        )  # fmt: skip
    with fake_cuda_sync.failing(copy=700):
        # No copy of theirs.
        assert client.infer("fp32", client.values(floats(2))).as_numpy("OUTPUT0").shape == (2,)
    client.infer("fp32", client.input([2], "r", 8), outputs=[client.output("r", 8, 8)])


def test_a_gpu_that_cannot_be_used(client: Client, server: Server) -> None:
    client.register("r", 64, 1)
    # The instance's thread may have used the GPU before.
    client.register("other", 64, 0)
    client.infer("fp32", client.input([2], "other", 8))
    server.gpus.fail_use = True
    try:
        status, message = client.refusal(client.infer, "fp32", client.input([2], "r", 8))
    finally:
        server.gpus.fail_use = False
    assert (status, message) == (
        code(client, "INTERNAL"),
        "failed to copy input 'INPUT0' of model 'fp32' from GPU 1: CUDA_ERROR_OF_THE_FAKE: no context for you",
    )
    client.infer("fp32", client.input([2], "r", 8))


def test_a_model_that_fails_leaves_regions_alone(client: Client, server: Server) -> None:
    memory = client.register("r", 64)
    server.gated.fail_next = True
    status, _ = client.refusal(client.infer, "gated", client.values(floats(2)), outputs=[client.output("r", 8)])
    assert status == code(client, "INTERNAL")
    assert not memory.array().any()


@pytest.mark.parametrize("everything", [False, True])
def test_unregistering_during_use(client: Client, server: Server, everything: bool) -> None:
    source, target = client.register("in", 16), client.register("out", 16)
    source.array(np.float32)[:] = floats(4)
    server.gated.run_gate.shut = True
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            with_own, client, lambda c: c.infer("gated", c.input([4], "in", 16), outputs=[c.output("out", 16)])
        )
        standing = server.call(server.gated.run_gate.arrival())
        if everything:
            # The engine's region goes with the others; it is taken in again at once.
            client.triton.unregister_cuda_shared_memory()
            server.call(server.server.register_cuda_region("engine", server.engine.handle, 0, server.engine.nbytes))
        else:
            client.triton.unregister_cuda_shared_memory("in")
            client.triton.unregister_cuda_shared_memory("out")
        assert set(client.status()) == {"in", "out"}
        assert {source.address, target.address} <= set(server.gpus.opened)
        assert client.refusal(client.infer, "fp32", client.input([4], "in", 16))[0] == code(client, "NOT_FOUND")
        again = client.register("in", 32)
        assert client.status("in") == {"in": (0, 32)}
        server.gated.run_gate.shut = False
        standing.set()
        running.result(20)
    assert np.array_equal(target.array(np.float32), floats(4))
    until(lambda: set(client.status()) == {"in"}, "the old regions are gone")
    until(lambda: set(server.gpus.opened) == {again.address, server.engine.address}, "they are closed")


def test_a_client_that_goes_away_gives_its_leases_back(server: Server) -> None:
    client = Client(server, "http")
    client.register("r", 64)
    body = json.dumps({
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": {
            "shared_memory_region": "r", "shared_memory_byte_size": 8}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {
            "shared_memory_region": "r", "shared_memory_offset": 32, "shared_memory_byte_size": 8}}],
    }).encode()  # fmt: skip
    server.gated.run_gate.shut = True
    try:
        raws = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(3)]
        for raw in raws:
            raw.sendall(
                b"POST /v2/models/gated/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        standing = server.call(server.gated.run_gate.arrival())
        until(lambda: server.regions.leases == 6, "all requests are taken")
        for raw in raws:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # gone, not only silent
            raw.close()
        # Those in the queue go at once, the one that runs when it is done.
        until(lambda: server.regions.leases <= 4, "the queue has been left")
    finally:
        server.gated.run_gate.shut = False
    standing.set()
    server.gated.run_gate.open()
    until(lambda: server.regions.leases == 0, "no lease is out")
    client.triton.unregister_cuda_shared_memory("r")
    client.close()


def test_a_cancelled_grpc_call_gives_its_leases_back(server: Server) -> None:
    client = Client(server, "grpc")
    client.register("r", 64)
    server.gated.run_gate.shut = True
    try:
        done = threading.Event()
        call = client.triton.async_infer(
            "gated", [client.input([2], "r", 8)], lambda result, error: done.set(), outputs=[client.output("r", 8, 8)]
        )
        standing = server.call(server.gated.run_gate.arrival())
        assert server.regions.leases == 2
        call.cancel()
        assert done.wait(20)
    finally:
        server.gated.run_gate.shut = False
    standing.set()
    until(lambda: server.regions.leases == 0, "no lease is out")
    client.triton.unregister_cuda_shared_memory("r")
    client.close()
