"""What is written down twice because C cannot import Python: it has to be the same."""

from __future__ import annotations

import re
from pathlib import Path

from triton_async import defines
from triton_async.errors import Code

CSRC = Path(__file__).resolve().parents[2] / "csrc"
PACKAGE = CSRC.parent / "triton_async"


def test_codes_of_errors() -> None:
    found = re.findall(r"TA_CODE_(\w+) = (\d+)", (CSRC / "codes.h").read_text())
    assert found == [(code.name, str(code.value)) for code in Code]
    assert re.findall(r"TA_CODE_(\w+)", (PACKAGE / "codes.pxd").read_text()) == [code.name for code in Code]


def test_rank_of_a_tensor() -> None:
    assert f"#define TA_MAX_RANK {defines.MAX_RANK}\n" in (CSRC / "batch.h").read_text()
