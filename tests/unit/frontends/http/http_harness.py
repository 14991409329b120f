"""A real server behind a real HTTP port, and a client that sends exactly the bytes it is given."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from core_harness import running

from triton_async.core.host import Backends
from triton_async.core.server import InferenceServer
from triton_async.frontends.http import server as http
from triton_async.frontends.http.listener import Listener

LIMIT = 1 << 20
WAIT_S = 20

# Whether endpoints have an express lane: tests of this folder run once with and once without (conftest.py).
express = True


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        message = json.loads(self.body)["error"]
        assert isinstance(message, str)
        return message


@asynccontextmanager
async def serving(
    root: Path, *options: str, limit: int = LIMIT, backends: Backends | None = None, **more: Any
) -> AsyncIterator[tuple[InferenceServer, Listener]]:
    """Server and HTTP endpoint on a free port; `more`: of http.start."""
    async with running(root, *options, backends=backends) as server:
        endpoint = await http.start(
            server, address="127.0.0.1", port=0, max_input_nbytes=limit, express=express, **more
        )
        yield server, endpoint
        await endpoint.close(5)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 26))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, head_only: bool = False) -> Answer:
        """The next response. EOFError when the server closes instead."""
        async with asyncio.timeout(WAIT_S):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                raise EOFError from None
            lines = head.decode("latin-1").split("\r\n")
            headers = {}
            for line in lines[1:-2]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            length = 0 if head_only else int(headers.get("content-length", "0"))
            return Answer(int(lines[0].split()[1]), headers, await self.reader.readexactly(length))

    async def closed(self) -> bool:
        """Whether the server closes the connection without another byte."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Goes away without waiting for anything."""
        plain = self.writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


def head(method: str, path: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def message(method: str, path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> bytes:
    return head(method, path, [*headers, ("Content-Length", str(len(body)))]) + body


async def ask(
    port: int, method: str, path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
) -> Answer:
    """One exchange on a connection of its own."""
    client = await Client.connect(port)
    try:
        await client.send(message(method, path, body, headers))
        return await client.receive(head_only=method == "HEAD")
    finally:
        client.close()


def infer_body(values: np.ndarray, **members: Any) -> tuple[bytes, list[tuple[str, str]]]:
    """Body and headers of an infer request with one FP32 input in binary form, output likewise."""
    members.setdefault("parameters", {"binary_data_output": True})
    text = json.dumps({**members, "inputs": [{
        "name": "INPUT0", "datatype": "FP32", "shape": list(values.shape),
        "parameters": {"binary_data_size": values.nbytes},
    }]}).encode()  # fmt: skip
    return text + values.tobytes(), [("Inference-Header-Content-Length", str(len(text)))]


def values_of(answer: Answer) -> np.ndarray:
    """The one output of a binary answer."""
    assert answer.status == 200, answer.body[:300]
    length = int(answer.headers["inference-header-content-length"])
    output = json.loads(answer.body[:length])["outputs"][0]
    return np.frombuffer(answer.body[length:], np.float32).reshape(output["shape"])
