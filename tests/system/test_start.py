"""How a server starts and does not: commands of others, taken ports, missing repositories, early signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_process import START_SECONDS, package_root, poll
from started import CONFIG, Started, started


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "config.pbtxt").write_text(CONFIG)
    return root


def test_the_command_of_the_real_server_starts_ours(models: Path, tmp_path: Path) -> None:
    with started(tmp_path, "tritonserver", f"--model-repo={models}", "--allow-m=false") as server:
        server.wait_until_it_answers()
        assert server.get("/v2/models/m/ready")[0] == 200
        server.process.terminate()
        assert server.end() == 0


def test_addresses_of_ipv6(models: Path, tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("the machine has no IPv6")
    options = ("--http-address=ipv6:[::1]", "--grpc-address=[::]")
    with started(tmp_path, f"--model-repository={models}", *options) as server:
        server.wait_until_it_answers("[::1]")
        with socket.create_connection(("127.0.0.1", server.grpc_port), 30):
            pass
        assert f"Started HTTPService at [::1]:{server.http_port}" in server.output()
        assert f"Started GRPCInferenceService at [::]:{server.grpc_port}" in server.output()


def test_a_repository_that_is_gone_ends_the_server_unless_told_otherwise(tmp_path: Path) -> None:
    with started(tmp_path, f"--model-repository={tmp_path}/nowhere") as server:
        assert server.end() == 1
        assert "failed to read a model repository: No such file or directory" in server.output()
    with started(tmp_path, f"--model-repository={tmp_path}/nowhere", "--exit-on-error=false") as server:
        server.wait_until_it_answers()
        assert server.get("/v2/health/live")[0] == 400
        assert server.get("/v2/health/ready")[0] == 400
        status, body = server.get("/v2")
        assert (status, json.loads(body)["name"]) == (200, "triton")
        server.process.terminate()
        assert server.end() == 0


def test_ports_are_tried_before_models_are_loaded(models: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option, name in (("http", "HTTP"), ("grpc", "GRPC"), ("metrics", "Metrics")):
            server = Started(tmp_path, [f"--model-repository={models}"])
            server.process.kill()
            server.process.wait()
            argv = [argument for argument in server.argv if not argument.startswith(f"--{option}-port=")]
            done = subprocess.run(
                [sys.executable, "-m", "triton_async.cli", *argv, f"--{option}-port={port}"],
                env=os.environ | {"PYTHONPATH": str(package_root())}, cwd=tmp_path, capture_output=True, text=True,
                timeout=START_SECONDS, check=False,
            )  # fmt: skip
            assert done.returncode == 1
            taken_by = f"failed to start {name} service: Unavailable - Socket '0.0.0.0:{port}' already in use"
            assert taken_by in done.stderr
            assert "loading: m:1" not in done.stderr


def test_a_wrong_option_is_answered_in_a_line_or_two(tmp_path: Path) -> None:
    with started(tmp_path, "--model-repository=/models", "--http-prot=1") as server:
        assert server.end() == 1
        assert server.output() == (
            'Bad option: "--http-prot".\nUnknown option; the nearest is --http-port\n'
            "See triton-async --help for all options\n"
        )


def test_standard_descriptors_may_be_closed(models: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(tmp_path, f"--model-repository={models}", f"--log-file={log}", closed=True) as server:
        server.wait_until_it_answers()
        held = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{server.process.pid}/fd").iterdir()}
        assert [held[fd] for fd in (0, 1, 2)] == ["/dev/null"] * 3
        server.process.terminate()
        assert server.end() == 0
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
def test_an_early_interrupt_leaves_no_traceback(models: Path, tmp_path: Path, seconds: float) -> None:
    with started(tmp_path, f"--model-repository={models}") as server:
        status = Path(f"/proc/{server.process.pid}/cmdline")
        poll(lambda: b"triton_async.cli" in status.read_bytes(), "the interpreter")
        time.sleep(seconds)
        server.process.send_signal(signal.SIGINT)
        assert server.end() in (0, -signal.SIGINT, 1)
        # Before our first line Python itself may still be starting.
        assert "triton_async" not in server.output() or "Traceback" not in server.output()


def test_one_wish_to_stop_that_is_told_twice_is_one(models: Path, tmp_path: Path) -> None:
    """make, shells and containers pass on a signal that the whole group got already."""
    with started(tmp_path, f"--model-repository={models}") as server:
        server.wait_until_it_answers()
        with socket.create_connection(("127.0.0.1", server.http_port), 30):
            server.process.terminate()
            server.process.terminate()
            server.process.send_signal(signal.SIGINT)
            assert server.end() == 0
        assert "received again" not in server.output()
