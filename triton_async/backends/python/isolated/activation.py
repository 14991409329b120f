"""What activating a conda environment does to the variables of its processes, in Triton as in a shell."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from triton_async.backends.python.defines import ACTIVATION_TIMEOUT_S

log = logging.getLogger("triton_async.python")

# Runs the scripts, which may say something, and lists the variables.
_SHELL = 'for script in "$@"; do . "$script"; done >&2; exec env -0'
# The shell's own.
_OF_THE_SHELL = ("_", "PWD", "OLDPWD", "SHLVL")


def activated(variables: Mapping[str, str], home: Path) -> dict[str, str]:
    """The variables with what the packages of an environment set (etc/conda/activate.d), and with its libraries found
    first. As they were for what is no conda environment. Blocks.
    """
    found = dict(variables)
    if not (home / "conda-meta").is_dir():
        return found
    scripts = sorted((home / "etc" / "conda" / "activate.d").glob("*.sh"))
    if scripts:
        found = _run(found, scripts, home)
    libraries = [str(home / "lib"), *found.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
    found["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in libraries if path)
    return found


def _run(variables: dict[str, str], scripts: list[Path], home: Path) -> dict[str, str]:
    try:
        done = subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-c", _SHELL, "bash", *map(str, scripts)], env=variables,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=ACTIVATION_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the scripts in %s/etc/conda/activate.d could not be run: %s", home, error)
        return variables
    listed = (entry.partition("=") for entry in os.fsdecode(done.stdout).split("\0") if "=" in entry)
    found = {name: value for name, _, value in listed if name not in _OF_THE_SHELL}
    return {**{name: variables[name] for name in _OF_THE_SHELL if name in variables}, **found}
