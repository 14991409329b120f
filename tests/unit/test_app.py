"""What the app makes of its settings."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fake_devices import FakeDevices

from triton_async import app, composition
from triton_async.config.settings import parse
from triton_async.defines import GIL_SWITCH_S

MIB = 1 << 20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The minimum compute capabilities that GPUs were opened with."""
    found: list[float] = []

    def open_devices(min_compute_capability: float) -> FakeDevices:
        found.append(min_compute_capability)
        return FakeDevices(2)

    monkeypatch.setattr(composition, "open_devices", open_devices)
    return found


def test_memory_options_size_the_pools(asked: list[float]) -> None:
    pools = composition.make_pools(parse([
        "--model-repository=/models", "--pinned-memory-pool-byte-size=1048576",
        "--cuda-memory-pool-byte-size=1:2097152", "--min-supported-compute-capability=7.5",
    ]))  # fmt: skip
    assert asked == []
    assert pools.pinned().budget_nbytes == MIB
    assert (pools.device(0).budget_nbytes, pools.device(1).budget_nbytes) == (64 * MIB, 2 * MIB)
    assert asked == [7.5]


def test_the_defaults_are_tritons(asked: list[float]) -> None:
    pools = composition.make_pools(parse(["--model-repository=/models"]))
    assert (pools.pinned().budget_nbytes, pools.device(1).budget_nbytes) == (256 * MIB, 64 * MIB)
    assert asked == [6.0]


def test_a_server_hands_the_gil_over_soon(tmp_path: Path) -> None:
    before = sys.getswitchinterval()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = [f"--model-repository={tmp_path}", "--http-address=127.0.0.1", f"--http-port={port}"]
        try:
            assert app.run(parse([*options, "--grpc-port=0", "--metrics-port=0"])) == 1
            assert sys.getswitchinterval() == pytest.approx(GIL_SWITCH_S)
        finally:
            sys.setswitchinterval(before)


def test_the_limit_of_open_files_is_raised_as_far_as_is_allowed() -> None:
    program = (
        "import resource\n"
        "from triton_async import app\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "app._raise_descriptor_limit()\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
