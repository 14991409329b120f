"""What is in a plan, as plain values: tensors, datatypes, formats, optimization profiles. Knows no model config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from triton_async.backends.tensorrt.api import Library

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """What one profile allows for one input. `minimum`, `optimum`, `maximum`: dims, or the values of a shape tensor."""

    minimum: Dims
    optimum: Dims
    maximum: Dims


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """One input or output. `dims`: all of them, -1 where a profile or the data decides.

    `shape_tensor`: its values decide shapes. `host`: the engine reads or writes it in host memory. `ranges`: of an
    input, by profile; `values`: those of a shape tensor, empty otherwise. `layout`: TensorRT's name of its format.
    """

    name: str
    is_input: bool
    datatype: int
    dims: Dims
    shape_tensor: bool = False
    host: bool = False
    layout: str = "LINEAR"
    ranges: tuple[Range, ...] = ()
    values: tuple[Range, ...] = ()

    @property
    def is_linear(self) -> bool:
        """Whether its bytes are in row-major order."""
        return self.layout == "LINEAR"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan: its tensors in its own order, and how many optimization profiles it has (1 when it has none)."""

    tensors: tuple[PlanTensor, ...]
    profiles: int = 1

    @property
    def inputs(self) -> tuple[PlanTensor, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.is_input)

    @property
    def outputs(self) -> tuple[PlanTensor, ...]:
        return tuple(tensor for tensor in self.tensors if not tensor.is_input)

    @property
    def has_shape_tensors(self) -> bool:
        return any(tensor.shape_tensor for tensor in self.tensors)

    @property
    def is_dynamic(self) -> bool:
        """Whether some dimension of an input is not fixed."""
        return any(-1 in tensor.dims for tensor in self.inputs)


def describe(engine: Any, library: Library) -> Plan:
    """The description of an engine. Unsupported when a tensor has a datatype that no request can carry."""
    profiles = max(1, engine.num_optimization_profiles)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return Plan(tuple(_tensor(engine, library, name, profiles) for name in names), profiles)


def _tensor(engine: Any, library: Library, name: str, profiles: int) -> PlanTensor:
    trt = library.trt
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    shape_tensor = bool(engine.is_shape_inference_io(name))
    ranges: tuple[Range, ...] = ()
    values: tuple[Range, ...] = ()
    dims = tuple(engine.get_tensor_shape(name))
    if is_input:
        shapes = [engine.get_tensor_profile_shape(name, index) for index in range(profiles)]
        # An input whose dims are fixed needs no entry in a profile, and may have none.
        ranges = tuple(_range(shape) if len(shape) == 3 else Range(dims, dims, dims) for shape in shapes)
        if shape_tensor:
            values = tuple(_values(engine, index, name) for index in range(profiles))
    return PlanTensor(
        name,
        is_input,
        library.datatype(engine.get_tensor_dtype(name), name),
        dims,
        shape_tensor=shape_tensor,
        host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
        layout=engine.get_tensor_format(name).name,
        ranges=ranges,
        values=values,
    )


def _values(engine: Any, profile: int, name: str) -> Range:
    if hasattr(engine, "get_tensor_profile_values"):
        # The bindings name these two arguments the other way round.
        found = engine.get_tensor_profile_values(profile, name)
    else:
        found = engine.get_profile_shape_input(profile, name)
    return _range(found) if len(found) == 3 else Range((), (), ())


def _range(three: Any) -> Range:
    minimum, optimum, maximum = (tuple(int(dim) for dim in dims) for dims in three)
    return Range(minimum, optimum, maximum)
