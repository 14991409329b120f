"""The fake driver itself: right under many threads, and as strict as a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import SOURCES
from test_csrc_sanitized import MEMORY, build, run


@pytest.mark.parametrize("sanitizers", [MEMORY, "thread"])
def test_the_sanitizers_find_nothing(sanitizers: str, tmp_path: Path) -> None:
    done = run(build("fake_cuda_driver", sanitizers, tmp_path, *map(str, SOURCES)))
    assert done.returncode == 0, done.stderr
