"""Loads `model.py` and the modules beside it, for one instance and apart from all others.

Two models may have modules of one name, and each instance has module globals of its own, as if it were a process. So
what lies in a model's directory is imported by an `__import__` of the instance's own: it finds the API and the files
beside `model.py` in a table of the instance, and leaves everything else to Python. Files are compiled from what they
say now, once for all instances of a version; nothing is read from or written to `__pycache__`.

What looks modules up by their name, as `pickle` and `importlib.import_module` do, finds them by way of `shown`.
"""

from __future__ import annotations

import builtins
import sys
import threading
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .shown import Given, enter, hide, is_shown, leave, note_run, show

# Under which modules of others are imported. See triton_async.importing, whose it is in the server.
imports = threading.RLock()
# Seconds that a thread waits for its turn: to import modules of others, and goes on without it then, since one package
# that hangs is to hold up no other model; to import modules of an instance, for code that may have the former turn.
_TURN_S = 60.0


class Source:
    """The files of one model version, compiled when an instance first needs them. Any thread."""

    def __init__(self, path: str) -> None:
        """`path`: of `model.py`, or of what has its place."""
        self.path = Path(path)
        self.directory = self.path.parent
        self._code: dict[Path, CodeType] = {}

    @property
    def compiled(self) -> dict[Path, CodeType]:
        """The files that any instance has needed so far."""
        return dict(self._code)

    def keep(self, path: Path, code: CodeType) -> None:
        """Takes this for what is in the file."""
        self._code[path] = code

    def code(self, path: Path) -> CodeType:
        """SyntaxError, UnicodeDecodeError, OSError."""
        code = self._code.get(path)
        if code is None:
            code = self._code[path] = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        return code


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
        self._source = source
        self._name = name
        self._package = name.partition(".")[0]
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

    def load(self) -> ModuleType:
        """Runs `model.py`: its module. Raises what that raises."""
        # It is a module of a package whose name is the version's number.
        self._enter(ModuleType(self._package), None, [str(self._source.directory)])
        return self._run(self._name, self._source.path, None)

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
            for place in places:
                found = self._look(name, place / last)
                if found is not None:
                    if parent is not None:
                        setattr(parent, last, found)
                    return found
        if parent is not None and not hasattr(parent, last):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

    # Whether a top-level name is of a file of the model's. What is installed comes first.
    def _is_own(self, name: str) -> bool:
        for place in self._search:
            path = place / name
            if path.is_dir() or any(Path(f"{path}{suffix}").is_file() for suffix in (".py", *EXTENSION_SUFFIXES)):
                break
        else:
            return False
        if name in sys.builtin_module_names or (name in sys.modules and not is_shown(name)):
            return False
        return PathFinder.find_spec(name) is None

    def _look(self, name: str, place: Path) -> ModuleType | None:
        package = place / "__init__.py"
        if package.is_file():
            return self._run(name, package, [str(place)])
        for suffix in EXTENSION_SUFFIXES:
            path = Path(f"{place}{suffix}")
            if path.is_file():
                return self._run_extension(name, str(path))
        path = place.with_name(f"{place.name}.py")
        if path.is_file():
            return self._run(name, path, None)
        if place.is_dir() and (self._has_modules(place) or "." in name):  # a namespace package
            return self._enter(ModuleType(name), None, [str(place)])
        return None

    @staticmethod
    def _has_modules(place: Path) -> bool:
        return next(place.rglob("*.py"), None) is not None

    def _run(self, name: str, path: Path, package: list[str] | None) -> ModuleType:
        code = self._source.code(path)
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
    there = spec is not None and not getattr(spec, "_initializing", False)
    if there and all(hasattr(module, part) for part in fromlist or ()):
        return builtins.__import__(name, globals, locals, fromlist, 0)
    had = imports.acquire(timeout=_TURN_S)
    try:
        return builtins.__import__(name, globals, locals, fromlist, 0)
    finally:
        if had:
            imports.release()
