"""TensorFlow itself: imported at first use; graphs in sessions, as Triton runs them; instances that call them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triton_async import datatypes
from triton_async.backends.base import LoadContext, LoadedModel, ModelInstance, PythonInstance
from triton_async.backends.openvino.instance import fitted
from triton_async.backends.tensorflow.options import Options
from triton_async.config.autocomplete import ModelIO, TensorInfo
from triton_async.config.model_config import InstanceGroup, ModelConfig
from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable, Unsupported
from triton_async.importing import import_module
from triton_async.infer.tensor import Tensor, decode_bytes, encode_bytes, make
from triton_async.memory.slab import SlabPool

_BYTES, _BF16, _BOOL = (datatypes.from_name(name) for name in ("BYTES", "BF16", "BOOL"))

# TensorFlow's name of a type -> v2 datatype.
_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "bfloat16": "BF16", "float32": "FP32",
    "float64": "FP64", "string": "BYTES",
}  # fmt: skip


class Graph:
    """A graph and, of a SavedModel, where its variables are. `inputs`, `outputs`: names of tensors by the names that
    clients use. Immutable; sessions share it.
    """

    def __init__(
        self, tensorflow: Any, graph: Any, inputs: dict[str, str], outputs: dict[str, str], path: Path
    ) -> None:
        self.tensorflow = tensorflow
        self.version = str(tensorflow.__version__)
        self.graph = graph
        self.inputs = inputs
        self.outputs = outputs
        self.path = path

    def described(self) -> ModelIO:
        """What it takes and returns. Unsupported, naming the tensor, for types that there is no datatype for."""
        sides = [
            tuple(_described(self.graph, name, tensor, what) for name, tensor in names.items())
            for what, names in (("input", self.inputs), ("output", self.outputs))
        ]
        return ModelIO(sides[0], sides[1])


class TensorFlow:
    """The library. Made once; any thread. Unavailable when TensorFlow is not installed."""

    def __init__(self) -> None:
        # What TensorFlow finds on start is of no use in a server's log.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            self.tensorflow: Any = import_module("tensorflow")
        except ImportError as error:
            raise Unavailable(
                f"unable to load backend 'tensorflow': TensorFlow can not be imported ({error}); install it with: "
                "pip install 'triton-async[tensorflow]'"
            ) from None

    def read(self, path: Path, model: str, outputs: Sequence[str], options: Options) -> Graph:
        """The graph at `path`, with the `outputs` that a config names, or all. ServerError, naming model and file.
        Blocking."""
        where = f"unable to load model '{model}': '{path.name}'"
        try:
            if options.saved_model:
                return self._saved_model(path, where, options)
            return self._graph_def(path, where, outputs)
        except ServerError:
            raise
        except Exception as error:
            raise InvalidArg(f"{where} can not be read: {_first_line(error)}") from None

    def _graph_def(self, path: Path, where: str, wanted: Sequence[str]) -> Graph:
        v1 = self.tensorflow.compat.v1
        message = v1.GraphDef()
        message.ParseFromString(path.read_bytes())
        graph = v1.Graph()
        with graph.as_default():
            v1.import_graph_def(message, name="")
        inputs = {
            operation.name: operation.outputs[0].name
            for operation in graph.get_operations() if operation.type == "Placeholder"
        }  # fmt: skip
        if wanted:
            outputs = {name: _tensor_name(graph, name, where) for name in wanted}
        else:
            outputs = {
                tensor.name.removesuffix(":0"): tensor.name
                for operation in graph.get_operations() if operation.type not in ("Const", "Placeholder", "NoOp")
                for tensor in operation.outputs if not tensor.consumers()
            }  # fmt: skip
        return Graph(self.tensorflow, graph, inputs, outputs, path)

    def _saved_model(self, path: Path, where: str, options: Options) -> Graph:
        v1 = self.tensorflow.compat.v1
        graph = v1.Graph()
        with v1.Session(graph=graph, config=_session_config(v1, options)) as session:
            try:
                meta = v1.saved_model.load(session, [options.tag], str(path))
            except Exception as error:
                raise InvalidArg(f"{where} can not be read with tag '{options.tag}': {_first_line(error)}") from None
        signatures = meta.signature_def
        if options.signature not in signatures:
            names = ", ".join(sorted(name for name in signatures if not name.startswith("__")))
            raise InvalidArg(f"{where} has no signature '{options.signature}', it has: {names}")
        found = signatures[options.signature]
        return Graph(
            self.tensorflow, graph, {name: info.name for name, info in sorted(found.inputs.items())},
            {name: info.name for name, info in sorted(found.outputs.items())}, path,
        )  # fmt: skip


class TensorFlowModel(LoadedModel):
    """One version: sessions of its graph, each for as many instances as MAX_SESSION_SHARE_COUNT says, or for all."""

    thread_bound = False
    counts_instances = True

    def __init__(self, context: LoadContext, graph: Graph, options: Options) -> None:
        self._context = context
        self._graph = graph
        self._options = options
        self._lock = threading.Lock()
        self._session: Any = None
        self._users = 0

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        """An instance with a session, which it may share."""
        with self._lock:
            if self._session is None or self._users == self._options.shared != 0:
                self._session, self._users = self._make_session(), 0
            self._users += 1
            return SessionInstance(name, self._context.pool, self._context.config, self._graph, self._session)

    def close(self) -> None:
        """Drops the sessions; each ends with its last instance."""
        self._session = None

    def _make_session(self) -> Any:
        v1 = self._graph.tensorflow.compat.v1
        if not self._options.saved_model:
            return v1.Session(graph=self._graph.graph, config=_session_config(v1, self._options))
        # Variables belong to a session: each loads its own.
        graph = v1.Graph()
        session = v1.Session(graph=graph, config=_session_config(v1, self._options))
        v1.saved_model.load(session, [self._options.tag], str(self._graph.path))
        return session


class SessionInstance(PythonInstance):
    """Runs batches in a session, which lets go of the GIL."""

    def __init__(self, name: str, pool: SlabPool, config: ModelConfig, graph: Graph, session: Any) -> None:
        super().__init__(name, pool)
        self._config = config
        self._batching = config.max_batch_size > 0
        self._scalars = [
            session.graph.get_tensor_by_name(graph.inputs[io.name]).shape.rank == 0 for io in config.engine_inputs
        ]
        self._call = session.make_callable(
            [graph.outputs[io.name] for io in config.engine_outputs],
            feed_list=[graph.inputs[io.name] for io in config.engine_inputs],
        )

    def run(self, inputs: list[Tensor | None]) -> list[Tensor | Any | None]:
        """Outputs in the order of the config. InvalidArg where the graph does not take the inputs."""
        rows = next((tensor.shape[0] for tensor in inputs if tensor is not None), 0) if self._batching else -1
        feeds = [
            _feed(tensor, scalar)
            for tensor, scalar in zip(inputs, self._scalars, strict=True)
            if tensor is not None
        ]
        try:
            found = self._call(*feeds)
        except Exception as error:
            kind = InvalidArg if type(error).__name__ == "InvalidArgumentError" else InternalError
            raise kind(f"TensorFlow execute failure: {_first_line(error)}") from None
        return [self._result(io, value, rows) for io, value in zip(self._config.engine_outputs, found, strict=True)]

    def _result(self, io: Any, value: Any, rows: int) -> Any:
        array = np.asarray(value)
        if array.ndim == 0:
            array = array.reshape((1,) * len(io.model_dims))
        if io.reshape is not None:
            array = fitted(array, io.model_dims, rows)
        if io.datatype == _BYTES:
            return make(io.name, _BYTES, array.shape, encode_bytes(array.ravel().tolist()))
        if io.datatype == _BF16:
            array = array.view(np.uint16)
        return array

    def close(self) -> None:
        """Drops the session."""
        self._call = None


def _feed(tensor: Tensor, scalar: bool) -> Any:
    if tensor.datatype == _BYTES:
        array = np.empty(tensor.element_count, object)
        array[:] = decode_bytes(tensor)
        array = array.reshape(tensor.shape)
    else:
        array = tensor.numpy()
    if tensor.datatype == _BOOL:
        array = array.view(np.uint8) != 0  # a client may send any byte
    if tensor.datatype == _BF16:
        from ml_dtypes import bfloat16

        array = array.view(bfloat16)
    return array.reshape(()) if scalar and array.size == 1 else array


def _session_config(v1: Any, options: Options) -> Any:
    config = v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads, inter_op_parallelism_threads=options.inter_op_threads,
        device_count={"GPU": 0},
    )  # fmt: skip
    if options.intra_op_threads or options.inter_op_threads:
        config.use_per_session_threads = True
    return config


def _tensor_name(graph: Any, name: str, where: str) -> str:
    full = name if ":" in name else f"{name}:0"
    try:
        graph.get_tensor_by_name(full)
    except (KeyError, ValueError):
        raise InvalidArg(f"unexpected inference output '{name}': {where} has no such node") from None
    return full


def _described(graph: Any, name: str, tensor: str, what: str) -> TensorInfo:
    found = graph.get_tensor_by_name(tensor)
    datatype = _DATATYPES.get(found.dtype.base_dtype.name)
    if datatype is None:
        raise Unsupported(f"{what} '{name}' has elements of type '{found.dtype.name}', which no datatype stands for")
    shape: Sequence[int | None] = () if found.shape.rank is None else found.shape.as_list()
    dims = tuple(-1 if dim is None else dim for dim in shape)
    return TensorInfo(name, datatypes.from_name(datatype), dims, unranked=found.shape.rank is None)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", maxsplit=1)[0]
    return text or type(error).__name__
