"""Messages of the calls that handlers read: in any pieces, cut off, given up, and announced larger than they are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc_harness import Running, serving, write_model
from raw_http2 import LIVE, RawClient, message

from triton_async import protos

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root: Path = tmp_path_factory.mktemp("messages")
    write_model(root, "fp32")
    with serving(root) as running:
        yield running


def is_live(client: RawClient) -> bool:
    stream = client.begin(LIVE)
    client.send(stream, message(b""))
    return client.receive(stream).status == 0


@pytest.mark.parametrize("seed", range(5))
def test_messages_of_any_size_in_any_pieces(server: Running, seed: int) -> None:
    """A reflection's answers bring their questions back."""
    choose = random.Random(seed)
    questions = [
        protos.message("grpc.reflection.v1.ServerReflectionRequest")(
            host=choose.randbytes(8).hex(), file_containing_symbol=f"{choose.random()}" * (size // 17)
        )
        for size in (17, 300_000, 900_000, 100, 260_000, 17)
    ]
    sent = b"".join(message(question.SerializeToString()) for question in questions)
    with RawClient(server.url) as client:
        stream = client.begin(REFLECTION)
        at = 0
        while at < len(sent):
            size = choose.choice([1, 4, 6, 1000, 16_000])
            client.send(stream, sent[at : at + size], end=at + size >= len(sent))
            at += size
            while client.h2.local_flow_control_window(stream) < 32_000:
                client.h2.receive_data(client.socket.recv(65536))
        received = client.receive(stream)
    assert received.status == 0
    found, at = [], 0
    while at < len(received.data):
        size = int.from_bytes(received.data[at + 1 : at + 5], "big")
        answer = protos.message("grpc.reflection.v1.ServerReflectionResponse").FromString(
            received.data[at + 5 : at + 5 + size]
        )
        found.append(answer.original_request)
        at += 5 + size
    assert found == questions


def test_a_call_that_ends_inside_its_message_is_refused(server: Running) -> None:
    with RawClient(server.url) as client:
        for there in (0, 1, 400_000):
            stream = client.begin(LOAD)
            client.send(stream, message(bytes(there), nbytes=1_000_000))
            answer = client.receive(stream)
            assert (answer.status, answer.headers["grpc-message"]) == (13, "stream ended inside a message")


def test_calls_given_up_inside_their_messages_take_no_room_of_others(server: Running) -> None:
    with RawClient(server.url) as client:
        for _ in range(40):
            stream = client.begin(LOAD)
            client.send(stream, message(bytes(400_000), nbytes=1 << 30), end=False)
            client.h2.reset_stream(stream, 8)
            client.flush()
            assert is_live(client)
