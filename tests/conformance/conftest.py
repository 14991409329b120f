"""The answers of the servers: each group of cases is asked once per test session, when it is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from .record import read
from .replay import IN_MODEL_PROCESSES, ISOLATED, Variant, replay, starter
from .setup_oracle import prepare
from .wire import Answer

# Answers of one group by case id.
Asked = Callable[[str], dict[str, Answer]]


@pytest.fixture(scope="session")
def recorded() -> Asked:
    """What the real server answered when it was recorded."""
    return functools.cache(read)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What we answer. A group is replayed whole and in order, as it was recorded."""
    start = starter(tmp_path_factory.mktemp("ours"), Variant())
    return functools.cache(lambda group: {case.id: answer for case, answer in replay(group, start)})


@pytest.fixture(scope="session")
def as_python(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What we answer where the models of both forms are Python models too."""
    start = starter(tmp_path_factory.mktemp("as-python"), Variant(form="python"))
    return functools.cache(lambda group: {case.id: answer for case, answer in replay(group, start)})


@pytest.fixture(scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What we answer where every Python model runs in a process of its own."""
    start = starter(tmp_path_factory.mktemp("isolated"), Variant(form="python", options=ISOLATED))
    return functools.cache(lambda group: {case.id: answer for case, answer in replay(group, start)})


@pytest.fixture(scope="session")
def in_model_processes(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What we answer where Python models share two processes."""
    start = starter(tmp_path_factory.mktemp("processes"), Variant(form="python", options=IN_MODEL_PROCESSES))
    return functools.cache(lambda group: {case.id: answer for case, answer in replay(group, start)})


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What the real server answers now."""
    start = starter(tmp_path_factory.mktemp("real"), Variant(prepare(), "python"))
    return functools.cache(lambda group: {case.id: answer for case, answer in replay(group, start)})
