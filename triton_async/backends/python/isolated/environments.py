"""Environments of Python models (EXECUTION_ENV_PATH): an archive of conda-pack, a virtual environment, a conda prefix,
or the requirements from which a virtual environment is made. Archives and requirements are made ready once, in a cache
directory. Load threads; any number of servers may share the cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from triton_async.backends.python.defines import ENVIRONMENT_SETUP_TIMEOUT_S, REQUIREMENTS_MAX_NBYTES
from triton_async.backends.python.isolated.archive import unpack
from triton_async.backends.python.isolated.zygote import worker_environment
from triton_async.config.paths import read_bounded, safe_join
from triton_async.errors import InternalError, InvalidArg

log = logging.getLogger("triton_async.python")

MACRO = "$$TRITON_MODEL_DIRECTORY"
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")
# In the directory of an environment that was made ready to its end.
_COMPLETE = ".triton-async-complete"
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--progress-bar=off")


@dataclass(frozen=True)
class Environment:
    """`home`: its directory, None for the server's own interpreter."""

    interpreter: str
    home: Path | None


OWN = Environment(sys.executable, None)


class Environments:
    """Finds environments. `cache`: directory for what is made, "" for the user's own."""

    def __init__(self, cache: str = "") -> None:
        self._cache = cache

    def find(self, value: str, model_directory: Path, model: str) -> Environment:
        """The environment that EXECUTION_ENV_PATH of a model means; blocks while it is made. ServerError."""
        what = f"EXECUTION_ENV_PATH of model '{model}'"
        path = _located(value, model_directory, what)
        if path.is_dir():
            return _usable(path, what)
        if not path.exists():
            raise InvalidArg(f"{what} does not exist: '{value}'")
        if path.name.endswith(_ARCHIVES):
            return self._unpacked(path, what)
        if path.suffix == ".txt":
            return self._installed(path, what)
        raise InvalidArg(
            f"{what} is neither a directory, nor an archive ({', '.join(_ARCHIVES)}), nor a file of requirements "
            f"(.txt): '{value}'"
        )

    def _unpacked(self, archive: Path, what: str) -> Environment:
        found = archive.stat()
        key = _key("archive", os.path.realpath(archive), str(found.st_mtime_ns), str(found.st_size))

        def make(directory: Path) -> None:
            try:
                unpack(archive, directory)
            except InvalidArg as error:
                raise InvalidArg(f"{what}: the archive can not be unpacked: {error.message}") from None
            _usable(directory, what)

        return _usable(self._made(key, make, what), what)

    def _installed(self, requirements: Path, what: str) -> Environment:
        content = read_bounded(requirements, f"the requirements of {what}", REQUIREMENTS_MAX_NBYTES)
        # Requirements may name other files, beside them.
        key = _key("requirements", str(requirements.parent), hashlib.sha256(content).hexdigest(), sys.version)

        def make(directory: Path) -> None:
            log.info("making a virtual environment of %s", what)
            venv = [sys.executable, "-m", "venv", str(directory)]
            _run(venv, None, f"{what}: the virtual environment can not be made")
            pip = [str(directory / "bin" / "python"), "-m", "pip", "install", *_PIP_OPTIONS]
            _run([*pip, "-r", str(requirements)], directory, f"{what}: pip could not install the requirements")
            _run([*pip, "numpy"], directory, f"{what}: pip could not install NumPy, which every Python model needs")

        return _usable(self._made(key, make, what), what)

    # The directory of an entry of the cache, made now if it was not before.
    def _made(self, key: str, make: Callable[[Path], None], what: str) -> Path:
        try:
            root = self._root()
            root.mkdir(0o700, parents=True, exist_ok=True)
            directory = root / key
            with _locked(root / f"{key}.lock"):
                if not (directory / _COMPLETE).exists():
                    shutil.rmtree(directory, ignore_errors=True)
                    directory.mkdir(0o700)
                    try:
                        make(directory)
                    except BaseException:
                        shutil.rmtree(directory, ignore_errors=True)
                        raise
                    (directory / _COMPLETE).touch()
        except OSError as error:
            raise InternalError(f"{what}: the cache of environments can not be used: {error.strerror}") from None
        return directory

    def _root(self) -> Path:
        if self._cache:
            return Path(self._cache)
        root = os.environ.get("XDG_CACHE_HOME", "")
        try:
            return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "triton-async" / "python"
        except RuntimeError:
            raise InternalError("there is no home for the cache of Python environments: set "
                                "--backend-config=python,environment-cache-directory") from None  # fmt: skip


def _located(value: str, model_directory: Path, what: str) -> Path:
    if value.startswith(MACRO):
        inside = value[len(MACRO) :].strip("/")
        return safe_join(model_directory, inside, what) if inside else model_directory
    if MACRO in value:
        raise InvalidArg(f"{what} has {MACRO} elsewhere than at its beginning: '{value}'")
    if not os.path.isabs(value) or "\0" in value:
        raise InvalidArg(f"{what} must be an absolute path, or begin with {MACRO}: '{value[:200]}'")
    return Path(value)


def _usable(directory: Path, what: str) -> Environment:
    interpreter = directory / "bin" / "python"
    if not interpreter.is_file() or not os.access(interpreter, os.X_OK):
        raise InvalidArg(f"{what} is no Python environment: it has no interpreter 'bin/python'")
    return Environment(str(interpreter), directory)


def _run(command: list[str], home: Path | None, what: str) -> None:
    try:
        done = subprocess.run(
            command, env=worker_environment(os.environ, home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=ENVIRONMENT_SETUP_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InternalError(f"{what} within {ENVIRONMENT_SETUP_TIMEOUT_S:g} s") from None
    output = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        log.error("%s:\n%s", what, output)
        raise InvalidArg(f"{what}: {output.splitlines()[-1] if output else 'it said nothing'}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Among threads and processes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _key(kind: str, *parts: str) -> str:
    return f"{kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"
