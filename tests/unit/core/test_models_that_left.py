"""Models whose directories are gone: what the index and the server's readiness still have of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from core_harness import run, running, write_model
from gated_backend import until
from test_ensembles_life import GONE, states

from triton_async.core.server import InferenceServer

POLL = ("--model-control-mode=poll", "--repository-poll-secs=0", "--strict-readiness=true")
EXPLICIT = ("--model-control-mode=explicit", "--load-model=m")


async def listed(server: InferenceServer) -> list[str]:
    return [row["name"] for row in await server.repository_index()]


def write_mistakes(root: Path) -> None:
    """A config that can not be read, no version, a config of another name, and a model that does not load."""
    for name, config in (("broken", "nonsense"), ("empty", 'backend: "identity"'), ("other", 'name: "x"')):
        (root / name).mkdir()
        (root / name / "config.pbtxt").write_text(config)
    write_model(root, "failing", more="instance_group { kind: KIND_GPU }")


def test_polling_forgets_models_that_have_left_the_repository(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "good")

    async def test() -> None:
        async with running(tmp_path, *POLL) as server:
            assert server.ready()
            write_mistakes(tmp_path)
            await server.repository.poll_now()
            names = ["broken", "empty", "failing", "good", "m", "other"]
            assert await listed(server) == names
            assert not server.ready()
            for name in names:
                if name != "m":
                    shutil.rmtree(tmp_path / name)
            await server.repository.poll_now()
            await until(lambda: states(server)["good"] == GONE, "the end of 'good'")
            assert await listed(server) == ["m"]
            # A mistake that was undone does not keep the server from being ready.
            assert server.ready()

    run(test)


def test_explicit_control_forgets_models_once_they_are_unloaded(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, *EXPLICIT) as server:
            shutil.rmtree(tmp_path / "m")
            # Clients are told of what still serves.
            assert await listed(server) == ["m"]
            await server.unload_model("m")
            await until(lambda: states(server)["m"] == GONE, "the end of 'm'")
            assert await listed(server) == []
            write_model(tmp_path, "m")
            await server.load_model("m")
            assert await listed(server) == ["m"]

    run(test)


def test_an_unload_takes_back_why_a_model_without_versions_could_not_be_loaded(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.pbtxt").write_text('backend: "identity"')

    async def test() -> None:
        async with running(
            tmp_path, "--model-control-mode=explicit", "--load-model=*", "--strict-readiness=true",
        ) as server:  # fmt: skip
            assert not server.ready()
            await server.unload_model("empty")
            assert (await server.repository_index())[0] == {"name": "empty"}
            assert server.ready()

    run(test)
