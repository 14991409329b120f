"""Repository agents that are shared libraries of the TRITONREPOAGENT API. Load and unload threads."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from ctypes import byref, c_char_p, c_int32, c_uint32, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

from triton_async import native
from triton_async.config.paths import safe_name
from triton_async.core.defines import AGENT_END_S
from triton_async.errors import InternalError, InvalidArg, ServerError

log = logging.getLogger("triton_async.native")

_FILESYSTEM, _REMOTE = 0, 1  # TRITONREPOAGENT_ArtifactType


class Action(IntEnum):
    """TRITONREPOAGENT_ActionType."""

    LOAD = 0
    LOAD_COMPLETE = 1
    LOAD_FAIL = 2
    UNLOAD = 3
    UNLOAD_COMPLETE = 4


class Fetched(Protocol):
    """A copy of a model that was elsewhere."""

    directory: Path

    def close(self) -> None: ...


class _Place:
    """One of a server's agents, loaded or not. `lock`: held while it is loaded and initialised, which may take long."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.agent: NativeAgent | None = None


class NativeAgents:
    """Those of a server, in `directory` (--repoagent-directory), loaded when a model names one. `fetch`: brings a model
    from object storage. One that does not come back from a call holds up the models that name it, and no others.
    """

    def __init__(self, directory: str, fetch: Callable[[str], Fetched]) -> None:
        self._directory = Path(directory)
        self._fetch = fetch
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()

    def begin(
        self, name: str, config: Mapping[str, Any], parameters: Mapping[str, str], location: Path
    ) -> NativeAgentModel:
        """A load of a model for the agent `name`. ServerError when its library is none, or does not want to."""
        with self._lock:
            place = self._places.setdefault(name, _Place())
        with place.lock:
            if place.agent is None:
                place.agent = NativeAgent(name, self._directory)
            agent = place.agent
        return NativeAgentModel(agent, config, parameters, location, self._fetch)

    def close(self) -> None:
        """Finalises all, behind their models."""
        with self._lock:
            places, self._places = self._places, {}
        for name, place in places.items():
            if not place.lock.acquire(timeout=AGENT_END_S):
                log.error("repository agent '%s' is not finalised: it has not come back from its initialisation", name)
                continue
            if place.agent is not None:
                place.agent.close()
            place.lock.release()


class NativeAgent:
    """The agent `name`, in `<directory>/<name>/libtritonrepoagent_<name>.so`."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._server = native.load()
        file = f"libtritonrepoagent_{safe_name(name, 'repository agent')}.so"
        path = directory / name / file
        if not path.is_file():
            raise InvalidArg(f"unable to find '{file}' of repository agent '{name}' in the repository agent directory")
        try:
            self._library = native.open_library(path)
        except OSError as error:
            log.error("unable to load shared library %s: %s", path, error)
            reason = str(error).replace(f"{path.parent}/", "")
            raise InvalidArg(f"unable to load shared library: {reason}") from None
        if self.function("ModelAction") is None:
            raise InvalidArg(
                f"unable to find required entrypoint 'TRITONREPOAGENT_ModelAction' in agent library '{file}'"
            )
        self._server.ta_agent_new.restype = c_void_p
        self.c = c_void_p(self._server.ta_agent_new())
        if not self.c:
            raise MemoryError
        try:
            self.call("Initialize", self.c)
        except ServerError:
            self.close()
            raise
        log.info("repository agent '%s' is the library %s", name, path)

    def function(self, name: str) -> Callable[..., int | None] | None:
        """One of the library's; None: it has none of that name."""
        found = getattr(self._library, f"TRITONREPOAGENT_{name}", None)
        if found is not None:
            found.restype = c_void_p
        return found

    def call(self, name: str, *arguments: Any) -> None:
        """Calls it, if the library has it. ServerError that it returns."""
        function = self.function(name)
        if function is not None:
            native.check(function(*arguments))

    def close(self) -> None:
        """Finalises the agent. The library stays loaded."""
        try:
            self.call("Finalize", self.c)
        except ServerError as error:
            log.error("TRITONREPOAGENT_Finalize of '%s' failed: %s", self.name, error.message)
        self._server.ta_agent_free(self.c)


class NativeAgentModel:
    """One agent for one load of a model. Closed behind its last action; what it has acquired goes then."""

    def __init__(
        self, agent: NativeAgent, config: Mapping[str, Any], parameters: Mapping[str, str], location: Path,
        fetch: Callable[[str], Fetched],
    ) -> None:  # fmt: skip
        self._agent = agent
        self._model = str(config.get("name", ""))
        self._fetch = fetch
        self._given = location
        self._fetched: Fetched | None = None
        self._server = native.load()
        names = [name.encode() for name in sorted(parameters)]
        values = [parameters[name].encode() for name in sorted(parameters)]
        strings = c_char_p * max(len(names), 1)
        self._server.ta_agent_model_new.restype = c_void_p
        self._c = c_void_p(self._server.ta_agent_model_new(
            c_char_p(bytes(location)), c_int32(_FILESYSTEM), c_char_p(json.dumps(config).encode()),
            c_uint32(len(names)), strings(*names), strings(*values),
        ))  # fmt: skip
        if not self._c:
            raise MemoryError
        try:
            agent.call("ModelInitialize", agent.c, self._c)
        except ServerError:
            self.close()
            raise

    def act(self, action: Action) -> None:
        """Tells the agent. ServerError that it returns."""
        self._server.ta_agent_model_begin(self._c, c_int32(action))
        self._agent.call("ModelAction", self._agent.c, self._c, c_int32(action))

    def location(self) -> Path:
        """Where the model is loaded from, behind LOAD. ServerError when it can not be brought from there."""
        kind = c_int32()
        self._server.ta_agent_model_location.restype = c_char_p
        text: bytes = self._server.ta_agent_model_location(self._c, byref(kind))
        if kind.value == _REMOTE:
            self._fetched = self._fetch(text.decode(errors="replace"))
            return self._fetched.directory
        path = Path(text.decode(errors="surrogateescape"))
        if path != self._given and not path.is_dir():
            raise InvalidArg(
                f"repository agent '{self._agent.name}' has moved model '{self._model}' to what is no folder"
            )
        return path

    def close(self) -> None:
        """Behind the last action."""
        try:
            self._agent.call("ModelFinalize", self._agent.c, self._c)
        except ServerError as error:
            log.error("TRITONREPOAGENT_ModelFinalize of '%s' failed: %s", self._agent.name, error.message)
        self._server.ta_agent_model_free.restype = c_void_p
        try:
            native.check(self._server.ta_agent_model_free(self._c))
        except InternalError as error:
            log.error("repository agent '%s': %s", self._agent.name, error.message)
        if self._fetched is not None:
            self._fetched.close()
