"""The express lane leaves nothing to the garbage collector: what it makes dies with its last reference."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
from grpc_harness import serving, until, write_model
from grpc_wire import STREAM
from raw_http2 import INFER, RawClient, message
from tritonclient.grpc import service_pb2


def cyclic_garbage() -> list[Any]:
    """What only the collector frees, of our types: the client of this test has cycles of its own."""
    gc.collect()
    found = [item for item in gc.garbage if type(item).__module__.startswith("triton_async")]
    gc.garbage.clear()
    return found


def request(model: str, count: int) -> bytes:
    data = np.zeros(count, dtype=np.float32).tobytes()
    found = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[data])
    found.inputs.add(name="INPUT0", datatype="FP32", shape=[count])
    return message(found.SerializeToString())


def test_inference_makes_no_cyclic_garbage(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    with serving(tmp_path) as running:
        cyclic_garbage()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for model, count, status in (("m", 16, 0), ("m", 50_000, 0), ("unknown", 16, 5)):
                with RawClient(running.url) as client:
                    for _ in range(20):
                        stream = client.begin(INFER)
                        client.send(stream, request(model, count))
                        assert client.receive(stream).status == status
            assert cyclic_garbage() == []
        finally:
            gc.set_debug(0)


def test_streams_make_no_cyclic_garbage(tmp_path: Path) -> None:
    """Whether they end, fail, or are given up with requests and a backlog."""
    write_model(tmp_path, "m")
    write_model(tmp_path, "slow", delay_ms=5)
    data = request("m", 16)
    with serving(tmp_path) as running:
        model = running.server.repository.models["slow"].versions[1].loaded.model
        cyclic_garbage()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            with RawClient(running.url) as client:
                for body, status in ((data * 3, 0), (data + request("unknown", 16), 0), (data + message(b"\xff"), 13)):
                    stream = client.begin(STREAM)
                    client.send(stream, body)
                    assert client.receive(stream).status == status
            with RawClient(running.url) as client:
                client.send(client.begin(STREAM), request("slow", 16) * 1000, end=False)
                until(lambda: model.in_flight > 0, "requests")
            until(lambda: model.in_flight == 0, "requests gone")
            assert cyclic_garbage() == []
        finally:
            gc.set_debug(0)
