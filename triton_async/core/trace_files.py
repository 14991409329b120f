"""Traces in files, in Triton's JSON. A thread of its own formats and writes; whoever has a trace never waits."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# Elements that are made text at once; between two pieces other threads have their turn.
_PIECE = 1 << 14
_COPY_NBYTES = 1 << 20
# For the thread, of which nothing is to be written.
_WAKE: Record = ()
_GPU = 2  # TRITONSERVER_MEMORY_GPU


class TraceFiles:
    """The recorder of trace mode triton. All traces go to `path`, which is a whole JSON document after each write, or,
    where a group has a `log_frequency`, so many of them to each of `path`.0, .1, …. Those of a group with a count have
    a file from the first one on, `path`.counting.0, …, which becomes the next of these once there are so many; what the
    end, of the group or the server, finds unfinished goes to `path`, as in Triton.
    """

    reads_context = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: queue.SimpleQueue[Record | Group | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._lost = 0
        # Of each request of a client's whose trace is lost, the group: it counts all the same.
        self._lost_of: deque[Group] = deque()
        self._held_nbytes = 0
        # The thread's own.
        self._all = _File(path)
        # Groups with a count that is not reached: how many requests of clients were traced.
        self._counted: dict[Group, int] = {}
        self._next_file = 0
        self._next_counting = 0
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
            group: Group = record[7]
            if group.count > 0 and not record[1]:
                self._lost_of.append(group)
                if self._waiting.empty():  # or else the thread finds it behind what it writes
                    self._waiting.put(_WAKE)
                    if self._thread is None:
                        self._start()
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
            if isinstance(item, Group):
                self._guarded(self._end, item)
            elif item is not _WAKE:
                self._held_nbytes -= sum(tensor.nbytes for _, tensor in item[6])
                self._guarded(self._write, item)
            del item  # with the tensors in it
            while self._lost_of:
                self._guarded(self._count, self._lost_of.popleft())
        for group in [*self._counted]:
            self._guarded(self._end, group)

    def _guarded(self, step: Callable[[Any], None], item: Any) -> None:
        try:
            step(item)
        except OSError as error:
            if not self._failed:
                log.error("traces cannot be written to '%s': %s", self._path, error.strerror)
            self._failed = True
        except Exception:
            log.exception("a trace could not be written")

    def _write(self, record: Record) -> None:
        group: Group = record[7]
        if group.log_frequency:
            if group.file is None:
                group.file = _File(self._next_path())
            file = group.file
            file.append(list(format_trace(record)))
            if file.traces >= group.log_frequency:
                group.file = None
        elif group.count > 0:
            self._write_counted(record, group)
        else:
            self._all.append(list(format_trace(record)))

    # Parts of a request may come before its trace, or behind it when the count is reached and the file has its name.
    def _write_counted(self, record: Record, group: Group) -> None:
        if group.file is None:
            group.file = _File(f"{self._path}.counting.{self._next_counting}")
            self._next_counting += 1
            self._counted.setdefault(group, 0)
        try:
            group.file.append(list(format_trace(record)))
        finally:
            if not record[1]:
                self._count(group)

    # One more of the requests that the group is to have, written or lost.
    def _count(self, group: Group) -> None:
        if group.count <= 0 or (group.file is not None and group not in self._counted):
            return  # ended, or finished
        self._counted[group] = self._counted.get(group, 0) + 1
        if self._counted[group] < group.count:
            return
        del self._counted[group]
        if group.file is None or not group.file.traces:
            group.count, group.file = -1, None  # all were lost
        else:
            group.file.rename(self._next_path())

    def _end(self, group: Group) -> None:
        counted = self._counted.pop(group, None)
        if counted is None and group.file is not None and not group.log_frequency:
            return  # what still comes belongs to the others
        file, group.file, group.count = group.file, None, -1
        if counted is not None and file is not None and file.traces:
            self._all.take(file)

    def _next_path(self) -> str:
        path = f"{self._path}.{self._next_file}"
        self._next_file += 1
        return path


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

    def rename(self, path: str) -> None:
        """Gives it another name. OSError."""
        os.replace(self._path, path)
        self._path = path

    def take(self, other: _File) -> None:
        """Adds all traces of another file, which is no more. OSError."""
        if not self.traces:
            os.replace(other._path, self._path)
        else:
            with open(other._path, "rb") as source, open(self._path, "r+b") as file:
                file.seek(-len(_END), os.SEEK_END)
                file.write(b",\n")
                source.seek(len(b"["))
                shutil.copyfileobj(source, file, _COPY_NBYTES)
            os.unlink(other._path)
        self.traces += other.traces


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
    return ",".join([",".join(map(str, array[at : at + _PIECE].tolist())) for at in range(0, array.size, _PIECE)])
