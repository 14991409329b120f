"""The examples that are Python models: what they answer, over both protocols, as their users ask."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import build_models
import numpy as np
import onnxruntime
import pose
import pytest
import sample
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from server_process import ServerProcess, free_ports, poll
from test_scripts import EXAMPLES, run_script

PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}
_LACKS = build_models.left_out()


def infer(server: ServerProcess, protocol: str, model: str, name: str, values: list[bytes] | list[list[bytes]]) -> Any:
    """The result of `model` for one BYTES input."""
    module = PROTOCOLS[protocol]
    array = np.array(values, dtype=object)
    tensor = module.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    with module.InferenceServerClient(server.url(protocol)) as client:
        return client.infer(model, [tensor])


# A Python model that asks the networks, and an ensemble of them.
READERS = {"read_text": "--whole", "ocr": "--ensemble"}


@pytest.mark.parametrize("model", READERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_a_whole_picture(server: ServerProcess, protocol: str, model: str) -> None:
    result = infer(server, protocol, model, "IMAGE", [sample.PICTURE.read_bytes()])
    assert [line.decode() for line in result.as_numpy("TEXT")] == [text for text, *_ in sample.LINES]
    assert result.as_numpy("CONFIDENCE").min() > 0.9
    assert result.as_numpy("CORNERS").shape == (len(sample.LINES), 4, 2)


@pytest.mark.parametrize("option", READERS.values())
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_sends_a_whole_picture(server: ServerProcess, protocol: str, option: str) -> None:
    options = ["--grpc"] if protocol == "grpc" else []
    lines = run_script("ocr/client.py", option, *options, "-u", server.url(protocol))
    assert lines == [text for text, *_ in sample.LINES]


@pytest.mark.parametrize("model", READERS)
def test_what_is_no_picture_is_refused(server: ServerProcess, model: str) -> None:
    with pytest.raises(tritonclient.http.InferenceServerException, match="IMAGE is no picture") as caught:
        infer(server, "http", model, "IMAGE", [b"not a picture"])
    assert caught.value.status() == "400"


def test_a_picture_without_text_has_no_lines(server: ServerProcess) -> None:
    content = io.BytesIO()
    Image.new("RGB", (200, 100), "white").save(content, "PNG")
    result = infer(server, "http", "ocr", "IMAGE", [content.getvalue()])
    assert result.as_numpy("TEXT").shape == result.as_numpy("CONFIDENCE").shape == (0,)
    assert result.as_numpy("CORNERS").shape == (0, 4, 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_pose_pipeline_is_its_parts(server: ServerProcess, example_models: Path, protocol: str) -> None:
    """Batches of pictures through three models, against the network alone."""
    contents = []
    for number, size in enumerate([(120, 90), (64, 200), (300, 300)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((size[1], size[0])).save(file, "PNG")
        contents.append(file.getvalue())
    result = infer(server, protocol, "hrnet_pose_estimate", "INPUT", [[content] for content in contents])
    session = onnxruntime.InferenceSession(
        str(example_models / "hrnet" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for content, points in zip(contents, result.as_numpy("RESULT"), strict=True):
        pixels, size = pose.prepare(content)
        (maps,) = session.run(None, {"input": pixels[np.newaxis]})
        assert np.allclose(points, pose.locate(maps[0], size), atol=1e-3)


def test_the_pose_client_prints_every_joint(server: ServerProcess, tmp_path: Path) -> None:
    lines = run_script("pose/client.py", "-u", server.http_url, "-o", str(tmp_path / "joints.png"))
    assert [line.partition(":")[0] for line in lines] == list(pose.KEYPOINTS)
    assert (tmp_path / "joints.png").stat().st_size > 1000


def test_a_file_that_is_no_picture_has_no_pose(server: ServerProcess) -> None:
    with pytest.raises(tritonclient.http.InferenceServerException, match=r"in ensemble .*INPUT is no picture"):
        infer(server, "http", "hrnet_pose_estimate", "INPUT", [[b"not a picture"]])


def embeddings(server: ServerProcess, protocol: str, sentences: list[str]) -> Any:
    """Embeddings and counts of tokens."""
    rows = [[sentence.encode()] for sentence in sentences]
    result = infer(server, protocol, "sentence_embedding", "TEXT", rows)
    return result.as_numpy("EMBEDDING"), result.as_numpy("TOKENS").reshape(-1).tolist()


@pytest.mark.skipif("sentence_embedding" in _LACKS, reason="needs `make embeddings`")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sentences_of_one_meaning_lie_close(server: ServerProcess, protocol: str) -> None:
    rows, tokens = embeddings(
        server,
        protocol,
        ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"],
    )
    # As the authors of the model give them.
    assert np.allclose(rows @ rows[0], [1.0, 0.695, 0.943, 0.257], atol=2e-3)
    assert tokens == [7, 7, 8, 7]


@pytest.mark.skipif("sentence_embedding" in _LACKS, reason="needs `make embeddings`")
def test_a_sentence_means_the_same_in_any_batch(server: ServerProcess) -> None:
    together, _ = embeddings(server, "http", ["short", "a sentence that is a good deal longer than the first one"])
    alone, _ = embeddings(server, "http", ["short"])
    assert np.allclose(together[0], alone[0], atol=1e-5)


@pytest.mark.skipif("sentence_embedding" in _LACKS, reason="needs `make embeddings`")
def test_a_sentence_that_is_not_utf8_is_refused(server: ServerProcess) -> None:
    with pytest.raises(tritonclient.http.InferenceServerException, match="TEXT is not UTF-8"):
        infer(server, "http", "sentence_embedding", "TEXT", [[b"\xff"]])


def test_words_come_over_both_protocols_alike(server: ServerProcess) -> None:
    over_http = run_script("generate/client.py", "-u", server.http_url, "-n", "25", "A silver fox")
    over_grpc = run_script("generate/client.py", "--grpc", "-u", server.grpc_url, "-n", "25", "A silver fox")
    assert over_http == over_grpc
    assert over_http[0].startswith("A silver fox ")
    assert len(re.findall(r"\w+", over_http[0])) > 10


def test_too_many_words_are_refused(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.http_url, timeout=30)
    body = json.dumps({"prompt": "x", "max_words": 501})
    connection.request("POST", "/v2/models/text_generator/generate_stream", body)
    response = connection.getresponse()
    assert (response.status, b"max_words is 501" in response.read()) == (400, True)
    connection.close()


def test_words_come_one_by_one_and_stop_when_the_client_goes(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.http_url, timeout=30)
    body = json.dumps({"prompt": "the sea", "max_words": 500, "temperature": 2.0, "seed": 3})
    connection.request("POST", "/v2/models/text_generator/generate_stream", body)
    response = connection.getresponse()
    assert response.getheader("Content-Type", "").startswith("text/event-stream")
    first = json.loads(response.readline().removeprefix(b"data: "))
    assert first["text"].strip()
    connection.close()
    # The teardown of this folder's tests waits until the server holds no request any more.


@pytest.fixture
def page(server: ServerProcess) -> Iterator[str]:
    """The URL of the page's own server."""
    (port,) = free_ports(1)
    command = [sys.executable, str(EXAMPLES / "generate" / "serve.py"), "-u", server.http_url, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}/"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def test_page_and_its_requests_are_served(page: str) -> None:
    with urllib.request.urlopen(f"{page}/", timeout=30) as response:
        assert b"/v2/models/text_generator/generate_stream" in response.read()
    body = json.dumps({"prompt": "the king", "max_words": 5}).encode()
    with urllib.request.urlopen(f"{page}/v2/models/text_generator/generate_stream", body, timeout=30) as response:
        events = response.read().decode().split("\n\n")
    assert len(events) == 6 and all(event.startswith("data: {") for event in events[:5])
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{page}/v2/repository/index", b"", timeout=30)
    assert caught.value.code == 404


def test_many_generate_at_once(server: ServerProcess) -> None:
    """Each of several streams gets its own words, whatever the others do."""
    texts: dict[int, list[str]] = {}

    def generate(seed: int) -> None:
        texts[seed] = run_script("generate/client.py", "-u", server.http_url, "-n", "20", "-s", str(seed))

    threads = [threading.Thread(target=generate, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    poll(lambda: len(texts) == 3, "three streams")
    assert len({line for lines in texts.values() for line in lines}) == 3
    assert run_script("generate/client.py", "-u", server.http_url, "-n", "20", "-s", "2") == texts[2]
