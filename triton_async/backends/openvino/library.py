"""OpenVINO itself: imported at first use; reads model files, compiles models, and its errors in one line."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triton_async import importing
from triton_async.config.external_data import external_files
from triton_async.config.paths import safe_join
from triton_async.errors import InternalError, InvalidArg, Unavailable

_logger = logging.getLogger(__name__)

# "Exception from src/x.cpp:84:" and "Check 'c' failed at src/y.cpp:9:" say where, not what.
_PLACES = re.compile(r"(Exception from [^\s:]+:\d+:|Check '[^\n]*' failed at [^\s:]+:\d+:|Check [^\n]* failed at \S+)")
_PATHS = re.compile(r"(?<![\w.])/(?:[^/\s'\":]+/)+")

# Where the constants of an IR lie in its file of weights.
_WEIGHTS = re.compile(rb'offset="(\d{1,18})" [^<>]*?\bsize="(\d{1,18})"')

# How much of an .xml file is looked at for the element that all IR begin with.
_HEAD_NBYTES = 1 << 16


class Library:
    """OpenVINO, and its core, which models without extensions share. Made once; any thread. Unavailable when OpenVINO
    is not installed."""

    def __init__(self, backend: str = "openvino") -> None:
        try:
            self.openvino: Any = importing.import_module("openvino")
        except ImportError as error:
            raise Unavailable(
                f"unable to load backend '{backend}': OpenVINO can not be imported ({error}); install it with: "
                "pip install 'triton-async[openvino]'"
            ) from None
        # Its table of NumPy's types is made at the first call, by Python code and under a lock of C++: another thread
        # that asks meanwhile keeps the GIL while it waits for that lock, and the process stands still.
        with importing.turn():
            self.openvino.Type.f32.to_dtype()
        self.version = str(self.openvino.get_version()).split("-", maxsplit=1)[0]
        self._lock = threading.Lock()
        self._cores: dict[str, Any] = {}

    def core(self, model: str, extension: str) -> Any:
        """The core of models that have this library of operators, "" for none. InvalidArg when it can not be loaded."""
        with self._lock:
            core = self._cores.get(extension)
            if core is None:
                core = self.openvino.Core()
                # Mapped weights follow what becomes of their file, and end the process when it is cut.
                core.set_property({"ENABLE_MMAP": False})
                if extension:
                    try:
                        core.add_extension(extension)
                    except Exception as error:
                        raise InvalidArg(
                            f"unable to load model '{model}': parameter 'CPU_EXTENSION_PATH' names "
                            f"'{Path(extension).name}', which can not be loaded: {reason(error)}"
                        ) from None
                self._cores[extension] = core
            return core

    def read(self, core: Any, path: Path, model: str) -> Any:
        """The model in the file, or folder, at `path`. ServerError, naming the file. Blocking, without the GIL."""
        _check_file(path, model)
        _check_external_data(path, model)
        try:
            read = core.read_model(str(path))
        except Exception as error:
            raise _unreadable(path, model, reason(error)) from None
        _compare_weights(path, model)
        return read

    def compile(self, core: Any, read: Any, model: str, properties: Mapping[str, Any]) -> Any:
        """The compiled model, on the CPU. ServerError with the engine's reason. Blocking, without the GIL."""
        try:
            return core.compile_model(read, "CPU", dict(properties))
        except Exception as error:
            text = f"unable to load model '{model}': OpenVINO can not compile it: {reason(error)}"
            raise InternalError(text) from None


def reason(error: BaseException) -> str:
    """What OpenVINO says, in one line, without the places in its source and directories of ours."""
    text = _PATHS.sub("", _PLACES.sub(" ", str(error)))
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _check_file(path: Path, model: str) -> None:
    try:
        found = path.stat()
    except OSError:
        raise Unavailable(f"unable to find '{path.name}' for model '{model}'") from None
    if path.is_dir():
        return
    if not found.st_size:
        raise InvalidArg(f"unable to load model '{model}': '{path.name}' is empty")
    if path.suffix == ".xml":
        with path.open("rb") as file:
            if not re.search(rb"<net[\s>]", file.read(_HEAD_NBYTES)):
                raise InvalidArg(
                    f"unable to load model '{model}': '{path.name}' is no OpenVINO IR: it has no element <net>"
                )


def _check_external_data(path: Path, model: str) -> None:
    """InvalidArg when an ONNX model has weights in files outside of its directory."""
    if path.suffix != ".onnx" or path.is_dir():
        return
    try:
        names = external_files(path.read_bytes())
    except InvalidArg:
        return  # no model: OpenVINO says so
    for name in names:
        safe_join(path.parent, name, f"external data of model '{model}'")


def _compare_weights(path: Path, model: str) -> None:
    """A warning when an IR does not use its file of weights to the end: nothing else tells whose weights they are."""
    weights = path.with_suffix(".bin")
    if path.suffix != ".xml" or not weights.is_file():
        return
    used = max((int(start) + int(size) for start, size in _WEIGHTS.findall(path.read_bytes())), default=0)
    nbytes = weights.stat().st_size
    if used < nbytes:
        _logger.warning(
            "model '%s': '%s' has %d bytes, '%s' uses %d of them: if they are of different models, answers are wrong",
            model, weights.name, nbytes, path.name, used,
        )  # fmt: skip


def _unreadable(path: Path, model: str, text: str) -> InvalidArg:
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and "weights" in text:
        if not weights.is_file():
            text = f"its weights '{weights.name}' are missing beside it: an IR is two files, copy both"
        else:
            text = f"'{weights.name}' is too short for it, or that of another model ({text})"
    elif "Available frontends" in text:
        text = "it is no model of a kind that OpenVINO reads, or is cut short"
    return InvalidArg(f"unable to load model '{model}': '{path.name}' can not be read: {text}")
