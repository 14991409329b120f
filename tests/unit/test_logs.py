"""Log lines: Triton's formats, and one record on one line whatever a client wrote into it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from triton_async import logs
from triton_async.lines import Lines

DEFAULT = re.compile(r'([IWE])\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ \w+\.py:\d+\] (".*")')
ISO8601 = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ([IWE]) \d+ \w+\.py:\d+\] (".*")')
HOSTILE = [
    "a\nE1120 00:00:00.000000 1 x.py:1] \"forged\"", "a\rb", "a\r\nb", "\x1b[2J\x1b]0;title\x07", "a\u2028b",
    "a\u2029b", "a\x85b", "a\0b", "a\x0bb\x0cc", "quote\" and \\ backslash", "\udcff lone surrogate",
    "\u202e reversed", "",
]  # fmt: skip
log = logging.getLogger("triton_async.test")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("triton_async")
    before = root.handlers[:], root.level, ours.level
    yield
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def configure(file: Path, **changes: object) -> None:
    settings = {"verbose": 0, "info": True, "warning": True, "error": True, "log_format": "default"} | changes
    logs.configure(**settings, file=str(file))  # type: ignore[arg-type]


def written_to(file: Path) -> Path:
    """The log, when all of it is written."""
    logs.flush()
    return file


@pytest.mark.parametrize(("log_format", "pattern"), [("default", DEFAULT), ("ISO8601", ISO8601)])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_message_is_one_line_that_reads_back(tmp_path: Path, log_format: str, pattern: re.Pattern[str],
                                               text: str) -> None:
    configure(tmp_path / "log", log_format=log_format)
    log.error("request for '%s'", text)
    written = written_to(tmp_path / "log").read_bytes()
    assert written.count(b"\n") == 1
    assert len(written.decode("ascii").splitlines()) == 1
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", written)
    match = pattern.fullmatch(written.decode().rstrip("\n"))
    assert match is not None
    assert match[1] == "E"
    assert json.loads(match[2]) == f"request for '{text}'"


@pytest.mark.parametrize("text", HOSTILE)
def test_json_lines_are_objects_with_the_id_of_the_request(tmp_path: Path, text: str) -> None:
    configure(tmp_path / "log", log_format="json")
    log.warning("%s", logs.with_id("id-7", f"request for '{text}'"))
    log.info("[request id: <id_unknown>] %s", text)
    log.info("table\nof lines", extra={"table": True})
    written = written_to(tmp_path / "log").read_bytes()
    assert written.count(b"\n") == 3 and len(written.decode("ascii").splitlines()) == 3
    first, second, third = map(json.loads, written.splitlines())
    assert list(first) == ["time", "severity", "pid", "file", "line", "message", "request_id"]
    assert (first["severity"], first["request_id"]) == ("WARNING", "id-7")
    assert first["message"] == f"[request id: id-7] request for '{text}'"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert second["severity"] == "INFO" and "request_id" not in second
    assert third["message"] == "table\nof lines"


def test_an_id_that_a_client_makes_up_stays_in_its_field(tmp_path: Path) -> None:
    configure(tmp_path / "log", log_format="json")
    for made_up in ('x", "severity": "ERROR', "a] b", "a\nb"):
        log.warning("%s", logs.with_id(made_up, "failed"))
    rows = [json.loads(line) for line in written_to(tmp_path / "log").read_bytes().splitlines()]
    assert [row["severity"] for row in rows] == ["WARNING"] * 3
    assert [row["request_id"] for row in rows] == ['x", "severity": "ERROR', "a", "a\nb"]


def test_an_exception_with_hostile_text_stays_on_the_line(tmp_path: Path) -> None:
    configure(tmp_path / "log")
    try:
        raise ValueError("a\nb\u2028c")
    except ValueError:
        log.exception("failed")
    lines = written_to(tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1
    assert "Traceback" in lines[0]


def test_tables_keep_their_lines(tmp_path: Path) -> None:
    configure(tmp_path / "log")
    log.info("%s", "\n+--+\n| a|", extra={"table": True})
    assert written_to(tmp_path / "log").read_text().endswith("\n+--+\n| a|\n")


@pytest.mark.parametrize(("changes", "letters"), [
    ({}, "IWE"), ({"info": False}, "WE"), ({"warning": False}, "IE"), ({"error": False}, "IW"),
    ({"verbose": 1}, "IIWE"), ({"info": False, "warning": False, "error": False}, ""),
])  # fmt: skip
def test_levels_are_switched_one_by_one(tmp_path: Path, changes: dict[str, object], letters: str) -> None:
    configure(tmp_path / "log", **changes)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    lines = written_to(tmp_path / "log").read_text().splitlines()
    assert "".join(line[0] for line in lines) == letters


def test_libraries_speak_only_when_something_is_wrong(tmp_path: Path) -> None:
    configure(tmp_path / "log", verbose=1)
    other = logging.getLogger("some.library")
    other.info("chatter")
    other.warning("trouble")
    assert written_to(tmp_path / "log").read_text().count("\n") == 1


@pytest.mark.parametrize("cell", ["a\nb", "a\rb", "\x1b[2J", "a\u2028b", "a\0b", "\udcff", "\u202ex"])
def test_a_cell_of_a_table_cannot_forge_a_line(cell: str) -> None:
    shown = logs.table(("Model", "Status"), [("m", "READY"), (cell, "READY")])
    assert len(shown.splitlines()) == 1 + 6
    assert all(line.isprintable() for line in shown.split("\n"))
    assert len({len(line) for line in shown.split("\n")[1:]}) == 1


def test_a_record_that_can_not_be_written_is_told_of(tmp_path: Path) -> None:
    class Odd:
        def __str__(self) -> str:
            raise ZeroDivisionError

    configure(tmp_path / "log")
    log.error("%s", Odd())
    log.error("%d", "x")
    assert written_to(tmp_path / "log").read_text().splitlines() == [
        "a line of triton_async.test can not be written: ZeroDivisionError",
        "a line of triton_async.test can not be written: TypeError",
    ]


def test_tables_stand_in_columns() -> None:
    assert logs.table(("Model", "V"), [("modèle a", "1"), ("b", "")]) == (
        "\n+----------+---+\n| Model    | V |\n+----------+---+\n| modèle a | 1 |\n| b        |   |\n+----------+---+"
    )


# -- lines on their way ----------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def read_all(reader: int) -> bytes:
    found = b""
    while piece := os.read(reader, 1 << 16):
        found += piece
    return found


def test_lines_come_in_order_from_every_thread(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    lines = Lines(writer)
    threads = [
        threading.Thread(target=lambda name=name: [lines.put(f"{name} {i}") for i in range(500)]) for name in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines.flush(10)
    os.close(writer)
    found = read_all(reader).decode().splitlines()
    for name in "abc":
        assert [line for line in found if line[0] == name] == [f"{name} {i}" for i in range(500)]
    assert len(found) == 1500 and lines.dropped == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_empties_holds_nobody_up(pipe: tuple[int, int], blocking: bool) -> None:
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    lines = Lines(writer, most=100)
    count = 3000
    for i in range(count):
        lines.put(f"{i} " + "x" * 1000)
    assert not lines.flush(0.1)
    lost = lines.dropped
    assert 0 < lost < count
    reading = threading.Thread(target=lambda: found.append(read_all(reader)))
    found: list[bytes] = []
    reading.start()
    assert lines.flush(10)
    lines.put("later")
    assert lines.flush(10)
    os.close(writer)
    reading.join()
    kept = found[0].decode().splitlines()
    # Which ones were lost depends on when the writing thread first took some: what is kept is whole and in order.
    numbers = [int(line.split()[0]) for line in kept if line.endswith(" " + "x" * 1000)]
    assert len(numbers) == count - lost and numbers == sorted(set(numbers)) and numbers[0] == 0
    # Told in one piece or, where the thread wrote between the losses, in several.
    told = [line.removesuffix(" lines were lost") for line in kept if line.endswith(" lines were lost")]
    assert sum(map(int, told)) == lost and "later" in kept
    assert lines.dropped == lost


def test_lines_that_can_not_be_written_are_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    lines = Lines(writer)
    for _ in range(3):
        lines.put("nobody")
    assert lines.flush(10)
    assert lines.dropped == 3


def test_a_full_device_is_no_error() -> None:
    with open("/dev/full", "wb") as full:
        lines = Lines(full.fileno())
        lines.put("x")
        assert lines.flush(10)
        assert lines.dropped == 1
