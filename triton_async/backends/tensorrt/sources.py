"""Where the bytes of a plan come from: the version's file, or an ONNX model that is built, once, and kept."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from triton_async.backends.tensorrt import options
from triton_async.backends.tensorrt.api import Library
from triton_async.backends.tensorrt.build import BuildOptions, Network, resolve_profiles
from triton_async.backends.tensorrt.plans import PlanCache, cache_key, default_directory, file_digest, read_model
from triton_async.config.autocomplete import ModelIO
from triton_async.config.external_data import external_files
from triton_async.config.paths import safe_join
from triton_async.errors import InvalidArg
from triton_async.memory.devices import DeviceInfo

log = logging.getLogger("triton_async.tensorrt")


class PlanSource:
    """One model file. `is_onnx`: it is built into a plan first. Load threads; blocks."""

    def __init__(
        self, library: Library, settings: options.BackendSettings, path: Path, is_onnx: bool, proto: Any
    ) -> None:
        self._library = library
        self._settings = settings
        self._path = path
        self._is_onnx = is_onnx
        self._proto = proto
        self._content: bytes | None = None
        self._keys: dict[DeviceInfo | None, str] = {}

    def onnx_io(self) -> ModelIO:
        """What an ONNX model declares, and the largest batch when profiles are given. Needs no GPU where the library's
        builder needs none."""
        found = self._network("").model_io()
        profiles = options.build_parameters(self._proto).profiles
        largest = [min(one.maximum[0] for one in profile.values()) for profile in profiles]
        batches = all(tensor.dims and tensor.dims[0] == -1 for tensor in (*found.inputs, *found.outputs))
        return replace(found, max_batch_size=max(largest)) if largest and batches else found

    def plan(self, info: DeviceInfo | None, cache: PlanCache | None) -> bytes:
        """The plan for a GPU, which is current; None: for those that the library builds for when it sees none.

        InvalidArg for what cannot be read, parsed or built as configured, InternalError when the build fails.
        """
        if not self._is_onnx:
            given = sorted(options.BUILD_PARAMETERS & set(self._proto.parameters))
            if given:
                log.warning(
                    "model '%s' has a plan: parameter '%s' is for building one and changes nothing",
                    self._proto.name,
                    given[0],
                )
            return read_model(self._path, f"the plan of model '{self._proto.name}'")
        try:
            if cache is None:
                return self._build(info)
            return cache.get(self.key(info), lambda: self._build(info))
        finally:
            self._content = None

    def key(self, info: DeviceInfo | None) -> str:
        """What tells this plan from all others, for one GPU: model, external data, options, library and GPU."""
        if info not in self._keys:
            gpu = "none" if info is None else f"{info.name} {info.compute_capability}"
            library = f"{self._library.name} {self._library.version}"
            self._keys[info] = cache_key(*self._digests(), self._options_text(), library, gpu)
        return self._keys[info]

    def _build(self, info: DeviceInfo | None) -> bytes:
        parameters = options.build_parameters(self._proto)
        network = self._network(parameters.precision)
        profiles = resolve_profiles(network.inputs(), self._proto, parameters)
        chosen = BuildOptions(profiles, parameters.level, parameters.workspace_nbytes, parameters.precision)
        return network.build(chosen, self._proto.name, on_device=info is not None)

    def _network(self, precision: str) -> Network:
        content = self._read()
        self._external(content)
        return Network(self._library, content, self._path, precision)

    def _read(self) -> bytes:
        if self._content is None:
            self._content = read_model(self._path, f"the ONNX model of model '{self._proto.name}'")
        return self._content

    def _external(self, content: bytes) -> list[Path]:
        """The files of external data. InvalidArg when one is outside of the model's directory."""
        what = f"external data of model '{self._proto.name}'"
        return [safe_join(self._path.parent, name, what) for name in external_files(content)]

    def _digests(self) -> list[str]:
        if not self._is_onnx:
            return [file_digest(self._path, f"the plan of model '{self._proto.name}'")]
        what = f"external data of model '{self._proto.name}'"
        content = self._read()
        return [hashlib.sha256(content).hexdigest(), *(file_digest(path, what) for path in self._external(content))]

    def _options_text(self) -> str:
        """What a build depends on of the config: its inputs and batching decide the profiles that it does not name."""
        if not self._is_onnx:
            return ""
        proto = self._proto
        parameters = options.build_parameters(proto)
        shapes = [(io.name, tuple(io.dims), io.HasField("reshape"), tuple(io.reshape.shape)) for io in proto.input]
        preferred = tuple(proto.dynamic_batching.preferred_batch_size)
        return repr((parameters, proto.max_batch_size, preferred, shapes, self._settings.plugins))


def default_cache(settings: options.BackendSettings) -> PlanCache | None:
    """The plan cache of the settings, else of the user. InvalidArg when the one of the settings cannot be used; without
    one of the user, plans are built at each load."""
    if settings.cache_directory:
        return PlanCache(Path(settings.cache_directory), settings.cache_nbytes)
    try:
        return PlanCache(default_directory(), settings.cache_nbytes)
    except (InvalidArg, RuntimeError) as error:
        log.warning("plans built from ONNX are not kept: %s", error)
        return None
