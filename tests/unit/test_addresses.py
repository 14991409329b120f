"""Addresses in all the spellings of Triton's parts, and what listens at them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from triton_async.addresses import host_of, shown
from triton_async.core.turn import Turn
from triton_async.frontends.sockets import ListeningSocket, listen, probe


@pytest.mark.parametrize(("address", "host", "text"), [
    ("0.0.0.0", "0.0.0.0", "0.0.0.0:80"), ("localhost", "localhost", "localhost:80"), ("::1", "::1", "[::1]:80"),
    ("[::1]", "::1", "[::1]:80"), ("ipv6:[::1]", "::1", "[::1]:80"), ("ipv6:::1", "::1", "[::1]:80"),
    ("ipv4:127.0.0.1", "127.0.0.1", "127.0.0.1:80"), ("::", "::", "[::]:80"), ("[::]", "::", "[::]:80"),
])  # fmt: skip
def test_addresses_in_every_spelling(address: str, host: str, text: str) -> None:
    assert host_of(address) == host
    assert shown(address, 80) == text


def test_a_socket_file_has_no_port() -> None:
    assert shown("unix:/run/x.sock", 80) == "unix:/run/x.sock"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the machine has no IPv6")


def served(address: str, test: Callable[[ListeningSocket], Awaitable[None]], **options: bool) -> None:
    async def run() -> None:
        turn = Turn(asyncio.get_running_loop())
        listening = listen(asyncio.Protocol, turn, address, 0, backlog=5, **options)
        try:
            await test(listening)
        finally:
            listening.close()

    uvloop.run(run())


async def connects(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


@needs_ipv6
@pytest.mark.parametrize("address", ["::", "[::]", "ipv6:[::]"])
def test_any_address_of_ipv6_is_for_both_families(address: str) -> None:
    async def test(listening: ListeningSocket) -> None:
        assert await connects("127.0.0.1", listening.port)
        assert await connects("::1", listening.port)
        with pytest.raises(OSError, match="in use") as caught:
            probe(address, listening.port)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="in use"):
            probe("0.0.0.0", listening.port)

    served(address, test)


@needs_ipv6
@pytest.mark.parametrize("address", ["::1", "[::1]", "ipv6:[::1]"])
def test_one_address_of_ipv6(address: str) -> None:
    async def test(listening: ListeningSocket) -> None:
        assert await connects("::1", listening.port)
        assert not await connects("127.0.0.1", listening.port)
        with pytest.raises(OSError, match="in use"):
            probe(address, listening.port)

    served(address, test)


def test_ports_are_tried_without_being_kept() -> None:
    async def test(listening: ListeningSocket) -> None:
        with pytest.raises(OSError, match="in use"):
            probe("127.0.0.1", listening.port)
        with pytest.raises(OSError, match="in use"):
            probe("127.0.0.1", listening.port, reuse_port=True)
        listening.close()
        await asyncio.sleep(0)
        for _ in range(2):
            probe("127.0.0.1", listening.port)
            probe("127.0.0.1", 0)

    served("127.0.0.1", test)


def test_a_port_that_servers_share_may_be_tried() -> None:
    async def test(listening: ListeningSocket) -> None:
        probe("127.0.0.1", listening.port, reuse_port=True)

    served("127.0.0.1", test, reuse_port=True)


def test_an_address_of_another_machine_cannot_be_used() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        probe("192.0.2.1", 80)
