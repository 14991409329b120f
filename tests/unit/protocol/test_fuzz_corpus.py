"""Every input of tests/fuzz/corpus and some thousand mutations of it, by a fixed seed, through its check."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import check_grpc, check_http, check_json, mutate, mutate_json
from fuzzing_head import check_head, mutate_chunks, mutate_infer, mutate_lines
from fuzzing_http2 import check_http2, mutate_frames

CORPUS = Path(__file__).resolve().parents[2] / "fuzz/corpus"
Check = Callable[[bytes], str]
Mutate = Callable[[random.Random, list[bytes]], bytes]
TARGETS: dict[str, tuple[Check, list[Mutate]]] = {
    "grpc": (check_grpc, [mutate]),
    "http": (check_http, [mutate, mutate_json]),
    "http2": (check_http2, [mutate, mutate_frames]),
    "http_head": (check_head, [mutate, mutate_lines, mutate_chunks, mutate_infer]),
    "json": (check_json, [mutate]),
}
MUTATIONS = 15_000


def seeds(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def checked(target: str, data: bytes) -> str:
    try:
        return TARGETS[target][0](data)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {data!r}") from error


def test_the_corpus_is_small_and_complete() -> None:
    # Those of archives are for test_pytorch_archive, those of forests for test_fil_fuzz.
    assert sorted(folder.name for folder in CORPUS.iterdir()) == sorted([*TARGETS, "archive", "forests"])
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 100_000


@pytest.mark.parametrize(
    ("target", "results"),
    [
        ("grpc", {"answered"}),
        ("http", {"answered", "refused"}),
        ("http2", {"alive", "over", "refused"}),
        ("http_head", {"infer", "length", "chunked", "empty", "bad", "refused", "more"}),
        ("json", {"read", "refused"}),
    ],
)
def test_the_corpus(target: str, results: set[str]) -> None:
    assert {checked(target, data) for data in seeds(target)} == results


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_corpus(target: str) -> None:
    choose = random.Random(5)
    corpus = seeds(target)
    mutators = TARGETS[target][1]
    seen: Counter[str] = Counter()
    for _ in range(MUTATIONS):
        seen[checked(target, choose.choice(mutators)(choose, corpus))] += 1
    assert len(seen) > 1
