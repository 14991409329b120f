"""Replays the corpus against triton-async and compares with the recorded answers of tritonserver."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import agreement
from .conftest import Asked
from .corpus import GROUPS
from .deviations import DEVIATIONS, disagreement
from .replay import survived

CASES = [pytest.param(group, case.id, id=case.id) for group, cases in GROUPS.items() for case in cases]
IDS = [case.id for cases in GROUPS.values() for case in cases]
# Replayed once more where the models are Python models, and where each runs in a process of its own.
AS_PYTHON = ("http_infer", "grpc")
ISOLATED = ("python", "python_streams", "python_sequences", "python_scheduling")
COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


@pytest.mark.parametrize(("group", "case_id"), CASES)
def test_answers_as_the_real_server(group: str, case_id: str, ours: Asked, recorded: Asked) -> None:
    """Our answer equals the recorded one, or is the deviation that we declare."""
    found = disagreement(case_id, ours(group)[case_id], recorded(group)[case_id])
    assert not found, found


def _disagreements(group: str, given: Asked, recorded: Asked) -> list[str]:
    """What is wrong with the answers to a whole group."""
    found = (disagreement(case.id, given(group)[case.id], recorded(group)[case.id]) for case in GROUPS[group])
    return [text for text in found if text]


@pytest.mark.parametrize("group", AS_PYTHON)
def test_python_models_answer_as_onnx_models(group: str, as_python: Asked, recorded: Asked) -> None:
    """The models that the real server runs as Python models give the same answers as Python models here."""
    assert not _disagreements(group, as_python, recorded)


@pytest.mark.parametrize("group", ISOLATED)
def test_isolated_models_answer_alike(group: str, isolated: Asked, recorded: Asked) -> None:
    """Where a Python model runs makes no difference to a client."""
    assert not _disagreements(group, isolated, recorded)


@pytest.mark.parametrize("group", ISOLATED)
def test_models_in_model_processes_answer_alike(group: str, in_model_processes: Asked, recorded: Asked) -> None:
    """Nor whether it shares that place with others."""
    assert not _disagreements(group, in_model_processes, recorded)


def test_case_ids_are_unique() -> None:
    """Answers are looked up by id."""
    assert len(IDS) == len(set(IDS))


@pytest.mark.parametrize("group", GROUPS)
def test_every_case_is_recorded(group: str, recorded: Asked) -> None:
    """A new case is recorded when it is added; an answer without a case is dead."""
    assert set(recorded(group)) == {case.id for case in GROUPS[group]}


@pytest.mark.parametrize("group", GROUPS)
def test_the_real_server_survives_the_corpus(group: str, recorded: Asked) -> None:
    """No case is kept that ends or hangs it: what we answer there is tested at the level of our functions."""
    assert not [case_id for case_id, answer in recorded(group).items() if not survived(answer)]


def test_deviations_are_documented() -> None:
    """Each deviation names a case that exists, and stands in the compatibility document."""
    text = COMPATIBILITY.read_text()
    assert not [case_id for case_id in DEVIATIONS if case_id not in IDS or f"`{case_id}`" not in text]


def test_every_call_is_asked_what_it_does_and_what_it_refuses() -> None:
    counts = agreement.count()
    # Which takes nothing without a GPU.
    refusing = {"gRPC CudaSharedMemoryRegister", "HTTP cuda region register"}
    assert {name for name in agreement.calls() if not 0 < counts[name].accepted < counts[name].cases} == refusing


def test_answers_are_of_the_same_kind() -> None:
    """Where they are not, the real server's is defective: those that we declare are counted, too."""
    found = agreement.total(agreement.count())
    assert found.alike >= 0.97 * found.cases, found
