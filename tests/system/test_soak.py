"""A minute of what bench/e2e/soak does for half an hour: mixed traffic, every valid answer verified, nothing kept."""

from __future__ import annotations

from pathlib import Path

import soak
from server_process import running_server

SECONDS = 60
# Of the memory; half an hour has 2 %, which in a minute is less than a pool of buffers.
GROWTH = 0.05


def test_mixed_traffic_leaves_nothing_behind(tmp_path: Path) -> None:
    models = tmp_path / "models"
    soak.write_models(models)
    with running_server([models], tmp_path, soak.OPTIONS) as server:
        found = soak.soak(soak.Server(server.pid, server.http_url, server.grpc_url), SECONDS)
        assert not found.wrong, found.wrong[:10]
        assert len(found.done) == 8 and min(found.done.values()) > 20, found.done
        assert found.growth < GROWTH, f"{found.warm_nbytes / 1e6:.1f} MB became {found.end_nbytes / 1e6:.1f} MB"
        assert found.descriptors_left == 0
        server.wait_until_idle()
        server.stop()
