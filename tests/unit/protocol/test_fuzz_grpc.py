"""Short seeded fuzzing of the gRPC codec against protobuf itself: nothing but ServerErrors, nothing invented."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fuzzing import check_grpc, grpc_seeds, mutate

# What fuzzing has found, by what was wrong.
FOUND = {
    "a tag of six bytes was read": b"\0\n\1m\x8d\x8d\x8d\x8d\x8d\0\0\0\0\0",
}


@pytest.mark.parametrize("data", FOUND.values(), ids=FOUND)
def test_what_was_found_stays_mended(data: bytes) -> None:
    assert check_grpc(data) == "malformed"


def test_the_seeds_are_answered() -> None:
    assert {check_grpc(seed) for seed in grpc_seeds()} == {"answered"}


@pytest.mark.parametrize("seed", range(4))
def test_mutated_messages(seed: int) -> None:
    choose = random.Random(seed)
    seeds = grpc_seeds()
    seen: Counter[str] = Counter()
    for _ in range(30_000):
        data = mutate(choose, seeds)
        try:
            seen[check_grpc(data)] += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for {data!r}") from error
    assert len(seen) == 4
