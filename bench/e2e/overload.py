"""Three times as many requests as a model can answer: python -m bench.e2e.overload.

One instance takes 2 ms for each request. Its capacity is measured first; then clients send three times as many, whether
they are answered or not (an open loop), over one protocol and under one rule at a time. A request is good when it is
answered within 100 ms. Goodput is good answers per second, as a share of the capacity. Every request must come to an
end that its client sees, and what the server holds must stay within `--max-in-flight-byte-size`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.conformance import servers
from tests.conformance.servers import Server
from triton_async import protos

from . import report

_GOOD_S = 0.1
_OVERLOAD = 3
_BUDGET_NBYTES = 1 << 20
_LARGE_NBYTES = 64 << 10
_COLUMNS = ("protocol", "rule", "capacity/s", "offered/s", "goodput/s", "goodput %", "held MiB", "outcomes")
_KEYS = ("protocol", "rule", "capacity", "offered", "goodput", "share", "held_mib", "outcomes")
_NOTE = (
    "One instance, 2 ms for a request, three times its capacity offered in an open loop; good is what is answered "
    "within 100 ms. `held`: growth of the server's resident memory over its idle state, at the most."
)

_CONFIG = """
backend: "identity"
max_batch_size: {max_batch_size}
input {{ name: "X" data_type: TYPE_UINT8 dims: -1 }}
output {{ name: "Y" data_type: TYPE_UINT8 dims: -1 }}
parameters {{ key: "execute_delay_ms" value {{ string_value: "2" }} }}
{more}
"""
_POLICY = "dynamic_batching {{ preferred_batch_size: [1] default_queue_policy {{ {} }} }}"
# Model -> its config beyond the common part, and its max_batch_size.
_MODELS = {
    "free": ("", 0),
    "short": (_POLICY.format("max_queue_size: 16"), 1),
    "timely": (_POLICY.format("timeout_action: REJECT default_timeout_microseconds: 60000"), 1),
}


@dataclass
class Rule:
    """What bounds the work. `deadline_s`: that clients set, gRPC alone; 0: none. `nbytes`: of a request's tensor."""

    name: str
    model: str
    deadline_s: float = 0.0
    nbytes: int = 64


RULES = {
    "grpc": [
        Rule("queue size", "short"), Rule("queue timeout", "timely"),
        Rule("client deadlines alone", "free", _GOOD_S), Rule("memory alone", "free", 0.0, _LARGE_NBYTES),
    ],
    "http": [
        Rule("queue size", "short"), Rule("queue timeout", "timely"), Rule("memory alone", "free", 0.0, _LARGE_NBYTES),
    ],
}  # fmt: skip


@dataclass
class Tally:
    """What became of the requests. Any thread."""

    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: str, took_s: float) -> None:
        """One is over."""
        if outcome == "ok":
            outcome = "good" if took_s <= _GOOD_S else "late"
        with self.lock:
            self.outcomes[outcome] += 1

    @property
    def total(self) -> int:
        """Those that are over."""
        with self.lock:
            return sum(self.outcomes.values())


def write(root: Path) -> Path:
    """The repository."""
    for name, (more, max_batch_size) in _MODELS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(_CONFIG.format(more=more, max_batch_size=max_batch_size))
    return root


def _shape(rule: Rule) -> list[int]:
    return [rule.nbytes] if _MODELS[rule.model][1] == 0 else [1, rule.nbytes]


def _message(rule: Rule) -> bytes:
    request = protos.message("inference.ModelInferRequest")(model_name=rule.model)
    request.inputs.add(name="X", datatype="UINT8", shape=_shape(rule))
    request.outputs.add(name="Y")
    request.raw_input_contents.append(bytes(rule.nbytes))
    data: bytes = request.SerializeToString()
    return data


def _pace(rate: float, count: int, begin: Callable[[], None]) -> float:
    """Calls `begin` so many times, evenly; the seconds that it took."""
    start = time.monotonic()
    for number in range(count):
        wait = start + number / rate - time.monotonic()
        if wait > 0.0005:
            time.sleep(wait)
        begin()
    return time.monotonic() - start


def _offer_grpc(server: Server, rule: Rule, rate: float, count: int, tally: Tally) -> float:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    data = _message(rule)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def begin() -> None:
            began = time.monotonic()

            def over(call: Any) -> None:
                code = call.code()
                tally.note("ok" if code is grpc.StatusCode.OK else code.name, time.monotonic() - began)

            ask.future(data, timeout=rule.deadline_s or None).add_done_callback(over)

        took = _pace(rate, count, begin)
        _until_over(tally, count)
    return took


def _until_over(tally: Tally, count: int) -> None:
    end_s = time.monotonic() + 120
    while tally.total < count:
        if time.monotonic() > end_s:
            raise RuntimeError(f"{count - tally.total} of {count} requests never came to an end")
        time.sleep(0.05)


def _http_request(rule: Rule) -> bytes:
    shape = ",".join(map(str, _shape(rule)))
    size = f'"parameters":{{"binary_data_size":{rule.nbytes}}}'
    text = f'{{"inputs":[{{"name":"X","datatype":"UINT8","shape":[{shape}],{size}}}],'
    text += '"parameters":{"binary_data_output":true}}'
    head = (
        f"POST /v2/models/{rule.model}/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + rule.nbytes}\r\n\r\n"
    )
    return (head + text).encode() + bytes(rule.nbytes)


class _HttpClients:
    """A connection for each request in flight; one that is free is used again."""

    def __init__(self, port: int, request: bytes, tally: Tally) -> None:
        self._port = port
        self._request = request
        self._tally = tally
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> None:
        """One request."""
        began = time.monotonic()
        try:
            if self._free:
                reader, writer = self._free.pop()
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self._tally.note(type(error).__name__, 0)
            return
        self._free.append((reader, writer))
        status = head[9:12].decode()
        self._tally.note("ok" if status == "200" else status, time.monotonic() - began)


def _offer_http(server: Server, rule: Rule, rate: float, count: int, tally: Tally) -> float:
    async def offer() -> float:
        clients = _HttpClients(server.http_port, _http_request(rule), tally)
        asking = set()
        start = time.monotonic()
        for number in range(count):
            wait = start + number / rate - time.monotonic()
            if wait > 0.0005 or number % 16 == 0:
                await asyncio.sleep(max(wait, 0))
            task = asyncio.ensure_future(clients.ask())
            asking.add(task)
            task.add_done_callback(asking.discard)
        took = time.monotonic() - start
        while asking:
            await asyncio.wait(set(asking), timeout=120)
        return took

    return asyncio.run(offer())


def capacity(server: Server, rule: Rule, seconds: float) -> float:
    """Answers per second to clients that wait for each."""
    data, counts = _message(rule), [0] * 4
    end_s = time.monotonic() + seconds

    def ask(number: int) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while time.monotonic() < end_s:
                with contextlib.suppress(grpc.RpcError):  # a pause of the machine may be longer than the rule allows
                    call(data)
                    counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


class _Memory:
    """The most resident memory of a process over what it had at first, in MiB."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}")
        (self._path / "clear_refs").write_text("5")
        self._first = self._read("VmRSS")

    def _read(self, name: str) -> int:
        line = next(line for line in (self._path / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) >> 10

    def growth(self) -> int:
        """So far."""
        return self._read("VmHWM") - self._first


def measure(server: Server, protocol: str, rule: Rule, count: int, seconds: float) -> dict[str, Any]:
    """One row: `count` requests at three times the capacity, which `seconds` are spent to find."""
    can = capacity(server, rule, seconds)
    memory, tally = _Memory(server.process.pid), Tally()
    offer = _offer_grpc if protocol == "grpc" else _offer_http
    took = offer(server, rule, _OVERLOAD * can, count, tally)
    good = tally.outcomes["good"] / took
    return {
        "protocol": protocol, "rule": rule.name, "capacity": round(can), "offered": round(count / took),
        "goodput": round(good), "share": round(100 * good / can), "held_mib": memory.growth(),
        "outcomes": ", ".join(f"{name} {number}" for name, number in sorted(tally.outcomes.items())),
    }  # fmt: skip


def run(requests: int, seconds: float, folder: Path, only: str = "") -> list[dict[str, Any]]:
    """A row for each protocol and rule whose names have `only` in them; `requests` in all."""
    chosen = [(protocol, rule) for protocol, rules in RULES.items() for rule in rules
              if only in f"{protocol} {rule.name}"]  # fmt: skip
    option = f"--max-in-flight-byte-size={_BUDGET_NBYTES}"
    command = servers.ours_command(write(folder / "models"), option)
    server = Server("triton-async", command, servers.ours_env(), folder / "log")
    rows = []
    try:
        server.wait_ready()
        for protocol, rule in chosen:
            rows.append(measure(server, protocol, rule, requests // len(chosen), seconds))
            print(rows[-1], flush=True)
    finally:
        server.stop()
    return rows


def main() -> None:
    """Measures, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="over all rows")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each capacity")
    parser.add_argument("--only", default="", help="rows whose protocol and rule have this in them")
    parser.add_argument("--out", type=Path, default=Path("bench/results/overload"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(options.requests, options.seconds, Path(folder), options.only)
    report.save("Three times the capacity", options.out, _COLUMNS, _KEYS, rows, note=_NOTE)
    if any(int(row["share"]) < 90 for row in rows):
        sys.exit("goodput below 90 % of the capacity")


if __name__ == "__main__":
    main()
