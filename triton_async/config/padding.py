"""Padding, which Triton does not have: `parameters { key: "padding" }` of a config, its rules and frozen form.

Its value is JSON: docs/batching.md. A length is a name for dimensions that are padded together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from triton_async import datatypes, defines
from triton_async.config.ragged import is_listed, is_ragged
from triton_async.errors import InvalidArg

KEY = "padding"

_FIELDS = ("inputs", "outputs", "masks", "lengths", "buckets", "max_elements")
_LENGTH_TYPES = tuple(map(datatypes.from_name, ("INT32", "INT64", "FP32")))
_BYTES, _BOOL = datatypes.from_name("BYTES"), datatypes.from_name("BOOL")

# Of each dimension behind the rows: the name of its length; None where it has none.
Lengths = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Mask:
    """An input that the server makes: `value` where a request has elements, `pad` elsewhere, one element each. `dims`
    without the rows, -1 where `lengths` say.
    """

    name: str
    datatype: int
    dims: tuple[int, ...]
    lengths: Lengths
    value: bytes
    pad: bytes


@dataclass(frozen=True, slots=True)
class LengthInput:
    """An input that the server makes: how long each row is. `dims` without the rows: ones, or none."""

    name: str
    datatype: int
    dims: tuple[int, ...]
    length: str


@dataclass(frozen=True, slots=True)
class Padding:
    """`buckets` of each length, in the order of first use: the sizes to pad to, () for the longest request's.
    `inputs`: lengths, and the element to pad with. `outputs`: those that are cut. `max_elements`: of a batch, its rows
    by what its lengths are padded to.
    """

    buckets: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, tuple[Lengths, bytes]]
    outputs: Mapping[str, Lengths]
    masks: tuple[Mask, ...]
    length_inputs: tuple[LengthInput, ...]
    max_elements: int

    @property
    def made(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Name, data type and dims, () for rows alone, of the inputs that the server makes."""
        return _made(self.masks, self.length_inputs)


def _made(masks: tuple[Mask, ...], told: tuple[LengthInput, ...]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [
        *((mask.name, mask.datatype, mask.dims) for mask in masks), *((io.name, io.datatype, io.dims) for io in told),
    ]  # fmt: skip


def freeze_padding(proto: Any) -> Padding | None:
    """Of a config; None without padding, and for one that is not complete and valid yet."""
    if KEY not in proto.parameters:
        return None
    try:
        return _Reader(proto).read()
    except InvalidArg:
        return None


def made_tensors(proto: Any) -> list[tuple[str, int, tuple[int, ...]]]:
    """Name, data type and dims, () for rows alone, of the inputs that padding adds to a config. Nothing where it can
    not be read."""
    if KEY not in proto.parameters:
        return []
    try:
        reader = _Reader(proto)
        return _made(reader.masks(), reader.length_inputs())
    except InvalidArg:
        return []


def padding_problems(proto: Any, complete: bool = True) -> Iterator[InvalidArg]:
    """What is wrong with it. Not `complete`: inputs and outputs may still be filled in, and are not looked at."""
    if KEY not in proto.parameters:
        return
    try:
        reader = _Reader(proto)
        reader.check_model(complete)
        if complete or is_listed(proto):
            reader.read()
    except InvalidArg as error:
        yield error


class _Reader:
    def __init__(self, proto: Any) -> None:
        self._proto = proto
        self._where = f"'parameters' '{KEY}' of model '{proto.name}'"
        text = proto.parameters[KEY].string_value
        if len(text) > defines.PADDING_MAX_NBYTES:
            raise InvalidArg(f"{self._where} is longer than {defines.PADDING_MAX_NBYTES} bytes")
        try:
            self._value = json.loads(text, object_pairs_hook=self._object)
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            raise InvalidArg(f"{self._where} must be JSON: {reason}") from None
        if not isinstance(self._value, dict):
            raise InvalidArg(f"{self._where} must be a JSON object with 'inputs'")
        for key in self._value:
            if key not in _FIELDS:
                raise InvalidArg(f"{self._where} has unknown field '{key}', there are: {', '.join(_FIELDS)}")

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidArg(f"{self._where} has a field twice")
        return found

    def check_model(self, complete: bool) -> None:
        """What has nothing to do with single tensors."""
        proto = self._proto
        if proto.HasField("ensemble_scheduling"):
            raise InvalidArg(f"{self._where} can not be used by an ensemble: its steps may")
        if proto.HasField("sequence_batching"):
            raise InvalidArg(f"{self._where} can not be used with 'sequence_batching'")
        if is_ragged(proto):
            raise InvalidArg(
                f"{self._where} can not be used beside 'allow_ragged_batch', 'batch_input' or 'batch_output': a ragged "
                "batch is not padded"
            )
        if not complete:
            return
        if proto.max_batch_size < 1:
            raise InvalidArg(f"{self._where} needs 'max_batch_size' above 0")
        if not proto.HasField("dynamic_batching") and not self._value.get("buckets"):
            raise InvalidArg(
                f"{self._where} has nothing to do without 'dynamic_batching' or 'buckets': add 'dynamic_batching {{ }}'"
            )

    def read(self) -> Padding:
        """All of it, against the inputs and outputs of the config."""
        given = self._part("inputs")
        if not given:
            raise InvalidArg(f"{self._where} must name the inputs that are padded, in 'inputs'")
        ios = {io.name: io for io in self._proto.input}
        inputs = {name: self._input(name, value, ios) for name, value in given.items()}
        self._names = self._length_names(inputs, ios)
        outputs = self._outputs()
        masks, length_inputs = self.masks(), self.length_inputs()
        self._check_made([name for name, _, _ in _made(masks, length_inputs)], ios)
        for mask in masks:
            self._known(mask.lengths, f"'masks.{mask.name}'")
        for told in length_inputs:
            self._known((told.length,), f"'lengths.{told.name}'")
        max_elements = self._value.get("max_elements", defines.PADDING_MAX_ELEMENTS)
        if not _is_size(max_elements):
            raise InvalidArg(f"{self._where}: 'max_elements' must be a positive integer")
        return Padding(self._buckets(max_elements), inputs, outputs, masks, length_inputs, max_elements)

    def masks(self) -> tuple[Mask, ...]:
        """`masks`, as far as they are right by themselves."""
        return tuple(self._mask(name, value) for name, value in self._part("masks").items())

    def length_inputs(self) -> tuple[LengthInput, ...]:
        """`lengths`, likewise."""
        return tuple(self._length_input(name, value) for name, value in self._part("lengths").items())

    # -- tensors ---------------------------------------------------------------------------------------

    def _part(self, field: str) -> dict[str, Any]:
        value = self._value.get(field, {})
        if not isinstance(value, dict):
            raise InvalidArg(f"{self._where}: '{field}' must be an object, by names of tensors")
        return value

    def _input(self, name: str, value: Any, ios: dict[str, Any]) -> tuple[Lengths, bytes]:
        where = f"{self._where}: 'inputs.{name}'"
        fields = self._fields(where, value if isinstance(value, dict) else {"dims": value}, ("dims", "value"))
        if name not in ios:
            raise InvalidArg(f"{where} is no 'input' of the configuration")
        io = ios[name]
        self._check_paddable(where, io)
        lengths = self._dims(where, fields.get("dims"), io.dims)
        for place, (length, dim) in enumerate(zip(lengths, io.dims, strict=True)):
            if length is None and dim == -1:
                raise InvalidArg(f"{where} must name the length of dimension {place}, which is variable")
        return lengths, self._element(f"{where} 'value'", fields.get("value", 0), io.data_type)

    def _outputs(self) -> dict[str, Lengths]:
        given = self._part("outputs")
        found: dict[str, Lengths] = {}
        ios = {io.name: io for io in self._proto.output}
        for name, value in given.items():
            where = f"{self._where}: 'outputs.{name}'"
            if name not in ios:
                raise InvalidArg(f"{where} is no 'output' of the configuration")
            lengths = self._dims(where, value, ios[name].dims)
            self._known(lengths, f"'outputs.{name}'")
            if any(lengths):
                self._check_paddable(where, ios[name])
                found[name] = lengths
        for io in self._proto.output:
            if -1 in io.dims and io.name not in given:
                raise InvalidArg(
                    f"{self._where} must say in 'outputs' which lengths the variable dimensions of output '{io.name}' "
                    "have, null for those that have none"
                )
        return found

    def _check_paddable(self, where: str, io: Any) -> None:
        if io.data_type == _BYTES:
            raise InvalidArg(f"{where} is TYPE_STRING, which can not be padded")
        if io.HasField("reshape"):
            raise InvalidArg(f"{where} can not be padded and have 'reshape'")
        if io.is_shape_tensor or io.is_non_linear_format_io:
            raise InvalidArg(f"{where} can not be padded: it is a shape tensor or has a non-linear format")

    def _dims(self, where: str, value: Any, dims: Any) -> Lengths:
        if not isinstance(value, list) or len(value) != len(dims):
            raise InvalidArg(
                f"{where} must have a list with an entry for each of the {len(dims)} 'dims': the name of its length, "
                "or null"
            )
        for place, (entry, dim) in enumerate(zip(value, dims, strict=True)):
            if entry is not None and not (isinstance(entry, str) and entry):
                raise InvalidArg(f"{where} must have a name or null for dimension {place}")
            if entry is not None and dim != -1:
                raise InvalidArg(f"{where} has a length for dimension {place}, which is not variable: write null")
        return tuple(value)

    def _mask(self, name: str, value: Any) -> Mask:
        where = f"{self._where}: 'masks.{name}'"
        fields = self._fields(where, value, ("data_type", "dims", "false_true"))
        datatype = self._datatype(where, fields)
        given = fields.get("dims")
        if not isinstance(given, list) or not any(isinstance(entry, str) for entry in given):
            raise InvalidArg(f"{where} must have 'dims', a list of names of lengths and ones")
        for entry in given:
            if not (isinstance(entry, str) and entry) and (entry != 1 or isinstance(entry, bool)):
                raise InvalidArg(f"{where}: 'dims' must be names of lengths and ones")
        if len(given) > defines.MAX_RANK - 1:
            raise InvalidArg(f"{where}: 'dims' are more than {defines.MAX_RANK - 1}")
        named = [entry for entry in given if entry != 1]
        if len(set(named)) < len(named):
            # Its size would be that of a square, which 'max_elements' does not bound.
            raise InvalidArg(f"{where} has the same length twice: give it once, and ones")
        values = fields.get("false_true", [0, 1])
        if not isinstance(values, list) or len(values) != 2:
            raise InvalidArg(f"{where}: 'false_true' must be a list of 2 numbers")
        pad, real = (self._element(f"{where} 'false_true'", number, datatype) for number in values)
        return Mask(
            name, datatype, tuple(1 if entry == 1 else -1 for entry in given),
            tuple(None if entry == 1 else entry for entry in given), real, pad,
        )  # fmt: skip

    def _length_input(self, name: str, value: Any) -> LengthInput:
        where = f"{self._where}: 'lengths.{name}'"
        fields = self._fields(where, value, ("data_type", "dims", "of"))
        datatype = self._datatype(where, fields)
        if datatype not in _LENGTH_TYPES:
            raise InvalidArg(f"{where}: 'data_type' must be TYPE_INT32, TYPE_INT64 or TYPE_FP32")
        dims = fields.get("dims", [])
        if dims not in ([], [1]):
            raise InvalidArg(f"{where}: 'dims' must be [] or [1]")
        if not isinstance(fields.get("of"), str):
            raise InvalidArg(f"{where} must say in 'of' which length it tells")
        return LengthInput(name, datatype, tuple(dims), fields["of"])

    def _fields(self, where: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise InvalidArg(f"{where} must be an object with {', '.join(known)}")
        for key in value:
            if key not in known:
                raise InvalidArg(f"{where} has unknown field '{key}', there are: {', '.join(known)}")
        return value

    def _datatype(self, where: str, fields: dict[str, Any]) -> int:
        name = fields.get("data_type")
        for datatype in range(1, len(datatypes.NAMES)):
            if name == datatypes.to_config_name(datatype) and datatype != _BYTES:
                return datatype
        raise InvalidArg(f"{where} must specify 'data_type', such as TYPE_INT64")

    def _element(self, where: str, value: Any, datatype: int) -> bytes:
        """One element of a value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidArg(f"{where} must be a number")
        if datatype == datatypes.from_name("BF16"):
            bits = np.float32(value).view(np.uint32)
            return np.uint16(int(bits) + 0x7FFF + ((int(bits) >> 16) & 1) >> 16).tobytes() if value else b"\0\0"
        dtype = np.dtype(datatypes.numpy_dtype(datatype))
        fits = value in (0, 1) if datatype == _BOOL else True
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            fits = isinstance(value, int) and info.min <= value <= info.max
        elif dtype.kind == "f":
            fits = abs(value) <= float(np.finfo(dtype).max) or value in (float("inf"), float("-inf"))
        if not fits:
            raise InvalidArg(f"{where} {value} is no {datatypes.to_config_name(datatype)}")
        return np.array(value, dtype).tobytes()

    # -- lengths ---------------------------------------------------------------------------------------

    def _length_names(self, inputs: Mapping[str, tuple[Lengths, bytes]], ios: dict[str, Any]) -> tuple[str, ...]:
        names: dict[str, bool] = {}
        for input_name, (lengths, _) in inputs.items():
            for length in lengths:
                if length is not None:
                    names[length] = names.get(length, False) or not ios[input_name].optional
        if not names:
            raise InvalidArg(f"{self._where} pads nothing: no input has a variable dimension")
        if len(names) > defines.PADDING_MAX_LENGTHS:
            raise InvalidArg(f"{self._where} has more than {defines.PADDING_MAX_LENGTHS} lengths")
        for name, always in names.items():
            if not always:
                raise InvalidArg(
                    f"{self._where}: length '{name}' is only that of 'optional' inputs, which may be missing"
                )
        return tuple(names)

    def _known(self, lengths: Lengths, where: str) -> None:
        for length in lengths:
            if length is not None and length not in self._names:
                raise InvalidArg(
                    f"{self._where}: {where} has length '{length}', which no padded input has; there are: "
                    f"{', '.join(self._names)}"
                )

    def _check_made(self, names: list[str], ios: dict[str, Any]) -> None:
        for place, name in enumerate(names):
            if name in ios or name in names[:place]:
                raise InvalidArg(
                    f"{self._where} has the server make input '{name}', which is an 'input' that clients send, or made "
                    "twice"
                )

    def _buckets(self, max_elements: int) -> dict[str, tuple[int, ...]]:
        given = self._value.get("buckets", {})
        if isinstance(given, list):
            given = dict.fromkeys(self._names, given)
        if not isinstance(given, dict):
            raise InvalidArg(f"{self._where}: 'buckets' must be a list of sizes, or an object by names of lengths")
        self._known(tuple(given), "'buckets'")
        found: dict[str, tuple[int, ...]] = {}
        for name in self._names:
            sizes = given.get(name, [])
            where = f"{self._where}: 'buckets' of length '{name}'"
            if not isinstance(sizes, list) or not all(map(_is_size, sizes)):
                raise InvalidArg(f"{where} must be a list of positive integers")
            if name in given and not sizes:
                raise InvalidArg(f"{where} are none")
            if len(sizes) > defines.PADDING_MAX_BUCKETS:
                raise InvalidArg(f"{where} are more than {defines.PADDING_MAX_BUCKETS}")
            if sorted(set(sizes)) != sizes:
                raise InvalidArg(f"{where} must be ascending")
            if sizes and sizes[-1] > max_elements:
                raise InvalidArg(f"{where} have {sizes[-1]}, more than the {max_elements} of 'max_elements'")
            found[name] = tuple(sizes)
        return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31
