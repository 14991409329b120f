"""Tests against a real server process with the example models; every test must leave it idle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The examples are scripts that sit side by side, as their users run them, not a package.
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "examples" / "ocr"), str(ROOT / "examples" / "pose")]

from server_process import ServerProcess, running_server  # noqa: E402


@pytest.fixture(scope="session")
def example_models() -> Path:
    """The example repository, built once and kept between runs."""
    import build_models

    repository = ROOT / ".cache" / "example-models"
    build_models.build(repository)
    return repository


@pytest.fixture(scope="session")
def extra_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second repository with the models that only these tests need."""
    import extra_models

    repository = tmp_path_factory.mktemp("extra-models")
    extra_models.build(repository)
    return repository


@pytest.fixture(scope="session")
def server(
    example_models: Path, extra_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The server that most tests share; SIGTERM must end it cleanly after the last one."""
    folder = tmp_path_factory.mktemp("server")
    with running_server([example_models, extra_models], folder) as process:
        yield process
        process.stop()


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the shared server holds no request, response, batch or lease."""
    yield
    if "server" in request.fixturenames:
        process: ServerProcess = request.getfixturevalue("server")
        process.wait_until_idle()
