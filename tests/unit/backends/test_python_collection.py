"""What models leave to the garbage collector goes when they are unloaded, and nothing else is kept from it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_stage import IDENTITY, IO, stage, write


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def serve(tmp_path: Path) -> None:
    write(tmp_path, "m", IDENTITY, IO)
    with stage(tmp_path) as server:
        assert server.run(server.server.repository_index(True))


def test_a_process_that_holds_a_server_stays_under_collection(tmp_path: Path) -> None:
    kept = Cycle()
    gone = weakref.ref(kept)
    serve(tmp_path)
    del kept
    gc.collect()
    assert gone() is None
    assert gc.get_freeze_count() == 0


def test_what_was_out_of_collection_is_so_again(tmp_path: Path) -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    serve(tmp_path)
    assert gc.get_freeze_count() > before / 2
