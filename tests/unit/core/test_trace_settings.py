"""Which requests are traced, by which settings, and what of them is written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triton_async.config.trace_config import TraceConfig
from triton_async.core.trace_files import TraceFiles, format_trace
from triton_async.core.tracing import Group, Tracing
from triton_async.errors import InvalidArg
from triton_async.infer.request import InferRequest
from triton_async.infer.tensor import from_numpy
from triton_async.infer.trace import Trace

TIMESTAMPS, TENSORS = 1, 2


class Recorder:
    """Keeps what it is given."""

    reads_context = True

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.ended: list[Group] = []
        self.parents: list[Any] = []

    def settings(self) -> dict[str, str]:
        return {}

    def context(self, fields: Any) -> tuple[Any, bool] | None:
        found = dict(fields).get("traceparent")
        return None if found is None else (found, found == "sampled")

    def begin(self, model: str, request_id: str, parent: Any, began_ns: int) -> Any:
        self.parents.append(parent)
        return f"span of {model}"

    def put(self, record: Any) -> None:
        self.records.append(record)

    def end_group(self, group: Group) -> None:
        self.ended.append(group)

    def close(self) -> None:
        pass


def traced(tracing: Tracing, number: int, model: str = "m", **fields: Any) -> list[bool]:
    """Whether each of so many requests is."""
    found = []
    for _ in range(number):
        request = InferRequest(model)
        for name, value in fields.items():
            setattr(request, name, value)
        found.append(tracing.begin(request, model, 1) is not None)
    return found


def test_every_so_many_th_request_is_traced_until_the_count_is_used_up() -> None:
    tracing = Tracing(TraceConfig(levels=TIMESTAMPS, rate=3, count=2), Recorder())
    assert [i for i, taken in enumerate(traced(tracing, 12), 1) if taken] == [3, 6]
    assert tracing.settings()["trace_count"] == "0"


def test_a_rate_of_zero_leaves_what_comes_with_a_context_and_is_no_setting_of_a_running_server() -> None:
    tracing = Tracing(TraceConfig(levels=TIMESTAMPS, rate=0), Recorder())
    assert not any(traced(tracing, 3))
    assert all(traced(tracing, 2, trace_parent=[("traceparent", "sampled")]))
    assert tracing.settings()["trace_rate"] == "0"
    for model in ("", "m"):
        with pytest.raises(InvalidArg, match="sample rate must be non-zero"):
            tracing.update(model, {"trace_rate": 0})


def test_nothing_is_traced_when_it_is_off_or_nobody_records() -> None:
    assert not any(traced(Tracing(TraceConfig(rate=1), Recorder()), 3))
    assert not any(traced(Tracing(TraceConfig(levels=TIMESTAMPS, rate=1), None), 3))


def test_a_model_has_what_was_changed_for_it_and_the_servers_settings_else() -> None:
    recorder, told = Recorder(), []
    tracing = Tracing(TraceConfig(levels=TIMESTAMPS, rate=5, file="f"), recorder, told.append)
    tracing.announce()
    tracing.update("m", {"trace_rate": 1})
    tracing.update("", {"trace_count": 7, "log_frequency": 2})
    assert tracing.settings("m") == {
        "trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "7", "log_frequency": "2", "trace_file": "f",
        "trace_mode": "triton",
    }  # fmt: skip
    assert tracing.settings("other")["trace_rate"] == "5"
    assert all(traced(tracing, 3)) and tracing.settings("")["trace_count"] == "7"
    tracing.update("m", {"trace_rate": None})
    assert tracing.settings("m") == tracing.settings("")
    tracing.update("", {"trace_count": None, "trace_level": 0})
    assert tracing.settings("")["trace_count"] == "-1" and not any(traced(tracing, 5))
    assert told == [True, True, True, True, False]
    assert recorder.ended  # whoever counts traces of a file hears that no more come


def test_a_level_needs_a_recorder_and_other_settings_do_not() -> None:
    tracing = Tracing(TraceConfig(), None)
    with pytest.raises(InvalidArg, match="trace file name is not given"):
        tracing.update("m", {"trace_level": TIMESTAMPS})
    assert tracing.settings("m")["trace_level"] == ["OFF"]
    tracing.update("m", {"trace_rate": 3})
    assert tracing.settings("m")["trace_rate"] == "3" and tracing.settings("")["trace_rate"] == "1000"


def test_a_setting_of_the_other_mode_is_refused() -> None:
    for changes in ({"log_frequency": 3}, {"trace_level": TENSORS}):
        with pytest.raises(InvalidArg, match="trace mode triton"):
            Tracing(TraceConfig(mode="opentelemetry"), Recorder()).update("", changes)


def test_a_request_that_brings_a_context_is_traced_as_that_says_whatever_the_rate() -> None:
    recorder = Recorder()
    tracing = Tracing(TraceConfig(levels=TIMESTAMPS, rate=1000, count=1), recorder)
    assert all(traced(tracing, 3, trace_parent=[("traceparent", "sampled")]))
    assert recorder.parents == ["sampled"] * 3
    assert not any(traced(tracing, 2, trace_parent=[("traceparent", "not sampled")]))
    assert not any(traced(tracing, 2, trace_parent=[("host", "x")]))
    assert tracing.settings()["trace_count"] == "1"


def test_what_a_traced_request_asks_for_is_traced_and_not_counted() -> None:
    recorder = Recorder()
    tracing = Tracing(TraceConfig(levels=TIMESTAMPS, rate=1, count=1), recorder)
    outer = tracing.begin(InferRequest("m"), "m", 1)
    assert outer is not None and tracing.settings()["trace_count"] == "0"
    request = InferRequest("n")
    request.trace_parent = outer
    inner = tracing.begin(request, "n", 2)
    assert inner is not None and inner.parent_id == outer.id and recorder.parents == [None, "span of m"]


def test_a_part_of_a_trace_is_traced_as_that_is_whatever_is_set_for_its_own_model() -> None:
    recorder = Recorder()
    tracing = Tracing(TraceConfig(levels=0, rate=1), recorder)
    tracing.update("m", {"trace_level": TIMESTAMPS, "trace_count": 1})
    tracing.update("n", {"trace_level": TENSORS})
    outer = tracing.begin(InferRequest("m"), "m", 1)
    assert outer is not None
    for model in ("n", "other"):
        request = InferRequest(model)
        request.trace_parent = outer
        inner = tracing.begin(request, model, 1)
        assert inner is not None and (inner.levels, inner.group) == (TIMESTAMPS, outer.group)


def test_a_trace_is_recorded_when_nobody_holds_it_any_more() -> None:
    recorder = Recorder()
    trace = Tracing(TraceConfig(levels=TIMESTAMPS, rate=1), recorder).begin(InferRequest("m", id="r"), "m", 1)
    assert trace is not None
    trace.add("REQUEST_START", 5)
    trace.add("QUEUE_START", 0)  # did not happen
    held = trace
    del trace
    assert not recorder.records
    del held
    (record,) = recorder.records
    assert record[:6] == (1, 0, "m", 1, "r", [("REQUEST_START", 5)])


def test_a_trace_in_tritons_form() -> None:
    tensor = from_numpy("X", np.array([[1.5, 2]], np.float32))
    text = from_numpy("T", np.array([b"a", b"\xff"], np.object_))
    events = [("REQUEST_END", 9), ("REQUEST_START", 3), ("HTTP_RECV_START", 1)]
    tensors = [("TENSOR_QUEUE_INPUT", tensor), ("TENSOR_BACKEND_OUTPUT", text)]
    rows = [json.loads(row) for row in format_trace((7, 6, "m", 1, "r", events, tensors, None, None))]
    assert rows == [
        {"id": 7, "timestamps": [{"name": "HTTP_RECV_START", "ns": 1}]},
        {"id": 7, "model_name": "m", "model_version": 1, "request_id": "r", "parent_id": 6},
        {"id": 7, "timestamps": [{"name": "REQUEST_START", "ns": 3}]},
        {"id": 7, "timestamps": [{"name": "REQUEST_END", "ns": 9}]},
        {"id": 7, "activity": "TENSOR_QUEUE_INPUT",
         "tensor": {"name": "X", "data": "1.5,2.0", "shape": "1,2", "dtype": "FP32"}},
        {"id": 7, "activity": "TENSOR_BACKEND_OUTPUT",
         "tensor": {"name": "T", "data": '"a","\\xff"', "shape": "2", "dtype": "BYTES"}},
    ]  # fmt: skip


def record(number: int, group: Group, parent: int = 0) -> Any:
    return Trace(number, "m", 1, "", TIMESTAMPS, None, parent, group).record()


def with_tensor(found: Any, tensor: Any) -> Any:
    return (*found[:6], [("TENSOR_QUEUE_INPUT", tensor)], *found[7:])


def ids(path: Path) -> list[int]:
    return [row["id"] for row in json.loads(path.read_text())]


def ids_so_far(path: Path) -> list[int] | None:
    """The same of a file that another thread writes; None in the middle of a write."""
    try:
        return ids(path)
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def wait_for(path: Path, expected: list[int]) -> None:
    deadline = time.monotonic() + 10
    while ids_so_far(path) is None or list(dict.fromkeys(ids_so_far(path) or ())) != expected:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_one_file_is_a_whole_document_after_each_trace(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    group = Group(TIMESTAMPS, 1, -1, 0)
    for number in (1, 2, 3):
        files.put(record(number, group))
        deadline = time.monotonic() + 10
        while ids_so_far(tmp_path / "t") != list(range(1, number + 1)):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    files.close()


def test_so_many_traces_go_to_each_file_and_a_change_of_the_settings_begins_a_new_one(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    group, other = Group(TIMESTAMPS, 1, -1, 2), Group(TIMESTAMPS, 1, -1, 2)
    for number in (1, 2, 3):
        files.put(record(number, group))
    files.end_group(group)
    files.put(record(4, other))
    files.close()
    assert [ids(tmp_path / f"t.{number}") for number in range(3)] == [[1, 2], [3], [4]]
    assert not (tmp_path / "t").exists()


def test_traces_of_a_count_are_in_a_file_of_their_own_once_there_are_so_many(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    unlimited, counted, unfinished = (Group(TIMESTAMPS, 1, count, 0) for count in (-1, 2, 3))
    files.put(record(1, unlimited))
    files.put(record(12, counted, parent=11))
    files.put(record(11, counted))
    files.put(record(2, unlimited))
    files.put(record(21, unfinished))
    files.put(record(13, counted))
    files.end_group(unfinished)
    files.put(record(22, unfinished))
    files.put(record(23, unfinished))
    files.close()
    assert (ids(tmp_path / "t"), ids(tmp_path / "t.0")) == ([1, 2, 21, 22, 23], [12, 11, 13])
    assert {path.name for path in tmp_path.iterdir()} == {"t", "t.0"}


def test_no_empty_file_is_left_where_all_traces_were_of_a_count(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    for first in (1, 3):
        group = Group(TIMESTAMPS, 1, 2, 0)
        files.put(record(first, group))
        files.put(record(first + 1, group))
    files.put(record(5, Group(TIMESTAMPS, 1, 2, 0)))
    files.close()
    assert [ids(tmp_path / name) for name in ("t.0", "t.1", "t")] == [[1, 2], [3, 4], [5]]


def test_the_other_traces_stay_as_they_are_when_a_count_is_reached(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    unlimited, first, second = (Group(TIMESTAMPS, 1, count, 0) for count in (-1, 3, 2))
    values = from_numpy("X", np.arange(1 << 18, dtype=np.float32))
    files.put(with_tensor(record(1, unlimited), values))
    wait_for(tmp_path / "t", [1])
    with open(tmp_path / "t") as kept:
        # The file of who finishes first has the first number.
        for number, group in ((2, first), (3, second), (4, first), (5, second), (6, first)):
            files.put(record(number, group))
        files.close()
        assert os.path.samestat(os.fstat(kept.fileno()), os.stat(tmp_path / "t"))
    assert (ids(tmp_path / "t.0"), ids(tmp_path / "t.1")) == ([3, 5], [2, 4, 6])
    rows = json.loads((tmp_path / "t").read_text())
    assert {row["id"] for row in rows} == {1}
    assert rows[-1]["tensor"]["data"] == ",".join(f"{value}.0" for value in range(1 << 18))
    assert {path.name for path in tmp_path.iterdir()} == {"t", "t.0", "t.1"}


def test_parts_that_come_behind_the_last_trace_of_a_count_are_in_its_file(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    group = Group(TIMESTAMPS, 1, 1, 0)
    files.put(record(1, group))
    files.put(record(2, group, parent=1))
    files.end_group(group)
    files.put(record(3, group, parent=1))
    files.put(record(4, Group(TIMESTAMPS, 1, -1, 0)))
    files.close()
    assert (ids(tmp_path / "t.0"), ids(tmp_path / "t")) == ([1, 2, 3], [4])


def test_counts_that_are_not_reached_are_in_the_one_file_in_the_end(tmp_path: Path) -> None:
    files = TraceFiles(str(tmp_path / "t"))
    first, second = Group(TIMESTAMPS, 1, 3, 0), Group(TIMESTAMPS, 1, 3, 0)
    for number, group in ((1, first), (2, second), (3, first)):
        files.put(record(number, group))
    wait_for(tmp_path / "t.counting.0", [1, 3])
    files.close()
    assert ids(tmp_path / "t") == [1, 3, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


def test_traces_that_are_lost_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton_async.core.trace_files.TRACE_TENSORS_NBYTES", 15)
    files = TraceFiles(str(tmp_path / "t"))
    group, lost = Group(TIMESTAMPS, 1, 3, 0), Group(TIMESTAMPS, 1, 1, 0)
    values = from_numpy("X", np.zeros(4, np.float32))
    files.put(with_tensor(record(1, group), values))
    files.put(with_tensor(record(2, lost), values))
    files.put(record(3, group))
    files.put(with_tensor(record(4, group, parent=3), values))
    wait_for(tmp_path / "t.counting.0", [3])
    files.put(with_tensor(record(5, group), values))
    wait_for(tmp_path / "t.0", [3])
    files.close()
    assert {path.name for path in tmp_path.iterdir()} == {"t.0"}


def test_a_folder_that_is_not_there_is_told_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = TraceFiles(str(tmp_path / "no" / "t"))
    for number in range(3):
        files.put(record(number, Group(TIMESTAMPS, 1, -1, 0)))
    files.close()
    assert len([entry for entry in caplog.records if "cannot be written" in entry.getMessage()]) == 1


def test_traces_are_lost_and_counted_when_the_disk_is_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("triton_async.core.trace_files.TRACE_QUEUE", 2)
    monkeypatch.setattr(TraceFiles, "_start", lambda self: None)
    files = TraceFiles(str(tmp_path / "t"))
    for number in range(5):
        files.put(record(number, Group(TIMESTAMPS, 1, -1, 0)))
    files.close()
    assert "3 traces were lost" in caplog.text
