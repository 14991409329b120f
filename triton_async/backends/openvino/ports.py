"""Inputs and outputs of an OpenVINO model: their names, types and shapes, and the shapes that a config asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triton_async import datatypes
from triton_async.backends.openvino.library import reason
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.errors import InvalidArg, Unsupported

# OpenVINO's element type -> v2 datatype.
_DATATYPES = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8", "i16": "INT16",
    "i32": "INT32", "i64": "INT64", "f16": "FP16", "bf16": "BF16", "f32": "FP32", "f64": "FP64",
}  # fmt: skip

_MAX_RANK = 16


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output. `name`: the one that clients use. `place`: its number in the model. `dims`: -1 where
    dynamic. `bounds`: least and greatest size of each dimension, -1 for none.
    """

    name: str
    place: int
    datatype: int
    dims: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]


def ports_of(found: Sequence[Any], model: str, what: str, wanted: Iterable[str]) -> tuple[Port, ...]:
    """Ports of a model in its order. `what`: input or output. `wanted`: names that the config has: a port that has
    several names goes by that one. Unsupported, naming the tensor, for what can not be served.
    """
    names = _names(found, frozenset(wanted))
    return tuple(_port(port, place, names[place], model, what) for place, port in enumerate(found))


def _names(found: Sequence[Any], wanted: frozenset[str]) -> list[str]:
    # The port's own names, alphabetically, then that of its node, which is all that an unnamed one has: the file
    # numbers the node of an output as its name.
    chosen: list[str] = []
    for place, port in enumerate(found):
        node = port.node
        result = node.get_type_name() == "Result"
        own = sorted(name for name in port.get_names() if not result or name != node.friendly_name)
        source = [node.input_value(0).get_node().friendly_name] if result and not own else []
        candidates = [*own, *source, node.friendly_name]
        candidates += [name.removesuffix(":0") for name in candidates if name.endswith(":0")]
        free = [name for name in candidates if name and name not in chosen]
        chosen.append(next((name for name in free if name in wanted), free[0] if free else f"port_{place}"))
    return chosen


def _port(port: Any, place: int, name: str, model: str, what: str) -> Port:
    datatype = datatype_of(port)
    if not datatype:
        kind = port.element_type.get_type_name()
        told = "strings (BYTES)" if kind == "string" else f"elements of type '{kind}'"
        raise Unsupported(
            f"unable to load model '{model}': {what} '{name}' has {told}, which the openvino backend does not serve: "
            "an ONNX model of that kind can be served with backend 'onnxruntime'"
        )
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise Unsupported(
            f"unable to load model '{model}': {what} '{name}' has no fixed number of dimensions, which OpenVINO does "
            "not run on CPUs: save the model with its rank, or write the dims into the config and set RESHAPE_IO_LAYERS"
        )
    if len(shape) > _MAX_RANK:
        raise Unsupported(f"unable to load model '{model}': {what} '{name}' has more than {_MAX_RANK} dimensions")
    dims = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in shape)
    bounds = tuple((dim.min_length, dim.max_length) for dim in shape)
    return Port(name, place, datatype, dims, bounds)


def datatype_of(port: Any) -> int:
    """The v2 datatype of its elements, 0 where there is none, or none that is served."""
    name = _DATATYPES.get(port.element_type.get_type_name())
    return 0 if name is None else datatypes.from_name(name)


def model_io(model: Any, proto: Any, batch: bool) -> ModelIO:
    """What the model takes and returns, in the names of the config `proto`. `batch`: the first dimension is that of a
    batch, although the model has it fixed."""
    sides = []
    for found, what, ios in ((model.inputs, "input", proto.input), (model.outputs, "output", proto.output)):
        ports = ports_of(found, proto.name, what, [io.name for io in ios])
        sides.append(
            tuple(
                TensorInfo(port.name, port.datatype, (-1, *port.dims[1:]) if batch and port.dims else port.dims)
                for port in ports
            )
        )
    return ModelIO(sides[0], sides[1])


def needs_batch(model: Any, max_batch_size: int) -> bool:
    """Whether the first dimension of an input is fixed, or bounded below this size: Triton's backend changes it."""
    for port in model.inputs:
        shape = port.partial_shape
        if shape.rank.is_dynamic or len(shape) == 0:
            continue
        if 0 <= shape[0].max_length < max_batch_size or shape[0].is_static or shape[0].min_length > 1:
            return True
    return False


def set_batch(openvino: Any, model: Any, name: str, low: int, high: int) -> None:
    """Makes the first dimension of all inputs `low` to `high`. InvalidArg when the outputs do not follow."""
    shapes = {}
    for port in model.inputs:
        shape = port.partial_shape
        if shape.rank.is_dynamic or len(shape) == 0:
            raise InvalidArg(
                f"unable to load model '{name}': max_batch_size is {high}, but an input has no first dimension to be "
                "that of a batch: set 'max_batch_size: 0' and write all dimensions"
            )
        shapes[port] = openvino.PartialShape([openvino.Dimension(low, high), *list(shape)[1:]])
    _reshape(model, name, shapes, f"for max_batch_size {high}")
    for port in model.outputs:
        shape = port.partial_shape
        follows = shape.rank.is_static and len(shape) > 0 and (
            shape[0].is_dynamic or shape[0].get_length() == low == high
        )
        if not follows:
            raise InvalidArg(
                f"unable to load model '{name}': max_batch_size is {high}, but the model is made for a fixed batch: "
                f"its output '{sorted(port.get_names() or {port.node.friendly_name})[0]}' stays {shape} when its "
                "inputs have more rows. Set 'max_batch_size: 0' and write all dimensions, or convert the model with a "
                "dynamic batch"
            )


def reshape_to_config(openvino: Any, model: Any, proto: Any) -> None:
    """Gives inputs the dims of the config `proto`, behind a batch dimension where it batches. InvalidArg."""
    ports = _named(model.inputs, [io.name for io in proto.input])
    shapes = {}
    for io in proto.input:
        port = ports.get(io.name)
        dims = list(io.reshape.shape if io.HasField("reshape") else io.dims)
        if port is None or (not dims and not io.HasField("reshape")):
            continue
        if proto.max_batch_size > 0:
            dims = [-1, *dims]
        elif port.partial_shape.rank.is_static and not len(port.partial_shape) and all(dim == 1 for dim in dims):
            continue
        shapes[port] = openvino.PartialShape([openvino.Dimension(dim) for dim in dims])
    if shapes:
        _reshape(model, proto.name, shapes, "for the dims of its configuration")


def _named(found: Sequence[Any], wanted: Iterable[str]) -> Mapping[str, Any]:
    return dict(zip(_names(found, frozenset(wanted)), found, strict=True))


def _reshape(model: Any, name: str, shapes: Mapping[Any, Any], why: str) -> None:
    try:
        model.reshape(shapes)
    except Exception as error:
        raise InvalidArg(f"unable to load model '{name}': it can not be reshaped {why}: {reason(error)}") from None
