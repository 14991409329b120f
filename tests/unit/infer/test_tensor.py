"""Tensors: views inside their bytes only, NumPy forms, BYTES framing."""

from __future__ import annotations

import random

import numpy as np
import pytest
from infer_harness import BF16, BYTES, FP32, INT32, tensor

from triton_async import datatypes
from triton_async.errors import InvalidArg
from triton_async.infer.tensor import decode_bytes, encode_bytes, from_numpy, make
from triton_async.memory.buffer import live_buffers, wrap
from triton_async.memory.slab import SlabPool

FIXED = [name for name in datatypes.NAMES[1:] if name != "BYTES"]


@pytest.mark.parametrize(("offset", "nbytes"), [(0, 0), (0, 10), (3, 4), (10, 0), (9, 1)])
def test_a_view_shows_its_range(offset: int, nbytes: int) -> None:
    source = bytes(range(10))
    made = make("A", INT32, [nbytes // 4], source, offset, nbytes)
    assert bytes(made) == source[offset : offset + nbytes]
    assert len(made) == nbytes


@pytest.mark.parametrize(("offset", "nbytes"), [
    (0, 11), (1, 10), (11, 0), (10, 1), (-1, 1), (0, -1), (-1, 0), (2**63 - 1, 1), (1, 2**63 - 1),
    (2**63 - 1, 2**63 - 1), (-(2**63), 0), (5, None), (11, None),
])  # fmt: skip
def test_a_range_outside_the_bytes_is_refused(offset: int, nbytes: int | None) -> None:
    if nbytes is None and offset <= 10:
        assert len(make("A", INT32, [1], bytes(10), offset)) == 10 - offset
        return
    with pytest.raises(InvalidArg, match="tensor 'A' does not lie inside its 10 bytes"):
        make("A", INT32, [1], bytes(10), offset, nbytes)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1])
def test_offsets_beyond_64_bits_never_wrap(number: int) -> None:
    with pytest.raises(OverflowError):
        make("A", INT32, [1], bytes(10), number, 1)


@pytest.mark.parametrize("shape", [[2**63 - 1], [2**62, 1], [2**31, 2**31], [0, 2**63 - 1, 2**63 - 1], [1] * 16, []])
def test_shapes_up_to_the_bound_are_kept_as_they_are(shape: list[int]) -> None:
    made = tensor("A", "INT8", shape)
    assert made.shape == tuple(shape)
    assert made.element_count == datatypes.element_count(shape)


@pytest.mark.parametrize("shape", [
    [2**62, 2], [2**32, 2**31], [2**32, 2**32], [2**32 + 1, 2**32 - 1], [3, 6148914691236517205], [2**63 - 1, 2],
    [2**21] * 3 + [2], [2**4] * 16,
])  # fmt: skip
def test_shapes_whose_product_wraps_are_refused(shape: list[int]) -> None:
    shown = ",".join(map(str, shape))
    with pytest.raises(InvalidArg) as caught:
        tensor("A", "INT8", shape)
    assert caught.value.message == (
        f"invalid shape for input 'A': shape [{shown}] causes total element count to exceed maximum size of "
        "9223372036854775807"
    )


@pytest.mark.parametrize("shape", [[-1], [4, -1], [2**63], [2**64], [-(2**70)], [1] * 17, [1] * 100_000])
def test_impossible_dimensions_are_refused(shape: list[int]) -> None:
    with pytest.raises(InvalidArg, match="tensor 'A' has"):
        tensor("A", "INT8", shape)


@pytest.mark.parametrize("name", FIXED)
def test_numpy_reads_the_bytes_in_place(name: str) -> None:
    dtype = np.dtype(datatypes.numpy_dtype(datatypes.from_name(name)))
    data = np.random.default_rng(0).integers(0, 2, 6 * dtype.itemsize, np.uint8).tobytes()
    made = tensor("A", name, [2, 3], data)
    array = made.numpy()
    assert (array.shape, array.dtype, array.tobytes()) == ((2, 3), dtype, data)
    assert not array.flags.writeable
    assert array.ctypes.data == np.frombuffer(made, np.uint8).ctypes.data


@pytest.mark.parametrize(("datatype", "shape", "nbytes"), [
    ("FP32", [2], 4), ("FP32", [2], 12), ("FP32", [2], 7), ("FP32", [2], 0), ("FP32", [0], 4), ("INT8", [2**40], 0),
    ("INT8", [2**62], 4), ("BYTES", [1], 0), ("BYTES", [2], 4), ("BYTES", [5], 4), ("BYTES", [1], 8), ("BYTES", [0], 4),
    ("BYTES", [2**40], 4), ("BYTES", [2**62], 0),
])  # fmt: skip
def test_bytes_that_do_not_fill_the_shape_have_no_numpy_form(datatype: str, shape: list[int], nbytes: int) -> None:
    with pytest.raises(ValueError):
        tensor("A", datatype, shape, bytes(nbytes)).numpy()


def test_a_tensor_without_a_type_has_no_numpy_form() -> None:
    with pytest.raises(ValueError):
        make("A", 0, [1], bytes(8)).numpy()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
@pytest.mark.parametrize("name", FIXED)
def test_arrays_become_tensors_and_back(name: str, shape: tuple[int, ...]) -> None:
    datatype = datatypes.from_name(name)
    array = np.ones(shape, datatypes.numpy_dtype(datatype))
    made = from_numpy("A", array, BF16 if name == "BF16" else None)
    assert (made.datatype, made.shape, made.nbytes) == (datatype, shape, array.nbytes)
    assert np.array_equal(made.numpy(), array)


def test_contiguous_arrays_are_not_copied_and_others_are() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.frombuffer(from_numpy("A", array), np.uint8).ctypes.data == array.ctypes.data
    made = from_numpy("A", array.T)
    assert made.shape == (3, 2)
    assert np.array_equal(made.numpy(), array.T)


def test_big_endian_arrays_are_turned_round() -> None:
    assert from_numpy("A", np.array([1, 2], ">i4")).numpy().tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["datetime64[s]", "complex64", "V8"])
def test_arrays_of_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(InvalidArg, match="has no tensor datatype"):
        from_numpy("A", np.zeros(2, dtype))


@pytest.mark.parametrize("strings", [[], [b""], [b"", b""], [b"a", b"", b"bcd"], [b"\0" * 300]])
def test_strings_there_and_back(strings: list[bytes]) -> None:
    wire = encode_bytes(strings)
    assert len(wire) == sum(4 + len(item) for item in strings)
    made = tensor("A", "BYTES", [len(strings)], wire)
    assert decode_bytes(made) == strings
    assert made.numpy().tolist() == strings


@pytest.mark.parametrize("array", [
    np.array(["a", "é"], np.object_), np.array([b"a", "é"], np.object_), np.array(["a", "é"]),
    np.array([[b"a"], [b"b"]]),
    np.array([1, None], np.object_), np.array([bytearray(b"a"), memoryview(b"b")], np.object_),
], ids=str)  # fmt: skip
def test_arrays_of_strings_are_encoded(array: np.ndarray) -> None:
    made = from_numpy("A", array)
    assert (made.datatype, made.shape) == (BYTES, array.shape)
    items = array.reshape(-1).tolist()
    raw = bytes | bytearray | memoryview
    expected = [bytes(item) if isinstance(item, raw) else str(item).encode() for item in items]
    assert decode_bytes(made) == expected


@pytest.mark.parametrize("wire", [
    b"\1", b"\1\0\0", b"\1\0\0\0", b"\xff\xff\xff\xffab", b"\0\0\0\0\0", b"\0\0\0\x80" + bytes(100),
])  # fmt: skip
def test_broken_framing_is_an_error(wire: bytes) -> None:
    with pytest.raises(ValueError, match="incomplete BYTES"):
        decode_bytes(tensor("A", "BYTES", [1], wire))


def test_random_bytes_decode_to_what_they_encode_or_fail() -> None:
    choose = random.Random(1)
    for _ in range(5000):
        wire = b"".join(bytes([choose.choice([0, 1, 2, 255])]) for _ in range(choose.randrange(24)))
        try:
            strings = decode_bytes(tensor("A", "BYTES", [0], wire))
        except ValueError:
            continue
        assert encode_bytes(strings) == wire


def test_a_tensor_holds_its_lease_and_an_empty_one_none() -> None:
    pool = SlabPool(0)
    before = live_buffers()
    lease = pool.acquire(64)
    made, empty = make("A", FP32, [4], lease, 16, 16), make("B", FP32, [0], lease, 8, 0)
    assert made.buffer is lease
    assert empty.buffer is None
    array = made.numpy()
    del lease, made
    assert live_buffers() == before + 1
    assert pool.leased == 1
    del array
    assert pool.leased == 0


def test_a_view_of_a_shared_lease_does_not_see_its_neighbours() -> None:
    lease = wrap(bytes(range(16)))
    first, second = make("A", FP32, [2], lease, 0, 8), make("B", FP32, [2], lease, 8, 8)
    assert (bytes(first), bytes(second)) == (bytes(range(8)), bytes(range(8, 16)))
    assert repr(second) == "Tensor('B', FP32, [2], 8 bytes)"
