"""TensorRT on a GPU: what TensorRT-RTX can do with this one, and plans against ONNX Runtime on the CPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "backends"))

from onnx import TensorProto, helper, numpy_helper
from tensorrt_models import parameters

from triton_async.backends.base import LoadContext, execute_requests
from triton_async.backends.registry import BackendRegistry
from triton_async.backends.tensorrt.api import Library, open_library
from triton_async.backends.tensorrt.build import BuildOptions, Network
from triton_async.backends.tensorrt.options import ShapeRange
from triton_async.config.load import load
from triton_async.config.model_config import InstanceKind, freeze
from triton_async.core.opening import make_signature
from triton_async.errors import InternalError, ServerError, Unsupported
from triton_async.infer.request import InferRequest
from triton_async.infer.response import InferResponse
from triton_async.infer.tensor import from_numpy
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

pytestmark = pytest.mark.gpu

RANDOM = np.random.default_rng(7)
IMAGE = (3, 32, 32)


def cnn(batch: int | str = "n") -> Any:
    """ONNX: `image` [batch, 3, 32, 32] -> `scores` [batch, 10]: convolution, pooling, a matrix product."""

    def weight(name: str, *shape: int) -> Any:
        values = RANDOM.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1)
        return numpy_helper.from_array(values.astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *IMAGE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        [weight("w", 16, 3, 3, 3), weight("b", 16), weight("m", 16, 10)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def pools() -> Iterator[Any]:
    made = Pools(SlabPool(1 << 24))
    yield made
    made.close()


def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return open_library("rtx")


def installed() -> Library:
    try:
        return open_library()
    except Unsupported as error:
        pytest.skip(error.message)


RANGES = BuildOptions(({"image": ShapeRange((1, *IMAGE), (8, *IMAGE), (16, *IMAGE))},), -1, 0, "")


def build(library: Library, on_device: bool) -> bytes:
    network = Network(library, cnn().SerializeToString(), Path("/nowhere/model.onnx"))
    return network.build(RANGES, "cnn", on_device)


@pytest.fixture(scope="module")
def working(pools: Any) -> Library:
    """The library that a server takes, when it can build and open plans for this GPU; else the test is skipped."""
    library = installed()
    pools.devices.use(0)
    try:
        library.engine(build(library, on_device=True), host_code=False)
    except InternalError as error:
        pytest.skip(f"{library.name} {library.version} cannot use this GPU: {error.message[:300]}")
    return library


# -- what TensorRT-RTX makes of this GPU -----------------------------------------------------------


def test_what_tensorrt_rtx_can_do_here(pools: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Reports, step by step, and fails only by a crash: compute capability 9.0 is in no support matrix."""
    library = rtx()
    devices = pools.devices
    devices.use(0)
    info = devices.infos[0]
    said = [f"{library.name} {library.version} on {info.name}, compute capability {info.compute_capability}"]
    everywhere = build(library, on_device=False)
    runtime = library.trt.Runtime(library.logger)
    if hasattr(runtime, "get_engine_validity"):
        header = everywhere[: runtime.engine_header_size]
        said.append(f"validity of the plan for all GPUs: {runtime.get_engine_validity(header)}")
    plans = {"the plan for all GPUs": everywhere}
    try:
        plans["the plan for this GPU"] = build(library, on_device=True)
    except InternalError as error:
        said.append(f"no plan for this GPU: {error.message}")
    for what, plan in plans.items():
        try:
            _, engine = library.engine(plan, host_code=False)
        except InternalError as error:
            said.append(f"{what} does not open: {error.message}")
            continue
        said.append(f"{what} opens, {engine.num_io_tensors} tensors")
        context = engine.create_execution_context()
        said.append(f"its execution context: {'made' if context is not None else library.messages.take()}")
    with capsys.disabled():
        print("\n" + "\n".join(said))
    assert len(said) > 1


# -- plans against ONNX Runtime --------------------------------------------------------------------


class Served:
    """A model directory, loaded as a server does it, with instances on GPU 0."""

    def __init__(
        self, root: Path, pools: Any, made: Any, text: str = "", *, instances: int = 1, cache: Path | None = None
    ) -> None:
        self.directory = root / "m"
        (self.directory / "1").mkdir(parents=True, exist_ok=True)
        onnx.save(made, self.directory / "1" / "model.onnx")
        (self.directory / "config.pbtxt").write_text("backend: 'tensorrt'\n" + text)
        self.reference = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        settings = {"plan-cache-directory": str(cache or root / "plans")}
        backend = BackendRegistry({"tensorrt": settings}, pools).get("tensorrt")
        config = load(self.directory, "m", inspect=lambda name, path, proto: backend.inspect(path, proto))
        for group in config.proto.instance_group:
            group.kind = InstanceKind.GPU
            group.gpus[:] = [0]
        self.config = freeze(config.proto)
        self.signature = make_signature(self.config, 1, self.directory)
        path = self.directory / "1" / self.config.default_model_filename
        self.pool = SlabPool(1 << 24)
        context = LoadContext(self.config, 1, path, self.signature, self.pool, backend.settings, pools)
        self.model = backend.load(context)
        group = self.config.instance_groups[0]
        self.instances = [self.model.create_instance(f"m_{index}", group, 0) for index in range(instances)]

    def check(self, *sizes: int, instance: int = 0) -> None:
        """One batch of requests with so many rows each: what ONNX Runtime gives for each."""
        images = [RANDOM.standard_normal((rows, *IMAGE)).astype(np.float32) for rows in sizes]
        requests = [InferRequest("m", inputs=[from_numpy("image", image)]) for image in images]
        responses = execute_requests(self.instances[instance], self.signature, requests)
        for image, response in zip(images, responses, strict=True):
            np.testing.assert_allclose(scores(response), self.expected(image), rtol=1e-2, atol=1e-2)

    def expected(self, image: np.ndarray) -> Any:
        return self.reference.run(None, {"image": image})[0]

    def close(self) -> None:
        for instance in self.instances:
            instance.close()
        self.model.close()


def scores(response: InferResponse) -> Any:
    if response.error is not None:
        raise response.error
    return response.outputs[0].numpy().copy()


@pytest.fixture
def serve(tmp_path: Path, pools: Any, working: Library) -> Iterator[Any]:
    """Makes a Served, and closes it."""
    made: list[Served] = []

    def make(model: Any, text: str = "", **more: Any) -> Served:
        made.append(Served(tmp_path / str(len(made)), pools, model, text, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


SIXTEEN = "max_batch_size: 16\n"


def test_batches_of_every_size(serve: Any) -> None:
    served = serve(cnn(), SIXTEEN)
    for sizes in ((1,), (16,), (3, 2), (1,) * 16, (7, 9), (5,)):
        served.check(*sizes)


def test_the_largest_batch_is_completed(serve: Any) -> None:
    served = serve(cnn(), parameters(
        trt_profile_min_shapes="image:1x3x32x32",
        trt_profile_opt_shapes="image:4x3x32x32",
        trt_profile_max_shapes="image:8x3x32x32",
    ) + "max_batch_size: 8")  # fmt: skip
    served.check(8)
    served.check(1, 2, 3)


def test_a_batch_size_that_the_model_fixes(serve: Any) -> None:
    served = serve(cnn(4))
    assert served.config.max_batch_size == 0
    served.check(4)


def test_a_plan_of_one_batch_size(serve: Any, tmp_path: Path) -> None:
    """A plan whose batch is fixed is padded; the plan is the one that is built from the ONNX model."""
    first = serve(cnn(4))
    plan = next((first.directory.parent / "plans").glob("*.plan")).read_bytes()
    header = plan.index(b"\n") + 1 + 32 + 32 + 8
    path = tmp_path / "fixed" / "m" / "1" / "model.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(plan[header:])
    again = Served(tmp_path / "fixed", first.model._pools, cnn(4), cache=tmp_path / "none")
    try:
        assert again.config.max_batch_size == 4
        images = RANDOM.standard_normal((4, *IMAGE)).astype(np.float32)
        expected = first.expected(images)
        for rows in (1, 3, 4, 2):
            one = InferRequest("m", inputs=[from_numpy("image", images[:rows])])
            (response,) = execute_requests(again.instances[0], again.signature, [one])
            np.testing.assert_allclose(scores(response), expected[:rows], rtol=1e-2, atol=1e-2)
            del response
    finally:
        again.close()


def test_two_profiles(serve: Any) -> None:
    text = SIXTEEN + "instance_group { kind: KIND_AUTO profile: ['0', '1'] }\n" + parameters(
        trt_profile_min_shapes="image:1x3x32x32,image:5x3x32x32",
        trt_profile_opt_shapes="image:1x3x32x32,image:16x3x32x32",
        trt_profile_max_shapes="image:4x3x32x32,image:16x3x32x32",
    )  # fmt: skip
    served = serve(cnn(), text)
    for sizes in ((1,), (16,), (4,), (5,), (2,), (8, 8)):
        served.check(*sizes)


def test_cuda_graphs(serve: Any, working: Library) -> None:
    served = serve(cnn(), SIXTEEN + "optimization { cuda { graphs: true } }")
    if not working.is_rtx:
        assert served.instances[0].graph_count > 0
    for sizes in ((1,), (16,), (5,), (1,), (3, 1), (16,), (12,)):
        served.check(*sizes)


def test_instances_at_the_same_time(serve: Any) -> None:
    served = serve(cnn(), SIXTEEN, instances=2)
    failed: list[BaseException] = []

    def work(instance: int) -> None:
        try:
            served.model._devices.use(0)
            for index in range(50):
                served.check(1 + index % 16, instance=instance)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_a_plan_is_kept(serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "triton_async.tensorrt")
    model = cnn()
    for _ in range(2):
        serve(model, SIXTEEN, cache=tmp_path / "plans").check(3)
    assert sum(record.getMessage().startswith("built the plan") for record in caplog.records) == 1


def test_the_memory_of_a_gpu_comes_back(tmp_path: Path, pools: Any, working: Library) -> None:
    model = cnn()

    def once(name: str) -> int:
        served = Served(tmp_path / name, pools, model, SIXTEEN, instances=2, cache=tmp_path / "plans")
        served.check(16)
        served.close()
        free, _ = pools.devices.memory_info(0)
        return int(free)

    once("warm")
    assert once("first") - once("second") < 1 << 20


def test_a_file_that_is_no_plan(tmp_path: Path, pools: Any, working: Library) -> None:
    path = tmp_path / "m" / "1" / "model.plan"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no plan" * 100)
    with pytest.raises(ServerError, match="unable to load plan file to auto complete config: unable to create"):
        Served(tmp_path, pools, cnn())
