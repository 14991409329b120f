"""Nothing is lost when a server takes the place of another one on the same ports."""

from __future__ import annotations

from pathlib import Path

from bench.e2e.replacements import replace


def test_every_request_is_answered_while_servers_come_and_go(tmp_path: Path) -> None:
    found = replace(3, tmp_path)
    assert found.lost == []
    assert min(found.answered.values()) > 100
