"""Processes that a model forks, as `multiprocessing` does: the way to the server is the parent's, who goes on using it.
They keep no copy of it, with which its end would be none.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from contextlib import suppress
from typing import NoReturn
from weakref import WeakSet

_watching = False
_forked = False
_links: WeakSet[socket.socket] = WeakSet()


def watch() -> None:
    """This process runs models: forks of it, from now on, know what they are."""
    global _forked, _watching
    _forked = False  # a worker is a fork itself, of a process that has tried how one runs
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_note)


def hold(link: socket.socket) -> None:
    """A way to the server, until it is closed."""
    _links.add(link)


def _note() -> None:
    global _forked
    _forked = True
    links = [link.fileno() for link in list(_links) if link.fileno() >= 0]
    _links.clear()
    if links:
        # The numbers stay taken, by nothing: objects that have them may close them later.
        nothing = os.open(os.devnull, os.O_RDWR)
        for link in links:
            with suppress(OSError):
                os.dup2(nothing, link, inheritable=False)
        os.close(nothing)


def is_fork() -> bool:
    """Whether this is a process that a model has forked."""
    return _forked


def end(error: BaseException | None) -> NoReturn:
    """Of such a process, when it comes back from the model's code, with `error` or without: as at the end of a script.
    What runs the model is the parent.
    """
    status = 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        status = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the model has closed it
            status = status or 1
    os._exit(status & 0xFF)


#: Why such a process is refused what it asks of the server.
REFUSAL = (
    "a process that the model has forked can not ask anything of the server, nor answer: leave that to the process "
    "which runs the model"
)
