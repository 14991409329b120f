"""Clients that are not Triton's: Python's HTTP libraries, node's gRPC, and what KServe's and MLServer's write."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import requests
from server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
# Kept between runs: fetched once, where there is a registry.
NODE_FOLDER = ROOT / ".cache" / "node-grpc"
NODE_PACKAGES = ("@grpc/grpc-js@1", "@grpc/proto-loader@0")
ROWS = np.arange(32, dtype=np.int32).reshape(2, 16)
# Larger than what is decoded, and than what is compressed, on the event loop.
LARGE = np.linspace(-1, 1, 200_000, dtype=np.float32)[None]


def add_sub(rows: np.ndarray[Any, Any] = ROWS, **more: Any) -> dict[str, Any]:
    inputs = [
        {"name": name, "shape": list(rows.shape), "datatype": "INT32", "data": rows.ravel().tolist()}
        for name in ("INPUT0", "INPUT1")
    ]
    return {"inputs": inputs, **more}


def outputs_of(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


def check(answer: dict[str, Any], rows: np.ndarray[Any, Any] = ROWS) -> None:
    assert outputs_of(answer) == {"OUTPUT0": (2 * rows).ravel().tolist(), "OUTPUT1": [0] * rows.size}


def binary(values: np.ndarray[Any, Any]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request of the binary extension."""
    header = {
        "inputs": [{"name": "INPUT0", "shape": list(values.shape), "datatype": "FP32",
                    "parameters": {"binary_data_size": values.nbytes}}],
        "parameters": {"binary_data_output": True},
    }  # fmt: skip
    head = json.dumps(header).encode()
    return head + values.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def tensor_of(body: bytes, header_length: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(body[int(header_length) :], np.float32)


# --- HTTP libraries ---------------------------------------------------------------------------------------------------


def test_requests(server: ServerProcess) -> None:
    base = f"http://{server.http_url}/v2/models"
    with requests.Session() as session:
        for _ in range(3):
            check(session.post(f"{base}/simple/infer", json=add_sub()).json())
        check(session.post(f"{base}/simple/infer", data=iter([json.dumps(add_sub()).encode()])).json())
        body, headers = binary(LARGE)
        for data in (body, iter([body[:1000], body[1000:]])):
            answer = session.post(f"{base}/identity_fp32/infer", data=data, headers=headers)
            length = answer.headers["Inference-Header-Content-Length"]
            assert np.array_equal(tensor_of(answer.content, length), LARGE[0])
        wrong = session.post(f"{base}/simple/infer", json={"inputs": []})
        assert (wrong.status_code, wrong.headers["Content-Type"]) == (400, "application/json")
        assert "expected 2 inputs but got 0" in wrong.json()["error"]
        assert session.get(f"{base}/nobody").status_code == 404
        # As scripts write it: with no session, many at once.
        with ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(requests.post, f"{base}/simple/infer", json=add_sub(), timeout=60) for _ in range(16)
            ]
            for answer in asked:
                check(answer.result().json())


def test_httpx(server: ServerProcess) -> None:
    httpx = pytest.importorskip("httpx")
    base = f"http://{server.http_url}/v2/models"
    body, headers = binary(LARGE)
    with httpx.Client(timeout=60) as client:
        for _ in range(3):
            check(client.post(f"{base}/simple/infer", json=add_sub()).json())
        answer = client.post(f"{base}/identity_fp32/infer", content=body, headers=headers)
        assert np.array_equal(tensor_of(answer.content, answer.headers["inference-header-content-length"]), LARGE[0])
        assert client.post(f"{base}/simple/infer", json={}).status_code == 400

    async def main() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            found = await asyncio.gather(*(client.post(f"{base}/simple/infer", json=add_sub()) for _ in range(20)))
            for answer in found:
                check(answer.json())

    asyncio.run(main())


def test_aiohttp(server: ServerProcess) -> None:
    base = f"http://{server.http_url}/v2/models"
    body, headers = binary(LARGE)

    async def main() -> None:
        async with aiohttp.ClientSession() as session:

            async def ask(number: int) -> None:
                rows = ROWS + number
                async with session.post(f"{base}/simple/infer", json=add_sub(rows)) as answer:
                    check(await answer.json(), rows)

            await asyncio.gather(*(ask(number) for number in range(40)))
            async with session.post(f"{base}/identity_fp32/infer", data=body, headers=headers) as answer:
                length = answer.headers["Inference-Header-Content-Length"]
                assert np.array_equal(tensor_of(await answer.read(), length), LARGE[0])
            # An answer that nobody reads to its end ends the connection, not the session.
            async with session.post(f"{base}/identity_fp32/infer", data=body, headers=headers) as answer:
                await answer.content.read(100)
            await ask(1)

    asyncio.run(main())


# --- KServe and MLServer, as they stand on the wire -------------------------------------------------------------------


def post(server: ServerProcess, path: str, body: bytes | str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    answer = requests.post(f"http://{server.http_url}{path}", data=body, headers=headers, timeout=60)
    return answer.status_code, answer.content, {name.lower(): value for name, value in answer.headers.items()}


KSERVE = {"accept": "*/*", "accept-encoding": "gzip, deflate, br", "user-agent": "python-httpx/0.28.1",
          "content-type": "application/json"}  # fmt: skip


def test_kserve_over_http(server: ServerProcess) -> None:
    """InferenceRESTClient: httpx with lower-case names, an id always, `model_name` in the body, bodies of health."""
    for path, body in (("live", {"live": True}), ("ready", {"ready": True})):
        answer = requests.get(f"http://{server.http_url}/v2/health/{path}", headers={"accept": "*/*"}, timeout=60)
        assert answer.json() == body
    assert requests.get(f"http://{server.http_url}/v2/models/simple/ready", timeout=60).status_code == 200
    request = add_sub(id=str(uuid.uuid4()), model_name="simple")
    status, content, _ = post(server, "/v2/models/simple/infer", json.dumps(request), **KSERVE)
    answer = json.loads(content)
    assert status == 200
    check(answer)
    assert (answer["id"], answer["model_name"]) == (request["id"], "simple")
    # Binary output, asked for by a request in JSON; a tensor without elements is `null` with a size of 0.
    empty = {"name": "INPUT0", "shape": [1, 0], "datatype": "FP32", "data": None, "parameters": {"binary_data_size": 0}}
    request = {"id": "e", "model_name": "identity_fp32", "inputs": [empty]}
    status, content, _ = post(server, "/v2/models/identity_fp32/infer", json.dumps(request), **KSERVE)
    assert status == 200, content
    assert json.loads(content)["outputs"][0]["shape"] == [1, 0]
    # Not-a-numbers become null there: refused, never taken for something else.
    holes = {"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "data": [1.0, None]}
    status, content, headers = post(
        server, "/v2/models/identity_fp32/infer", json.dumps({"id": "n", "inputs": [holes]}), **KSERVE
    )
    assert (status, headers["content-type"]) == (400, "application/json")
    assert "error" in json.loads(content)


def test_mlserver_types(server: ServerProcess) -> None:
    """InferenceRequest.json() and .dict(): every member that is not set is null, content types are parameters."""
    request: dict[str, Any] = {
        "id": None, "parameters": {"content_type": "np", "headers": None}, "outputs": None,
        "inputs": [
            {**each, "parameters": {"content_type": "np", "headers": None}} for each in add_sub()["inputs"]
        ],
    }  # fmt: skip
    status, content, _ = post(server, "/v2/models/simple/infer", json.dumps(request))
    assert status == 200, content
    check(json.loads(content))
    # StringCodec: [N] becomes [N,1]. A list of bytes is one element of all joined, which does not fit its shape.
    words = {"name": "INPUT0", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "é"],
             "parameters": {"content_type": "str"}}  # fmt: skip
    status, content, _ = post(server, "/v2/models/identity_bytes/infer", json.dumps({"inputs": [words]}))
    assert (status, outputs_of(json.loads(content))) == (200, {"OUTPUT0": ["a", "é"]})
    for data in ("ab", ["ab"]):
        wrong = {"inputs": [{**words, "data": data}]}
        status, content, _ = post(server, "/v2/models/identity_bytes/infer", json.dumps(wrong))
        assert (status, "error" in json.loads(content)) == (400, True)


def test_generated_clients_of_the_open_inference_protocol(server: ServerProcess) -> None:
    """open-inference-openapi: every number goes out as a float."""
    request = add_sub()
    for tensor in request["inputs"]:
        tensor["data"] = [float(each) for each in tensor["data"]]
    status, content, _ = post(server, "/v2/models/simple/infer", json.dumps(request))
    assert status == 200, content
    check(json.loads(content))
    number = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "data": [12.0]}
    status, content, _ = post(server, "/v2/models/identity_bytes/infer", json.dumps({"inputs": [number]}))
    assert status == 400, content


# --- node ------------------------------------------------------------------------------------------------------------

NODE_SCRIPT = """
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const [address, protos] = process.argv.slice(2);
const definition = loader.loadSync('grpc_service.proto', {includeDirs: [protos], keepCase: true, longs: String});
const {inference} = grpc.loadPackageDefinition(definition);
const client = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());
const told = ({code, details}) => ({code, details});
const call = (name, body, options = {}) => new Promise((done) =>
  client[name](body, options, (problem, answer) => done(problem ? told(problem) : answer)));
const rows = (start) => {
  const bytes = Buffer.alloc(64);
  for (let at = 0; at < 16; at++) bytes.writeInt32LE(start + at, 4 * at);
  return bytes;
};
const request = (id) => ({
  model_name: 'simple', id: String(id),
  inputs: ['INPUT0', 'INPUT1'].map((name) => ({name, datatype: 'INT32', shape: [1, 16]})),
  raw_input_contents: [rows(id), rows(1)],
});
const sums = ({id, outputs, raw_output_contents: [bytes]}) =>
  ({id, first: bytes.readInt32LE(0), count: outputs.length});
async function stream() {
  const found = [];
  const calls = client.ModelStreamInfer();
  const end = new Promise((done, failed) => { calls.on('end', done); calls.on('error', failed); });
  calls.on('data', (message) => found.push(message.error_message || sums(message.infer_response)));
  for (let id = 0; id < 20; id++) calls.write(request(id));
  calls.write({...request(99), model_name: 'nobody'});
  calls.end();
  await end;
  return found;
}
(async () => {
  const said = {
    live: await call('ServerLive', {}),
    ready: await call('ModelReady', {name: 'simple'}),
    unary: (await Promise.all([...Array(20).keys()].map((id) => call('ModelInfer', request(id))))).map(sums),
    typed: await call('ModelInfer', {model_name: 'simple', inputs: ['INPUT0', 'INPUT1'].map((name) => ({
      name, datatype: 'INT32', shape: [1, 16], contents: {int_contents: Array(16).fill(7)}}))}).then(sums),
    wrong: await call('ModelInfer', {...request(0), model_name: 'nobody'}),
    late: await call('ModelInfer', {model_name: 'slow', inputs: [{name: 'ROUNDS', datatype: 'INT64', shape: [1]}],
      raw_input_contents: [Buffer.from('00e1f50500000000', 'hex')]}, {deadline: Date.now() + 300}),
    large: (await call('ModelInfer', {model_name: 'identity_fp32', inputs: [{name: 'INPUT0', datatype: 'FP32',
      shape: [1, 900000]}], raw_input_contents: [Buffer.alloc(3600000, 1)]})).raw_output_contents[0].length,
    stream: await stream(),
  };
  console.log(JSON.stringify(said));
  client.close();
})();
"""


@pytest.fixture(scope="module")
def node_folder() -> Path:
    """A folder in which node finds its gRPC."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no node here")
    if not (NODE_FOLDER / "node_modules" / "@grpc" / "grpc-js").exists():
        NODE_FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(NODE_FOLDER), *NODE_PACKAGES]
        if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode:
            pytest.skip("npm cannot install @grpc/grpc-js here")
    return NODE_FOLDER


def test_node_over_grpc(server: ServerProcess, node_folder: Path) -> None:
    script = node_folder / "ask.js"
    script.write_text(NODE_SCRIPT)
    done = subprocess.run(
        ["node", str(script), server.grpc_url, str(ROOT / "protos")], cwd=node_folder, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["live"], said["ready"]) == ({"live": True}, {"ready": True})
    expected = [{"id": str(number), "first": number + 1, "count": 2} for number in range(20)]
    assert said["unary"] == expected
    assert said["typed"]["first"] == 14
    assert said["wrong"] == {"code": 5, "details": "Request for unknown model: 'nobody' is not found"}
    assert said["late"]["code"] == 4
    assert said["large"] == 3_600_000
    assert said["stream"][:20] == expected
    assert "nobody" in said["stream"][20]
