"""Into how many processes a server may be divided, and what that can not be combined with."""

from __future__ import annotations

import pytest

from triton_async.config import processes
from triton_async.config.affinity import Affinity
from triton_async.config.settings import Settings, UsageError, parse

MODELS = "--model-repository=/models"


def settings(*options: str) -> Settings:
    return parse([MODELS, *options])


def test_one_process_is_the_default() -> None:
    assert settings().frontend_processes == 1


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("2", 2), ("64", 64)])
def test_so_many_are_taken(text: str, count: int) -> None:
    assert settings(f"--frontend-processes={text}").frontend_processes == count


@pytest.mark.parametrize("text", ["0", "65", "-1", "two", "", "1.5", "AUTO", "9999999999"])
def test_no_other_number_is(text: str) -> None:
    with pytest.raises(UsageError, match="number of front-end processes is 1 to 64, or auto"):
        settings(f"--frontend-processes={text}")


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (500, 64)])
def test_auto_leaves_cores_for_the_models(cores: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    assert settings("--frontend-processes=auto").frontend_processes == count


@pytest.mark.parametrize(("option", "reason"), [
    ("--http-address=unix:/tmp/a", "a port that processes can share, and --http-address=unix:/tmp/a is a socket file"),
    ("--grpc-address=unix:/tmp/a", "--grpc-address=unix:/tmp/a is a socket file"),
    ("--trace-config=triton,file=/tmp/trace", "tracing .* can not be combined: use --frontend-processes=1"),
    ("--trace-config=mode=opentelemetry", "tracing .* can not be combined"),
    ("--model-namespacing=true", "--model-namespacing can not be combined: use --frontend-processes=1"),
])  # fmt: skip
def test_what_can_not_be_combined_is_refused(option: str, reason: str) -> None:
    assert settings(option).frontend_processes == 1
    with pytest.raises(UsageError, match=reason):
        settings(option, "--frontend-processes=2")


@pytest.mark.parametrize(("options", "count"), [
    ((), 1), (("--model-processes=1",), 1), (("--model-processes=3", "--frontend-processes=2"), 3),
    (("--model-processes=64",), 64),
])  # fmt: skip
def test_models_are_in_so_many_processes(options: tuple[str, ...], count: int) -> None:
    assert settings(*options).model_processes == count


@pytest.mark.parametrize("text", ["0", "65", "-1", "two", "", "1.5", "AUTO", "9999999999"])
def test_no_other_number_of_model_processes_is_taken(text: str) -> None:
    with pytest.raises(UsageError, match="number of model processes is 1 to 64, or auto") as refused:
        settings(f"--model-processes={text}")
    assert '"--model-processes"' in refused.value.message


@pytest.mark.parametrize(("cores", "front_ends", "count"), [
    (1, "1", 1), (2, "1", 1), (4, "1", 3), (4, "2", 2), (4, "auto", 2), (2, "2", 1), (500, "1", 64),
])  # fmt: skip
def test_auto_model_processes_are_the_cores_that_front_ends_leave(
    cores: int, front_ends: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    assert settings("--model-processes=auto", f"--frontend-processes={front_ends}").model_processes == count


def test_auto_model_processes_are_the_cores_of_models_where_these_have_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    assert processes.parse_model_count("auto", 1, Affinity((0, 1), (2, 3, 4, 5, 6, 7))) == 6
    assert processes.parse_model_count("auto", 1, Affinity((0, 1, 2, 3), (0, 1, 2, 3))) == 3


def test_there_must_be_something_for_them_to_do() -> None:
    with pytest.raises(UsageError, match="needs --allow-http or --allow-grpc"):
        settings("--allow-http=false", "--allow-grpc=false", "--frontend-processes=2")
    assert settings("--allow-http=false", "--grpc-address=127.0.0.1", "--frontend-processes=2").frontend_processes == 2


def test_a_socket_file_of_what_is_off_does_not_matter() -> None:
    assert settings("--allow-grpc=false", "--grpc-address=unix:/a", "--frontend-processes=2").frontend_processes == 2
