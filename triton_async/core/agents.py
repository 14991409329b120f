"""Repository agents, before a model's files are read: `checksum`, which compares them with digests. Load threads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from triton_async.config.paths import safe_join
from triton_async.errors import InvalidArg, Unsupported


def run_agents(proto: Any, directory: Path) -> None:
    """What the agents of a config, in their order, say of the model in `directory`. ServerError of the first that
    refuses it. Blocking: reads the files that they name.
    """
    for agent in proto.model_repository_agents.agents:
        # Others were refused with the config.
        for key in sorted(agent.parameters):
            _check_digest(proto.name, directory, key, agent.parameters[key])


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
