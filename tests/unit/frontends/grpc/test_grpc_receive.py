"""Large messages are received where they will stand, whatever way they are cut into frames and reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from grpc_harness import Running, serving, write_model
from grpc_wire import STREAM, Wire
from raw_http2 import INFER, message

from triton_async import defines, protos

CANCEL = 8
UNKNOWN = "/inference.GRPCInferenceService/Unknown"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("received")
    write_model(root, "fp32")
    with serving(root) as running:
        yield running


def infer_body(values: np.ndarray) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name="fp32", raw_input_contents=[values.tobytes()])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[values.size])
    return message(request.SerializeToString())


@pytest.mark.parametrize("elements", [150_528, 1_000_000])
def test_most_of_a_large_message_is_not_copied(server: Running, elements: int) -> None:
    values = np.random.default_rng(1).random(elements, np.float32)

    async def test() -> None:
        wire = Wire(server.endpoint.lane)
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
        direct_nbytes = 0
        for _ in range(10):
            wire = Wire(server.endpoint.lane)
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


def test_calls_that_come_at_once_are_opened_over_several_turns(server: Running) -> None:
    """Of one connection: another one is answered in between."""

    async def test() -> None:
        greedy, light = Wire(server.endpoint.lane), Wire(server.endpoint.lane)
        streams = []
        for _ in range(90):
            streams.append(greedy.begin())
            greedy.h2.end_stream(streams[-1])
            streams.append(greedy.begin(UNKNOWN))
            greedy.h2.end_stream(streams[-1])
        greedy.flush()
        assert greedy.paused
        assert len(greedy.ended) < len(streams) // 2
        values = np.ones(4, np.float32)
        stream = light.begin()
        light.h2.send_data(stream, infer_body(values), end_stream=True)
        light.flush()
        assert (await light.answer(stream)).endswith(values.tobytes())
        for each in streams:
            await greedy.finished(each)
        assert {greedy.trailers[stream]["grpc-status"] for stream in streams} == {"12"}
        greedy.abort()
        light.abort()
        await asyncio.sleep(0)

    server.call(test())
