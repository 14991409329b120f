"""Tensors of Python models: what arrays they give and take, and who sees what is written into them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from python_stage import body, request, stage, write

from triton_async import datatypes
from triton_async.backends.python.worker import api, tensors
from triton_async.backends.python.worker.tensors import Tensor, TritonModelException
from triton_async.infer.tensor import make

LARGE = 1 << 16  # elements whose bytes are passed on without a copy where that can be

TYPES = {
    "BOOL": np.array([True, False]), "UINT8": np.uint8([1, 255]), "UINT16": np.uint16([1, 2]),
    "UINT32": np.uint32([1, 2]), "UINT64": np.uint64([1, 2**64 - 1]), "INT8": np.int8([-1, 2]),
    "INT16": np.int16([-1, 2]), "INT32": np.int32([-1, 2]), "INT64": np.int64([-1, 2**63 - 1]),
    "FP16": np.float16([0.5, 2]), "FP32": np.float32([0.5, np.inf]), "FP64": np.float64([0.5, 2]),
    "STRING": np.array([b"a", b"", b"\xff\x00"], np.object_),
}  # fmt: skip


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_there_and_back(tmp_path: Path, name: str) -> None:
    write(tmp_path, "m", body("""
        assert x.flags.writeable and x.flags.c_contiguous and x.flags.aligned
        assert x is pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        number = pb_utils.get_input_tensor_by_name(request, "IN").triton_dtype()
        assert x.dtype == pb_utils.triton_to_numpy_type(number)
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])
    """), f"""
        input {{ name: "IN" data_type: TYPE_{name} dims: [-1, -1] }}
        output {{ name: "OUT" data_type: TYPE_{name} dims: [-1, -1] }}
    """)  # fmt: skip
    array = TYPES[name].reshape(1, -1)
    with stage(tmp_path) as server:
        for given in (array, np.tile(array, (300, 100)), array[:, :0]):
            assert np.array_equal(server.infer(request("m", IN=given))["OUT"], given)


def test_bf16(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        class TritonPythonModel:
            def execute(self, requests):
                tensor = requests[0].inputs()[0]
                try:
                    tensor.as_numpy()
                except pb_utils.TritonModelException as error:
                    assert "Use to_dlpack() and from_dlpack() instead." in str(error)
                assert tensor.shape() == [3] and tensor.is_cpu() and tensor.triton_dtype() == 14
                made = pb_utils.Tensor.from_dlpack("OUT", tensor.to_dlpack())
                return [pb_utils.InferenceResponse([made, requests[0].inputs()[0]])]
    """, """
        input { name: "IN" data_type: TYPE_BF16 dims: -1 }
        output { name: "OUT" data_type: TYPE_BF16 dims: -1 }
    """)  # fmt: skip
    bits = np.uint16([0x3F80, 0x4000, 0xFFFF])
    with stage(tmp_path) as server:
        (response,) = server.send(request("m", IN=make("IN", datatypes.from_name("BF16"), (3,), bits.tobytes()))).all()
        assert response.error is None, response.error
        assert response.outputs[0].datatype == datatypes.from_name("BF16")
        assert response.outputs[0].numpy().tolist() == bits.tolist()


@pytest.mark.parametrize("size", [4, LARGE])
def test_what_is_written_later_is_not_sent(tmp_path: Path, size: int) -> None:
    """An array that the model keeps, or a view of which it keeps, is sent as it is when `execute` returns."""
    write(tmp_path, "m", body("""
        kind = int(x[0])
        if not hasattr(self, "kept"):
            self.kept = np.empty(x.shape, np.float32)
            self.tensor = pb_utils.Tensor("OUT", self.kept)
            self.made = pb_utils.InferenceResponse([self.tensor])
        if kind != 9:
            self.kept[:] = x
        if kind == 9:
            self.kept[:] = -1
            if hasattr(self, "view"):
                self.view[:] = -1
            if hasattr(self, "memory"):
                self.memory[:] = bytes(len(self.memory))
            response = pb_utils.InferenceResponse()
        elif kind == 0:
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.kept)])
        elif kind == 1:
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.kept[:])])
        elif kind == 2:
            response = pb_utils.InferenceResponse([self.tensor])
        elif kind == 3:
            response = self.made
        elif kind == 4:
            fresh = x + 0
            self.view = fresh[1:]
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", fresh)])
        else:
            memory = bytearray(x.tobytes())
            self.memory = memory
            response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.frombuffer(memory, np.float32))])
    """))
    with stage(tmp_path) as server:
        for kind in range(6):
            first = server.send(request("m", IN=np.full(size, kind, np.float32))).all()[0]
            server.infer(request("m", IN=np.full(size, 9, np.float32)))
            assert (first.outputs[0].numpy() == kind).all(), kind


def test_a_change_between_tensor_and_return_is_sent(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        y = x + 0
        tensor = pb_utils.Tensor("OUT", y)
        response = pb_utils.InferenceResponse([tensor])
        y[0] = 7
    """))
    with stage(tmp_path) as server:
        assert server.ask("m", [1, 2]).tolist() == [7, 2]


def test_a_large_output_that_nobody_else_has_is_not_copied(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        y = x + 1
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", y)])
        del y
    """))
    write(tmp_path, "same", body("response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', x)])"))
    write(tmp_path, "passed", """
        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse([passed(r.inputs()[0])]) for r in requests]

        def passed(tensor):
            tensor._name = "OUT"
            return tensor
    """)
    with stage(tmp_path) as server:
        for name in ("m", "same", "passed"):
            for leased in (0, 1):
                given = np.zeros(LARGE, np.float32)
                if leased:  # as front-ends receive it: memory that is the request's own
                    buffer = server.pools.host.acquire(given.nbytes)
                    memoryview(buffer)[:] = given.tobytes()
                    given = make("IN", datatypes.from_name("FP32"), (LARGE,), buffer)
                    del buffer
                made = request(name, IN=given)
                del given
                response = server.send(made).all()[0]
                # Not a slab more than the request's own: the output lies in the model's array, or in the input.
                assert server.pools.host.leased == leased, name
                assert response.outputs[0].numpy()[0] == (1 if name == "m" else 0)
                del response, made
                server.statistics(name)  # once the request is over
                wait_until(lambda: server.pools.host.leased == 0)


def test_inputs_are_the_requests_own(tmp_path: Path) -> None:
    write(tmp_path, "m", body("""
        x[:] = x * 2
        response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x + 0)])
    """), """
        max_batch_size: 4
        input { name: "IN" data_type: TYPE_FP32 dims: -1 }
        output { name: "OUT" data_type: TYPE_FP32 dims: -1 }
        dynamic_batching { max_queue_delay_microseconds: 100000 }
    """)  # fmt: skip
    with stage(tmp_path) as server:
        given = np.ones((1, LARGE), np.float32)
        collectors = [server.send(request("m", IN=given)) for _ in range(2)]
        for collector in collectors:
            assert (collector.all()[0].outputs[0].numpy() == 2).all()
        assert (given == 1).all()


def test_inputs_that_are_kept_stay_as_they_were(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        class TritonPythonModel:
            def initialize(self, args):
                self.kept = []

            def execute(self, requests):
                for request in requests:
                    tensor = request.inputs()[0]
                    self.kept.append((request, tensor, tensor.as_numpy()))
                total = np.float32([sum(a.sum() + t.as_numpy()[0] + r.inputs()[0].as_numpy()[0] - 2 * a[0]
                                        for r, t, a in self.kept)])
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total)]) for _ in requests]
    """)  # fmt: skip
    with stage(tmp_path) as server:
        for index in range(1, 5):
            assert server.ask("m", np.full(LARGE, index, np.float32))[0] == LARGE * index * (index + 1) / 2


@pytest.mark.parametrize("make_layout", ["x.T", "x[::2]", "x[::-1]", "np.asfortranarray(x)", "x[:, 1:]"])
@pytest.mark.parametrize("rows", [4, 400])
def test_layouts(tmp_path: Path, make_layout: str, rows: int) -> None:
    write(tmp_path, "m", body(f"response = pb_utils.InferenceResponse([pb_utils.Tensor('OUT', {make_layout})])"),
          """
        input { name: "IN" data_type: TYPE_FP32 dims: [-1, -1] }
        output { name: "OUT" data_type: TYPE_FP32 dims: [-1, -1] }
    """)  # fmt: skip
    x = np.arange(rows * 300, dtype=np.float32).reshape(rows, 300)
    with stage(tmp_path) as server:
        assert np.array_equal(server.infer(request("m", IN=x))["OUT"], eval(make_layout, {"x": x, "np": np}))


def test_strings_of_all_sorts(tmp_path: Path) -> None:
    write(tmp_path, "m", """
        ITEMS = ["nö", b"\\xff", None, 3, 2.5, True, [1, 2], bytearray(b"ba"), np.bytes_(b"nb")]

        class TritonPythonModel:
            def execute(self, requests):
                array = np.empty(len(ITEMS), np.object_)
                array[:] = ITEMS
                tensor = pb_utils.Tensor("OUT", array)
                array[0] = "changed"
                fixed = pb_utils.Tensor("S", np.array([b"ab", b"c\\0"], "S3"))
                return [pb_utils.InferenceResponse([tensor, fixed]) for _ in requests]
    """, """
        input { name: "IN" data_type: TYPE_FP32 dims: -1 }
        output { name: "OUT" data_type: TYPE_STRING dims: -1 }
        output { name: "S" data_type: TYPE_STRING dims: -1 }
    """)  # fmt: skip
    with stage(tmp_path) as server:
        outputs = server.infer(request("m", IN=np.zeros(1, np.float32)))
        assert outputs["OUT"].tolist() == [
            "nö".encode(), b"\xff", b"None", b"3", b"2.5", b"True", b"[1, 2]", b"bytearray(b'ba')", b"b'nb'",
        ]  # fmt: skip
        assert outputs["S"].tolist() == [b"ab", b"c"]


@pytest.mark.parametrize(("array", "error", "text"), [
    ([1.0], TypeError, "incompatible constructor arguments"), (1.0, TypeError, "incompatible constructor arguments"),
    (np.float32(1), TypeError, "incompatible constructor arguments"),
    (np.array(["a"]), TritonModelException, "NumPy dtype is not supported."),
    (np.zeros(1, ">f4"), TritonModelException, "NumPy dtype is not supported."),
    (np.zeros(1, np.complex64), TritonModelException, "NumPy dtype is not supported."),
    (np.zeros(1, "M8[s]"), TritonModelException, "NumPy dtype is not supported."),
    (np.zeros(1, np.longdouble), TritonModelException, "NumPy dtype is not supported."),
    (np.zeros(1, [("a", "f4")]), TritonModelException, "NumPy dtype is not supported."),
    (np.ma.masked_array([1.0]), TritonModelException, "NumPy dtype is not supported."),
    (np.array(["\ud800"], np.object_), UnicodeEncodeError, "surrogates not allowed"),
])  # fmt: skip
def test_arrays_that_are_no_tensors(array: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Tensor("x", array)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Tensor(3, np.zeros(1))  # type: ignore[arg-type]


def test_integers_of_every_name() -> None:
    for char in "bBhHiIlLqQ":
        made = Tensor("x", np.zeros(2, char))
        assert tensors.TRITON_TO_NUMPY_TYPE[made.triton_dtype()] == np.dtype(char).newbyteorder("=").type or (
            np.dtype(char).itemsize == np.dtype(tensors.TRITON_TO_NUMPY_TYPE[made.triton_dtype()]).itemsize
        )
    assert Tensor("x", np.zeros((2, 3))).shape() == [2, 3]


def test_what_is_read_only_goes_by_dlpack_too() -> None:
    """numpy has what it takes by DLPack as read-only, and would not give it on."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    taken = Tensor.from_dlpack("y", Tensor("x", array).to_dlpack())
    taken.as_numpy()[0, 0] = 9
    assert array[0, 0] == 9
    again = Tensor.from_dlpack("z", taken.to_dlpack())
    assert np.shares_memory(again.as_numpy(), array)
    constant = Tensor("c", np.frombuffer(b"\1\2\3", np.uint8)[::2])
    assert np.from_dlpack(constant).tolist() == [1, 3]
    assert Tensor.from_dlpack("n", Tensor("n", np.empty((0, 2), np.int8))).shape() == [0, 2]
    held = Tensor.from_dlpack("h", np.full(1000, 7, np.int64))
    gc.collect()
    assert held.as_numpy().tolist() == [7] * 1000


def test_dlpack() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = Tensor("x", array)
    assert tensor.__dlpack_device__() == (1, 0)
    assert np.shares_memory(np.from_dlpack(tensor), array)
    taken = Tensor.from_dlpack("y", array)
    assert np.shares_memory(taken.as_numpy(), array)
    assert taken.name() == "y"
    assert Tensor.from_dlpack("y", tensor.to_dlpack()).as_numpy().tolist() == array.tolist()
    with pytest.raises(TritonModelException, match="not contiguous"):
        Tensor.from_dlpack("y", array.T)
    with pytest.raises(TritonModelException, match="DLPack capsule expected"):
        Tensor.from_dlpack("y", [1, 2])
    capsule = tensor.to_dlpack()
    Tensor.from_dlpack("y", capsule)
    with pytest.raises(TritonModelException, match="used before"):
        Tensor.from_dlpack("y", capsule)
    with pytest.raises(TritonModelException, match="string tensors"):
        Tensor("s", np.array([b"a"], np.object_)).to_dlpack()


def test_the_forms_of_strings() -> None:
    array = np.array([[b"a", "bö"], [b"", 3]], np.object_)
    wire = tensors.serialize_byte_tensor(array)
    assert wire == b"\1\0\0\0a\3\0\0\0b\xc3\xb6\0\0\0\0\1\0\0\x003"
    assert tensors.deserialize_bytes_tensor(wire).tolist() == [b"a", "bö".encode(), b"", b"3"]
    assert tensors.serialize_byte_tensor(np.zeros(0, np.object_)) is None
    assert tensors.serialize_byte_tensor(np.zeros(3)) is None
    for cut in (b"\1\0", b"\2\0\0\0a"):
        with pytest.raises(ValueError, match="bytes"):
            tensors.deserialize_bytes_tensor(cut)


def test_types_by_name() -> None:
    assert tensors.triton_string_to_numpy("TYPE_STRING") is np.object_
    with pytest.raises(KeyError):
        tensors.triton_string_to_numpy("TYPE_BF16")
    assert all(tensors.numpy_to_triton_type(kind) == number for number, kind in tensors.TRITON_TO_NUMPY_TYPE.items())


def test_the_module_of_no_instance() -> None:
    api.install()
    import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

    assert pb_utils.Tensor is Tensor
    for name in ("InferenceRequest", "Logger", "load_model"):
        with pytest.raises(RuntimeError, match="belongs to a model instance"):
            getattr(pb_utils, name)
    with pytest.raises(AttributeError):
        pb_utils.nobody  # noqa: B018
