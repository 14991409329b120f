"""Worker processes of a server: the processes that they are forked from, models whose instances are workers, and
`auto_complete_config` in a process of its own."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

from triton_async.backends.base import InferenceService, LoadedModel, ModelInstance, Watcher
from triton_async.backends.python.defines import WORKER_CLOSE_TIMEOUT_S
from triton_async.backends.python.isolated.instance import WorkerInstance
from triton_async.backends.python.isolated.link import Link
from triton_async.backends.python.isolated.placement import Home
from triton_async.backends.python.isolated.reader import Reader
from triton_async.backends.python.isolated.services import Services
from triton_async.backends.python.isolated.supervisor import Supervisor, WorkerOptions
from triton_async.backends.python.isolated.zygote import Zygote
from triton_async.config.model_config import InstanceGroup
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.python")

# Of versions, as workers of several instances tell them apart.
_NUMBERS = itertools.count(1)


class Workers:
    """The reader and the processes to fork from, by interpreter. Any thread. One for a backend."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.reader = Reader(watcher)
        self._zygotes: dict[tuple[str, Path | None], Zygote] = {}
        self._lock = threading.Lock()

    def zygote(self, interpreter: str, home: Path | None = None) -> Zygote:
        """The process that workers of this interpreter are forked from; not yet started. `home`: the directory of its
        environment, None for the server's own.
        """
        key = (interpreter, home)
        with self._lock:
            if key not in self._zygotes:
                self._zygotes[key] = Zygote(self.reader, interpreter, home)
            return self._zygotes[key]

    def close(self) -> None:
        """Ends the processes to fork from, and the reader. Blocks. Behind the last worker."""
        with self._lock:
            zygotes = list(self._zygotes.values())
        for zygote in zygotes:
            zygote.close(for_good=True)
        if not self.reader.close(WORKER_CLOSE_TIMEOUT_S):
            log.error("the processes that Python workers are forked from can not be ended")


class IsolatedModel(LoadedModel):
    """A version whose instances are worker processes, or parts of model processes, as `home` says. `options`: of a
    worker, but for what an instance adds to `start`: `arguments(name, group, device_id)`, those of `initialize`.
    `limit_ns`: of one execution, 0 for none.
    """

    thread_bound = False
    follows_memory_policy = False

    def __init__(  # noqa: PLR0917
        self,
        workers: Workers,
        home: Home,
        pool: SlabPool,
        options: WorkerOptions,
        arguments: Callable[[str, InstanceGroup, int], Mapping[str, str]],
        limit_ns: int = 0,
        inference: InferenceService | None = None,
        metrics: Any = None,
    ) -> None:
        self._workers = workers
        self._home = home
        self._pool = pool
        self._options = options
        self._arguments = arguments
        self._limit_ns = limit_ns
        self._inference = inference
        self._metrics = metrics
        self._number = next(_NUMBERS)

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        # Of the thread of this instance, which may have been put there: who is forked has its zygote's, of whenever.
        cores = tuple(sorted(os.sched_getaffinity(0)))
        context = copy_context()
        start = {
            **self._options.start, "instance": name, "complete": None, "source": self._number,
            "arguments": dict(self._arguments(name, group, device_id)),
        }  # fmt: skip

        def make_services(link: Link) -> Services:
            return Services(link, instance, self._workers.reader, self._inference, self._metrics, context)

        place = self._home.place()
        supervisor = Supervisor(
            name, place, self._workers.reader, self._pool, replace(self._options, start=start, cores=cores),
            make_services, left=lambda: self._home.leave(place),
        )  # fmt: skip
        instance = WorkerInstance(name, supervisor, self._workers.reader, self._limit_ns)
        instance.start()
        return instance

    def close(self) -> None:
        self._home.close()


def complete_config(
    workers: Workers, zygote: Zygote, pool: SlabPool, options: WorkerOptions, config: str
) -> dict[str, Any] | None:
    """The config, JSON in and a dict out, as the model's `auto_complete_config` completes it, in a worker of its own;
    None where it has none. ServerError with the reason. Blocks; not on the reader's thread.
    """
    name = str(options.start["model"])
    start = {**options.start, "instance": name, "complete": config, "arguments": {}}
    supervisor = Supervisor(
        name, zygote, workers.reader, pool, replace(options, start=start),
        lambda link: Services(link, ModelInstance(name), workers.reader, None, None, Context()), once=True,
    )  # fmt: skip
    supervisor.start()
    supervisor.close()
    found = json.loads(supervisor.answer)
    return found if isinstance(found, dict) else None
