"""Loads `model.py` and the modules beside it, for one instance and apart from all others.

Two models may have modules of one name, and each instance has module globals of its own, as if it were a process. So
what lies in a model's directory is imported by an `__import__` of the instance's own: it finds the API and the files
beside `model.py` in a table of the instance, and leaves everything else to Python. Files are compiled from what they
said when the version was loaded (`kept`), once for all instances of a version; nothing is read from or written to
`__pycache__`. What a model writes itself until the end of its `initialize` is read as it has written it.

What looks modules up by their name, as `pickle` and `importlib.import_module` do, finds them by way of `shown`.
"""

from __future__ import annotations

import builtins
import linecache
import os
import sys
import threading
import time
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Callable

from .kept import Kept
from .shown import Given, enter, hide, is_shown, leave, note_run, show

# Under which modules of others are imported. See triton_async.importing, whose it is in the server.
imports = threading.RLock()
# Seconds that a thread waits for its turn: to import modules of others, and goes on without it then, since one package
# that hangs is to hold up no other model; to import modules of an instance, for code that may have the former turn.
_TURN_S = 60.0


# What is called with a package when it has been imported, by one thread. The first call makes a table, by Python code
# and under a lock of C++: threads that made it at once would wait for that lock with the GIL, for ever.
_first_calls: dict[str, Callable[[ModuleType], object]] = {"openvino": lambda module: module.Type.f32.to_dtype()}

# The search path before any model ran. What models add to it, their directories most of all, is for what they lack
# themselves: their processes have it for all of them.
_installed: list[str] = []

# The clock of files' times, which goes by ticks.
_FILE_CLOCK = 5  # CLOCK_REALTIME_COARSE, clock_gettime(2)


class _Disk:
    """The files that there are now."""

    @staticmethod
    def is_file(path: Path) -> bool:
        return path.is_file()

    @staticmethod
    def has_modules(place: Path) -> bool:
        return place.is_dir() and next(place.rglob("*.py"), None) is not None


class Source:
    """The files of one model version, compiled when an instance first needs them. `kept`: as they were at its load;
    what it does not have is read when it is needed. Any thread.
    """

    def __init__(self, path: str, kept: Kept | None = None) -> None:
        """`path`: of `model.py`, or of what has its place."""
        self.path = Path(path)
        self.directory = self.path.parent
        self.kept = kept or Kept({})
        self._written: dict[Path, bytes] = {}
        self._code: dict[Path, CodeType] = {}

    @property
    def compiled(self) -> dict[Path, CodeType]:
        """The files that any instance has needed so far."""
        return dict(self._code)

    def keep(self, path: Path, code: CodeType) -> None:
        """Takes this for what is in the file."""
        self._code[path] = code

    def code(self, path: Path, since_ns: int = 0) -> CodeType:
        """`since_ns`: see `reread`, 0 for never. SyntaxError, UnicodeDecodeError, OSError."""
        code = self._code.get(path)
        if code is None:
            if since_ns:
                self.reread(path, since_ns)
            text = self._written.get(path)
            if text is None:
                text = self.kept.text(str(path))
            if text is None:
                text = path.read_bytes()
            else:
                self._tell_lines(path, text)
            code = self._code[path] = compile(text, str(path), "exec", dont_inherit=True)
        return code

    def reread(self, path: Path, since_ns: int) -> None:
        """Takes what is in a file now, if it was written since then, by the clock of files: by the model itself."""
        kept = self.kept.rows.get(str(path))
        if kept is None or path in self._code:
            return
        try:
            status = os.stat(path)
            if status.st_mtime_ns >= since_ns and (status.st_size, status.st_mtime_ns) != tuple(kept[1:]):
                self._written[path] = path.read_bytes()
        except OSError:
            pass

    # Who asks for a function's source, as `torch.jit.script` does, gets that which it is of.
    def _tell_lines(self, path: Path, text: bytes) -> None:
        name = str(path)
        _, nbytes, written = self.kept.rows[name]
        try:
            status = os.stat(path)
            if (status.st_size, status.st_mtime_ns) == (nbytes, written):
                linecache.cache.pop(name, None)
                return
        except OSError:
            pass
        lines = text.decode(errors="replace").splitlines(keepends=True)
        linecache.cache[name] = (len(text), None, lines, name)


class Loader:
    """The modules of one instance. `api`: by name, what `api.make_modules` made; `name`: of the module of `model.py`.
    `search`: directories where its modules are looked for behind Python's own places; by default the version's and that
    above it. `names`: a copy of the built-in ones, for it alone.
    """

    def __init__(
        self,
        source: Source,
        api: dict[str, ModuleType],
        name: str,
        search: list[str] | None = None,
        names: dict[str, Any] | None = None,
    ) -> None:
        if not _installed:
            _installed.extend(sys.path)
        self._source = source
        self._name = name
        self._package = name.partition(".")[0]
        self._given = search
        self._search = [Path(path) for path in search or [str(source.directory), str(source.directory.parent)]]
        self._modules = dict(api)
        self._own: list[ModuleType] = []
        # Top-level names that are none of the model's, so that imports of others cost one look.
        self._foreign: set[str] = set()
        self._builtins = dict(vars(builtins)) if names is None else names
        self._builtins["__import__"] = self._import
        enter(self, self._builtins)
        # Of one thread at a time, as Python's own for a module.
        self._importing = threading.RLock()
        self._since_ns = 0  # when the instance began, until `settle`

    def load(self) -> ModuleType:
        """Runs `model.py`: its module. Raises what that raises."""
        self._since_ns = time.clock_gettime_ns(_FILE_CLOCK)
        # It is a module of a package whose name is the version's number. What runs the files of a version, and is none
        # of them, finds these there, too.
        above = [str(self._source.directory)] if self._given is None else self._given
        self._enter(ModuleType(self._package), None, above)
        return self._run(self._name, self._source.path, None)

    def settle(self) -> None:
        """The model is initialized: who writes to its files from now on is not the model."""
        since_ns, self._since_ns = self._since_ns, 0
        for path in self._source.kept.rows:
            self._source.reread(Path(path), since_ns)

    def close(self) -> None:
        """Forgets the modules: what they refer to is freed, though threads of the model may still be running."""
        leave(self._builtins)
        for module in self._own:
            hide(module)
            vars(module).clear()
        self._own.clear()
        self._modules.clear()

    def module(self, name: str) -> ModuleType | None:
        """One that it has imported. Any thread."""
        return self._modules.get(name)

    def found(self, name: str) -> ModuleType | None:
        """A module of the instance's, imported now where it was not, for who asks by name; None: it has none. Any
        thread. Raises what running it raises; ModuleNotFoundError for what a package of its lacks.
        """
        if not self._importing.acquire(timeout=_TURN_S):
            raise ImportError(f"module {name!r} is being imported by a thread that does not come to its end", name=name)
        try:
            return self._find(name)
        finally:
            self._importing.release()

    # What stands for `import` in modules of the instance.
    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if level:
            name = self._absolute(name, (globals or {}).get("__package__") or "", level)
        top = name.partition(".")[0]
        if top in self._foreign:
            return _import_of_others(name, globals, locals, fromlist)
        module = self._modules.get(name)
        if module is None:
            module = self._find(name)
            if module is None:
                self._foreign.add(top)
                return _import_of_others(name, globals, locals, fromlist)
        if not fromlist:
            return module if level else self._modules[top]
        if hasattr(module, "__path__"):
            for item in fromlist:
                names = getattr(module, "__all__", ()) if item == "*" else (item,)
                for part in names:
                    if not hasattr(module, part):
                        self._find(f"{name}.{part}")
        return module

    def _absolute(self, name: str, package: str, level: int) -> str:
        parts = package.split(".")
        if not package or len(parts) < level:
            raise ImportError("attempted relative import beyond top-level package")
        base = ".".join(parts[: len(parts) - level + 1])
        return f"{base}.{name}" if name else base

    # A module of the model's, imported with the packages above it; None where the top-level one is not there.
    # ModuleNotFoundError for a part of a package that is.
    def _find(self, name: str) -> ModuleType | None:
        module = self._modules.get(name)
        if module is not None:
            return module
        above, _, last = name.rpartition(".")
        with self._importing:
            parent = self._find(above) if above else None
            if above and parent is None:
                return None
            module = self._modules.get(name)
            if module is not None:
                return module
            if parent is None and not self._is_own(name):
                return None
            places = self._search if parent is None else [Path(path) for path in getattr(parent, "__path__", ())]
            for files in (self._source.kept, _Disk):
                for place in places:
                    found = self._look(files, name, place / last)
                    if found is not None:
                        if parent is not None:
                            setattr(parent, last, found)
                        return found
        if parent is not None and not hasattr(parent, last):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

    # Whether a top-level name is of a file of the model's. What is installed comes first.
    def _is_own(self, name: str) -> bool:
        if not any(self._is_there(place / name) for place in self._search):
            return False
        if name in sys.builtin_module_names or (name in sys.modules and not is_shown(name)):
            return False
        spec = PathFinder.find_spec(name, _installed)
        if spec is None:
            return True
        # Its own files may be found there, too.
        found = {spec.origin} if spec.origin is not None else set(spec.submodule_search_locations or ())
        own = [os.path.join(place, name) for place in self._search]
        suffixes = ("", ".py", "/__init__.py", *EXTENSION_SUFFIXES)
        return found <= {path + suffix for path in own for suffix in suffixes}

    def _is_there(self, place: Path) -> bool:
        paths = [Path(f"{place}{suffix}") for suffix in (".py", *EXTENSION_SUFFIXES)]
        kept = self._source.kept
        return kept.has_modules(place) or place.is_dir() or any(kept.is_file(path) or path.is_file() for path in paths)

    def _look(self, files: Kept | type[_Disk], name: str, place: Path) -> ModuleType | None:
        package = place / "__init__.py"
        if files.is_file(package):
            return self._run(name, package, [str(place)])
        for suffix in EXTENSION_SUFFIXES:
            path = Path(f"{place}{suffix}")
            if files.is_file(path):
                return self._run_extension(name, str(path))
        path = place.with_name(f"{place.name}.py")
        if files.is_file(path):
            return self._run(name, path, None)
        # A namespace package.
        if files.has_modules(place) or ("." in name and files is _Disk and place.is_dir()):
            return self._enter(ModuleType(name), None, [str(place)])
        return None

    def _run(self, name: str, path: Path, package: list[str] | None) -> ModuleType:
        code = self._source.code(path, self._since_ns)
        module = self._enter(ModuleType(name), str(path), package)
        note_run(module, True)
        try:
            exec(code, vars(module))
        except BaseException:
            self._leave(module)
            raise
        finally:
            note_run(module, False)
        # A module may put another object in its place.
        return self._modules[name]

    def _run_extension(self, name: str, path: str) -> ModuleType:
        loader = ExtensionFileLoader(name, path)
        spec = ModuleSpec(name, loader, origin=path)
        module = module_from_spec(spec)
        self._modules[name] = module
        loader.exec_module(module)
        return module

    def _enter(self, module: ModuleType, path: str | None, package: list[str] | None) -> ModuleType:
        name = module.__name__
        names = vars(module)
        names["__builtins__"] = self._builtins
        names["__package__"] = name if package is not None else name.rpartition(".")[0]
        spec = ModuleSpec(name, Given(module), origin=path, is_package=package is not None)  # type: ignore[arg-type]
        if path is not None:
            names["__file__"] = path
            spec.has_location = True
        if package is not None:
            names["__path__"] = package
            spec.submodule_search_locations = package
        names["__spec__"] = spec
        self._modules[name] = module
        self._own.append(module)
        show(module)
        return module

    def _leave(self, module: ModuleType) -> None:
        self._modules.pop(module.__name__, None)
        self._own.remove(module)
        hide(module)


# What is there needs no turn: an import by one model that takes long holds up no execution of another.
def _import_of_others(name: str, globals: Any, locals: Any, fromlist: Any) -> Any:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    top = name.partition(".")[0]
    there = spec is not None and not getattr(spec, "_initializing", False) and top not in _first_calls
    if there and all(hasattr(module, part) for part in fromlist or ()):
        return builtins.__import__(name, globals, locals, fromlist, 0)
    had = imports.acquire(timeout=_TURN_S)
    try:
        found = builtins.__import__(name, globals, locals, fromlist, 0)
        for package in [one for one in _first_calls if one in sys.modules]:
            with suppress(Exception):  # of another version, or another package of the name
                _first_calls[package](sys.modules[package])
            _first_calls.pop(package, None)
        return found
    finally:
        if had:
            imports.release()
