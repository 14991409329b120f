"""What of models' modules code outside of them finds: in `sys.modules`, and by imports that name a module in a text.

`pickle`, `inspect`, `importlib.import_module` and their kind look modules up by name, and the names are those of one
instance: another may have modules of the same ones. So what `sys.modules` has under a name of several modules is one
that stands for all of them, and is to each model its own. Whose code asks is seen by the frames that call: they have
the built-in names of the instance's loader.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any, Protocol


class Owner(Protocol):
    """The loader of an instance."""

    def module(self, name: str) -> ModuleType | None: ...

    def found(self, name: str) -> ModuleType | None: ...


# Names in sys.modules that are modules of models -> those modules, in the order in which they came.
_shown: dict[str, list[ModuleType]] = {}
# Of them, those that are being run, with the thread that runs them, by name.
_run_now: dict[str, list[tuple[int, ModuleType]]] = {}
# Loaders, by the identity of the built-in names that their modules have.
_owners: dict[int, Owner] = {}
_lock = threading.Lock()


def is_shown(name: str) -> bool:
    """Whether what `sys.modules` has under a name, if it is there, is a model's."""
    return name in _shown


def enter(owner: Owner, names: dict[str, Any]) -> None:
    """The modules of an instance have these built-in names."""
    with _lock:
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)
        _owners[id(names)] = owner
        if len(_owners) == 2:
            for name in _shown:
                _settle(name)


def leave(names: dict[str, Any]) -> None:
    """The instance is no more."""
    _owners.pop(id(names), None)


def show(module: ModuleType) -> None:
    """Enters a module in `sys.modules`, unless one that is of no model has its name."""
    name = module.__name__
    with _lock:
        others = _shown.setdefault(name, [])
        if not others and name in sys.modules:
            del _shown[name]
            return
        others.append(module)
        _settle(name)


def hide(module: ModuleType) -> None:
    """Takes it out again."""
    name = module.__name__
    with _lock:
        others = _shown.get(name, [])
        if module in others:
            others.remove(module)
            _settle(name)
            if not others:
                del _shown[name]


def note_run(module: ModuleType, begins: bool) -> None:
    """This thread begins to run a module, or has run it."""
    name = module.__name__
    run = (threading.get_ident(), module)
    with _lock:
        running = _run_now.setdefault(name, [])
        if begins:
            running.append(run)
        else:
            running.remove(run)
        if not running:
            del _run_now[name]


# Of the innermost frame that is a model's.
def _asking() -> Owner | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = _owners.get(id(frame.f_builtins))
        if owner is not None:
            return owner
        frame = frame.f_back
    return None


# Of the modules of one name, that which is meant; None where that is not known. `imports`: as by an import.
def _meant(name: str, imports: bool = False) -> ModuleType | None:
    thread = threading.get_ident()
    running = [module for runs, module in list(_run_now.get(name, ())) if runs == thread]
    if running:
        return running[-1]
    owner = _asking()
    if owner is not None:
        return owner.found(name) if imports else owner.module(name)
    # One of several that are of one file is as good as another; of several files none is, but model.py and its package,
    # whose names all models share.
    modules = list(_shown.get(name, ()))
    if modules and (name.partition(".")[0].isdigit() or len(set(map(_origin, modules))) == 1):
        return modules[-1]
    return None


def _origin(module: ModuleType) -> str:
    names = vars(module)
    return str(names.get("__file__") or names.get("__path__"))


class _Shared(ModuleType):
    """Stands in `sys.modules` for the modules of one name."""

    def __getattribute__(self, name: str) -> Any:
        own = ModuleType.__getattribute__(self, "__name__")
        # What is asked of each module that is imported, and of hardly one that is only looked at.
        found = _meant(own, name == "__spec__")
        if found is not None:
            return getattr(found, name)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        found = _meant(ModuleType.__getattribute__(self, "__name__"))
        setattr(found, name, value) if found is not None else ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        found = _meant(ModuleType.__getattribute__(self, "__name__"))
        delattr(found, name) if found is not None else ModuleType.__delattr__(self, name)


def _settle(name: str) -> None:
    modules = _shown[name]
    if modules and len(_owners) > 1:  # another one may have, or will have, a module of the name
        if type(sys.modules.get(name)) is not _Shared:
            sys.modules[name] = _Shared(name)
    elif modules:
        sys.modules[name] = modules[0]
    else:
        sys.modules.pop(name, None)


class _Finder:
    """Of modules beside `model.py` that are imported by name, by code that a model calls."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if target is not None:  # a reload
            return None
        if path is not None and name.partition(".")[0] not in _shown:
            return None
        owner = _asking()
        module = None if owner is None else owner.found(name)
        return None if module is None else module.__spec__


class Given:
    """The loader of a module's spec, for Python's own import: hands it over as the model's loader has run it."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        with _lock:
            if module.__name__ in _shown:
                _settle(module.__name__)
