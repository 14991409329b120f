"""What a process that is forked from this one, as models do, does not keep of the server's: its ports, its clients'
connections, its ways to processes of its own. With a copy of one in another process its end is no end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections import Counter
from typing import Any
from weakref import WeakSet

# Where this process listens; also of sockets that are closed by now, but for what they have accepted.
_addresses: Counter[Any] = Counter()
_held: WeakSet[socket.socket] = WeakSet()
_watching = False

_ANY = ("0.0.0.0", "::")


def serves_at(address: Any) -> None:
    """Sockets of this process with this address (`getsockname`) are the server's, those that it accepts included."""
    _watch()
    _addresses[_plain(address)] += 1


def leaves(address: Any) -> None:
    """Ends one `serves_at`: the last socket of that time with this address is closed."""
    _addresses[_plain(address)] -= 1
    if _addresses[_plain(address)] <= 0:
        del _addresses[_plain(address)]


def hold(sock: socket.socket) -> None:
    """This one is the server's, until it is closed."""
    _watch()
    _held.add(sock)


def _watch() -> None:
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_let_go)


# In the child. The numbers stay taken, by nothing: objects that have them may close them later.
def _let_go() -> None:
    ours = {sock.fileno() for sock in list(_held)} - {-1}
    _held.clear()
    if _addresses:
        with contextlib.suppress(OSError):  # no /proc, say: what is held is let go of all the same
            ours.update(_at_addresses())
    if not ours:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in ours:
        with contextlib.suppress(OSError):
            os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _at_addresses() -> set[int]:
    found = set()
    # A socket object with a time limit would change the socket of the parent.
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    try:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # that of the listing itself, and what is no socket
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode) and _is_ours(int(name)):
                    found.add(int(name))
    finally:
        socket.setdefaulttimeout(limit)
    return found


def _is_ours(descriptor: int) -> bool:
    sock = socket.socket(fileno=descriptor)
    try:
        if sock.type != socket.SOCK_STREAM:
            return False
        address = _plain(sock.getsockname())
    finally:
        sock.detach()
    if isinstance(address, tuple) and address:
        return address in _addresses or any((host, address[1]) in _addresses for host in _ANY)
    return address in _addresses and bool(address)


# Hosts and ports alone. Clients of IPv4 at a socket for both families have addresses of IPv6.
def _plain(address: Any) -> Any:
    if not isinstance(address, tuple):
        return os.fsencode(address) if isinstance(address, str) else address
    return str(address[0]).removeprefix("::ffff:"), address[1]
