"""Libraries of custom operators that a config names (model_operations.op_library_filename)."""

from __future__ import annotations

from pathlib import Path

from triton_async.config.model_config import ModelConfig
from triton_async.config.paths import safe_join
from triton_async.errors import Unavailable


def operator_libraries(config: ModelConfig, path: Path) -> tuple[str, ...]:
    """Paths of the libraries for the model at `path`. A relative one is looked for in the version's directory, then in
    the model's; a bare name that is in neither is the dynamic linker's to find. Unavailable, InvalidArg.
    """
    return tuple(_find(config.name, name, path) for name in config.proto.model_operations.op_library_filename)


def _find(model: str, name: str, path: Path) -> str:
    what = f"op_library_filename of model '{model}'"
    if Path(name).is_absolute():
        found = [Path(name)]
    else:
        found = [safe_join(directory, name, what) for directory in (path.parent, path.parent.parent)]
    for library in found:
        if library.is_file():
            return str(library)
    if Path(name).name == name:
        return name
    raise Unavailable(
        f"unable to load model '{model}': the library of operators '{name}' is not there: a relative path begins in "
        "the version's directory or the model's"
    )
