"""Poll mode: what may be slow, fail or be unreadable holds up nothing else, and is made up for later."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model
from gated_backend import PATIENCE_S, GatedBackend, until
from test_ensembles_life import GONE, READY, states, write_ensemble

from triton_async.core import looks, polling
from triton_async.core.files import LocalRoot
from triton_async.core.server import InferenceServer
from triton_async.defines import FILE_THREADS
from triton_async.errors import InternalError, Unavailable

POLL = ("--model-control-mode=poll", "--repository-poll-secs=1")
# Looks are taken by the tests alone.
ASKED = ("--model-control-mode=poll", "--repository-poll-secs=0")


def state(server: InferenceServer, name: str) -> tuple[str, str]:
    return states(server).get(name, ("", ""))


class Once(logging.Handler):
    """A program's own log handler, which raises the first time that a line holds `text`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.raised = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage() and not self.raised:
            self.raised += 1
            raise RuntimeError("no room for a line")


@pytest.fixture
def handle(request: pytest.FixtureRequest) -> Callable[[str], Once]:
    log = logging.getLogger("triton_async.core")

    def add(text: str) -> Once:
        handler = Once(text)
        before = log.level
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        request.addfinalizer(lambda: (log.removeHandler(handler), log.setLevel(before)))
        return handler

    return add


def test_a_load_that_takes_long_holds_up_no_other_model(tmp_path: Path) -> None:
    backend = GatedBackend()
    write_model(tmp_path, "m")
    write_model(tmp_path, "steady")

    async def test() -> None:
        async with running(tmp_path, *POLL, backends=backend) as server:
            backend.load_gate.shut = True
            write_model(tmp_path, "slow")
            at_the_gate = await backend.load_gate.arrival()
            try:
                backend.load_gate.shut = False
                shutil.rmtree(tmp_path / "m")
                await until(lambda: state(server, "m") == GONE, "the end of 'm'")
                write_model(tmp_path, "new")
                await until(lambda: state(server, "new") == READY, "'new'")
                # What has come with it goes, too.
                shutil.rmtree(tmp_path / "new")
                await until(lambda: state(server, "new") == GONE, "the end of 'new'")
                assert state(server, "slow")[0] == "LOADING"
            finally:
                at_the_gate.set()
            await until(lambda: state(server, "slow") == READY, "'slow'")
            shutil.rmtree(tmp_path / "slow")
            await until(lambda: state(server, "slow") == GONE, "the end of 'slow'")
            assert state(server, "steady") == READY

    run(test)


def test_a_step_that_no_look_has_seen_is_unloaded_when_it_goes(tmp_path: Path) -> None:
    backend = GatedBackend()
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, *ASKED, "--model-load-thread-count=1", backends=backend) as server:
            backend.load_gate.shut = True
            # As many as are loaded at a time, in front of the ensemble.
            write_model(tmp_path, "slow")
            write_model(tmp_path, "slower")
            write_ensemble(tmp_path, "z", "m", "n")
            polled = asyncio.ensure_future(server.repository.poll_now())
            at_the_gate = await backend.load_gate.arrival()
            backend.load_gate.shut = False
            # The look is over, the ensemble's load has yet to begin: it finds its step all the same.
            write_model(tmp_path, "n")
            at_the_gate.set()
            await polled
            assert [state(server, name) for name in "zn"] == [READY, READY]
            shutil.rmtree(tmp_path / "n")
            await server.repository.poll_now()
            await until(lambda: state(server, "n") == GONE, "the end of 'n'")
            assert state(server, "z")[0] == "UNAVAILABLE"

    run(test)


def test_an_ensemble_waits_for_none_but_the_models_that_it_asks(tmp_path: Path) -> None:
    backend = GatedBackend()
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, *ASKED, backends=backend) as server:
            backend.load_gate.shut = True
            write_model(tmp_path, "slow")
            write_ensemble(tmp_path, "e", "m")
            write_ensemble(tmp_path, "f", "e", "m")
            write_ensemble(tmp_path, "behind", "e", "slow")
            write_ensemble(tmp_path, "further", "behind", "m")
            write_ensemble(tmp_path, "never", "m", "nobody")
            polled = asyncio.ensure_future(server.repository.poll_now())
            at_the_gate = await backend.load_gate.arrival()
            try:
                await until(lambda: [state(server, name) for name in "ef"] == [READY] * 2, "'e' and 'f'")
                await until(lambda: state(server, "never")[0] == "UNAVAILABLE", "the refusal of 'never'")
                await server.infer(request("f", [1.0]))
                names = ("slow", "behind", "further")
                await until(lambda: [state(server, name)[0] for name in names] == ["LOADING"] * 3, "their loads")
                assert not polled.done()
            finally:
                backend.load_gate.shut = False
                at_the_gate.set()
            await polled
            assert [state(server, name) for name in ("slow", "behind", "further")] == [READY] * 3
            assert state(server, "never")[0] == "UNAVAILABLE"

    run(test)


def test_an_ensemble_waits_for_all_models_that_it_may_mean(tmp_path: Path) -> None:
    backend = GatedBackend()
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / name).mkdir()
    places = [f"--model-repository={tmp_path / name}" for name in names[1:]]

    async def test() -> None:
        options = (*ASKED, "--model-namespacing=true", "--model-load-thread-count=1", *places)
        async with running(tmp_path / "a", *options, backends=backend) as server:
            backend.load_gate.shut = True
            for name in names[:2]:
                write_model(tmp_path / name, "m")
            write_ensemble(tmp_path / "c", "lost", "m")
            polled = asyncio.ensure_future(server.repository.poll_now())
            first = await backend.load_gate.arrival()
            first.set()
            second = await backend.load_gate.arrival()
            backend.load_gate.shut = False
            try:
                # One of the two is there, and neither is meant.
                models = server.repository.models
                await until(lambda: any(models[f"{tmp_path / name}::m"].ready() for name in "ab"), "one of them")
                assert state(server, "lost") in {("", ""), ("LOADING", ""), ("UNAVAILABLE", "")}
            finally:
                second.set()
            await polled
            missing = "ensemble lost contains models that are not available or ambiguous: m"
            assert state(server, "lost") == ("UNAVAILABLE", missing)

    run(test)


def test_a_model_that_goes_while_it_is_loaded_is_unloaded_behind_that(tmp_path: Path) -> None:
    backend = GatedBackend()
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, *ASKED, backends=backend) as server:
            backend.load_gate.shut = True
            write_model(tmp_path, "slow")
            polled = asyncio.ensure_future(server.repository.poll_now())
            at_the_gate = await backend.load_gate.arrival()
            backend.load_gate.shut = False
            shutil.rmtree(tmp_path / "slow")
            # Who asks waits for what others have begun.
            again = asyncio.ensure_future(server.repository.poll_now())
            await asyncio.sleep(0.05)
            assert not again.done()
            at_the_gate.set()
            await asyncio.gather(polled, again)
            assert state(server, "slow") == READY
            await server.repository.poll_now()
            await until(lambda: state(server, "slow") == GONE, "the end of 'slow'")

    run(test)


def test_a_name_that_two_repositories_come_to_have_is_served_by_none(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for name in "mn":
        write_model(one, name)
    two.mkdir()

    async def test() -> None:
        async with running(one, *ASKED, f"--model-repository={two}") as server:
            for kept, other in ((two, one), (one, two)):
                write_model(kept, "m")
                await server.repository.poll_now()
                await until(lambda: state(server, "m") == GONE, "the end of 'm'")
                assert server.repository.all_ready() and state(server, "n") == READY
                shutil.rmtree(other / "m")
                await server.repository.poll_now()
                assert state(server, "m") == READY
                await server.infer(request("m", [1.0]))

    run(test)


def test_a_repository_that_cannot_be_read_holds_up_no_other_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_model(one, "a")
    write_model(two, "b")
    write_model(two, "c")

    async def test() -> None:
        async with running(one, *ASKED, f"--model-repository={two}") as server:
            assert states(server) == dict.fromkeys("abc", READY)
            one.rename(tmp_path / "away")
            shutil.rmtree(two / "b")
            write_model(two, "d")
            with pytest.raises(InternalError, match="failed to read a model repository: No such file or directory"):
                await server.repository.poll_now()
            await until(lambda: state(server, "b") == GONE, "the end of 'b'")
            assert [state(server, name) for name in "acd"] == [READY] * 3
            (await server.infer(request("a", [1.0])))
            (tmp_path / "away").rename(one)
            shutil.rmtree(one / "a")
            await server.repository.poll_now()
            await until(lambda: state(server, "a") == GONE, "the end of 'a'")

    run(test)


def test_an_unload_that_could_not_be_made_is_made_the_next_time(
    tmp_path: Path, handle: Callable[[str], Once]
) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "n")

    async def test() -> None:
        async with running(tmp_path, *POLL) as server:
            handler = handle("gone from the model repositories")
            shutil.rmtree(tmp_path / "m")
            shutil.rmtree(tmp_path / "n")
            await until(lambda: state(server, "m") == GONE and state(server, "n") == GONE, "the end of both")
            assert handler.raised

    run(test)


def test_a_load_that_breaks_off_takes_no_other_along(tmp_path: Path, handle: Callable[[str], Once]) -> None:
    async def test() -> None:
        async with running(tmp_path, *ASKED, "--model-load-thread-count=1") as server:
            handler = handle("successfully loaded 'm0'")
            names = [f"m{number}" for number in range(6)]
            for name in names:
                write_model(tmp_path, name)
            await server.repository.poll_now()
            assert handler.raised
            assert [state(server, name) for name in names] == [READY] * 6

    run(test)


def test_a_repository_that_does_not_answer_holds_up_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "REPOSITORY_ANSWER_S", 0.2)
    one, two = tmp_path / "one", tmp_path / "two"
    write_model(one, "a")
    write_model(two, "b")
    roots: dict[str, SlowRoot] = {}

    def open_root(path: str) -> SlowRoot:
        return roots.setdefault(path, SlowRoot(path))

    async def test() -> None:
        async with running(one, *POLL, f"--model-repository={two}", open_root=open_root) as server:
            roots[str(one)].go_on = go_on = threading.Event()
            try:
                await asyncio.to_thread(roots[str(one)].looked.wait)
                shutil.rmtree(two / "b")
                await until(lambda: state(server, "b") == GONE, "the end of 'b'")
                shutil.rmtree(one / "a")
                write_model(two, "c")
                await until(lambda: state(server, "c") == READY, "'c'")
                assert state(server, "a") == READY
            finally:
                go_on.set()
            await until(lambda: state(server, "a") == GONE, "the end of 'a'")

    run(test)


@pytest.mark.parametrize("mode", ["poll", "explicit"])
def test_questions_about_a_repository_that_does_not_answer_hold_up_none_about_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    for module in (polling, looks):
        monkeypatch.setattr(module, "REPOSITORY_ANSWER_S", 0.2)
    one, two = tmp_path / "one", tmp_path / "two"
    write_model(one, "a")
    write_model(two, "b")
    roots: dict[str, HangingRoot] = {}

    def open_root(path: str) -> HangingRoot:
        return roots.setdefault(path, HangingRoot(path))

    options = POLL if mode == "poll" else ("--model-control-mode=explicit", "--load-model=*")

    async def test() -> None:
        async with running(one, *options, f"--model-repository={two}", open_root=open_root) as server:
            assert [state(server, name) for name in "ab"] == [READY] * 2
            roots[str(one)].answers.clear()
            try:
                # More of them than a repository has threads.
                for answer in await asyncio.gather(
                    *(server.repository_index() for _ in range(2 * FILE_THREADS)), return_exceptions=True
                ):
                    assert isinstance(answer, Unavailable) and answer.message == SILENT
                write_model(two, "c")
                if mode == "explicit":
                    await server.load_model("c")
                    with pytest.raises(InternalError, match=f"failed to poll from model repository: {SILENT}"):
                        await server.load_model("d")
                await until(lambda: state(server, "c") == READY, "'c'")
                assert {row["name"] for row in await server.repository_index(True)} == {"a", "b", "c"}
                await server.infer(request("a", [1.0]))
            finally:
                roots[str(one)].answers.set()
            write_model(one, "d")
            async with asyncio.timeout(PATIENCE_S):
                while not await _lists(server, "d"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    run(test)


SILENT = "a model repository has not said yet what it holds"


async def _lists(server: InferenceServer, name: str) -> bool:
    try:
        return any(row["name"] == name for row in await server.repository_index())
    except Unavailable:
        return False


class HangingRoot(LocalRoot):
    """Says nothing while `answers` is not set."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.answers = threading.Event()
        self.answers.set()

    def names(self) -> list[str]:
        assert self.answers.wait(PATIENCE_S)
        return super().names()

    def has(self, name: str) -> bool:
        assert self.answers.wait(PATIENCE_S)
        return super().has(name)


class SlowRoot(LocalRoot):
    """Tells what it has found later than it has looked, once."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.looked = threading.Event()
        self.go_on: threading.Event | None = None

    def names(self) -> list[str]:
        found = super().names()
        go_on, self.go_on = self.go_on, None
        if go_on is not None:
            self.looked.set()
            assert go_on.wait(PATIENCE_S)
        return found


def test_an_older_look_undoes_nothing_of_a_newer_one(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        roots: list[SlowRoot] = []

        def open_root(path: str) -> SlowRoot:
            roots.append(SlowRoot(path))
            return roots[-1]

        async with running(tmp_path, *ASKED, open_root=open_root) as server:
            roots[0].go_on = go_on = threading.Event()
            older = asyncio.ensure_future(server.repository.poll_now())
            await asyncio.to_thread(roots[0].looked.wait)
            write_model(tmp_path, "new")
            newer = asyncio.ensure_future(server.repository.poll_now())
            await asyncio.wait({newer}, timeout=0.3)
            go_on.set()
            await asyncio.gather(older, newer)
            assert state(server, "new") == READY

    run(test)
