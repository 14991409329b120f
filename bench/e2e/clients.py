"""CPU for the same inference as ordinary HTTP clients ask for it, over that for a plain one: -m bench.e2e.clients."""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance import servers
from tests.conformance.servers import Server
from tests.ordinary_clients import CLIENTS, Fields

from . import models, report
from .load import Requests, drive, require
from .perf import Window
from .versus import Subject

PLAIN = "plain (lengths only)"
_COLUMNS = ("client", "head bytes", "requests/s", "p99 us", "server CPU us/request", "CPU vs plain")
_KEYS = ("client", "nbytes", "per_s", "p99_us", "cpu_us", "ratio")
_NOTE = (
    "wrk with {connections} connections sends each request byte by byte as the client does, to the built-in identity "
    "model with FP32[{elements}]. Each window is between two of the plain request; the ratio is the median over the "
    "rounds of its CPU over their mean. Rows marked (closes) pay for a connection each."
)


def head(fields: Fields, framing: Fields, version: str = "1.1") -> bytes:
    """A request head for the model."""
    lines = [f"POST /v2/models/{models.BUILT_IN}/infer HTTP/{version}", "Host: 127.0.0.1:8000"]
    lines += [f"{name}: {value}" for name, value in [*fields, *framing]]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def variants(header_nbytes: int, body: bytes) -> dict[str, bytes]:
    """Whole requests by the name of who sends them so; the plain one is the first."""
    lengths = [("Inference-Header-Content-Length", str(header_nbytes)), ("Content-Length", str(len(body)))]
    chunks = [lengths[0], ("Transfer-Encoding", "chunked")]
    chunked = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (header_nbytes, body[:header_nbytes], len(body) - header_nbytes,
                                                   body[header_nbytes:])  # fmt: skip
    requests, curl = CLIENTS["requests 2.34"], CLIENTS["curl 7.88"]
    found = {PLAIN: head([], lengths) + body}
    for name, fields in CLIENTS.items():
        closes = ("Connection", "close") in fields
        found[name + " (closes)" * closes] = head(fields, lengths) + body
    return {
        **found,
        "requests 2.34, body from a generator": head(requests, chunks) + chunked,
        "curl 7.88, large body": head([*curl, ("Expect", "100-continue")], lengths) + body,
        "HTTP/1.0 with keep-alive": head([("Connection", "Keep-Alive")], lengths, "1.0") + body,
    }


def check(server: Server, name: str, request: bytes, tensor: bytes) -> None:
    """Asks once. RuntimeError when the tensor does not come back."""
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as client:
        client.sendall(request)
        answer = b""
        while not answer.endswith(tensor):
            piece = client.recv(1 << 16)
            if not piece:
                raise RuntimeError(f"{name}: {answer[:300]!r}")
            answer += piece
    if b" 200 OK\r\n" not in answer or b"Content-Encoding" in answer:
        raise RuntimeError(f"{name}: {answer[:300]!r}")


def rows(
    requests: dict[str, bytes], windows: dict[str, list[Window]], ratios: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Medians."""
    found = []
    for name, request in requests.items():
        found.append({
            "client": name, "nbytes": request.index(b"\r\n\r\n") + 4,
            "per_s": round(statistics.median(window.infer_per_s for window in windows[name])),
            "p99_us": statistics.median(window.p99_us for window in windows[name]),
            "cpu_us": round(statistics.median(window.cpu_us for window in windows[name]), 2),
            "ratio": round(statistics.median(ratios[name]), 2) if name in ratios else 1.0,
        })  # fmt: skip
    return found


def main() -> None:
    """Starts the server, lets the clients take turns, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.e2e.clients", description=__doc__)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one window (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/clients"), help="path without ending")
    options = parser.parse_args()
    require()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = Requests(work, models.ELEMENTS)
        header_nbytes, body = source.http_body()
        requests = variants(header_nbytes, body)
        windows: dict[str, list[Window]] = {name: [] for name in requests}
        ratios: dict[str, list[float]] = {name: [] for name in requests if name != PLAIN}
        command = servers.ours_command(models.our_repository(work / "models"))
        with servers.running("triton-async", command, servers.ours_env(), work / "log") as server:
            subject = Subject("triton-async", server, models.BUILT_IN)
            scripts = {}
            for number, (name, request) in enumerate(requests.items()):
                check(server, name, request, body[header_nbytes:])
                scripts[name] = source.raw(number, request)

            def measure(name: str) -> float:
                window = drive(subject, ("http", options.connections), source, options.seconds, script=scripts[name])
                windows[name].append(window)
                return window.cpu_us

            before = measure(PLAIN)
            for _ in range(options.rounds):
                for name, found in ratios.items():
                    cpu_us, after = measure(name), measure(PLAIN)
                    found.append(2 * cpu_us / (before + after))
                    before = after
                    print(f"{name}: {cpu_us:.2f} us/request, {found[-1]:.2f}", flush=True)
    note = _NOTE.format(connections=options.connections, elements=models.ELEMENTS)
    print(report.save("Ordinary clients", options.out, _COLUMNS, _KEYS, rows(requests, windows, ratios), note=note))


if __name__ == "__main__":
    main()
