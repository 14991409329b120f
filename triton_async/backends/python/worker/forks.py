"""Processes that a model forks, as `multiprocessing` does: the way to the server that they have copies of is the
parent's, who goes on using it.
"""

from __future__ import annotations

import os

_watching = False
_forked = False


def watch() -> None:
    """This process runs models: forks of it, from now on, know what they are."""
    global _forked, _watching
    _forked = False  # a worker is a fork itself, of a process that has tried how one runs
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_note)


def _note() -> None:
    global _forked
    _forked = True


def is_fork() -> bool:
    """Whether this is a process that a model has forked."""
    return _forked


#: Why such a process is refused what it asks of the server.
REFUSAL = (
    "a process that the model has forked can not ask anything of the server, nor answer: leave that to the process "
    "which runs the model"
)
