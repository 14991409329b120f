"""The least that a server on uvloop does: reads requests, writes one canned answer. For limit.py."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import uvloop

from triton_async.defines import HTTP_RECEIVE_NBYTES


class _Connection(asyncio.BufferedProtocol):
    """Answers by count of bytes: a request is as long as what the first read brings, which is a whole one of what
    load generators send on 127.0.0.1."""

    def __init__(self, answer: bytes, scratch: memoryview) -> None:
        self._answer, self._scratch = answer, scratch
        self._request_nbytes = self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if not self._request_nbytes:
            self._request_nbytes = nbytes
        self._received += nbytes
        while self._received >= self._request_nbytes:
            self._received -= self._request_nbytes
            self._transport.write(self._answer)


async def _serve(port: int, answer: bytes) -> None:
    scratch = memoryview(bytearray(HTTP_RECEIVE_NBYTES))
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(answer, scratch), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answer", type=Path, required=True, help="file with what to answer, head and body")
    parser.add_argument("--http-port", type=int, required=True)
    # It is started like the servers that it is compared with, and they have more ports.
    options, _ = parser.parse_known_args()
    uvloop.run(_serve(options.http_port, options.answer.read_bytes()))


if __name__ == "__main__":
    main()
