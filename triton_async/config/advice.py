"""What in a model's folder, or a repository's, is not as it is meant to be, in lines that say what to do. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from triton_async.config.autocomplete import MODEL_FILES
from triton_async.config.paths import is_directory
from triton_async.config.pbtxt import FILENAME
from triton_async.config.versions import ignored_versions, is_version, list_versions

# Folders of file systems and interpreters that no repository means as models.
NO_MODELS = frozenset(("lost+found", "__pycache__"))

_SHOWN = 8


def directory_warnings(model_dir: Path, versions: Iterable[int], others: Iterable[str]) -> list[str]:
    """Lines for the log about what in the model's folder is ignored. `versions`, `others`: its directories, see
    `versions.look`.
    """
    lines = ignored_versions(others)
    for version in versions:
        if os.path.isfile(os.path.join(model_dir, str(version), FILENAME)):
            lines.append(
                f"ignore '{model_dir.name}/{version}/{FILENAME}': a version has no config of its own, move it to "
                f"'{model_dir.name}/{FILENAME}'"
            )
    return lines


def no_version(model_dir: Path) -> str:
    """Why a model has no version to serve, and what to do."""
    name = model_dir.name
    if list_versions(model_dir):
        held = ", ".join(map(str, list_versions(model_dir)))
        return f"'{name}' has the versions {held}, none of which its version_policy selects"
    found = [file for file in MODEL_FILES if (model_dir / file).exists()]
    if found:
        return f"'{name}/{found[0]}' is in no version folder: move it to '{name}/1/{found[0]}'"
    return f"'{name}' holds {_held(model_dir)}: make a version folder in it, such as '{name}/1/{MODEL_FILES[0]}'"


def no_model_file(model_dir: Path, version: int) -> str:
    """What lies in the folder of a version in which no model was found, and what to do."""
    directory = model_dir / str(version)
    return (
        f"'{model_dir.name}/{version}' holds {_held(directory)}; looked for {', '.join(MODEL_FILES)}. Name the model's "
        f"file like one of them, or write its backend and 'default_model_filename' in '{model_dir.name}/{FILENAME}'"
    )


def missing_file(model_dir: Path, path: Path, backend: str) -> str:
    """That the file which a config asks for is not there, and what is."""
    code = backend == "pytorch" and path.with_name("model.py").exists()
    return (
        f"unable to find '{path.relative_to(model_dir.parent)}' for model '{model_dir.name}': its folder holds "
        f"{_held(path.parent)}. Rename the model's file, or set 'default_model_filename' in "
        f"'{model_dir.name}/{FILENAME}'"
        + (", or 'runtime: \"model.py\"' for a model that is the code in model.py" if code else "")
    )


def repository_warnings(root: Path) -> list[str]:
    """Lines for the log about what in a repository is no model, and about a folder that is no repository."""
    try:
        with os.scandir(root) as entries:
            found = sorted((entry.name, is_directory(entry)) for entry in entries)
    except OSError:
        return []
    directories = [name for name, directory in found if directory]
    files = [name for name, directory in found if not directory]
    lines = [f"ignore '{root / name}', which is no model" for name in directories if name in NO_MODELS]
    if FILENAME in files or any(is_version(name) and _has_model(root / name) for name in directories):
        lines.append(_not_a_repository(root, "a model", root.absolute().parent))
    elif any(name in MODEL_FILES for name in files):
        lines.append(_not_a_repository(root, "the version of a model", root.absolute().parent.parent))
    elif not [name for name in directories if name not in NO_MODELS and not name.startswith(".")]:
        lines.append(
            f"no models found in '{root}', which holds {_held(root)}: a model is a folder with a version folder and a "
            f"file, such as '{root}/my_model/1/{MODEL_FILES[0]}'"
        )
    return lines


def _not_a_repository(root: Path, what: str, parent: Path) -> str:
    return f"'{root}' looks like {what}, not like a repository of models: give --model-repository={parent}"


def _has_model(directory: Path) -> bool:
    return any((directory / file).exists() for file in MODEL_FILES)


def _held(directory: Path) -> str:
    """The names in a folder, in words."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    shown = [name.encode("utf-8", "replace").decode() for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(shown) + more) if shown else "nothing"
