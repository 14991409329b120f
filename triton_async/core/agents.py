"""Repository agents of a model: `checksum`, which compares its files with digests, and libraries, which may also move
them. Load and unload threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from triton_async.config.config_json import config_json
from triton_async.config.paths import safe_join
from triton_async.core.native_agents import Action, NativeAgentModel, NativeAgents
from triton_async.core.threads import waiting
from triton_async.errors import InvalidArg, ServerError, Unavailable, Unsupported

log = logging.getLogger("triton_async.core")


class AgentRun:
    """What the agents of a config do for one load of a model, `directory` being where it is loaded from. Each hears of
    the actions in one of these orders; an error counts with LOAD alone.

        LOAD, LOAD_COMPLETE, UNLOAD, UNLOAD_COMPLETE        LOAD, LOAD_FAIL
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: Versions that were loaded so and serve, and those of which anything is left. Loop thread.
        self.users = self.remaining = 0
        self._models: list[NativeAgentModel] = []

    def __bool__(self) -> bool:
        """Whether there is anybody to be told."""
        return bool(self._models)

    def begin(self, proto: Any, agents: NativeAgents | None) -> None:
        """LOAD, in the order of the config. ServerError of the first that refuses the model: nobody is told any more
        then.
        """
        try:
            for agent in proto.model_repository_agents.agents:
                if agent.name == "checksum":
                    for key in sorted(agent.parameters):
                        _check_digest(proto.name, self.directory, key, agent.parameters[key])
                    continue
                if agents is None:
                    raise Unsupported(f"repository agent '{agent.name}' of model '{proto.name}' can not be had here")
                # A library may take its time: its thread is made up for.
                with waiting():
                    model = agents.begin(agent.name, config_json(proto), dict(agent.parameters), self.directory)
                    self._models.append(model)
                    model.act(Action.LOAD)
                    self.directory = model.location()
        except BaseException:
            self.fail()
            raise

    def complete(self) -> None:
        """The model is loaded."""
        self._tell(reversed(self._models), Action.LOAD_COMPLETE)

    def fail(self) -> None:
        """It is not, and nothing of it is used."""
        self._tell(reversed(self._models), Action.LOAD_FAIL)
        self._close()

    def unload(self) -> None:
        """The last of its versions begins to go."""
        self._tell(self._models, Action.UNLOAD)

    def unloaded(self) -> None:
        """All of them have gone."""
        self._tell(reversed(self._models), Action.UNLOAD_COMPLETE)
        self._close()

    def _tell(self, models: Iterable[NativeAgentModel], action: Action) -> None:
        for model in models:
            try:
                with _made_up_for():
                    model.act(action)
            except ServerError as error:
                log.error("a repository agent returned an error of %s: %s", action.name, error.message)

    def _close(self) -> None:
        models, self._models = self._models, []
        for model in reversed(models):
            with _made_up_for():
                model.close()


@contextmanager
def _made_up_for() -> Iterator[None]:
    """`waiting`, where there may be one thread more: an agent is told whether or not."""
    with ExitStack() as stack:
        with suppress(Unavailable):
            stack.enter_context(waiting())
        yield


def _check_digest(model: str, directory: Path, key: str, expected: str) -> None:
    algorithm, colon, name = key.partition(":")
    if not colon:
        raise InvalidArg(f"failed to parse key: {key}")
    if algorithm.lower() != "md5":
        raise Unsupported(f"Unsupported checksum algorithm: {algorithm}")
    file = safe_join(directory, name, f"a file of agent 'checksum' of model '{model}'")
    try:
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise InvalidArg(f"failed to open text file for read {name}: {reason}") from None
    if found != expected:
        raise InvalidArg(f"Mismatched MD5 hash for file {name}, expect: {expected}, got: {found}")
