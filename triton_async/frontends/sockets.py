"""Listening on a TCP port or a Unix-domain socket, in plain or inside TLS. Event-loop thread."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any

from triton_async import forking
from triton_async.addresses import host_of, unix_path
from triton_async.core.turn import Turn
from triton_async.frontends.defines import ACCEPTS_PER_TURN, REST_S
from triton_async.frontends.tls import ServerTls
from triton_async.frontends.tls_transport import TlsFactory
from triton_async.frontends.transport import Clients

_ANY_IPV6 = "::"

# Seconds in which a handshake that has begun comes to its end, or never does.
_HANDSHAKE_S = 0.2
# A classic BPF program over a TCP segment: drops it when of SYN and ACK it has SYN alone (linux/filter.h, socket(7)).
_SO_ATTACH_FILTER = 26
_NO_SYN = (
    (0x30, 0, 0, 13),  # the byte of flags
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),  # dropped
    (0x06, 0, 0, 0xFFFFFFFF),
)


# What accept(2) says of connections that were not to be, of those only, and of what has run out.
_GONE = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
# What is said of addresses that a name has and this machine does not: `localhost` is ::1 too where there is no IPv6.
_MISSING = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_RUN_OUT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = logging.getLogger("triton_async.frontends")


class ListeningSocket:
    """Bound sockets of one port that accept until they are closed. `address` as it was asked for, `port` 0 for a Unix
    socket.
    """

    def __init__(
        self,
        turn: Turn,
        bound: list[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        address: str,
        *,
        backlog: int,
        path: str = "",
    ) -> None:
        self._turn = turn
        self._sockets = bound
        self._factory = factory
        self._retired = False
        self._path = path
        self._file = _identity(path) if path else None
        self._resting = False
        self._short = False  # of descriptors or memory, since the last client
        self.address = address
        self.port: int = 0 if path else bound[0].getsockname()[1]
        self._names = [path or sock.getsockname() for sock in bound]
        for name in self._names:
            forking.serves_at(name)
        try:
            for sock in bound:
                sock.setblocking(False)
                sock.listen(backlog)
            self._clients = Clients(turn, self._leave)
        except BaseException:
            for sock in bound:
                sock.close()
            self._remove_file()
            self._leave()
            raise
        self._watch()

    def _watch(self) -> None:
        self._resting = False
        for sock in self._sockets:
            self._turn.loop.add_reader(sock, self._accept, sock)

    def _rest(self, why: OSError) -> None:
        if not self._short:
            _log.warning("no connection can be accepted for now: %s", why)
        self._short = self._resting = True
        for sock in self._sockets:
            self._turn.loop.remove_reader(sock)
        self._turn.loop.call_later(REST_S, self._go_on)

    def _go_on(self) -> None:
        if self._resting:
            self._watch()

    def _accept(self, bound: socket.socket) -> bool:
        """Whether there may be more."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = bound.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in _RUN_OUT:
                    self._rest(error)
                    return False
                if error.errno not in _GONE:
                    raise
                continue
            self._short = False
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.adopt(sock, peer, self._factory())
        return True

    async def retire(self) -> None:
        """`close`, behind every connection that has begun. The next server of the port, or the next choice of a load
        balancer, gets those that come later.
        """
        if not self._retired:
            self._retired = True
            if self._path:
                self._remove_file()
            else:
                for sock in self._sockets:
                    _drop_beginnings(sock.fileno())
            # Those that had begun are through then, and have asked what they came for.
            await asyncio.sleep(_HANDSHAKE_S)
            # The loop may have had no time for them.
            for sock in self._sockets:
                while self._accept(sock):
                    pass
        self.close()

    def close(self) -> None:
        """Accepts no more; the socket file goes, unless somebody has put another in its place. May be repeated."""
        bound, self._sockets = self._sockets, []
        self._resting = False
        for sock in bound:
            self._turn.loop.remove_reader(sock)
            sock.close()
        self._clients.close()
        self._remove_file()

    def _leave(self) -> None:
        for name in self._names:
            forking.leaves(name)

    def _remove_file(self) -> None:
        if self._path and _identity(self._path) == self._file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self._path = ""


def listen(
    make_protocol: Callable[[], asyncio.BaseProtocol],
    turn: Turn,
    address: str,
    port: int,
    *,
    backlog: int,
    reuse_port: bool = False,
    tls: ServerTls | None = None,
    required_alpn: str | None = None,
) -> ListeningSocket:
    """Binds `address`, or the socket file of `unix:<path>`; port 0 takes a free one. OSError when it is not to be had.
    `::` is for clients of IPv4 too. Clients are served in the turns of `turn`.

    `tls`: what is accepted speaks TLS, and has agreed to `required_alpn` when that is given.
    """
    factory = make_protocol if tls is None else TlsFactory(tls, make_protocol, turn.loop, required_alpn)
    path = unix_path(address)
    if path is not None:
        return ListeningSocket(turn, [_bind_unix(path)], factory, address, backlog=backlog, path=path)
    return ListeningSocket(turn, _bind(host_of(address), port, reuse_port), factory, address, backlog=backlog)


def _drop_beginnings(descriptor: int) -> None:
    """Has the kernel ignore new connections to a listening socket, but not those under way. Their clients ask again a
    second later, and reach another socket of the port, or are refused, when this one is closed by then: closing it at
    once would reset what it has accepted by itself.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _NO_SYN))
    what = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)


def probe(address: str, port: int, reuse_port: bool = False) -> None:
    """OSError when `listen` would find the address taken, or none of this machine's. Binds, and lets go again."""
    path = unix_path(address)
    if path is not None:
        _remove_stale(path)
        return
    for bound in _bind(host_of(address), port, reuse_port):
        bound.close()


def reserve(address: str, port: int) -> list[socket.socket]:
    """Binds an address and takes no connections: its port, the same for all sockets and known from now on, stays for
    those that share it. OSError when it is not to be had.
    """
    bound = _bind(host_of(address), port, True)
    for sock in bound:
        forking.hold(sock)
    return bound


def _bind(host: str, port: int, reuse_port: bool) -> list[socket.socket]:
    """A socket for each of the host's addresses that this machine has, all of one port. OSError when it has none."""
    if host == _ANY_IPV6:
        return [_bind_any(port, reuse_port)]
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        # A name may stand for an address twice.
        found = dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
        for family, kind, _, _, where in found:
            try:
                bound.append(_bind_one(family, kind, (where[0], port, *where[2:]), reuse_port))
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                missing = error
                continue
            port = bound[-1].getsockname()[1]
        if missing is not None and not bound:
            raise missing
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _bind_one(family: int, kind: int, where: tuple[Any, ...], reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        _set_reuse(sock, reuse_port)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_any(port: int, reuse_port: bool) -> socket.socket:
    """A socket for clients of both families."""
    bound = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        _set_reuse(bound, reuse_port)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((_ANY_IPV6, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _set_reuse(bound: socket.socket, reuse_port: bool) -> None:
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(path)
        # The umask decides about owner and group; others never. Nobody can connect before it listens.
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & 0o770)
    except BaseException:
        bound.close()
        raise
    return bound


def _remove_stale(path: str) -> None:
    """Removes a socket file that a server has left when it was killed. OSError when somebody uses the path."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A server whose backlog is full would make us wait.
        probe.setblocking(False)
        answer = probe.connect_ex(path)
    if answer != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
