"""Short seeded fuzzing of the HTTP codec: nothing but ServerErrors, nothing invented, nothing kept."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from fuzzing import check_http, http_seeds, mutate, mutate_json


def test_the_seeds_are_answered() -> None:
    assert Counter(map(check_http, http_seeds())) == {"answered": len(http_seeds()) - 1, "refused": 1}


@pytest.mark.parametrize("change", [mutate, mutate_json])
@pytest.mark.parametrize("seed", range(2))
def test_mutated_bodies(seed: int, change: Callable[[random.Random, list[bytes]], bytes]) -> None:
    choose = random.Random(seed)
    seeds = http_seeds()
    seen: Counter[str] = Counter()
    for _ in range(30_000):
        data = change(choose, seeds)
        try:
            seen[check_http(data)] += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for {data!r}") from error
    assert len(seen) == 3
