"""What a load request brings for the model: a config, and files in place of the model's directory."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import orjson
from google.protobuf import json_format

from triton_async.config.load import ConfigFile
from triton_async.config.paths import safe_relative
from triton_async.defines import (
    JSON_MAX_DEPTH,
    OVERRIDE_CONFIG_MAX_NBYTES,
    OVERRIDE_MAX_FILES,
    OVERRIDE_MAX_NAME_NBYTES,
    OVERRIDE_MAX_PATH_NBYTES,
)
from triton_async.errors import InvalidArg
from triton_async.protos import POOL, ModelConfig

_FILE = "file:"
# What opens and closes a level of JSON, and texts, in which neither does.
_LEVELS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[][{}]', re.DOTALL)
# Settings of engines that name files, which they then read, write or run. Who sends a config does not choose these.
_NAMES_FILES = re.compile(r"path|(?<!pro)file|prefix|(?:^|[_.-])dir(?:ectory)?(?:$|[_.-])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Override:
    """`config`: used in place of the model's config file. `files`: path below the model's directory -> content; empty:
    the directory is the repository's.
    """

    config: ConfigFile
    files: Mapping[str, bytes] = field(default_factory=dict)


def parse_override(parameters: Mapping[str, Any]) -> Override:
    """Of a load request's parameters: `config`, JSON text, and `file:<version>/<name>`. InvalidArg. Not for the loop
    thread: of a long config it takes long.
    """
    files = {_path(key): bytes(content) for key, content in parameters.items() if key.startswith(_FILE)}
    if len(files) > OVERRIDE_MAX_FILES:
        raise InvalidArg(f"a load request brings at most {OVERRIDE_MAX_FILES} files")
    for path in files:
        for parent in PurePosixPath(path).parents:
            if str(parent) in files:
                raise InvalidArg(f"Invalid file path '{path}': '{parent}' is a file of the same request")
    if "config" not in parameters:
        raise InvalidArg("Load parameter 'config' must be specified for model file override")
    return Override(_config(parameters["config"]), files)


def _path(key: str) -> str:
    path = key.removeprefix(_FILE)
    normal = posixpath.normpath(path)
    try:
        safe_relative(normal, "path")
    except InvalidArg:
        normal = ""
    if not path or normal in ("", ".") or path.startswith("/"):
        shown = posixpath.normpath(path)[:200]
        raise InvalidArg(
            f"Invalid file parameter '{key[:200]}' with normalized path '{shown}' must stay within model directory."
        )
    names = [len(name.encode(errors="surrogatepass")) for name in normal.split("/")]
    if max(names) > OVERRIDE_MAX_NAME_NBYTES or sum(names) + len(names) > OVERRIDE_MAX_PATH_NBYTES:
        raise InvalidArg(
            f"Invalid file path '{normal[:80]}...': it has more than {OVERRIDE_MAX_PATH_NBYTES} bytes, or a name in it "
            f"more than {OVERRIDE_MAX_NAME_NBYTES}"
        )
    return normal


def _config(text: str) -> ConfigFile:
    try:
        data = text.encode()
        if len(data) > OVERRIDE_CONFIG_MAX_NBYTES:
            raise InvalidArg(f"Invalid config override: it is larger than {OVERRIDE_CONFIG_MAX_NBYTES} bytes")
        _check_depth(data)
        document = orjson.loads(data)
        if not isinstance(document, dict):
            raise InvalidArg("Invalid config override: a config is a JSON object")
        proto = json_format.ParseDict(document, ModelConfig(), descriptor_pool=POOL)
    except (json_format.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidArg(f"Invalid config override: {(str(error).splitlines() or [''])[0][:500]}") from None
    for key in _names_of_files(proto):
        raise InvalidArg(
            f"Invalid config override: '{key}' names a file, which is for the owner of the repository to set, in "
            "config.pbtxt"
        )
    size = document.get("max_batch_size", document.get("maxBatchSize"))
    return ConfigFile(proto, None, unbatched=size == 0)


def _check_depth(data: bytes) -> None:
    """Before any library follows it."""
    depth = 0
    for found in _LEVELS.finditer(data):
        if found[0] in b"[{":
            depth += 1
            if depth > JSON_MAX_DEPTH:
                raise InvalidArg(
                    f"Invalid config override: JSON nesting depth exceeds maximum allowed limit ({JSON_MAX_DEPTH})"
                )
        elif found[0] in b"]}":
            depth -= 1


def _names_of_files(proto: Any) -> Iterator[str]:
    for key in proto.parameters:
        if _NAMES_FILES.search(key):
            yield f"parameters.{key}"
    if proto.model_operations.op_library_filename:
        yield "model_operations.op_library_filename"
    accelerators = proto.optimization.execution_accelerators
    for kind in (accelerators.gpu_execution_accelerator, accelerators.cpu_execution_accelerator):
        for accelerator in kind:
            for key in accelerator.parameters:
                if _NAMES_FILES.search(key):
                    yield f"optimization.execution_accelerators.{accelerator.name}.{key}"
