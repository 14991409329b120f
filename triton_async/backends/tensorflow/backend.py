"""The backend: which engine runs a model, what its graph takes and returns, the loaded model."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel
from triton_async.backends.openvino.backend import OpenVINOModel
from triton_async.backends.openvino.library import Library
from triton_async.backends.tensorflow import converted
from triton_async.backends.tensorflow.files import check_files
from triton_async.backends.tensorflow.options import OPENVINO, Options, model_options
from triton_async.backends.tensorflow.session import Graph, TensorFlow, TensorFlowModel
from triton_async.backends.tensorflow.signature import check_against_graph
from triton_async.config.autocomplete import ModelIO
from triton_async.config.sequences import with_injected
from triton_async.errors import Unavailable
from triton_async.protos import ModelConfig as ModelConfigProto

_logger = logging.getLogger(__name__)


class TensorFlowBackend(Backend):
    """Graphs of TensorFlow on the CPU. Holds the engines from the first model on. Any thread."""

    name = "tensorflow"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._openvino: Library | None = None
        self._tensorflow: TensorFlow | None = None

    def inspect(self, path: Path, proto: Any) -> ModelIO | None:
        """Inputs and outputs of the graph; of its nodes those that the config names, where it names any."""
        proto = ModelConfigProto() if proto is None else proto
        options = model_options(proto, self.settings, self.cores)
        opened = self._open(path, proto, options)
        found = opened.described(proto)
        return replace(found, opened=opened, check=lambda proto: check_against_graph(proto, found))

    def load(self, context: LoadContext) -> LoadedModel:
        """The model in its engine, checked against its config."""
        proto = context.config.proto
        options = model_options(proto, context.backend_config, self.cores)
        opened = context.opened
        graph = opened.take(context.path, options, proto) if isinstance(opened, OpenedGraph) else None
        if graph is None:
            again = self._open(context.path, proto, options)
            graph = again.graph
            check_against_graph(with_injected(proto), again.described(proto))
        if options.engine == OPENVINO:
            library = self._library()
            prepared = converted.prepare(library, graph, with_injected(proto))
            engine = converted.engine_options(proto, context.backend_config, self.cores)
            return OpenVINOModel(library, context, engine, prepared)
        assert isinstance(graph, Graph)
        _logger.info("model '%s': TensorFlow %s on the CPU", proto.name, graph.version)
        return TensorFlowModel(context, graph, options)

    def _open(self, path: Path, proto: Any, options: Options) -> OpenedGraph:
        check_files(path, proto.name, options.saved_model)
        outputs = _outputs(proto)
        if options.engine == OPENVINO:
            graph = converted.convert(self._library(), path, proto.name, outputs, options.saved_model)
        else:
            graph = self._library_of_tensorflow().read(path, proto.name, outputs, options)
        return OpenedGraph(graph, path, options, proto)

    def _library(self) -> Library:
        with self._lock:
            if self._openvino is None:
                try:
                    self._openvino = Library("tensorflow")
                except Unavailable as error:
                    raise Unavailable(
                        f"{error.message}, or TensorFlow itself: pip install 'triton-async[tensorflow]'"
                    ) from None
            return self._openvino

    def _library_of_tensorflow(self) -> TensorFlow:
        with self._lock:
            if self._tensorflow is None:
                self._tensorflow = TensorFlow()
            return self._tensorflow


class OpenedGraph:
    """A graph that was read, or converted, with the outputs that its config named. One load may take it."""

    def __init__(self, graph: Any, path: Path, options: Options, proto: Any) -> None:
        self.graph = graph
        self._made_of = path, options, _outputs(proto)

    def described(self, proto: Any) -> ModelIO:
        """What the graph takes and returns."""
        return self.graph.described() if isinstance(self.graph, Graph) else converted.described(self.graph, proto)

    def take(self, path: Path, options: Options, proto: Any) -> Any:
        """The graph, when it is of this file, these options and these outputs and is still there."""
        graph, self.graph = self.graph, None
        path_then, options_then, outputs_then = self._made_of
        same = (path_then, options_then) == (path, options) and outputs_then in ((), _outputs(proto))
        return graph if same else None

    def close(self) -> None:
        """Drops the graph when no load took it."""
        self.graph = None


def _outputs(proto: Any) -> tuple[str, ...]:
    """Nodes that a config names, states of sequences included; none where it leaves its outputs to the graph."""
    return tuple(sorted(io.name for io in with_injected(proto).output)) if proto.output else ()
