"""CPU time per run: our instance on ONNX Runtime's C API against the Python package with IO binding.

`ours` is a whole batch of one request: request, validation, batch, run, response. `floor` is the same with the
`identity` backend, so `ours - floor` is what the instance and the engine cost. Each figure is the least of several
rounds, in µs of CPU time; for ResNet also of wall time.

    python bench/micro/onnxruntime_binding.py
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from triton_async.backends.base import execute_requests
from triton_async.backends.identity import IdentityInstance
from triton_async.backends.onnxruntime.api import Environment, Library
from triton_async.backends.onnxruntime.instance import OnnxRuntimeInstance
from triton_async.backends.onnxruntime.options import SessionSettings, usable_cores
from triton_async.backends.onnxruntime.session import Session
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool

FP32 = 11
ROUNDS = 9
QUIET = (("session.intra_op.allow_spinning", "0"), ("session.inter_op.allow_spinning", "0"))


def add_sub_model() -> Any:
    nodes = [helper.make_node(op, ["INPUT0", "INPUT1"], [f"OUTPUT{i}"]) for i, op in enumerate(("Add", "Sub"))]
    values = [
        [helper.make_tensor_value_info(f"{what}{i}", TensorProto.FLOAT, ["n", 16]) for i in (0, 1)]
        for what in ("INPUT", "OUTPUT")
    ]
    return _model(nodes, *values, [])


def resnet18_model() -> Any:
    """The architecture with random weights; batch normalisation folded into the convolutions."""
    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []
    names: Iterator[str] = (f"t{i}" for i in range(1000))

    def conv(x: str, channels: int, out: int, size: int, *, stride: int = 1, relu: bool = True) -> str:
        name, y = next(names), next(names)
        weight = (random.standard_normal((out, channels, size, size)) / (channels * size)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(weight, name))
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", [x, name], [y], strides=[stride] * 2, pads=pads))
        return act(y) if relu else y

    def act(x: str) -> str:
        y = next(names)
        nodes.append(helper.make_node("Relu", [x], [y]))
        return y

    x = conv("x", 3, 64, 7, stride=2)
    pooled = next(names)
    nodes.append(helper.make_node("MaxPool", [x], [pooled], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, channels = pooled, 64
    for out in (64, 128, 256, 512):
        for block in (0, 1):
            stride = 2 if block == 0 and out > 64 else 1
            skip = x if out == channels else conv(x, channels, out, 1, stride=stride, relu=False)
            inner = conv(conv(x, channels, out, 3, stride=stride), out, out, 3, relu=False)
            total = next(names)
            nodes.append(helper.make_node("Add", [inner, skip], [total]))
            x, channels = act(total), out
    weights.append(onnx.numpy_helper.from_array(random.standard_normal((512, 1000)).astype(np.float32), "fc"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "fc"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])]
    return _model(nodes, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])], weights)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Any:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def least(run: Callable[[], object], count: int, rounds: int = ROUNDS) -> tuple[float, float]:
    """CPU and wall µs per call, of all threads."""
    for _ in range(max(2, count // 10)):
        run()
    cpu, wall = [], []
    for _ in range(rounds):
        cpu_start, start = time.process_time_ns(), time.perf_counter_ns()
        for _ in range(count):
            run()
        cpu.append((time.process_time_ns() - cpu_start) / count / 1000)
        wall.append((time.perf_counter_ns() - start) / count / 1000)
    return min(cpu), min(wall)


def signature(outputs: dict[str, tuple[int, ...]], inputs: dict[str, np.ndarray]) -> ModelSignature:
    return ModelSignature(
        "m",
        1,
        [TensorSpec(name, FP32, array.shape[1:]) for name, array in inputs.items()],
        [TensorSpec(name, FP32, dims) for name, dims in outputs.items()],
        64,
    )


def ours(path: Path, settings: SessionSettings, inputs: dict[str, np.ndarray], outputs: dict[str, Any]) -> Any:
    session = Session(Environment(Library()), path, settings)
    signed = signature(outputs, inputs)
    instance = OnnxRuntimeInstance("m_0", session, signed, SlabPool(1 << 28))
    tensors = [from_numpy(name, array) for name, array in inputs.items()]
    return lambda: execute_requests(instance, signed, [InferRequest("m", inputs=tensors)])


def floor(inputs: dict[str, np.ndarray]) -> Any:
    signed = signature({f"OUTPUT{i}": array.shape[1:] for i, array in enumerate(inputs.values())}, inputs)
    instance = IdentityInstance("m_0", SlabPool(1 << 28), 0)
    tensors = [from_numpy(name, array) for name, array in inputs.items()]
    return lambda: execute_requests(instance, signed, [InferRequest("m", inputs=tensors)])


def python_session(path: Path, threads: int, spin: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def io_binding(session: Any, inputs: dict[str, np.ndarray], outputs: dict[str, Any]) -> Any:
    binding = session.io_binding()

    def run() -> list[Any]:
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        found = [value.numpy() for value in binding.get_outputs()]
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        return found

    return run


def small(path: Path) -> None:
    inputs = {f"INPUT{i}": np.ones((1, 16), np.float32) for i in (0, 1)}
    outputs = {f"OUTPUT{i}": (16,) for i in (0, 1)}
    settings = SessionSettings(intra_op_threads=1, inter_op_threads=1, entries=QUIET)
    session = python_session(path, 1, False)
    rows = {
        "floor: identity backend": floor(inputs),
        "ours, whole batch": ours(path, settings, inputs, outputs),
        "ours, no arena": ours(path, replace(settings, mem_arena=False), inputs, outputs),
        "python: run()": lambda: session.run(None, inputs),
        "python: IO binding": io_binding(session, inputs, outputs),
    }
    print("add_sub FP32[1,16], 1 thread: CPU µs per run")
    found = {name: least(run, 20_000)[0] for name, run in rows.items()}
    for name, cpu in found.items():
        print(f"  {name:28} {cpu:8.2f}")
    engine = found["ours, whole batch"] - found["floor: identity backend"]
    print(f"  {'ours - floor':28} {engine:8.2f}")


def large(path: Path) -> None:
    inputs = {"x": np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
    outputs = {"y": (1000,)}
    cores = usable_cores()
    print(f"ResNet-18 FP32[1,3,224,224]: CPU and wall µs per run ({cores} cores); CPU with 20 ms between runs")
    for threads in sorted({1, cores}):
        for spin in (False, True):
            entries = tuple((key, str(int(spin))) for key, _ in QUIET)
            settings = SessionSettings(intra_op_threads=threads, inter_op_threads=1, entries=entries)
            session = python_session(path, threads, spin)
            for name, run in (
                ("ours", ours(path, settings, inputs, outputs)),
                ("python: IO binding", io_binding(session, inputs, outputs)),
            ):
                cpu, wall = least(run, 8, 5)
                paced, _ = least(lambda run=run: (run(), time.sleep(0.02)), 8, 3)
                print(f"  {name:20} threads {threads} spinning {int(spin)} {cpu:10.0f} {wall:10.0f} {paced:10.0f}")


def sharing(path: Path, threads: int, shared: bool) -> None:
    """Two instances at a time, with one session or one each: runs per second, CPU µs per run, resident memory."""
    inputs = {"x": np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
    settings = SessionSettings(intra_op_threads=threads, inter_op_threads=1, entries=QUIET)
    environment, signed, pool = Environment(Library()), signature({"y": (1000,)}, inputs), SlabPool(1 << 28)
    before, count = resident(), 10
    first = Session(environment, path, settings)
    sessions = [first, first if shared else Session(environment, path, settings)]
    instances = [OnnxRuntimeInstance(f"m_{i}", session, signed, pool) for i, session in enumerate(sessions)]
    tensors = [from_numpy(name, array) for name, array in inputs.items()]

    def work(instance: Any) -> None:
        for _ in range(count):
            execute_requests(instance, signed, [InferRequest("m", inputs=tensors)])

    best, cpu = 0.0, 1e30
    for _ in range(5):
        start, cpu_start = time.perf_counter(), time.process_time()
        workers = [threading.Thread(target=work, args=(instance,)) for instance in instances]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 2 * count / (time.perf_counter() - start))
        cpu = min(cpu, (time.process_time() - cpu_start) / 2 / count * 1e6)
    memory = (resident() - before) / 2**20
    kind = "shared" if shared else "one each"
    print(f"  threads {threads} {kind:9} {best:9.1f} runs/s {cpu:9.0f} µs {memory:6.0f} MiB", flush=True)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    print(f"onnxruntime {Library().version}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        onnx.save(add_sub_model(), root / "add_sub.onnx")
        onnx.save(resnet18_model(), root / "resnet18.onnx")
        small(root / "add_sub.onnx")
        large(root / "resnet18.onnx")
        print("ResNet-18, two instances at the same time", flush=True)
        for threads in sorted({1, usable_cores()}):
            for shared in (True, False):
                # A process each: memory that an earlier session gave back would be counted as free.
                process = multiprocessing.get_context("spawn").Process(
                    target=sharing, args=(root / "resnet18.onnx", threads, shared)
                )
                process.start()
                process.join()


if __name__ == "__main__":
    main()
