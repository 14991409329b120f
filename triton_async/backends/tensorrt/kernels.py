"""How execution contexts are made, and the kernels that TensorRT-RTX compiles meanwhile, kept for the next load."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from triton_async.backends.tensorrt.api import Library
from triton_async.backends.tensorrt.plans import PlanCache
from triton_async.errors import Unsupported

log = logging.getLogger("triton_async.tensorrt")


class Kernels:
    """What the library compiled for one engine. Load and instance threads."""

    def __init__(self, runtime_cache: Any, cache: PlanCache, key: str) -> None:
        self.runtime_cache = runtime_cache
        self._cache = cache
        self._key = key

    @classmethod
    def open(cls, engine: Any, cache: PlanCache | None, make_key: Callable[[], str]) -> Kernels | None:
        """The kernels of an engine, with those that were saved before; None where nothing is kept, or the library
        compiles none."""
        make_config = getattr(engine, "create_runtime_config", None)
        config = None if make_config is None else make_config()
        make = getattr(config, "create_runtime_cache", None)
        runtime_cache = None if make is None else make()
        if runtime_cache is None or cache is None:
            return None
        key = make_key()
        saved = cache.read_kernels(key)
        if saved is not None and not runtime_cache.deserialize(saved):
            log.info("the kernels that were kept do not fit this machine any more")
        return cls(runtime_cache, cache, key)

    def save(self) -> None:
        """Keeps the kernels compiled so far. Nothing fails when that cannot be done."""
        try:
            content = self.runtime_cache.serialize()
        except RuntimeError as error:  # the engine that it belongs to has to go all the same
            log.warning("the compiled kernels could not be kept: %s", error)
            return
        if content is not None:
            self._cache.store_kernels(self._key, bytes(memoryview(content)))


def context_maker(
    library: Library, strategy: str, kernels: Kernels | None, graphs: bool
) -> Callable[[Any], Any] | None:
    """Makes the execution contexts of an instance; None: the default way does. None as its result is a failure.

    `strategy`: STATIC or ON_PROFILE_CHANGE. `graphs`: the config wants CUDA graphs, which TensorRT-RTX makes by itself.
    Unsupported when the library knows no strategies and the config wants another than its own.
    """
    strategies = library.optional("ExecutionContextAllocationStrategy")
    if strategies is None:
        if strategy != "STATIC":
            raise Unsupported(
                f"parameter 'execution_context_allocation_strategy' is {strategy}, which {library.name} "
                f"{library.version} does not know"
            )
        return None
    chosen = getattr(strategies, strategy)
    cuda_graphs = library.optional("CudaGraphStrategy")
    if kernels is None and not (graphs and cuda_graphs is not None):
        return lambda engine: engine.create_execution_context(chosen)

    def make(engine: Any) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(chosen)
        if kernels is not None:
            config.set_runtime_cache(kernels.runtime_cache)
        if graphs and cuda_graphs is not None:
            config.cuda_graph_strategy = cuda_graphs.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    return make
