"""The tables of features in docs/compatibility.md say what the code does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import feature_tables

from triton_async.config.unsupported import FIELDS


def test_the_tables_are_those_of_the_code() -> None:
    assert feature_tables.written() == feature_tables.tables(), "python -m tests.feature_tables writes them anew"


def test_every_field_that_is_refused_is_told_so() -> None:
    states = dict(feature_tables.fields())
    for name, _, _ in FIELDS:
        assert "refused" in states[name.split(".")[0]], name
    assert set(feature_tables.NOTES) <= set(states)
    assert set(feature_tables.REFUSED) <= set(states)
