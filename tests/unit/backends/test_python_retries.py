"""How often a load that fails is tried again, and what is said of it then."""

from __future__ import annotations

from pathlib import Path

import pytest
from python_stage import stage, write

from triton_async.errors import ServerError

MODEL = """
import pathlib

class TritonPythonModel:
    def initialize(self, args):
        tries = pathlib.Path({tries!r})
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if len(tries.read_text()) <= {failures}:
            raise ValueError("not yet")

    def execute(self, requests):
        return []
"""


@pytest.mark.parametrize("retries", [0, 2])
def test_a_load_that_fails_is_tried_again_as_often_as_told(tmp_path: Path, retries: int) -> None:
    models = tmp_path / "models"
    for name, failures in (("soon", retries), ("late", retries + 1)):
        write(models, name, MODEL.format(tries=str(tmp_path / name), failures=failures))
    options = ("--model-control-mode=explicit", f"--model-load-retry-count={retries}")
    with stage(models, *options) as server:
        server.run(server.server.load_model("soon"))
        with pytest.raises(ServerError, match="not yet"):
            server.run(server.server.load_model("late"))
        rows = {row["name"]: row for row in server.server.repository.index(False)}
        assert rows["soon"]["state"] == "READY" and "reason" not in rows["soon"]
        assert rows["late"]["state"] == "UNAVAILABLE" and "not yet" in rows["late"]["reason"]
        assert [len((tmp_path / name).read_text()) for name in ("soon", "late")] == [retries + 1, retries + 1]
        # A later load begins anew.
        server.run(server.server.load_model("late"))
        assert {row["name"] for row in server.server.repository.index(True)} == {"soon", "late"}
