"""Where a model's own backend may be: its folders, and the library that its config names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """`directory`: the model's, of whose version `version` files are looked at first. `runtime`: of its config."""

    directory: Path
    version: int
    runtime: str = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """Where a library of the model's own is looked for, in this order."""
        directory = str(self.directory)
        return os.path.join(directory, str(self.version)), directory
