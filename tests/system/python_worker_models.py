"""Python models for tests of worker processes: what they do is said by their requests."""

from __future__ import annotations

from pathlib import Path

ECHO = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.kept = []

    def execute(self, requests):
        responses = []
        for request in requests:
            outputs = []
            for tensor in request.inputs():
                array = tensor.as_numpy()
                assert array.flags.writeable and array.flags.c_contiguous
                outputs.append(pb_utils.Tensor(tensor.name() + "_OUT", array))
            if "keep" in request.parameters():
                self.kept = [tensor.as_numpy() for tensor in request.inputs()]
            if "kept" in request.parameters():
                outputs = [pb_utils.Tensor("N_OUT", array) for array in self.kept]
            responses.append(pb_utils.InferenceResponse(outputs, parameters={"pid": os.getpid()}))
        return responses
"""

ACTS = """
import ctypes, os, signal, subprocess, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        act, _, rest = pb_utils.get_input_tensor_by_name(request, "ACT").as_numpy()[0].decode().partition(" ")
        said = getattr(self, act)(request, rest)
        return pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array([str(said)], dtype=object))])

    def pid(self, request, rest):
        return os.getpid()

    def exit(self, request, rest):
        os._exit(int(rest))

    def kill(self, request, rest):
        os.kill(os.getpid(), int(rest))
        time.sleep(10)

    def spin(self, request, rest):
        while True:
            pass

    def sleep(self, request, rest):
        time.sleep(float(rest))
        return "slept"

    def eat(self, request, rest):
        return len(bytearray(int(rest)))

    def close(self, request, rest):
        pb_utils.Logger._context.channel._socket.close()
        time.sleep(10)

    def hold(self, request, rest):
        def hold():
            time.sleep(0.3)  # by then the execution is over
            ctypes.PyDLL(None).sleep(int(rest))  # keeps the GIL

        threading.Thread(target=hold).start()
        return "will hold"

    def child(self, request, rest):
        return subprocess.Popen(["sleep", "600"]).pid

    def descriptors(self, request, rest):
        return sorted(os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd")
                      if int(name) > 2 and os.path.exists("/proc/self/fd/" + name))

    def group(self, request, rest):
        return os.getpgid(0) == os.getpid() and os.getpgid(os.getppid()) != os.getpid()

    def variable(self, request, rest):
        return os.environ.get(rest)

    def cancelled(self, request, rest):
        until = time.monotonic() + float(rest)
        while time.monotonic() < until:
            if request.is_cancelled():
                return "cancelled"
            time.sleep(0.02)
        return "not cancelled"

    def log(self, request, rest):
        pb_utils.Logger.log_warn(rest)
        return "logged"

    def metric(self, request, rest):
        if not hasattr(self, "family"):
            self.family = pb_utils.MetricFamily("worker_counts", "what a worker counts", pb_utils.MetricFamily.COUNTER)
            self.counter = self.family.Metric(labels={"a": "b"})
        self.counter.increment(float(rest))
        return self.counter.value()

    def refused_metric(self, request, rest):
        try:
            self.metric(request, "-1")
        except pb_utils.TritonModelException as error:
            return error

    def raises(self, request, rest):
        raise ValueError(rest)

    def lie(self, request, rest):
        wire = sys.modules["triton_async_worker.wire"]
        channel = pb_utils.Logger._context.channel
        source = request._source
        u64 = lambda value: int(value).to_bytes(8, "little")
        head = bytes([wire.RESPONSE]) + u64(source.handle)
        text = lambda value: len(value).to_bytes(2, "little") + value
        ok = bytes([wire.FINAL | wire.HAS_RESPONSE]) + b"\\0\\0\\0\\0" + b"\\1\\0" + text(b"SAID")
        lies = {
            "unknown kind": b"\\xfe",
            "kind of the server": bytes([wire.REQUEST]) + bytes(60),
            "cut": head,
            "other handle": bytes([wire.RESPONSE]) + u64(1 << 40) + bytes([wire.FINAL]),
            "other handle released": bytes([wire.RELEASED]) + u64(1 << 63) + b"\\0",
            "released first": bytes([wire.RELEASED]) + u64(source.handle) + b"\\0",
            "no response": head + b"\\0",
            "end without": head + bytes([wire.FINAL]),
            "done twice": (bytes([wire.DONE]) + u64(1 << 40) + u64(0)) * 2,
            "free": bytes([wire.FREE]) + u64(12345678),
            "datatype": head + ok + bytes([99, 1, 0]) + u64(1) + u64(0),
            "rank": head + ok + bytes([11, 200, 0]) + bytes(1700),
            "negative": head + ok + bytes([11, 1, 0]) + b"\\xff" * 8 + u64(4),
            "overflow": head + ok + bytes([11, 2, 0]) + u64(1 << 62) + u64(1 << 62) + u64(0),
            "bytes overflow": head + ok + bytes([11, 1, 1]) + u64((1 << 62) + 1) + u64(4) + u64(0),
            "size": head + ok + bytes([11, 1, 0]) + u64(2) + u64(4) + b"abcd",
            "outside": head + ok + bytes([11, 1, 1]) + u64(1 << 20) + u64(4 << 20) + u64((1 << 63) + 5),
            "at the end": head + ok + bytes([11, 1, 1]) + u64(1) + u64(4) + u64(channel._out._memory.nbytes - 3),
            "place": head + ok + bytes([11, 1, 7]) + u64(1) + u64(4) + u64(0),
            "strings": head + ok + bytes([13, 1, 0]) + u64(1) + u64(8) + b"\\xff\\xff\\xff\\x7fabcd",
            "many strings": head + ok + bytes([13, 1, 0]) + u64(1 << 60) + u64(4) + b"\\0\\0\\0\\0",
            "not utf-8": head + bytes([wire.FINAL | wire.HAS_ERROR]) + bytes(4) + b"\\1\\0\\0\\0\\xff",
            "not json": head + bytes([wire.FINAL | wire.HAS_RESPONSE]) + b"\\1\\0\\0\\0[" + b"\\0\\0",
            "deep json": bytes([wire.CALL]) + u64(0) + (60000).to_bytes(4, "little") + b"[" * 60000,
            "nested parameter": head + bytes([wire.FINAL | wire.HAS_RESPONSE]) + b"\\7\\0\\0\\0" + b'{"a":{}' + b"}" +
                b"\\0\\0",
            "spilled outside": bytes([wire.SPILLED]) + u64(1 << 62) + u64(1 << 62),
            "spilled itself": bytes([wire.SPILLED]) + u64(0) + u64(17),
            "many tensors": head + bytes([wire.FINAL | wire.HAS_RESPONSE]) + b"\\0\\0\\0\\0" + b"\\xff\\xff",
            "finalized": bytes([wire.FINALIZED]),
        }
        if rest == "all":
            return "|".join(lies)
        if rest == "spilled itself":
            channel._out._memory.map[0:17] = lies[rest]
        channel._socket.send(lies[rest])
        time.sleep(10)
"""

STREAM = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(pb_utils.get_input_tensor_by_name(request, "COUNT").as_numpy().reshape(-1)[0])
            threading.Thread(target=self.send, args=(request.get_response_sender(), count)).start()

    def send(self, sender, count):
        if count < 0:
            return
        for number in range(count):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("N", np.array([number], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

CALLER = """
import asyncio
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy()[0].decode()
        said = getattr(self, how)()
        return pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array([str(said)], dtype=object))])

    def request(self, value, model="echo"):
        return pb_utils.InferenceRequest(
            inputs=[pb_utils.Tensor("N", np.full([1, 2], value, np.float32))], requested_output_names=["N_OUT"],
            model_name=model)

    def value(self, response):
        if response.has_error():
            return response.error().message()
        return pb_utils.get_output_tensor_by_name(response, "N_OUT").as_numpy()[0, 0]

    def plain(self):
        return self.value(self.request(4).exec())

    def several(self):
        async def run():
            return await asyncio.gather(*[self.request(n).async_exec() for n in range(20)])
        return [int(self.value(response)) for response in asyncio.run(run())]

    def large(self):
        array = np.arange(1 << 20, dtype=np.float32).reshape(1, -1)
        request = pb_utils.InferenceRequest(inputs=[pb_utils.Tensor("N", array)], requested_output_names=["N_OUT"],
                                            model_name="echo")
        return np.array_equal(request.exec().output_tensors()[0].as_numpy(), array)

    def unknown(self):
        return self.value(self.request(4, "nothing").exec())

    def decoupled(self):
        request = pb_utils.InferenceRequest(inputs=[pb_utils.Tensor("COUNT", np.array([200], np.int32))],
                                            requested_output_names=["N"], model_name="stream")
        return [int(r.output_tensors()[0].as_numpy()[0]) for r in request.exec(decoupled=True) if r.output_tensors()]

    def ready(self):
        return [pb_utils.is_model_ready("echo"), pb_utils.is_model_ready("nothing")]
"""

READIES = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    answer = True

    def is_ready(self):
        if self.answer == "raise":
            raise ValueError("not today")
        return self.answer

    def execute(self, requests):
        for request in requests:
            act = pb_utils.get_input_tensor_by_name(request, "ACT").as_numpy()[0].decode()
            if act == "sleep":
                time.sleep(2)
            else:
                self.answer = {"yes": True, "no": False, "raise": "raise"}[act]
        said = pb_utils.Tensor("SAID", np.array(["done"], dtype=object))
        return [pb_utils.InferenceResponse([said]) for _ in requests]
"""

_HEAD = 'backend: "python"\n{more}\nparameters {{ key: "ISOLATION" value {{ string_value: "process" }} }}\n'
_STRING_IO = """input [{{ name: "{0}" data_type: TYPE_STRING dims: [1] }}]
output [{{ name: "SAID" data_type: TYPE_STRING dims: [1] }}]
"""


def config(more: str, **parameters: str) -> str:
    """Text of a config.pbtxt of an isolated model."""
    text = _HEAD.format(more=more)
    for name, value in parameters.items():
        text += f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'
    return text


ACTS_IO = _STRING_IO.format("ACT")
ECHO_IO = """max_batch_size: 8
dynamic_batching { }
input [
  { name: "N" data_type: TYPE_FP32 dims: [-1] optional: true },
  { name: "S" data_type: TYPE_STRING dims: [-1] optional: true },
  { name: "I" data_type: TYPE_INT64 dims: [-1] optional: true },
  { name: "H" data_type: TYPE_FP16 dims: [-1] optional: true }
]
output [
  { name: "N_OUT" data_type: TYPE_FP32 dims: [-1] }, { name: "S_OUT" data_type: TYPE_STRING dims: [-1] },
  { name: "I_OUT" data_type: TYPE_INT64 dims: [-1] }, { name: "H_OUT" data_type: TYPE_FP16 dims: [-1] }
]
"""
STREAM_IO = """model_transaction_policy { decoupled: true }
input [{ name: "COUNT" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "N" data_type: TYPE_INT32 dims: [1] }]
"""


def add(repository: Path, name: str, source: str, text: str) -> None:
    """Adds a model to a repository."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(source)
    (repository / name / "config.pbtxt").write_text(text)


def build(repository: Path) -> None:
    add(repository, "echo", ECHO, config(ECHO_IO))
    add(repository, "acts", ACTS, config(ACTS_IO))
    for name in ("stopped", "idle_stopped", "holding"):
        add(repository, name, ACTS, config(ACTS_IO))
    add(repository, "timed", ACTS, config(ACTS_IO, EXECUTION_TIMEOUT_SECONDS="0.5"))
    add(repository, "bounded", ACTS, config(ACTS_IO, MEMORY_LIMIT_BYTES=str(1 << 29)))
    add(repository, "pair", ACTS, config(ACTS_IO + "instance_group [{ count: 2 kind: KIND_CPU }]"))
    add(repository, "readies", READIES, config(ACTS_IO))
    add(repository, "stream", STREAM, config(STREAM_IO))
    add(repository, "caller", CALLER, config(_STRING_IO.format("HOW")))
