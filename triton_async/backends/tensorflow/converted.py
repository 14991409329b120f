"""Graphs converted by OpenVINO's front-end: the nodes that a config names, the shapes that it says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from triton_async.backends.openvino.backend import Prepared
from triton_async.backends.openvino.library import Library, reason
from triton_async.backends.openvino.options import Options
from triton_async.backends.openvino.options import model_options as openvino_options
from triton_async.backends.openvino.ports import datatype_of, model_io
from triton_async.backends.tensorflow.options import remedy
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.errors import InvalidArg, ServerError, Unsupported

# The front-end keeps state of its own while it converts.
_converting = threading.Lock()


def engine_options(proto: Any, settings: Any, cores: int) -> Options:
    """OpenVINO's options of the model. Without a word on precision it is FP32, as TensorFlow computes. `cores`: see
    `Backend.cores`.
    """
    parameters = {key: value.string_value for key, value in proto.parameters.items()}
    instances = sum(group.count for group in proto.instance_group) or 1
    options = openvino_options(proto.name, parameters, settings, instances, cores)
    if "EXECUTION_MODE_HINT" not in options.properties:
        options.properties.setdefault("INFERENCE_PRECISION_HINT", "f32")
    return options


def convert(library: Library, path: Path, model: str, outputs: Sequence[str], saved_model: bool) -> Any:
    """OpenVINO's model of the graph at `path`, with the `outputs` that a config names, or all when there are none.
    ServerError, naming model and file. Blocking.
    """
    where = f"unable to load model '{model}': '{path.name}'"
    try:
        with _converting:
            frontend = _frontend(library)
            graph = frontend.load(str(path), False)  # False: variables are read, not mapped
            if not saved_model and outputs:
                graph.override_all_outputs([_output(graph, name, model) for name in outputs])
            converted = frontend.convert(graph)
    except ServerError:
        raise
    except Exception as error:
        text = reason(error)
        if "conversion" in text or "rule" in text or "not supported" in text:
            raise Unsupported(f"{where} has operators that OpenVINO does not convert: {text}; {remedy()}") from None
        raise InvalidArg(f"{where} can not be read: {text}") from None
    for port in (*converted.inputs, *converted.outputs):
        port.get_tensor().set_names({_name(port)})
    return converted


def _frontend(library: Library) -> Any:
    from openvino.frontend import FrontEndManager

    found = FrontEndManager().load_by_framework("tf")
    if found is None:
        raise Unsupported(f"OpenVINO {library.version} comes without its TensorFlow front-end; {remedy()}")
    return found


def _output(graph: Any, name: str, model: str) -> Any:
    place = graph.get_place_by_tensor_name(name if ":" in name else f"{name}:0")
    if place is None:
        loose = sorted(names[0].removesuffix(":0") for found in graph.get_outputs() if (names := found.get_names()))
        raise InvalidArg(
            f"unexpected inference output '{name}': the graph has no such node; nothing in it uses: {', '.join(loose)} "
            f"for {model}"
        )
    return place


def _name(port: Any) -> str:
    node = str(port.node.friendly_name)
    names = port.get_names()
    return (node if not names or node in names else min(names)).removesuffix(":0")


def described(model: Any, proto: Any) -> ModelIO:
    """What the graph takes and returns. Tensors without a rank are unranked. Unsupported, naming the tensor, for
    datatypes that OpenVINO does not serve."""
    sides = []
    for what, ports in (("input", model.inputs), ("output", model.outputs)):
        found = []
        for port in ports:
            name, datatype = _name(port), datatype_of(port)
            if not datatype:
                raise Unsupported(
                    f"unable to load model '{proto.name}': {what} '{name}' has elements of type "
                    f"'{port.element_type.get_type_name()}', which OpenVINO does not serve here; {remedy()}"
                )
            shape = port.partial_shape
            if shape.rank.is_dynamic:
                found.append(TensorInfo(name, datatype, (), unranked=True))
            else:
                dims = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in shape)
                found.append(TensorInfo(name, datatype, dims))
        sides.append(tuple(found))
    return ModelIO(sides[0], sides[1])


def prepare(library: Library, model: Any, proto: Any) -> Prepared:
    """`model` with the shapes of its complete config, where it takes them: what is fixed runs faster."""
    openvino = library.openvino
    narrowed = model.clone()
    by_name = {_name(port): port for port in narrowed.inputs}
    shapes = {}
    for io in proto.input:
        dims = [openvino.Dimension(dim) for dim in (io.reshape.shape if io.HasField("reshape") else io.dims)]
        if proto.max_batch_size > 0:
            dims = [openvino.Dimension(1, proto.max_batch_size), *dims]
        port = by_name[io.name]
        if port.partial_shape.rank.is_dynamic or len(port.partial_shape) == len(dims):
            shapes[port] = openvino.PartialShape(dims)
    try:
        narrowed.reshape(shapes)
    except Exception:
        narrowed = model  # something in it depends on sizes that only a run shows
    return Prepared(narrowed, model_io(narrowed, proto, False))
