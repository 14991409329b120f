"""Folders that repository agents acquire: gone with their model, whatever was put there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import native_libraries

from triton_async import native

pytestmark = native_libraries.needs_compiler


def test_what_nobody_may_write_to_is_removed(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "csrc" / "agent_folder.c"
    program = tmp_path / "agent_folder"
    command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program), "-ldl"]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program), str(native.LIBRARY)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "removed\n"), done.stderr
