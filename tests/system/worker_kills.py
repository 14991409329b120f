"""Kills workers at random while clients ask, and counts what becomes of every request."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from server_process import ServerProcess

# What a request of a worker that was killed is told, and one that found none for too long.
_ENDED = re.compile(
    r"the worker of model instance '\w+' (was killed by signal 9"
    r"|exited with status \d+)(, and a new one is not ready yet|; another one is started in [\d.]+ s)?"
)


@dataclass
class Outcome:
    """`answers`: "right", an error without its numbers, or what should not be. `away_s`: how long workers were gone."""

    answers: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    away_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return sum(self.answers.values())

    def add(self, other: Outcome) -> None:
        """Takes in what became of more requests."""
        self.answers += other.answers
        self.kills += other.kills
        self.away_s += other.away_s
        self.wrong += other.wrong


def family(root: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def workers_of(server: ServerProcess) -> list[int]:
    """Its workers: children of the process that they are forked from."""
    zygotes = set(children(server.pid))
    return [pid for zygote in zygotes for pid in children(zygote)]


def children(pid: int) -> list[int]:
    return [child for child in family(pid) if _parent(child) == pid]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def run(server: ServerProcess, model: str, seconds: float, clients: int = 8, seed: int = 1) -> Outcome:
    """`model` echoes FP32 tensors. Kills about three workers in a second, and waits for each to be replaced."""
    outcome = Outcome()
    lock = threading.Lock()
    until = time.monotonic() + seconds

    def ask() -> None:
        chance = random.Random(threading.get_ident())
        number = 0.0
        while time.monotonic() < until:
            number += 1
            data = [number] * chance.choice([1, 16, 3000])
            said = _asked(server, model, data)
            with lock:
                if said == "right":
                    outcome.answers["right"] += 1
                elif _ENDED.fullmatch(said):
                    outcome.answers["ended"] += 1
                else:
                    outcome.answers["wrong"] += 1
                    outcome.wrong.append(said[:300])

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    chance = random.Random(seed)
    whole = len(workers_of(server))
    while time.monotonic() < until - 1:
        time.sleep(chance.uniform(0.1, 0.6))
        found = workers_of(server)
        if not found:
            continue
        victim = chance.choice(found)
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        outcome.kills += 1
        while time.monotonic() < begun + 10 and not (
            len(now := workers_of(server)) == whole and victim not in now
        ):
            time.sleep(0.01)
        outcome.away_s.append(time.monotonic() - begun)
    for thread in threads:
        thread.join()
    return outcome


def _asked(server: ServerProcess, model: str, data: list[float]) -> str:
    tensor = {"name": "N", "shape": [1, len(data)], "datatype": "FP32", "data": data}
    url = f"http://{server.http_url}/v2/models/{model}/infer"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode()), timeout=60
        ) as answer:
            same = json.load(answer)["outputs"][0]["data"] == data
        return "right" if same else "another answer"
    except urllib.error.HTTPError as error:
        return str(json.load(error)["error"])
    except OSError as error:
        return f"no answer: {error}"
