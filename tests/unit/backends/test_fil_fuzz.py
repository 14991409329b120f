"""Readers of forests under mutations of their files. TEST_FUZZ_SECONDS in the environment: for how long."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from fuzzing_forests import MUTATORS, check_forest, seeds

CORPUS = Path(__file__).resolve().parents[2] / "fuzz/corpus/forests"


def test_the_seeds_are_answered_and_those_that_fuzzing_starts_from() -> None:
    assert {check_forest(data) for data in seeds().values()} == {"answered"}
    assert {path.name: path.read_bytes() for path in CORPUS.iterdir()} == seeds()


@pytest.mark.filterwarnings("error")
def test_mutated_files_are_refused_or_answered() -> None:
    choose = random.Random(int(os.environ.get("TEST_SEED", "1")))
    found = list(seeds().values())
    end = time.monotonic() + float(os.environ.get("TEST_FUZZ_SECONDS", "0"))
    seen: Counter[str] = Counter()
    while seen.total() < 1500 or time.monotonic() < end:
        data = choose.choice(MUTATORS)(choose, found)
        try:
            seen[check_forest(data)] += 1
        except Exception as error:
            raise AssertionError(f"{data!r}") from error
    # Neither is everything let through nor nothing.
    assert seen["refused"] > 200
    assert seen["answered"] > 200
    print(dict(seen))
