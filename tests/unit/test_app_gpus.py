"""What the app does about GPUs where there may be none."""

from __future__ import annotations

import logging
import threading

import pytest

from triton_async.composition import watching_gpus
from triton_async.config.settings import parse
from triton_async.memory.pools import Pools
from triton_async.memory.slab import SlabPool

POOLS = Pools(SlabPool(0))


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpu metrics"]


@pytest.mark.parametrize("option", ["--allow-metrics=false", "--allow-gpu-metrics=false"])
def test_gpus_are_not_watched_unless_wanted(option: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), watching_gpus(parse(["--model-repository=x", option]), POOLS) as monitor:
        assert watchers() == []
        assert monitor.families() == []
    assert not caplog.records


def test_the_watch_ends_with_the_server() -> None:
    with watching_gpus(parse(["--model-repository=x"]), POOLS):
        pass
    assert watchers() == []
