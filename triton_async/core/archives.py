"""Models that come while the server runs, each in a folder of its own, as SageMaker brings them. Loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from triton_async.config import pbtxt
from triton_async.config.ensemble import is_ensemble
from triton_async.config.load import ConfigFile
from triton_async.config.override import Override
from triton_async.core.files import Fingerprint, LocalFiles, find, fingerprint
from triton_async.core.repository import ModelRepository
from triton_async.defines import ARCHIVE_UNLOAD_S
from triton_async.errors import AlreadyExists, InvalidArg, Unavailable


class ArchiveRoot:
    """A files.Root: a model, and the models of its steps, by the names that they have in the server."""

    local = True

    def __init__(self, directories: Mapping[str, Path], folder: str = "") -> None:
        self._directories = directories
        self._folder = folder

    def __str__(self) -> str:
        return self._folder

    def names(self) -> Iterable[str]:
        """Of all."""
        return list(self._directories)

    def survey(self) -> list[str]:
        """Nothing."""
        return []

    def has(self, name: str) -> bool:
        """Whether it has it."""
        return name in self._directories

    def fingerprint(self, name: str) -> Fingerprint:
        """Of a model's directory."""
        return fingerprint(self._directories[name])

    def fingerprints(self, names: Iterable[str]) -> dict[str, Fingerprint]:
        """Of several."""
        return {name: self.fingerprint(name) for name in names}

    def fetch(self, name: str) -> LocalFiles:
        """The model's directory."""
        return LocalFiles(self._directories[name])

    def close(self) -> None:
        """Nothing to do."""


class Archives:
    """`root`: the folder that all of them lie below. A model may have any name there; here it has the one that is asked
    for.
    """

    def __init__(self, repository: ModelRepository, root: str) -> None:
        self._repository = repository
        self._root = root
        self._loaded: dict[str, ArchiveRoot] = {}
        # Two that come at once are compared with each other.
        self._adding = asyncio.Lock()

    async def load(self, name: str, folder: str) -> None:
        """Loads the model in `folder`: the folder is its own, or holds the model's, or those of an ensemble and its
        steps. ServerError; nothing is left behind then. Not to be cancelled.
        """
        if self._repository.settings.model_control_mode != "explicit":
            raise Unavailable("models come and go by request in the model control mode explicit only")
        async with self._adding:
            directories, config = await self._repository.host.looking(_look, self._root, folder, name)
            names = self._repository.namespaces
            known = {names.split(key)[1] for key in (*await self._repository.scan(), *self._repository.models)}
            # With namespaces the models of an ensemble's steps are its own, whatever they are called.
            for one in [name] if names.enabled else directories:
                if one in known:
                    raise AlreadyExists(f"there is a model '{one}' already")
            root = ArchiveRoot(directories, folder)
            self._repository.add_root(root)
        try:
            await self._repository.load(names.key(root, name), None if config is None else Override(config))
        except BaseException:
            await self._repository.remove_root(root)
            raise
        self._loaded[name] = root

    async def unload(self, name: str) -> None:
        """Unloads a model with its steps; returns when all are freed, or after ARCHIVE_UNLOAD_S."""
        root = self._loaded.pop(name)
        await self._repository.unload_by_request(self._repository.namespaces.key(root, name), True)
        try:
            async with asyncio.timeout(ARCHIVE_UNLOAD_S):
                await self._repository.until_unloaded(root)
        finally:
            await self._repository.remove_root(root)


def _look(root: str, folder: str, name: str) -> tuple[dict[str, Path], ConfigFile | None]:
    """Name in the server -> directory, and the config of model `name` where its file has another name for it."""
    try:
        top = Path(root).resolve()
        path = Path(folder).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, links in a circle
        raise InvalidArg("the url is no path") from None
    if not path.is_relative_to(top) or path == top:
        raise InvalidArg(f"models lie below {root}")
    if not path.is_dir():
        raise InvalidArg("there is no folder at the url")
    inside = {one.name: one for one in sorted(path.iterdir()) if one.is_dir() and not one.name.startswith(".")}
    if (path / pbtxt.FILENAME).exists() or any(one.isascii() and one.isdigit() for one in inside):
        directories = {name: path}
    else:
        model = _main(inside)
        directories = {name if one == model else one: where for one, where in inside.items()}
    if not all(find([ArchiveRoot(directories)], one) for one in directories):
        raise InvalidArg(f"'{name[:200]}' can be no name of a model")
    file = pbtxt.find(directories[name])
    if file is None:
        return directories, None
    proto, unbatched = pbtxt.read(directories[name], file)
    if proto.name in ("", name):
        return directories, None
    proto.name = ""
    return directories, ConfigFile(proto, None, unbatched)


def _main(inside: Mapping[str, Path]) -> str:
    """The one model, or the one ensemble, of those in a folder. InvalidArg."""
    if len(inside) == 1:
        return next(iter(inside))
    files = {name: pbtxt.find(path) for name, path in inside.items()}
    ensembles = [
        name for name, file in files.items() if file is not None and is_ensemble(pbtxt.read(inside[name], file)[0])
    ]
    if len(ensembles) != 1:
        what = f"{len(ensembles)} of them ensembles" if inside else "none at all"
        raise InvalidArg(f"the folder holds {len(inside)} models, {what}: it must hold one model, or one ensemble")
    return ensembles[0]
