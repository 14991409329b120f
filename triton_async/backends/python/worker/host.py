"""A model process: instances of many models in one process, each on a thread of its own, with a connection and memory
of its own, as if it were alone. They have the interpreter's lock in common.

The main thread does what the server says on one socket: begin an instance. It tells the server of the beginning and
the end of each, and ends the process with the server.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any, Callable
from weakref import WeakValueDictionary

from . import api
from .forks import hold
from .instance import live, new_context, open_channel, settle, take_code
from .kept import Kept
from .loader import Source
from .process import WorkerChannel
from .runner import Runner

Receive = Callable[[socket.socket, int], "tuple[bytes, list[int]]"]

# That come with an instance: its connection, memory of requests, of responses, its version's files.
DESCRIPTORS = 4


class Host:
    """`control`: the socket to the server. `receive`: a message from there, and its descriptors."""

    def __init__(self, control: socket.socket, receive: Receive) -> None:
        self._control = control
        self._receive = receive
        self._lock = threading.Lock()
        # Files of versions whose instances are here, by the number that the server gave each.
        self._sources: WeakValueDictionary[int, Source] = WeakValueDictionary()

    def run(self) -> None:
        """Returns when the server has gone."""
        while True:
            try:
                data, descriptors = self._receive(self._control, DESCRIPTORS)
            except OSError:
                return
            if not data:
                return
            order = json.loads(data)
            try:
                self._begin(order["number"], order["cores"], descriptors)
            except RuntimeError as error:  # a limit of the system
                for descriptor in descriptors:
                    os.close(descriptor)
                self._tell(order["number"], "could not be started: " + str(error))

    def _begin(self, number: int, cores: list[int], descriptors: list[int]) -> None:
        # What there is no room for is left out.
        if len(descriptors) < DESCRIPTORS:
            raise RuntimeError("its process has no file descriptors left")
        threading.Thread(target=self._main, args=(number, cores, descriptors), name="model", daemon=True).start()
        self._tell(number, None)

    # An instance's thread, from its beginning to its end.
    def _main(self, number: int, cores: list[int], descriptors: list[int]) -> None:
        channel = None
        try:
            *ours, code = descriptors
            kept = take_code(code)
            channel = open_channel(*ours)
            channel.gone = _end_thread
            if cores:
                os.sched_setaffinity(0, cores)  # of this thread, and of those that the model starts
            self._run(channel, kept)
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        self._tell(number, "ended by itself")
        if channel is not None:
            channel.close()
        channel = None
        gc.collect()  # models are full of cycles

    def _run(self, channel: WorkerChannel, kept: Kept) -> None:
        start = channel.wait_for_start()
        context = new_context()
        settle(channel, context, start)
        threading.current_thread().name = start["instance"]
        runner = Runner(self._source(start, kept), context, start["search"])
        try:
            live(channel, runner, start)
        finally:
            runner.close()

    # Instances of a version share the compiled files.
    def _source(self, start: dict[str, Any], kept: Kept) -> Source:
        with self._lock:
            source = self._sources.get(start["source"])
            if source is None:
                source = self._sources[start["source"]] = Source(start["path"], kept)
            return source

    # None: it has begun.
    def _tell(self, number: int, how: str | None) -> None:
        with self._lock, suppress(OSError):  # the server has gone
            self._control.sendall(json.dumps({"number": number, "how": how}).encode())


def _end_thread() -> None:
    raise SystemExit


def main(control: int, receive: Receive, switch_s: float) -> int:
    """Runs a model process, on its main thread: its exit status. `switch_s`: after which a thread that waits for the
    interpreter's lock gets it.
    """
    sys.setswitchinterval(switch_s)
    api.install()
    link = socket.socket(fileno=control)
    hold(link)
    Host(link, receive).run()
    return 0
