"""Element types and the size arithmetic that every other module relies on."""

from __future__ import annotations

import numpy as np
import pytest

from triton_async import datatypes, protos

LARGEST = 2**63 - 1
SIZES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "FP32": 4, "FP64": 8, "BYTES": 0, "BF16": 2,
}  # fmt: skip


def test_numbers_and_names_are_those_of_the_protocol_description() -> None:
    described = {
        value.name.removeprefix("TYPE_").replace("STRING", "BYTES"): value.number
        for value in protos.enum("inference.DataType").values
        if value.number
    }
    assert {name: datatypes.from_name(name) for name in SIZES} == described
    assert [datatypes.to_name(number) for number in described.values()] == list(described)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_element_sizes_agree_with_numpy(name: str, size: int) -> None:
    number = datatypes.from_name(name)
    assert datatypes.element_size(number) == size
    if name != "BYTES":
        assert np.dtype(datatypes.numpy_dtype(number)).itemsize == size


@pytest.mark.parametrize("name", ["", "fp32", "FP8", "STRING", "TYPE_FP32", "<invalid>", "FP32\0", "x" * 10_000])
def test_unknown_names_are_invalid(name: str) -> None:
    assert datatypes.from_name(name) == 0


@pytest.mark.parametrize("number", [-(2**31), -1, 0, 15, 16, 2**31 - 1])
def test_numbers_out_of_range_are_invalid_everywhere(number: int) -> None:
    assert datatypes.to_name(number) == "<invalid>"
    assert datatypes.element_size(number) == 0
    assert datatypes.numpy_dtype(number) is None
    assert datatypes.to_config_name(number) == "TYPE_INVALID"


@pytest.mark.parametrize("name", SIZES)
def test_config_names_go_there_and_back(name: str) -> None:
    number = datatypes.from_name(name)
    shown = datatypes.to_config_name(number)
    assert shown == ("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}")
    assert datatypes.from_config_name(shown) == number


@pytest.mark.parametrize("name", ["FP32", "TYPE_", "TYPE_BYTE", "type_fp32", ""])
def test_unknown_config_names_are_invalid(name: str) -> None:
    assert datatypes.from_config_name(name) == 0


@pytest.mark.parametrize(("shape", "count"), [
    ((), 1), ((0,), 0), ((3, 5), 15), ((2**31 - 1,), 2**31 - 1), ((2**31,), 2**31), ((2**16, 2**15), 2**31),
    ((2**16, 2**16), 2**32), ((2**32 + 1,), 2**32 + 1), ((2**62,), 2**62), ((2**31, 2**31, 2), LARGEST + 1),
    ((LARGEST,), LARGEST), ((LARGEST, 2), 2 * LARGEST), ((2**32, 2**32), 2**64), ((2**32, 2**31), 2**63),
    ((2**32 + 1, 2**32 - 1), 2**64 - 1), ((3, 6148914691236517205), 2**64 - 1),
    ((7, 7, 73, 127, 337, 92737, 649657), LARGEST), ((2**40, 2**40, 0), 0), ((0, -1), -1), ((-1,), -1),
])  # fmt: skip
def test_element_counts_at_the_borders(shape: tuple[int, ...], count: int) -> None:
    assert datatypes.element_count(shape) == (count if count <= LARGEST else -1)
