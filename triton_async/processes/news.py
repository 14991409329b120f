"""What front-end processes are told of the server: its state, its models, regions, settings of the log. Loop thread."""

from __future__ import annotations

from typing import Any

from triton_async import logs
from triton_async.core.server import InferenceServer
from triton_async.processes.descriptions import Describer

# What front-ends tell of themselves, but for what the metrics are made of.
_TOLD = {"pid": int, "settled": int, "problem": str, "listening": bool, "connected": bool, "done": bool}

# A message, and the servables that its readers may name from then on.
Told = tuple[dict[str, Any], list[Any]]


class News:
    """Of one server. `number`: of the last news, that front-ends say they have."""

    def __init__(self, server: InferenceServer) -> None:
        self.number = 0
        self._server = server
        self._told = self._now()
        self._describer = Describer(server.repository)
        self._models: dict[str, Any] = {}  # name -> what was told of it, in short

    def are_old(self) -> bool:
        """Whether the server's state, or any of its models, has changed of its own accord since they were told."""
        return self._told != self._now()

    def _now(self) -> tuple[int, int]:
        return self._server.phase, self._server.repository.changes

    def everything(self) -> Told:
        """For one who knows nothing, as of the last news."""
        return self._message({name: self._describer.describe(name) for name in self._models}), self._servables()

    def changes(self) -> Told:
        """What has changed since the last news, for those who know these."""
        now = {name: self._short(name) for name in self._describer.names()}
        changed: dict[str, Any] = dict.fromkeys(self._models.keys() - now.keys())
        for name, short in now.items():
            if self._models.get(name) != short:
                changed[name] = self._describer.describe(name)
        self._models = now
        self.number += 1
        self._told = self._now()
        return self._message(changed), self._servables()

    def forgotten(self, known: set[int], settled: int) -> set[int]:
        """Of servables that one may name who has taken over the news `settled`: those that are none any more."""
        if settled != self.number:
            return set()
        return known - {model.number for model in self._servables()}

    def _short(self, name: str) -> Any:
        repository = self._server.repository
        shown = repository.models[name].shown_versions()
        return tuple(shown or ()), [(v, loaded.model.number) for v, loaded in repository.ready_versions(name)]

    def _servables(self) -> list[Any]:
        return [loaded.model for _, _, loaded in self._server.repository.ready_models()]

    def _message(self, models: dict[str, Any]) -> dict[str, Any]:
        server = self._server
        return {
            "news": self.number, "state": server.phase, "max_held_nbytes": server.max_held_nbytes,
            "reads_context": server.reads_context, "models_asked": server.asks_models(), "models": models,
            "regions": self._regions(), "logs": logs.settings(),
        }  # fmt: skip

    def _regions(self) -> list[list[Any]]:
        rows = [
            ["system", row["name"], row["key"], row["offset"], row["byte_size"], 0]
            for row in self._server.regions.status("system")
        ]
        rows += [
            ["cuda", row["name"], "", 0, row["byte_size"], row["device_id"]]
            for row in self._server.regions.status("cuda")
        ]
        return rows


def is_news(name: str, value: Any) -> bool:
    """Whether a front-end may tell this of itself."""
    if name == "metrics":
        return type(value) is dict and all(
            _are_numbers(one) if key == "live" else type(one) is int for key, one in value.items()
        )
    return type(value) is _TOLD.get(name)


def _are_numbers(counts: Any) -> bool:
    return type(counts) is dict and all(type(count) is int for count in counts.values())
