"""Traces in files, in Triton's JSON. A thread of its own formats and writes; whoever has a trace never waits."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from triton_async import datatypes
from triton_async.core.tracing import Group, Record
from triton_async.defines import TRACE_QUEUE, TRACE_TENSORS_NBYTES
from triton_async.infer.tensor import Tensor, decode_bytes

log = logging.getLogger("triton_async.core")

# What happens before core knows of a request.
_RECEIVED = ("HTTP_RECV_START", "HTTP_RECV_END", "GRPC_WAITREAD_START", "GRPC_WAITREAD_END")
_END = b"\n]\n"
_ROW = re.compile(rb'(\{"id":([0-9]+)[,}].*?),?$')
_GPU = 2  # TRITONSERVER_MEMORY_GPU


class TraceFiles:
    """The recorder of trace mode triton. All traces go to `path`, which is a whole JSON document after each write, or,
    where a group has a `log_frequency`, so many of them to each of `path`.0, .1, …. Those of a group with a count are
    moved to such a file, too, once there are so many.
    """

    reads_context = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[Record | Group | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._lost = 0
        self._held_nbytes = 0
        # The thread's own.
        self._all = _File(path)
        self._files: dict[Group, _File] = {}
        # Of groups with a count: the traces in `path`, by number, and how many of them are of clients' requests.
        self._counted: dict[Group, tuple[set[int], int]] = {}
        self._next_file = 0
        self._failed = False

    def settings(self) -> Mapping[str, str]:
        """None beyond those that every server has."""
        return {}

    def context(self, fields: Sequence[tuple[str, str]]) -> None:
        """Triton's traces know of no others."""

    def begin(self, model: str, request_id: str, parent: Any, began_ns: int) -> None:
        """There are no spans."""

    def put(self, record: Record) -> None:
        """Has a trace written. Any thread. Where TRACE_QUEUE of them wait, or TRACE_TENSORS_NBYTES of tensors, it is
        lost, and counted.
        """
        nbytes = sum(tensor.nbytes for _, tensor in record[6])
        if self._waiting.qsize() >= TRACE_QUEUE or (nbytes and self._held_nbytes + nbytes > TRACE_TENSORS_NBYTES):
            self._lost += 1
            return
        self._held_nbytes += nbytes
        self._waiting.put(record)
        if self._thread is None:
            self._start()

    def end_group(self, group: Group) -> None:
        """Has the traces of the group that wait for a file written."""
        if self._thread is not None:
            self._waiting.put(group)

    def close(self) -> None:
        """Writes what there is."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
        if self._lost:
            log.warning("%d traces were lost: the disk was too slow for them", self._lost)

    def _start(self) -> None:
        # A trace that ends in here, in the hands of the garbage collector, is left to the thread that is being made.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._main, name="trace files", daemon=True)
                thread.start()
                self._thread = thread
        finally:
            self._starting.release()

    # -- the thread --------------------------------------------------------------------------------

    def _main(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                if isinstance(item, Group):
                    self._files.pop(item, None)
                    self._counted.pop(item, None)
                    item.count = -1
                else:
                    self._held_nbytes -= sum(tensor.nbytes for _, tensor in item[6])
                    self._write(item)
            except OSError as error:
                if not self._failed:
                    log.error("traces cannot be written to '%s': %s", self._path, error.strerror)
                self._failed = True
            except Exception:
                log.exception("a trace could not be written")
            del item  # with the tensors in it

    def _write(self, record: Record) -> None:
        group: Group = record[7]
        rows = list(format_trace(record))
        if not group.log_frequency:
            self._all.append(rows)
            if group.count > 0:
                self._count(record, group)
            return
        if group not in self._files:
            self._files[group] = _File(f"{self._path}.{self._next_file}")
            self._next_file += 1
        file = self._files[group]
        file.append(rows)
        if file.traces >= group.log_frequency:
            del self._files[group]

    def _count(self, record: Record, group: Group) -> None:
        numbers, roots = self._counted.get(group, (set(), 0))
        numbers.add(record[0])
        roots += not record[1]
        self._counted[group] = numbers, roots
        if roots == group.count:
            del self._counted[group]
            self._all.move(numbers, f"{self._path}.{self._next_file}")
            self._next_file += 1


class _File:
    """A JSON list that is whole after each `append`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.traces = 0

    def append(self, rows: list[bytes]) -> None:
        """Adds the rows of one trace. OSError."""
        data = b",\n".join(rows) + _END
        with open(self._path, "r+b" if self.traces else "wb") as file:
            if self.traces:
                file.seek(-len(_END), os.SEEK_END)
            file.write((b",\n" if self.traces else b"[") + data)
        self.traces += 1

    def move(self, numbers: set[int], path: str) -> None:
        """Takes the traces of these numbers out, to a file of their own. OSError."""
        rest = f"{self._path}.new"
        with open(self._path, "rb") as file, open(path, "wb") as moved, open(rest, "wb") as kept:
            between = {moved: b"[", kept: b"["}
            # Each row is a line.
            for line in file:
                if (found := _ROW.search(line)) is not None:
                    to = moved if int(found[2]) in numbers else kept
                    to.write(between[to] + found[1])
                    between[to] = b",\n"
            moved.write(_END)
            kept.write(_END)
        self.traces -= len(numbers)
        if between[kept] == b"[":
            self.traces = 0
            os.unlink(rest)
            os.unlink(self._path)
        else:
            os.replace(rest, self._path)


def format_trace(record: Record) -> Iterator[bytes]:
    """The objects of one trace, as JSON: what it is of, an object for each timestamp, one for each tensor."""
    number, parent_id, model, version, request_id, events, tensors = record[:7]
    first = [event for event in events if event[0] in _RECEIVED]
    rest = sorted((event for event in events if event[0] not in _RECEIVED), key=lambda event: int(event[1]))
    yield from map(orjson.dumps, (_timestamp(number, event) for event in first))
    head: dict[str, Any] = {"id": number, "model_name": model, "model_version": version}
    if request_id:
        head["request_id"] = request_id
    if parent_id:
        head["parent_id"] = parent_id
    yield orjson.dumps(head)
    yield from map(orjson.dumps, (_timestamp(number, event) for event in rest))
    for activity, tensor in tensors:
        shown = {
            "name": tensor.name,
            "data": _data(tensor),
            "shape": ",".join(map(str, tensor.shape)),
            "dtype": datatypes.to_name(tensor.datatype),
        }
        yield orjson.dumps({"id": number, "activity": activity, "tensor": shown})


def _timestamp(number: int, event: tuple[str, int]) -> dict[str, Any]:
    return {"id": number, "timestamps": [{"name": event[0], "ns": event[1]}]}


def _data(tensor: Tensor) -> str:
    """Elements with commas between them; of a tensor that lies on a GPU none."""
    if tensor.buffer is not None and tensor.buffer.memory_type == _GPU:
        return ""
    datatype = datatypes.to_name(tensor.datatype)
    if datatype == "BYTES":
        return ",".join(f'"{element.decode("utf-8", "backslashreplace")}"' for element in decode_bytes(tensor))
    array = tensor.numpy().ravel()
    if datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return ",".join(map(str, array.tolist()))
