"""Modules of models that are looked up by their names: by code that a model calls, for several models of like names."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from python_stage import IO, stage, write

from triton_async.backends.python.worker import loader

X = np.float32([0])
BY_NAME = """
    import dataclasses
    import importlib
    import inspect
    import pickle
    import sys
    import typing

    # `later.make()`, of a module that nobody has imported.
    LATER = chr(10).join(["clater", "make", "(tR."]).encode()

    @dataclasses.dataclass
    class Own:
        part: "Part"

    class Part:
        mark = VALUE

    class TritonPythonModel:
        def execute(self, requests):
            thing = importlib.import_module("late").Thing()
            again = pickle.loads(pickle.dumps(Own(Part())))
            assert type(again) is Own
            found = [
                thing.mark,
                type(pickle.loads(pickle.dumps(thing))).mark,
                pickle.loads(LATER).mark,
                importlib.import_module("parts.inner").MARK,
                again.part.mark,
                typing.get_type_hints(Own)["part"].mark,
                dict(inspect.getmembers(sys.modules[__name__]))["Part"].mark,
                __import__("model").Part.mark,
            ]
            for module in list(sys.modules.values()):
                hasattr(module, "nothing")  # as code does that looks for something
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32(found))]) for _ in requests]
"""


def write_named(root: Path, name: str, value: int, more: str) -> None:
    thing = f"class Thing:\n    mark = {value}\ndef make():\n    return Thing()\n"
    directory = write(
        root, name, BY_NAME.replace("VALUE", str(value)), IO + more, late=thing, later=thing,
        never=f"raise SystemExit({value})",
    )  # fmt: skip
    parts = directory / "1" / "parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("")
    (parts / "inner.py").write_text(f"MARK = {value}")


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_each_model_finds_its_own(tmp_path: Path, isolation: str) -> None:
    """What it has imported, and what nobody has yet; each of two instances what is its own."""
    more = f'parameters {{ key: "ISOLATION" value {{ string_value: "{isolation}" }} }} instance_group {{ count: 2 }}'
    for value, name in ((1, "a"), (2, "b")):
        write_named(tmp_path, name, value, more)
    with stage(tmp_path) as server:
        for _ in range(3):
            for value, name in ((1, "a"), (2, "b")):
                assert server.ask(name, X).tolist() == [value] * 8
    assert not {"late", "later", "parts", "model", "1.model"} & set(sys.modules)


def test_what_a_model_adds_to_the_search_path_does_not_hide_files_of_others(tmp_path: Path) -> None:
    code = """
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import early_on_path

class TritonPythonModel:
    def execute(self, requests):
        import late_beside
        said = np.float32([early_on_path.VALUE, late_beside.VALUE])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", said)]) for _ in requests]
"""
    for value, name in ((1, "a"), (2, "b"), (3, "c")):
        write(tmp_path, name, code, IO, early_on_path=f"VALUE = {value}", late_beside=f"VALUE = {value}")
    before = list(sys.path)
    try:
        with stage(tmp_path) as server:
            for value, name in ((1, "a"), (2, "b"), (3, "c")):
                assert server.ask(name, X).tolist() == [value] * 2
    finally:
        sys.path[:] = before


def test_a_name_that_a_model_lacks(tmp_path: Path) -> None:
    write(tmp_path, "has", """
        import helper_of_one

        class TritonPythonModel:
            def execute(self, requests):
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([1]))]) for _ in requests]
    """, helper_of_one="VALUE = 1")  # fmt: skip
    write(tmp_path, "lacks", """
        import importlib

        class TritonPythonModel:
            def execute(self, requests):
                try:
                    importlib.import_module("helper_of_nobody")
                except ModuleNotFoundError:
                    found = [1]
                try:
                    importlib.import_module("helper_of_one").VALUE
                except (AttributeError, ImportError):
                    found.append(2)
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32(found))]) for _ in requests]
    """)
    with stage(tmp_path) as server:
        assert server.ask("has", X).tolist() == [1]
        assert server.ask("lacks", X).tolist() == [1, 2]


def test_one_package_is_imported_from_two_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python lets two threads that do that see modules that are only half there."""
    package = tmp_path / "installed" / "ring_of_modules"
    package.mkdir(parents=True)
    monkeypatch.setattr(threading, "ring_begun", threading.Event(), raising=False)
    (package / "__init__.py").write_text(dedent("""
        import threading, time
        threading.ring_begun.set()
        time.sleep(0.3)
        from ring_of_modules import part
        from ring_of_modules.part import VALUE
    """))
    (package / "part.py").write_text("VALUE = 1")
    monkeypatch.syspath_prepend(str(package.parent))
    end = """
        {lines}

        class TritonPythonModel:
            def execute(self, requests):
                array = np.float32([VALUE])
                return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]) for _ in requests]
    """
    write(tmp_path / "models", "first", end.format(lines="from ring_of_modules import VALUE"))
    write(tmp_path / "models", "second", end.format(
        lines="import threading\n        threading.ring_begun.wait(10)\n        from ring_of_modules.part import VALUE"
    ))
    try:
        with stage(tmp_path / "models") as server:
            assert [server.ask(name, X).tolist() for name in ("first", "second")] == [[1], [1]]
    finally:
        for name in [name for name in sys.modules if name.startswith("ring_of_modules")]:
            del sys.modules[name]


def test_a_package_that_hangs_while_it_is_imported_holds_up_who_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    begun, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "package_begun", begun, raising=False)
    monkeypatch.setattr(threading, "package_gate", gate, raising=False)
    monkeypatch.setattr(loader, "_TURN_S", 0.1)
    monkeypatch.syspath_prepend(str(installed))
    (installed / "hanging_package.py").write_text(dedent("""
        import threading
        threading.package_begun.set()
        assert threading.package_gate.wait(30)
    """))
    (installed / "other_package.py").write_text("")
    for name in ("hanging", "other"):
        write(tmp_path / "models", name, f"import {name}_package\n" + dedent("""
            class TritonPythonModel:
                def execute(self, requests):
                    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.float32([1]))]) for _ in requests]
        """))
    try:
        with stage(tmp_path / "models", "--model-control-mode=explicit") as server:
            load = server.call(asyncio.ensure_future, server.server.load_model("hanging"))
            assert begun.wait(30)
            server.run(server.server.load_model("other"))
            assert server.ask("other", X).tolist() == [1] and not load.done()
            gate.set()
            server.run(asyncio.wait_for(load, 30))
            assert server.ask("hanging", X).tolist() == [1]
    finally:
        gate.set()
        for name in ("hanging_package", "other_package"):
            sys.modules.pop(name, None)
