"""curl, as Triton's documentation uses it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from server_process import ServerProcess
from triton_clients import add_sub_rows


def curl(*arguments: str) -> tuple[bytes, str]:
    """Run curl verbosely: (body, its notes with the headers of both sides)."""
    command = ["curl", "--silent", "--show-error", "--verbose", "--max-time", "120", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=180, check=False)
    notes = done.stderr.decode(errors="replace")
    assert done.returncode == 0, notes
    return done.stdout, notes


def response_headers(notes: str) -> dict[str, str]:
    """The headers of the last answer."""
    lines = [line[2:].strip() for line in notes.splitlines() if line.startswith("< ")]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.lower(): value.strip() for name, value in pairs}


def binary_request(folder: Path, header: dict[str, Any], data: bytes) -> tuple[str, list[str]]:
    """A file with the JSON header and the tensors behind it, and the options that send it."""
    head = json.dumps(header).encode()
    body = folder / "request.bin"
    body.write_bytes(head + data)
    return str(body), [
        *["-H", "Content-Type: application/octet-stream"],
        *["-H", f"Inference-Header-Content-Length: {len(head)}"],
        *["--data-binary", f"@{body}"],
    ]


def test_ready(server: ServerProcess) -> None:
    body, notes = curl(f"http://{server.http_url}/v2/health/ready")
    assert "< HTTP/1.1 200 OK" in notes
    assert body == b'{"ready":true}'  # curl takes anything
    body, notes = curl(f"http://{server.http_url}/v2/models/absent/ready")
    assert "< HTTP/1.1 400 Bad Request" in notes


def test_json_request(server: ServerProcess) -> None:
    request = {
        "id": "42",
        "inputs": [
            {"name": "INPUT0", "shape": [1, 16], "datatype": "INT32", "data": [list(range(16))]},
            {"name": "INPUT1", "shape": [1, 16], "datatype": "INT32", "data": [1] * 16},
        ],
        "outputs": [{"name": "OUTPUT0"}],
    }
    body, notes = curl(
        *["-X", "POST", f"http://{server.http_url}/v2/models/simple/versions/1/infer"],
        *["-H", "Content-Type: application/json", "-d", json.dumps(request)],
    )
    assert "< HTTP/1.1 200 OK" in notes
    assert response_headers(notes)["content-type"] == "application/json"
    assert json.loads(body) == {
        "id": "42",
        "model_name": "simple",
        "model_version": "1",
        "outputs": [
            {"name": "OUTPUT0", "datatype": "INT32", "shape": [1, 16], "data": list(range(1, 17))},
        ],
    }


def test_binary_request_and_answer(server: ServerProcess, tmp_path: Path) -> None:
    arrays, (total, difference) = add_sub_rows(8)
    header = {
        "inputs": [
            {"name": name, "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": 64}}
            for name in arrays
        ],
        "outputs": [
            {"name": "OUTPUT0", "parameters": {"binary_data": True}},
            {"name": "OUTPUT1", "parameters": {"binary_data": False}},
        ],
    }
    data = b"".join(array.tobytes() for array in arrays.values())
    _, options = binary_request(tmp_path, header, data)
    body, notes = curl(f"http://{server.http_url}/v2/models/simple/infer", *options)
    headers = response_headers(notes)
    assert headers["content-type"] == "application/octet-stream"
    length = int(headers["inference-header-content-length"])
    first, second = json.loads(body[:length])["outputs"]
    assert first["parameters"] == {"binary_data_size": 64}
    assert "data" not in first
    assert body[length:] == total.tobytes()
    assert second["data"] == difference.ravel().tolist()


def test_expect_100_continue(server: ServerProcess, tmp_path: Path) -> None:
    values = np.arange(600_000, dtype=np.float32)
    header = {
        "inputs": [
            {
                "name": "INPUT0",
                "shape": [1, values.size],
                "datatype": "FP32",
                "parameters": {"binary_data_size": values.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    _, options = binary_request(tmp_path, header, values.tobytes())
    body, notes = curl(
        f"http://{server.http_url}/v2/models/identity_fp32/infer", "-H", "Expect: 100-continue", *options
    )
    assert "< HTTP/1.1 100 Continue" in notes
    assert "< HTTP/1.1 200 OK" in notes
    length = int(response_headers(notes)["inference-header-content-length"])
    assert body[length:] == values.tobytes()


def test_raw_binary_request(server: ServerProcess, tmp_path: Path) -> None:
    """`Inference-Header-Content-Length: 0`: the body is the tensor of a model with one input."""
    request = tmp_path / "tensor.bin"
    values = np.arange(12, dtype=np.float32)
    request.write_bytes(values.tobytes())
    body, notes = curl(
        f"http://{server.http_url}/v2/models/identity_fp32/infer",
        *["-H", "Content-Type: application/octet-stream", "-H", "Inference-Header-Content-Length: 0"],
        *["--data-binary", f"@{request}"],
    )
    assert "< HTTP/1.1 200 OK" in notes
    length = int(response_headers(notes)["inference-header-content-length"])
    assert json.loads(body[:length])["outputs"][0]["shape"] == [1, 12]
    assert body[length:] == values.tobytes()


def test_compressed_answer(server: ServerProcess) -> None:
    request = {
        "inputs": [
            {"name": "INPUT0", "shape": [1, 5000], "datatype": "FP32", "data": [0.25] * 5000},
        ]
    }
    url = f"http://{server.http_url}/v2/models/identity_fp32/infer"
    for coding in ("gzip", "deflate"):
        body, notes = curl(url, "--compressed", "-H", f"Accept-Encoding: {coding}", "-d", json.dumps(request))
        assert response_headers(notes)["content-encoding"] == coding
        assert json.loads(body)["outputs"][0]["data"] == [0.25] * 5000


def test_chunked_request(server: ServerProcess, tmp_path: Path) -> None:
    request = {"inputs": [{"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}]}
    body, notes = curl(
        f"http://{server.http_url}/v2/models/identity_fp32/infer",
        *["-H", "Transfer-Encoding: chunked", "-H", "Content-Type: application/json"],
        *["-d", json.dumps(request)],
    )
    assert "< HTTP/1.1 200 OK" in notes
    assert json.loads(body)["outputs"][0]["data"] == [1.5, 2.0]


def test_error_is_json(server: ServerProcess) -> None:
    tensors = [
        {"name": "INPUT0", "shape": [1, 16], "datatype": "INT32", "data": [0] * 16},
        {"name": "INPUT1", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]},
    ]
    body, notes = curl(
        f"http://{server.http_url}/v2/models/simple/infer", "-d", json.dumps({"inputs": tensors})
    )
    assert "< HTTP/1.1 400 Bad Request" in notes
    assert response_headers(notes)["content-type"] == "application/json"
    answer = json.loads(body)
    assert list(answer) == ["error"]
    assert "unexpected shape for input 'INPUT1' for model 'simple'" in answer["error"]


def test_generate(server: ServerProcess) -> None:
    request = {"id": "g", "INPUT0": list(range(16)), "parameters": {"INPUT1": [1] * 16, "note": "x"}}
    expected = {
        "model_name": "simple",
        "model_version": "1",
        "id": "g",
        "OUTPUT0": [value + 1 for value in range(16)],
        "OUTPUT1": [value - 1 for value in range(16)],
    }
    url = f"http://{server.http_url}/v2/models/simple"
    body, notes = curl("-d", json.dumps(request), f"{url}/generate")
    assert response_headers(notes)["content-type"] == "application/json"
    assert json.loads(body) == expected
    events, notes = curl("--no-buffer", "-d", json.dumps(request), f"{url}/versions/1/generate_stream")
    assert response_headers(notes)["content-type"] == "text/event-stream; charset=utf-8"
    assert events.startswith(b"data: ")
    assert events.endswith(b"}\n\n")
    assert json.loads(events[6:]) == expected
    body, notes = curl("-d", '{"INPUT0": [1]}', f"{url}/generate_stream")
    assert "< HTTP/1.1 400 Bad Request" in notes
    assert json.loads(body) == {"error": "The schema can not convert input 'INPUT0' to tensor with proper shape"}
