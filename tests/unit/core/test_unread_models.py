"""Models that a server cannot poll, or that have nothing to serve: what it says of them, and whether it is ready."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model

from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError, Unavailable

EXPLICIT = "--model-control-mode=explicit"


def test_a_model_whose_config_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    write_model(tmp_path, "good")
    (tmp_path / "bare" / "1").mkdir(parents=True)

    async def test() -> None:
        async with running(tmp_path, "--disable-auto-complete-config") as server:
            assert server.ready()
            with pytest.raises(NotFound, match=r"^Request for unknown model: 'bare' is not found$"):
                await server.infer(request("bare", [1]))
            row = next(row for row in server.repository.index(False) if row["name"] == "bare")
            assert row["state"] == "UNAVAILABLE"
            assert "bare/config.pbtxt: No such file or directory" in row["reason"]

    run(test)


def test_a_model_without_versions_is_known_and_not_ready(tmp_path: Path) -> None:
    shutil.rmtree(write_model(tmp_path, "m") / "1")

    async def test() -> None:
        async with running(tmp_path) as server:
            assert not server.ready()
            with pytest.raises(NotFound, match=r"^Request for unknown model: 'm' has no available versions$"):
                await server.infer(request("m", [1]))
            with pytest.raises(NotFound, match=r"^Request for unknown model: 'm' version 1 is not found$"):
                server.signature("m", 1)

    run(test)


def test_what_is_ignored_and_what_is_missing_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = write_model(tmp_path, "m")
    for name in ("003", "abc", "lost+found"):
        (tmp_path / name if "+" in name else model / name).mkdir()
    shutil.rmtree(write_model(tmp_path, "none") / "1")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=m", "--load-model=none", "--load-model=does-not-exist"):
            return

    run(test)
    for words in (
        "ignore version directory '003' which contains leading zeros in its directory name (model 'm')",
        "ignore version directory 'abc' which fails to convert to integral number (model 'm')",
        f"ignore '{tmp_path}/lost+found', which is no model",
        "model 'none' has no version to serve: 'none' holds config.pbtxt: make a version folder in it",
        "failed to poll model 'does-not-exist': model not found in any model repository.",
    ):
        assert words in caplog.text


@pytest.mark.parametrize("name", ["...", "..my_model", "model..1", "a..", " x"])
def test_names_with_dots_are_names(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, name)

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model(name)
            assert (await server.infer(request(name, [3]))).outputs[0].numpy()[0] == 3

    run(test)


@pytest.mark.parametrize("name", ["..", " .. ", "a/b", "../m", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            with pytest.raises(InvalidArg, match="must not contain path traversal characters") as caught:
                await server.load_model(name + "x" * 1000 if "/" in name else name)
            assert len(caught.value.message) < 400

    run(test)


def test_a_refused_load_leaves_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = write_model(tmp_path, "broken")
    (directory / "config.pbtxt").write_text("oops")

    async def test() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            for name, kind in (("unknown", InternalError), ("broken", InternalError), ("", InvalidArg)):
                with pytest.raises(kind):
                    await server.load_model(name)
            with pytest.raises(ServerError):
                await server.load_model("broken", {"file:1/model.onnx": b""})
        async with running(tmp_path) as server:
            with pytest.raises(Unavailable):
                await server.load_model("broken")

    run(test)
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    for words in (
        "load of 'unknown' was refused: failed to load 'unknown', failed to poll from model repository",
        "load of 'broken' was refused: failed to load 'broken', failed to poll from model repository: failed to read",
        "load of '' was refused: Model name cannot be empty",
        "load of 'broken' was refused: failed to load 'broken', failed to poll from model repository: Load parameter",
        "load of 'broken' was refused: explicit model load / unload is not allowed",
    ):
        assert any(line.startswith(words) for line in lines), words
