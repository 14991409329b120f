"""The life of one instance of a model outside of the server, on one thread: its channel, its model, its end."""

from __future__ import annotations

import builtins
import json
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from . import api, wire
from .context import Context
from .forks import hold
from .kept import Kept, unpack
from .loader import Source
from .process import WorkerChannel, serve
from .runner import ModelFailure, Runner

if TYPE_CHECKING:
    from .channel import Channel


class Prepared:
    """What every worker that is a process of one instance has: made once before all are forked, it takes no memory in
    each.
    """

    def __init__(self) -> None:
        self.context = new_context()
        self.modules = api.make_modules(self.context)
        self.names = dict(vars(builtins))
        api.install(self.modules)
        with suppress(AttributeError, ValueError):
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def main(prepared: Prepared, connection: int, requests: int, responses: int, code: int) -> int:
    """Runs the only instance of this process, on its main thread: its exit status."""
    kept = take_code(code)
    channel = open_channel(connection, requests, responses)
    start = channel.wait_for_start()
    settle(channel, prepared.context, start)
    runner = Runner(Source(start["path"], kept), prepared.context, start["search"], prepared.modules, prepared.names)
    return 0 if live(channel, runner, start) else 1


def new_context() -> Context:
    """Of an instance of which nothing is known yet."""
    return Context(cast("Channel", None), "", 0, "", "", False)


def open_channel(connection: int, requests: int, responses: int) -> WorkerChannel:
    """The channel of the instance that this thread is to run. Takes the descriptors over."""
    own = socket.socket(fileno=connection)
    hold(own)
    try:
        return WorkerChannel(own, wire.Memory(requests), wire.Memory(responses))
    finally:
        os.close(requests)
        os.close(responses)


def take_code(descriptor: int) -> Kept:
    """The files of a version. Takes the descriptor over."""
    try:
        return unpack(descriptor)
    finally:
        os.close(descriptor)


def settle(channel: WorkerChannel, context: Context, start: dict[str, Any]) -> None:
    """Takes over what the server has said of the instance."""
    channel.output_names = start["output_names"]
    channel.credits = start["credits"]
    channel.reschedules = start["reschedules"]
    channel.state_names = tuple(start["state_names"])
    channel.context = context
    context.channel = cast("Channel", channel)
    context.model, context.version, context.instance = start["model"], start["version"], start["instance"]
    context.model_dir, context.decoupled = start["model_dir"], start["decoupled"]


def live(channel: WorkerChannel, runner: Runner, start: dict[str, Any]) -> bool:
    """Loads the model, executes it until the server says to end, and ends it. False: it could not be loaded, which the
    server knows by then.
    """
    try:
        runner.load()
        if start["complete"] is not None:
            channel.started(False, json.dumps(runner.auto_complete(start["complete"])))
            return True
        runner.initialize(start["arguments"])
    except ModelFailure as error:
        channel.started(True, error.message)
        return False
    if runner.asks_ready:
        channel.ask_model = runner.is_ready
        channel.listen()
    channel.started(False, json.dumps({"is_ready": runner.asks_ready}))
    serve(channel, runner)
    runner.close()
    channel.finalized()
    return True
