"""Large messages are received where they will stand, whatever way they are cut into frames and reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc_harness import Running, serving, write_model
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from raw_http2 import INFER, message

from triton_async import defines, protos
from triton_async.frontends.grpc.express.connection import connection
from triton_async.frontends.grpc.express.session import Lane

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
CANCEL = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("received")
    write_model(root, "fp32")
    with serving(root) as running:
        yield running


class Wire(asyncio.Transport):
    """The server's end of a connection whose client is `h2`; the test says how reads are cut."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self.h2 = H2Connection(H2Configuration(header_encoding="latin-1"))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 28)
        self.h2.update_settings({4: 1 << 28})
        self.answers: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.changed = asyncio.Event()
        self.direct_nbytes = 0
        self.protocol: Any = connection(lane)
        self.protocol.connection_made(self)
        self.send(self.h2.data_to_send(), 1 << 20)

    def send(self, data: bytes, piece: int) -> None:
        at = 0
        while at < len(data):
            view = memoryview(self.protocol.get_buffer(-1))
            count = min(len(view), piece, len(data) - at)
            view[:count] = data[at : at + count]
            if len(view) != defines.GRPC_RECEIVE_NBYTES:
                self.direct_nbytes += count
            self.protocol.buffer_updated(count)
            at += count

    def begin(self, path: str = INFER) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        self.h2.send_headers(stream, [*head, ("content-type", "application/grpc"), ("te", "trailers")])
        return stream

    async def answer(self, stream: int) -> bytes:
        async with asyncio.timeout(20):
            while stream not in self.ended:
                self.changed.clear()
                await self.changed.wait()
        return bytes(self.answers[stream])

    def write(self, data: Any) -> None:
        for event in self.h2.receive_data(bytes(data)):
            if isinstance(event, DataReceived):
                self.answers.setdefault(event.stream_id, bytearray()).extend(event.data)
            elif isinstance(event, StreamEnded):
                self.ended.add(event.stream_id)
        self.changed.set()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


def infer_body(values: np.ndarray) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name="fp32", raw_input_contents=[values.tobytes()])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[values.size])
    return message(request.SerializeToString())


@pytest.mark.parametrize("elements", [150_528, 1_000_000])
def test_most_of_a_large_message_is_not_copied(server: Running, elements: int) -> None:
    values = np.random.default_rng(1).random(elements, np.float32)

    async def test() -> None:
        lane = server.endpoint.lane
        assert lane is not None
        wire = Wire(lane)
        stream = wire.begin()
        body = infer_body(values)
        frame = wire.h2.max_outbound_frame_size
        assert frame == defines.GRPC_MAX_FRAME_NBYTES
        for at in range(0, len(body), frame):
            wire.h2.send_data(stream, body[at : at + frame], end_stream=at + frame >= len(body))
        wire.send(wire.h2.data_to_send(), 1 << 20)
        assert (await wire.answer(stream)).endswith(values.tobytes())
        frames = -(-len(body) // frame)
        # One more part is copied where the message outgrows its first memory.
        assert wire.direct_nbytes >= len(body) - (frames + 1) * defines.GRPC_RECEIVE_NBYTES
        wire.abort()

    server.call(test())


def test_frames_of_several_calls_in_any_order_and_any_pieces(server: Running) -> None:
    """Padded frames, calls that are reset in the middle of a frame, streams of several messages among them."""
    choose = random.Random(7)
    values = [np.random.default_rng(i).random(size, np.float32) for i, size in enumerate([40_000, 90_000, 400_000])]

    async def test() -> None:
        lane = server.endpoint.lane
        assert lane is not None
        direct_nbytes = 0
        for _ in range(10):
            wire = Wire(lane)
            left: dict[int, bytes] = {}
            expected: dict[int, list[bytes]] = {}
            for _ in range(4):
                path = choose.choice([INFER, STREAM])
                sent = [choose.choice(values) for _ in range(1 if path == INFER else 3)]
                stream = wire.begin(path)
                left[stream] = b"".join(infer_body(value) for value in sent)
                expected[stream] = [value.tobytes() for value in sent]
            gone = choose.choice(list(left))
            while left:
                stream = choose.choice(list(left))
                size = choose.choice([1, 5, 1000, 30_000, 200_000, defines.GRPC_MAX_FRAME_NBYTES - 300])
                data, left[stream] = left[stream][:size], left[stream][size:]
                pad = choose.choice([None, None, 0, 200])
                wire.h2.send_data(stream, data, end_stream=not left[stream], pad_length=pad)
                if not left[stream]:
                    del left[stream]
                elif stream == gone and choose.random() < 0.3:
                    wire.h2.reset_stream(stream, CANCEL)
                    del left[stream]
                    expected.pop(stream)
                wire.send(wire.h2.data_to_send(), choose.choice([700, 20_000, 1 << 20]))
            for stream, parts in expected.items():
                answer = await wire.answer(stream)
                for part in parts:
                    assert part in answer
            direct_nbytes += wire.direct_nbytes
            wire.abort()
            await asyncio.sleep(0)
        assert direct_nbytes > 1 << 20

    server.call(test())
