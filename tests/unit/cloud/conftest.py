"""Storages that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from storages import S3_ENVIRONMENT, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of an S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture(autouse=True)
def of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server takes."""
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
