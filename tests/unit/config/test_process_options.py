"""Into how many processes a server may be divided, and what that can not be combined with."""

from __future__ import annotations

import pytest

from triton_async.config import processes
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


def test_models_stay_in_one_process() -> None:
    assert settings("--model-processes=1").frontend_processes == 1
    with pytest.raises(UsageError, match="spreading models over several processes is not part of this release"):
        settings("--model-processes=2")


def test_there_must_be_something_for_them_to_do() -> None:
    with pytest.raises(UsageError, match="needs --allow-http or --allow-grpc"):
        settings("--allow-http=false", "--allow-grpc=false", "--frontend-processes=2")
    assert settings("--allow-http=false", "--grpc-address=127.0.0.1", "--frontend-processes=2").frontend_processes == 2


def test_a_socket_file_of_what_is_off_does_not_matter() -> None:
    assert settings("--allow-grpc=false", "--grpc-address=unix:/a", "--frontend-processes=2").frontend_processes == 2
