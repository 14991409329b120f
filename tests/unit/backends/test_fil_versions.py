"""Files of several versions of the libraries, with what those versions answered: tests/unit/backends/forests."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from forest_models import forest

from triton_async.backends.fil.options import Options
from triton_async.backends.fil.sources import read

FOLDER = Path(__file__).with_name("forests")
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_every_file_has_its_answers() -> None:
    files = {path.name for path in FOLDER.iterdir()} - {"README.md", "expected.json"}
    assert files == set(EXPECTED["answers"])


@pytest.mark.parametrize("name", sorted(EXPECTED["answers"]))
def test_the_version_that_wrote_it_answered_the_same(name: str) -> None:
    if name.endswith((".model", ".tl")) and find_spec("treelite") is None:
        pytest.skip("treelite is not installed")
    ensemble = read(FOLDER / name, Options(), "m", False)
    rows = np.array(EXPECTED["rows"]["lightgbm" if name.startswith("lightgbm") else "xgboost"], np.float64)
    answers = forest(ensemble, ensemble.link, double_rows=False).answers(rows)
    if name.startswith("lightgbm"):
        answers = forest(ensemble, ensemble.link, wide=True).answers(rows)
    assert np.allclose(answers, EXPECTED["answers"][name], rtol=1e-6, atol=1e-7)
