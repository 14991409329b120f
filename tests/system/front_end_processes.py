"""What tests see of a server's front-end processes."""

from __future__ import annotations

import os
from pathlib import Path

from server_process import ServerProcess, poll


def wait_until_idle(server: ServerProcess) -> None:
    """Neither the model process nor its front-ends have anything left of a request."""
    state: dict[str, float] = {}

    def idle() -> bool:
        state.clear()
        state.update({name: value for name, value in server.metrics().items() if "live_objects" in name and value})
        return not state

    try:
        poll(idle, "the live objects to go", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {state}") from None


def wait_for_metric(server: ServerProcess, name: str, value: float) -> None:
    poll(lambda: server.metrics()[name] == value, f"{name} to be {value:g}", 10)


def front_ends(server: ServerProcess) -> list[int]:
    """Process ids of the front-ends: children of the process of the server's that they are forked from."""
    found = []
    for name in os.listdir("/proc"):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
            stat = Path(f"/proc/{name}/stat").read_text() if b"triton_async.front_end" in command else ""
        except OSError:
            continue
        if not stat:
            continue
        parent = int(stat.rsplit(")", 1)[1].split()[1])
        try:
            grand = int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if grand == server.pid:
            found.append(int(name))
    return sorted(found)
