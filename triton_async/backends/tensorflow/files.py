"""Model files of TensorFlow, looked at before an engine reads them: what it says of others is of no help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from triton_async.config.message_fields import file_varint
from triton_async.errors import InvalidArg, Unavailable

# Fields of the messages GraphDef (node, library, version, versions) and SavedModel (version, meta graphs).
_GRAPH_FIELDS = frozenset((1, 2, 3, 4, 5))
_SAVED_MODEL_FIELDS = frozenset((1, 2))


def check_files(path: Path, model: str, saved_model: bool) -> None:
    """ServerError, naming model and file, unless there is a GraphDef, or a SavedModel with its variables, at `path`.
    Weights are not read. Blocking.
    """
    if not path.exists():
        raise Unavailable(f"unable to find '{path.name}' for model '{model}'")
    if saved_model:
        _check_saved_model(path, model)
    elif path.is_dir():
        raise InvalidArg(
            f"unable to load model '{model}': '{path.name}' is a folder, and platform tensorflow_graphdef is for the "
            "file of a frozen graph; a SavedModel has platform tensorflow_savedmodel"
        )
    else:
        _check_message(path, path.name, model, "frozen graph (GraphDef)", _GRAPH_FIELDS)


def _check_saved_model(path: Path, model: str) -> None:
    where = f"unable to load model '{model}': '{path.name}'"
    if not path.is_dir():
        raise InvalidArg(f"{where} is a file: a SavedModel is the folder that has saved_model.pb in it")
    graph = path / "saved_model.pb"
    if not graph.is_file():
        raise InvalidArg(f"{where} has no saved_model.pb in it")
    _check_message(graph, f"{path.name}/saved_model.pb", model, "SavedModel", _SAVED_MODEL_FIELDS)
    variables = path / "variables"
    index = variables / "variables.index"
    if variables.is_dir() and any(variables.glob("variables.data-*")) and not index.is_file():
        raise InvalidArg(f"{where} has no variables/variables.index: its variables were not copied whole")
    if index.is_file() and not any(variables.glob("variables.data-*")):
        raise InvalidArg(f"{where} has no variables/variables.data-…: its variables were not copied whole")


def _check_message(path: Path, shown: str, model: str, kind: str, known: frozenset[int]) -> None:
    where = f"unable to load model '{model}': '{shown}'"
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        if not end:
            raise InvalidArg(f"{where} is empty")
        while file.tell() < end:
            number = _skip_field(file, end)
            if number not in known:
                raise InvalidArg(f"{where} is no {kind}, or is cut short")


def _skip_field(file: BinaryIO, end: int) -> int:
    """Number of the field at the file's place, which is then behind it; 0 for what is none."""
    size = 0
    try:
        tag = file_varint(file)
        if tag & 7 == 2:
            size = file_varint(file)
        elif tag & 7 == 0:
            file_varint(file)
        else:
            return 0
    except ValueError:
        return 0
    if size > end - file.tell():
        return 0
    file.seek(size, os.SEEK_CUR)
    return tag >> 3
