"""Models that say and do things in model processes, and what tests ask of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from python_stage import IO, SECONDS, Stage, body

from triton_async.errors import ServerError

TWO = "--model-processes=2"
EXPLICIT = "--model-control-mode=explicit"
PID = body("""
import os
response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.array([os.getpid()], np.float64))])
""")
PID_IO = IO.replace('"OUT" data_type: TYPE_FP32', '"OUT" data_type: TYPE_FP64')
# Says where it is, and does what it is told first.
ACTS = """
import os, sys, threading, time

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            act, *rest = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().tolist()
            {1: lambda: time.sleep(rest[0]), 2: lambda: os._exit(3), 3: sys.exit, 0: lambda: None}[int(act)]()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([os.getpid()], np.float64))])
                for _ in requests]
"""
PASS, SLEEP, EXIT = 0, 1, 2
INSTANCES = "triton_async_model_process_instances"


def instances(line: str) -> int:
    return int(float(line.rsplit(maxsplit=1)[-1]))


def parameter(value: str, key: str = "MODEL_PROCESS") -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def pid(server: Stage, model: str) -> int:
    return int(server.ask(model, [PASS])[0])


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(server: Stage, model: str) -> bool:
    try:
        return pid(server, model) > 0
    except ServerError:
        return False
