"""Server CPU per inference on one gRPC stream as more requests are sent ahead of its answers: -m bench.e2e.backlog."""

from __future__ import annotations

import argparse
import select
import socket
import statistics
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from hpack import Encoder

from tests.conformance import servers
from tests.conformance.servers import Server

from . import models, report
from .load import Requests
from .perf import CPU_TICK_US, cpu_ticks

_COLUMNS = ("outstanding", "inferences", "infer/s", "server CPU us/infer", "CPU vs first", "resident MiB at the most")
_KEYS = ("outstanding", "count", "infer_per_s", "cpu_us", "ratio", "mib")
_NOTE = (
    "The client keeps so many requests unanswered, {kib:.0f} KiB at the most; medians of {rounds} rounds in turns."
)
_MODEL = "slow"
# An execution takes a millisecond: the server never runs it between two reads of the socket, which would cost less than
# a thread and depend on what else the machine does.
_CONFIG = f"""name: "{_MODEL}"
backend: "identity"
max_batch_size: 64
input {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }}
instance_group {{ count: 2 kind: KIND_CPU }}
dynamic_batching {{ }}
parameters {{ key: "execute_delay_ms" value {{ string_value: "1" }} }}
"""
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
_END_HEADERS, _ACK, _END_STREAM = 4, 1, 1
_INITIAL_WINDOW = 4
_LARGEST = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_FRAME_NBYTES = 1 << 14
# Bytes of one write.
_WRITE_NBYTES = 1 << 18
_TIMEOUT_S = 60.0
_HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", "/inference.GRPCInferenceService/ModelStreamInfer"),
    (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers"),
]  # fmt: skip


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


class Stream:
    """One ModelStreamInfer call on a connection of its own, whose requests are all the same `message`."""

    def __init__(self, port: int, message: bytes) -> None:
        self._message = message
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._received = b""
        self._connection_window = _DEFAULT_WINDOW
        self._window = 0  # until the server has told
        self._answer_nbytes = 0  # of each answer, framed
        self._answered_nbytes = 0
        self.sent = 0
        self.ended = False
        settings = struct.pack(">HI", _INITIAL_WINDOW, _LARGEST)
        self._out = (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST - _DEFAULT_WINDOW))
            + _frame(_HEADERS, _END_HEADERS, 1, Encoder().encode(_HEAD))
        )  # fmt: skip

    @property
    def answered(self) -> int:
        return self._answered_nbytes // self._answer_nbytes if self._answer_nbytes else 0

    def run(self, count: int, outstanding: int) -> None:
        """So many requests and their answers."""
        count += self.sent
        while self.answered < count:
            self._turn(min(count, self.answered + outstanding))

    def close(self) -> None:
        """Ends the call in order. RuntimeError when the server has sent anything but the answers."""
        self._out += _frame(_DATA, _END_STREAM, 1)
        while not self.ended:
            self._turn(self.sent)
        self._socket.close()
        if self._answered_nbytes != self.sent * self._answer_nbytes:
            raise RuntimeError("the answers differ in size")

    def _turn(self, up_to: int) -> None:
        if not self._out:
            self._fill(up_to)
        readable, writable, _ = select.select([self._socket], [self._socket] if self._out else [], [], _TIMEOUT_S)
        if not readable and not writable:
            raise RuntimeError("the server does nothing")
        if writable:
            self._out = self._out[self._socket.send(self._out) :]
        if readable:
            data = self._socket.recv(1 << 20)
            if not data:
                raise RuntimeError("the server closed the connection")
            self._take(self._received + data)

    def _fill(self, up_to: int) -> None:
        size = len(self._message)
        room = min(self._window, self._connection_window, _WRITE_NBYTES) // size
        count = min(up_to - self.sent, room)
        self.sent += count
        self._window -= count * size
        self._connection_window -= count * size
        each = _FRAME_NBYTES // size
        while count > 0:
            self._out += _frame(_DATA, 0, 1, self._message * min(each, count))
            count -= each

    def _take(self, data: bytes) -> None:
        at = 0
        while len(data) - at >= 9:
            kind, flags = data[at + 3], data[at + 4]
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            self._frame(kind, flags, data[at + 5 : at + 9], data[at + 9 : end])
            at = end
        self._received = data[at:]

    def _frame(self, kind: int, flags: int, stream: bytes, payload: bytes) -> None:
        if kind == _DATA:
            if not self._answer_nbytes:
                self._answer_nbytes = 5 + int.from_bytes(payload[1:5], "big")
            self._answered_nbytes += len(payload)
        elif kind == _WINDOW_UPDATE:
            if any(stream):
                self._window += int.from_bytes(payload, "big")
            else:
                self._connection_window += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            self._window = dict(struct.iter_unpack(">HI", payload))[_INITIAL_WINDOW]
            self._out += _frame(_SETTINGS, _ACK, 0)
        elif kind in (_RST_STREAM, _GOAWAY):
            raise RuntimeError(f"the server ended the stream: {payload!r}")
        if kind == _HEADERS and flags & _END_STREAM:
            self.ended = True


def _most_resident_kb(server: Server) -> float:
    """Since the server has started."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def _repository(root: Path) -> Path:
    folder = root / _MODEL
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(_CONFIG)
    return root


def measure(server: Server, message: bytes, outstanding: int, count: int) -> tuple[float, float, float]:
    """Infer/s, CPU microseconds of the server per inference, and the most MiB that it had in memory."""
    stream = Stream(server.grpc_port, message)
    stream.run(1000, 100)
    ticks, began = cpu_ticks(server.process.pid), time.perf_counter()
    stream.run(count, outstanding)
    took_s = time.perf_counter() - began
    ticks = cpu_ticks(server.process.pid) - ticks
    stream.close()
    return count / took_s, ticks * CPU_TICK_US / count, _most_resident_kb(server) / 1024


def main() -> None:
    """Starts servers, measures, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.e2e.backlog", description=__doc__)
    parser.add_argument("--outstanding", type=int, nargs="+", default=[200, 100_000])
    parser.add_argument("--count", type=int, default=200_000, help="inferences of one round (default: 200000)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/backlog"), help="path without ending")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        message = Requests(work, models.ELEMENTS).grpc_message(_MODEL)
        command = servers.ours_command(_repository(work / "models"))
        found: dict[int, list[tuple[float, float, float]]] = {}
        for _ in range(options.rounds):
            for outstanding in options.outstanding:
                with servers.running("triton-async", command, servers.ours_env(), work / "log") as server:
                    window = measure(server, message, outstanding, options.count)
                found.setdefault(outstanding, []).append(window)
                print(f"{outstanding} outstanding: {window[0]:.0f} infer/s, CPU {window[1]:.2f} us/infer", flush=True)
    rows: list[dict[str, Any]] = []
    for outstanding, windows in found.items():
        rate, cpu_us, mib = (statistics.median(values) for values in zip(*windows, strict=True))
        rows.append({
            "outstanding": outstanding, "count": options.count, "infer_per_s": round(rate), "cpu_us": round(cpu_us, 2),
            "mib": round(mib, 1),
        })  # fmt: skip
        rows[-1]["ratio"] = round(cpu_us / rows[0]["cpu_us"], 2)
    kib = max(options.outstanding) * len(message) / 1024
    print(report.save("Requests sent ahead on one stream", options.out, _COLUMNS, _KEYS, rows,
                      note=_NOTE.format(kib=kib, rounds=options.rounds)))  # fmt: skip


if __name__ == "__main__":
    main()
