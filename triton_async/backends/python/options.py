"""What `--backend-config=python,...` and the parameters of a model's config say. ServerError, naming the model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from triton_async.backends.python.defines import EXECUTION_LIMIT_MAX_S, MEMORY_LIMIT_LEAST_NBYTES, UNLOAD_TIMEOUT_S
from triton_async.errors import InvalidArg

# Options of Triton's Python backend that are about its own shared memory and processes.
_NO_EFFECT = (
    "shm-default-byte-size", "shm-growth-byte-size", "shm-region-prefix-name", "stub-timeout-seconds",
    "thread-pool-size",
)  # fmt: skip
# Those of all backends, which reach each of them.
_OF_THE_SERVER = ("default-max-batch-size", "min-compute-capability", "backend-directory", "auto-complete-config")

IN_PROCESS, ISOLATED = "none", "process"
# What MODEL_PROCESS may say beside a number and a name.
SPREAD, SERVER = "spread", "server"

_PROCESS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """`isolated`: a process for each instance. `environment`: EXECUTION_ENV_PATH as written, "" for none. Of a process,
    0 for none: `execution_limit_s`, seconds that one `execute` may take; `memory_limit_nbytes`, of its own memory.
    `gpu_inputs`: a model in the server process gets inputs that are in GPU memory there.
    """

    isolated: bool
    environment: str
    execution_limit_s: float = 0.0
    memory_limit_nbytes: int = 0
    gpu_inputs: bool = False
    # Of a model in the server process: whether it may run on any thread; None: as its files tell.
    any_thread: bool | None = None
    # Of a model in one of several model processes: number or name of that, SPREAD, "" for any; None: it is in none.
    process: str | None = None
    # Seconds that an unload waits for what is executed, of a model that is not in the server process.
    unload_limit_s: float = UNLOAD_TIMEOUT_S


def check_settings(settings: Mapping[str, str]) -> list[str]:
    """Lines for the log about `--backend-config=python,...`. InvalidArg for what is not known."""
    notes = []
    for name, value in settings.items():
        if name == "isolation":
            _isolation(value, "--backend-config=python,isolation")
        elif name == "environment-cache-directory":
            if not os.path.isabs(value):
                raise InvalidArg(
                    f"--backend-config=python,environment-cache-directory must be an absolute path, got '{value}'"
                )
        elif name in _NO_EFFECT:
            notes.append(
                f"--backend-config=python,{name} has no effect: Python models need no shared memory region and no "
                "stub process here"
            )
        elif name not in _OF_THE_SERVER:
            raise InvalidArg(
                f"--backend-config=python,{name}={value}: the Python backend has no setting '{name}', only 'isolation' "
                "and 'environment-cache-directory'"
            )
    return notes


def read_options(
    model: str, parameters: Mapping[str, str], settings: Mapping[str, str], processes: int = 1
) -> PythonOptions:
    """Of one model. `processes`: --model-processes."""
    environment = parameters.get("EXECUTION_ENV_PATH", "")
    asked = parameters.get("ISOLATION", "")
    isolated = _isolation(settings.get("isolation", IN_PROCESS), "--backend-config=python,isolation")
    if asked:
        isolated = _isolation(asked, f"parameter 'ISOLATION' of model '{model}'")
        if environment and not isolated:
            raise InvalidArg(
                f"parameter 'ISOLATION' of model '{model}' is '{asked}', but with EXECUTION_ENV_PATH it runs in a "
                "process of its own"
            )
    memory = parameters.get("FORCE_CPU_ONLY_INPUT_TENSORS", "yes")
    if memory not in ("yes", "no"):
        raise InvalidArg(
            f"Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: '{memory}', of model '{model}', expected 'yes' or 'no'"
        )
    isolated = isolated or bool(environment)
    gpu_inputs = memory == "no"
    process = _process(model, parameters, processes, isolated=isolated, stays=gpu_inputs)
    for name in ("EXECUTION_TIMEOUT_SECONDS", "MEMORY_LIMIT_BYTES"):
        if parameters.get(name) and not isolated:
            raise InvalidArg(
                f"parameter '{name}' of model '{model}' is for models that run in a process of their own: set "
                f"ISOLATION to '{ISOLATED}' as well"
            )
    if parameters.get("UNLOAD_TIMEOUT_SECONDS") and not isolated and process is None:
        raise InvalidArg(
            f"parameter 'UNLOAD_TIMEOUT_SECONDS' of model '{model}' is for models that run in a process of their own "
            "or in a model process: what runs in the server can not be ended"
        )
    return PythonOptions(
        isolated,
        environment,
        _seconds("EXECUTION_TIMEOUT_SECONDS", parameters, model),
        _limit_nbytes(parameters.get("MEMORY_LIMIT_BYTES", ""), model),
        gpu_inputs,
        _any_thread(parameters.get("ANY_THREAD", ""), model, isolated=isolated, process=process),
        process,
        _seconds("UNLOAD_TIMEOUT_SECONDS", parameters, model) or UNLOAD_TIMEOUT_S,
    )


def _process(
    model: str, parameters: Mapping[str, str], processes: int, *, isolated: bool, stays: bool
) -> str | None:
    """MODEL_PROCESS, None for a model that is in no model process. `stays`: it is in the server's, unless it asks."""
    asked = parameters.get("MODEL_PROCESS", "")
    if not asked:
        return None if isolated or stays or processes == 1 else ""
    what = f"parameter 'MODEL_PROCESS' of model '{model}'"
    if asked.isascii() and asked.isdigit() and len(asked) < 10:
        if int(asked) >= processes:
            raise InvalidArg(
                f"{what} is {asked}, but the server has --model-processes={processes}: 0 to {processes - 1}"
            )
    elif not _PROCESS_NAME.match(asked):
        raise InvalidArg(
            f"{what} must be the number of a model process, a name (a letter, then letters, digits, '_', '.' and '-', "
            f"64 at most), '{SPREAD}' or '{SERVER}', got '{asked}'"
        )
    if isolated:
        raise InvalidArg(f"{what} is '{asked}', but each of its instances has a process of its own")
    return None if asked == SERVER or processes == 1 else asked


def _any_thread(value: str, model: str, *, isolated: bool, process: str | None) -> bool | None:
    if value not in ("", "yes", "no"):
        raise InvalidArg(f"parameter 'ANY_THREAD' of model '{model}' must be 'yes' or 'no', got '{value}'")
    if value == "yes" and isolated:
        raise InvalidArg(
            f"parameter 'ANY_THREAD' of model '{model}' is for models that run in the server process, and this one "
            "runs in a process of its own"
        )
    if value == "yes" and process is not None:
        raise InvalidArg(
            f"parameter 'ANY_THREAD' of model '{model}' is for models that run in the server process, and this one "
            f"runs in a model process (--model-processes): leave it out, or set MODEL_PROCESS to '{SERVER}'"
        )
    return {"yes": True, "no": False}.get(value)


def _seconds(name: str, parameters: Mapping[str, str], model: str) -> float:
    value = parameters.get(name, "")
    if not value:
        return 0.0
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0.001 <= found <= EXECUTION_LIMIT_MAX_S:
        raise InvalidArg(
            f"parameter '{name}' of model '{model}' must be a number of seconds from 0.001 to "
            f"{EXECUTION_LIMIT_MAX_S}, got '{value}'"
        )
    return found


def _limit_nbytes(value: str, model: str) -> int:
    if not value:
        return 0
    found = int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0
    if found < MEMORY_LIMIT_LEAST_NBYTES:
        raise InvalidArg(
            f"parameter 'MEMORY_LIMIT_BYTES' of model '{model}' must be a number of bytes, {MEMORY_LIMIT_LEAST_NBYTES} "
            f"at least, got '{value}'"
        )
    return found


def _isolation(value: str, what: str) -> bool:
    if value not in (IN_PROCESS, ISOLATED):
        raise InvalidArg(f"{what} must be '{IN_PROCESS}' or '{ISOLATED}', got '{value}'")
    return value == ISOLATED
