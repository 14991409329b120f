"""A backend that is a shared library, its models, and the order in which their functions are called."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from triton_async.backends.base import Backend, LoadContext, LoadedModel, ModelInstance
from triton_async.backends.capi.batching import NativeRule, has_hooks
from triton_async.backends.capi.handles import BackendHandle, Library, ModelHandle
from triton_async.backends.capi.instance import NativeInstance, Turn
from triton_async.backends.capi.memory import NativeMemory
from triton_async.config.autocomplete import ModelIO
from triton_async.config.config_json import config_json
from triton_async.config.model_config import InstanceGroup, InstanceKind
from triton_async.config.placement import PreferredGroup
from triton_async.config.taken_over import take_over

log = logging.getLogger("triton_async.native")

# Our kinds and TRITONSERVER_InstanceGroupKind.
_KINDS = {InstanceKind.CPU: 1, InstanceKind.GPU: 2, InstanceKind.MODEL: 3}
_GPU = _KINDS[InstanceKind.GPU]
_SCHEDULING = ("dynamic_batching", "sequence_batching")


class NativeBackend(Backend):
    """The backend `name` in the library at `path`. Made, and initialised, with the first model that needs it.

    `options`: what the server tells every backend of itself, among the settings of its command line.
    """

    assembles = frozenset(("allow_ragged_batch",))
    gets_requests = True
    kinds = (InstanceKind.CPU, InstanceKind.MODEL, InstanceKind.GPU)

    def __init__(self, name: str, path: Path, options: dict[str, str]) -> None:
        self.name = name
        self._path = path
        self._options = options
        self._handle: BackendHandle | None = None
        self._lock = threading.Lock()

    @property
    def prefers_cpu(self) -> bool:  # type: ignore[override]
        """As the library says."""
        groups = self.handle.groups
        return bool(groups) and groups[0][0] != _GPU

    @property
    def preferred_groups(self) -> tuple[PreferredGroup, ...]:  # type: ignore[override]
        """As the library says."""
        kinds = {number: kind for kind, number in _KINDS.items()}
        return tuple(
            PreferredGroup(kinds[kind], count, gpus or ()) for kind, count, gpus in self.handle.groups if kind in kinds
        )

    @property
    def handle(self) -> BackendHandle:
        """The initialised backend. ServerError when the library is none. Load threads."""
        with self._lock:
            if self._handle is None:
                config = {"cmdline": {**self._options, **self.settings}}
                self._handle = BackendHandle(
                    self.name, Library(self._path), str(self._path.parent), json.dumps(config), NativeMemory(self.pools)
                )
                log.info("backend '%s' is the library %s", self.name, self._path)
            return self._handle

    def inspect(self, path: Path, proto: Any) -> ModelIO | None:
        opened = OpenedModel()
        return ModelIO((), (), check=_takes_any, complete=lambda to: self._complete(path, to, opened), opened=opened)

    def _complete(self, path: Path, proto: Any, opened: OpenedModel) -> list[str]:
        """Initialises the model, which may set its config meanwhile."""

        def on_config(completed: dict[str, Any]) -> dict[str, Any]:
            take_over(proto, completed, f"backend '{self.name}'", _SCHEDULING)
            return config_json(proto)

        opened.model = self._model(path, proto, True, on_config)
        opened.model.initialise()
        return []

    def _model(self, path: Path, proto: Any, auto_complete: bool, on_config: Any) -> ModelHandle:
        folder = path if path.name.isdigit() else path.parent
        return ModelHandle(
            self.handle, proto.name, int(folder.name), str(folder.parent), config_json(proto), auto_complete, on_config,
            self.inference,
        )  # fmt: skip

    def load(self, context: LoadContext) -> LoadedModel:
        proto = context.config.proto
        opened = context.opened
        # A config that a model sets once it is complete says nothing new.
        model = opened.taken() if isinstance(opened, OpenedModel) else None
        if model is None:
            model = self._model(context.path, proto, False, lambda _: config_json(proto))
        try:
            model.set_config(config_json(proto))
            sequences = context.config.sequences
            states = [state.output_name for state in sequences.states] if sequences is not None else []
            model.set_signature(context.signature, states, sequences is not None and sequences.iterative)
            if not model.initialised:
                model.initialise()
        except BaseException:
            model.close()
            raise
        try:
            return NativeModel(model, context)
        except BaseException:
            model.close()
            raise

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None


class OpenedModel:
    """What `inspect` hands to `load`: a model that was initialised to complete its config, or none."""

    def __init__(self) -> None:
        self.model: ModelHandle | None = None

    def taken(self) -> ModelHandle | None:
        """The model, whose closing is the caller's from here on."""
        model, self.model = self.model, None
        return model

    def close(self) -> None:
        """Finalises what no load has taken."""
        model = self.taken()
        if model is not None:
            model.close()


class NativeModel(LoadedModel):
    """One version. Its instances are initialised one after the other, unless the library takes several at once."""

    thread_bound = True

    def __init__(self, model: ModelHandle, context: LoadContext) -> None:
        self._model = model
        self._context = context
        self._starting = None if model.backend.parallel_loading else threading.Lock()
        self._turns: dict[tuple[InstanceKind, int], Turn] = {}
        self._lock = threading.Lock()
        library = model.backend.library
        self._anywhere = self._runs_anywhere()
        # Hooks of its own, where no other library has them.
        if context.config.dynamic_batching is not None and not context.has_strategy and has_hooks(library):
            self.batch_rule = NativeRule(library, context.signature, model=model)

    def create_instance(self, name: str, group: InstanceGroup, device_id: int) -> ModelInstance:
        policy = group.host_policy or _host_policy(group.kind, device_id)
        return NativeInstance(
            name, self._model, self._context.signature, self._context.pool, _KINDS[group.kind], max(device_id, 0),
            group.passive, policy, group.profile, self._turn(group.kind, device_id), self._starting,
            self._anywhere and group.kind is not InstanceKind.GPU,
        )  # fmt: skip

    # Whether executions may run on other threads than their instance's: the library's code could not tell, and nothing
    # that the server promises of threads is in the way.
    def _runs_anywhere(self) -> bool:
        backend, config = self._model.backend, self._context.config
        if backend.library.threads is not None:
            log.debug("model '%s' runs on the threads of its instances alone: of its library, %s", config.name,
                      backend.library.threads)  # fmt: skip
            return False
        return not (backend.device_blocking or config.sequences is not None or self._context.signature.decoupled)

    # Sequences have their instances to themselves, whatever the library's policy is.
    def _turn(self, kind: InstanceKind, device: int) -> Turn | None:
        if not self._model.backend.device_blocking or self._context.config.sequences is not None:
            return None
        with self._lock:
            return self._turns.setdefault((kind, device), Turn())

    def close(self) -> None:
        self._model.close()


def _host_policy(kind: InstanceKind, device: int) -> str:
    return f"gpu_{device}" if kind is InstanceKind.GPU else kind.name.lower()


def _takes_any(proto: Any) -> None:
    """What a library's models take is its own business: it has seen the config."""
