"""Rolling restarts of two replicas behind a load balancer: no request is lost, and none runs twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rolling import installed, roll
from server_process import package_root

# Of each protocol through each proxy: 100,000 in all.
REQUESTS = 25_000
# nginx notices only connections that are refused: the ports have to wait for the models. HAProxy asks for readiness.
OPTIONS = {"nginx": ("--listen-while-loading=false",), "haproxy": ("--listen-while-loading=true",)}


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_rolling_restarts_lose_nothing(name: str, tmp_path: Path) -> None:
    if installed(name) is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    environment = os.environ | {"PYTHONPATH": str(package_root())}
    found = roll(name, REQUESTS, tmp_path, ("--drain-secs=1", *OPTIONS[name]), environment)
    assert not found.lost, found.lost[:10]
    assert found.answered == {"http": REQUESTS, "grpc": REQUESTS}
    assert found.doubled == 0 and found.restarts >= 2
