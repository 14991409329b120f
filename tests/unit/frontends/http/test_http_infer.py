"""Inference over a real port: bodies, headers, compression, limits, connections."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
from core_harness import live_objects, run, write_model
from http_harness import LIMIT, Client, ask, head, infer_body, message, serving, values_of
from tritonclient.utils import InferenceServerException

from triton_async.frontends.http import body as body_module
from triton_async.frontends.http.compression import request_encoding
from triton_async.frontends.http.infer import parse_header_length
from triton_async.protocol.http_coding import response_coding
from triton_async.protocol.version import parse_version

INFER = "/v2/models/m/infer"
LENGTH = "Inference-Header-Content-Length"


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 16, 20_000, 600_000])
def test_binary_tensors_go_through(tmp_path: Path, size: int) -> None:
    write_model(tmp_path, "m")
    values = np.arange(size, dtype=np.float32)

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            body, headers = infer_body(values, id="7")
            for answer in [await ask(endpoint.port, "POST", INFER, body, headers) for _ in range(3)]:
                assert np.array_equal(values_of(answer), values)
                assert answer.headers["content-type"] == "application/octet-stream"
                assert b'"id":"7"' in answer.body[:40]

    run(test)


def test_json_and_raw_bodies(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=2)
    text = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,2],"data":[[1,NaN]]}]}'

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            answer = await ask(endpoint.port, "POST", INFER, text)
            assert answer.headers["content-type"] == "application/json"
            assert LENGTH.lower() not in answer.headers
            assert b'"data":[1.0,NaN]' in answer.body
            raw = await ask(endpoint.port, "POST", INFER, np.float32([3, 4]).tobytes(), [(LENGTH, "0")])
            assert values_of(raw).tolist() == [[3.0, 4.0]]
            empty = await ask(endpoint.port, "POST", INFER)
            assert values_of_empty(empty) == [1, 0]

    def values_of_empty(answer):  # type: ignore[no-untyped-def]
        return json.loads(answer.body)["outputs"][0]["shape"]

    run(test)


def test_refusals_come_in_tritons_order_and_leave_the_connection(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    body, headers = infer_body(np.zeros(2, np.float32))

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            cases = [
                ("/v2/models/nobody/infer", body, [("Content-Encoding", "br")], 404, "unknown model"),
                (INFER, body, [("Content-Encoding", "br")], 501, "Unsupported compression type"),
                (INFER, b"", [("Content-Encoding", "gzip")], 400, "nothing to be decompressed"),
                (INFER, body, [(LENGTH, "xx")], 400, f"Unable to parse {LENGTH}, got: xx"),
                (INFER, body[:-1], headers, 400,
                 "unexpected size for input 'INPUT0', expecting 1 additional bytes for model 'm'"),
                (INFER, body, [], 400, "failed to parse the request JSON buffer: The document root"),
                (INFER, b'{"inputs":[]}', [], 400, "[request id: <id_unknown>] expected 1 inputs but got 0 inputs"),
            ]  # fmt: skip
            for path, text, extra, status, reason in cases:
                await client.send(message("POST", path, text, extra))
                answer = await client.receive()
                assert answer.status == status, reason
                assert reason in answer.error
                assert answer.headers["content-type"] == "application/json"
                assert (answer.headers.get("accept-encoding") == "gzip, deflate") == (
                    reason == "Unsupported compression type"
                )
            await client.send(message("POST", INFER, body, headers))
            assert values_of(await client.receive()).tolist() == [0, 0]
            client.close()

    run(test)


def test_header_lengths_are_plain_decimal_numbers() -> None:
    assert parse_header_length([], 83) == 83
    assert parse_header_length(["0"], 83) == 0
    assert parse_header_length(["0083"], 83) == 83
    wrong = {
        "+5": f"Unable to parse {LENGTH}, got: +5", " 5": f"Unable to parse {LENGTH}, got:  5",
        "5_0": f"Unable to parse {LENGTH}, got: 5_0", "": f"Unable to parse {LENGTH}, got: ",
        "٥": f"Unable to parse {LENGTH}, got: ٥", "0x5": f"Unable to parse {LENGTH}, got: 0x5",
        "-1": "inference header size should be in range (0, 83), got: -1",
        "84": "inference header size should be in range (0, 83), got: 84",
        "2147483648": f"Unable to parse {LENGTH}, value is out of range [ -2147483648, 2147483647 ], got: 2147483648",
        "9" * 5000: f"Unable to parse {LENGTH}, value is out of range [ -2147483648, 2147483647 ], got: {'9' * 5000}",
    }  # fmt: skip
    for text, reason in wrong.items():
        with pytest.raises(Exception) as caught:
            parse_header_length([text], 83)
        assert caught.value.message == reason  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="got: 83, 10"):
        parse_header_length(["83", "10"], 83)


def test_versions_are_64_bit() -> None:
    assert [parse_version(text) for text in (None, "0", "007", "9223372036854775807")] == [-1, 0, 7, 2**63 - 1]
    for text in ("9223372036854775808", "9" * 5000):
        with pytest.raises(Exception, match="details: stol"):
            parse_version(text)


# -- bodies in pieces ------------------------------------------------------------------------------

def test_bodies_may_come_in_pieces_and_chunks(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    values = np.arange(500, dtype=np.float32)
    body, headers = infer_body(values)

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            whole = message("POST", INFER, body, headers)
            for step in (7, 400, len(whole)):
                for at in range(0, len(whole), step):
                    await client.send(whole[at : at + step])
                    await asyncio.sleep(0)
                assert np.array_equal(values_of(await client.receive()), values)
            start = head("POST", INFER, [*headers, ("Transfer-Encoding", "chunked")])
            for step in (1, 333, len(body)):
                pieces = [body[at : at + step] for at in range(0, len(body), step)]
                await client.send(start + chunked(*pieces))
                assert np.array_equal(values_of(await client.receive()), values)
            client.close()

    run(test)


def test_the_number_of_chunks_is_bounded(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    start = head("POST", INFER, [(LENGTH, "10"), ("Transfer-Encoding", "chunked")])

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(start + chunked(*[b" "] * 65_536))
            assert "document is empty" in (await client.receive()).error
            await client.send(start + chunked(*[b" "] * 65_537))
            answer = await client.receive()
            assert answer.status == 400
            assert answer.error == (
                "Chunked request body exceeds maximum of 65536 non-empty chunks. "
                "Send fewer or larger HTTP chunks."
            )
            assert answer.headers["connection"] == "close"
            client.close()

    run(test)


def test_expect_is_answered_once_the_head_is_found_good(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    body, headers = infer_body(np.ones(3, np.float32))

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            expecting = [*headers, ("Content-Length", str(len(body))), ("Expect", "100-continue")]
            client = await Client.connect(endpoint.port)
            for _ in range(2):
                await client.send(head("POST", INFER, expecting))
                assert (await client.receive()).status == 100
                await client.send(body)
                assert values_of(await client.receive()).tolist() == [1, 1, 1]
            await client.send(head("POST", "/v2/models/nobody/infer", expecting))
            answer = await client.receive()
            assert answer.status in (400, 404)
            assert answer.headers["connection"] == "close"
            client.close()
            client = await Client.connect(endpoint.port)
            await client.send(head("POST", INFER, [*headers, ("Content-Length", "5"), ("Expect", "tea")]))
            assert (await client.receive()).status == 417
            client.close()

    run(test)


def test_body_limits(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            port = endpoint.port
            for length in (LIMIT - 1, LIMIT):
                answer = await ask(port, "POST", INFER, b" " * length)
                assert answer.error == f"failed to parse the request JSON buffer: The document is empty. at {length}"
            option = "Use --http-max-input-size to increase the limit."
            announced = await ask_head(port, [("Content-Length", str(LIMIT + 1))])
            assert (announced.status, announced.error) == (
                400, f"request JSON size of {LIMIT + 1} bytes exceeds the maximum allowed input size of {LIMIT} bytes. "
                     f"{option}",
            )  # fmt: skip
            raw = await ask_head(port, [("Content-Length", str(LIMIT + 4)), (LENGTH, "0")])
            assert raw.error == (
                f"Raw input has a byte_size ({LIMIT + 4} bytes) that exceeds the maximum allowed value of {LIMIT} "
                f"bytes. {option}"
            )
            huge = await ask_head(port, [("Content-Length", str(1 << 31)), (LENGTH, "10")])
            assert "request body of 2147483648 bytes exceeds" in huge.error
            client = await Client.connect(port)
            await client.send(head("POST", INFER, [("Transfer-Encoding", "chunked")]))
            await client.send(chunked(b" " * LIMIT, b" "))
            assert "exceeds the maximum allowed value" in (await client.receive()).error
            client.close()
            # Tensors behind a JSON header are not bound by the option.
            values = np.zeros(LIMIT // 2, np.float32)
            body, headers = infer_body(values)
            assert values_of(await ask(port, "POST", INFER, body, headers)).nbytes == 2 * LIMIT

    async def ask_head(port: int, headers: list[tuple[str, str]]):  # type: ignore[no-untyped-def]
        client = await Client.connect(port)
        await client.send(head("POST", INFER, headers))
        answer = await client.receive()
        assert answer.headers["connection"] == "close"
        client.close()
        return answer

    run(test)


def test_a_body_that_stops_coming_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, "m")
    monkeypatch.setattr(body_module, "HTTP_BODY_TIMEOUT_S", 0.1)

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for framing in (("Content-Length", "100"), ("Transfer-Encoding", "chunked")):
                client = await Client.connect(endpoint.port)
                # The coding keeps it out of the express lane, whose clock is its own (test_http_express).
                coding = ("Content-Encoding", "gzip")
                await client.send(head("POST", INFER, [framing, coding]) + b"5\r\nhello")
                answer = await client.receive()
                assert (answer.status, answer.headers["connection"]) == (408, "close")
                client.close()

    run(test)


# -- compression -----------------------------------------------------------------------------------

def test_compressed_bodies_both_ways(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        async with serving(tmp_path, limit=1 << 24) as (_, endpoint):
            for size in (10, 300_000):
                values = np.arange(size, dtype=np.float32)
                body, headers = infer_body(values)
                large = size > 10
                for coding, pack, unpack in (
                    ("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress),
                ):  # fmt: skip
                    coded = [*headers, ("Content-Encoding", coding), ("Accept-Encoding", f"br, {coding}")]
                    for sent, fields in ((pack(body), coded), (body, [*headers, *coded[-1:]])):
                        answer = await ask(endpoint.port, "POST", INFER, sent, fields)
                        assert answer.headers.get("content-encoding") == (coding if large else None)
                        answer.body = unpack(answer.body) if large else answer.body
                        assert np.array_equal(values_of(answer), values)

    run(test)


def test_compressed_bodies_that_are_too_large_or_broken_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    good = gzip.compress(b" " * 1000)
    inner = gzip.compress(good)
    broken = "failed to decompress the request body: "
    too_large = (
        f"Decompressed data size exceeds the maximum allowed value of {LIMIT} bytes. "
        "Use --http-max-input-size to increase the limit."
    )
    cases = {
        gzip.compress(b" " * LIMIT): f"failed to parse the request JSON buffer: The document is empty. at {LIMIT}",
        gzip.compress(b" " * (LIMIT + 1)): too_large,
        gzip.compress(b" " * (LIMIT * 2)): too_large,
        inner: "failed to parse the request JSON buffer: Invalid value. at 0",
        good[:-1]: f"{broken}the data ends early",
        good[:15]: f"{broken}the data ends early",
        good + b"x": f"{broken}unexpected data behind its end",
        good + good: f"{broken}unexpected data behind its end",
        b"hello": f"{broken}it is not valid gzip or deflate data",
        good[:20] + b"\xff" * 20: f"{broken}it is not valid gzip or deflate data",
    }  # fmt: skip

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            for body, reason in cases.items():
                answer = await ask(endpoint.port, "POST", INFER, body, [("Content-Encoding", "gzip")])
                assert answer.error == reason

    run(test)


def test_only_what_shrinks_is_compressed(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    noise = np.random.default_rng(1).standard_normal(100_000, np.float32)
    cases = [
        (noise, {}, "gzip", None),
        (noise, {"parameters": {}}, "gzip, deflate, br", "gzip"),
        (np.zeros(100_000), {}, "deflate, gzip, br, zstd", "deflate"),
        (np.zeros(4_000), {}, "gzip", None),
        (np.zeros(4_100), {}, "gzip", "gzip"),
        (np.zeros(100_000), {}, "gzip;q=0", None),
        (np.zeros(100_000), {}, "br", None),
        (np.zeros(100_000), {}, "identity, gzip;q=0.5", None),
        (np.zeros(2), {}, "gzip, identity;q=0", "gzip"),
        (noise, {}, "gzip;q=0.1, *;q=0", "gzip"),
    ]

    async def test() -> None:
        async with serving(tmp_path, limit=1 << 24) as (_, endpoint):
            for values, members, accept, coding in cases:
                body, headers = infer_body(values.astype(np.float32), **members)
                answer = await ask(endpoint.port, "POST", INFER, body, [*headers, ("Accept-Encoding", accept)])
                assert answer.headers.get("content-encoding") == coding, accept
                if coding == "gzip":
                    assert b"OUTPUT0" in gzip.decompress(answer.body)
            # Nor is an error, however long.
            body, headers = infer_body(np.float32([1]), outputs=[{"name": "x" * 100_000}])
            answer = await ask(endpoint.port, "POST", INFER, body, [*headers, ("Accept-Encoding", "gzip")])
            assert (answer.status, answer.headers.get("content-encoding")) == (400, None)

    run(test)


def test_codings_are_chosen_by_weight() -> None:
    chosen = {
        "": "", "gzip": "gzip", "deflate": "deflate", "br": "", "identity, gzip": "", "gzip, identity": "gzip",
        "gzip;q=0.5, deflate;q=0.8": "deflate", "gzip;q=0": "", "gzip;q=x, deflate": "deflate", "*": "",
        "gzip;q=0.5, identity;q=0.6": "", "br;q=1.0, gzip;q=0.8, *;q=0.1": "gzip", ",,;q=1": "", "gzip;q=-1": "",
    }  # fmt: skip
    assert {accept: response_coding(accept)[0] for accept in chosen} == chosen
    assert [request_encoding(v) for v in ([], [""], ["identity"], ["gzip"], ["GZIP"], ["gzip", "gzip"])] == [
        "", "", "", "gzip", None, None,
    ]  # fmt: skip


# -- connections -----------------------------------------------------------------------------------

def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "slow", delay_ms=20)
    count = 300

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            texts = []
            for index in range(count):
                body, headers = infer_body(np.float32([index]))
                path = "/v2/models/slow/infer" if index % 100 == 0 else INFER
                texts.append(message("POST", path, body, headers))
            sending = asyncio.ensure_future(client.send(b"".join(texts)))
            assert [values_of(await client.receive())[0] for _ in range(count)] == list(range(count))
            await sending
            client.close()

    run(test)


def test_a_client_that_leaves_cancels_its_request(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=400)
    body, headers = infer_body(np.ones(4, np.float32))

    async def test() -> None:
        async with serving(tmp_path) as (server, endpoint):
            clients = [await Client.connect(endpoint.port) for _ in range(6)]
            for client in clients:
                await client.send(message("POST", INFER, body, headers))
            await asyncio.sleep(0.05)
            for client in clients[:-1]:
                client.reset()
            assert values_of(await clients[-1].receive()).tolist() == [1, 1, 1, 1]
            # The one that ran, perhaps one that was next, and the last; the rest never cost compute.
            assert server.statistics("m")[0]["execution_count"] <= 3
            clients[-1].close()

    run(test)


@pytest.mark.parametrize("cut", ["head", "body"])
def test_a_client_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path, cut: str) -> None:
    write_model(tmp_path, "m")
    body, headers = infer_body(np.ones(100_000, np.float32))
    text = message("POST", INFER, body, headers)

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(text[:30] if cut == "head" else text[:200_000])
            await asyncio.sleep(0.05)
            client.close()
            answer = await ask(endpoint.port, "POST", INFER, body, headers)
            assert values_of(answer).size == 100_000

    run(test)


def test_closing_ends_idle_connections_at_once_and_lets_requests_finish(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=800)
    body, headers = infer_body(np.ones(2, np.float32))

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            idle, busy = await Client.connect(endpoint.port), await Client.connect(endpoint.port)
            await idle.send(message("GET", "/v2/health/live"))
            assert (await idle.receive()).status == 200
            await busy.send(message("POST", INFER, body, headers))
            await asyncio.sleep(0.05)
            started = asyncio.get_running_loop().time()
            await endpoint.stop_accepting()
            assert await idle.closed()
            assert asyncio.get_running_loop().time() - started < 0.5
            with pytest.raises(OSError):
                await Client.connect(endpoint.port)
            closing = asyncio.ensure_future(endpoint.close(5))
            answer = await busy.receive()
            assert values_of(answer).tolist() == [1, 1]
            assert answer.headers["connection"] == "close"
            assert await busy.closed()
            await closing
            assert asyncio.get_running_loop().time() - started < 2
            idle.close()
            busy.close()

    run(test)


def test_closing_gives_up_at_the_deadline(tmp_path: Path) -> None:
    write_model(tmp_path, "m", delay_ms=2500)
    body, headers = infer_body(np.ones(2, np.float32))

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            client = await Client.connect(endpoint.port)
            await client.send(message("POST", INFER, body, headers))
            await asyncio.sleep(0.05)
            started = asyncio.get_running_loop().time()
            await endpoint.close(0.2)
            assert asyncio.get_running_loop().time() - started < 2.2
            assert await client.closed()
            client.close()

    run(test)


# -- tritonclient ----------------------------------------------------------------------------------

def test_tritonclient_gets_what_it_asks_for(tmp_path: Path) -> None:
    write_model(tmp_path, "m", max_batch_size=4)
    values = np.arange(8, dtype=np.float32).reshape(2, 4)

    def use(port: int) -> None:
        client = triton_http.InferenceServerClient(f"127.0.0.1:{port}")
        client.load_model("m")
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert not client.is_model_ready("nobody")
        assert client.get_model_config("m")["name"] == "m"
        assert client.get_model_metadata("m")["inputs"][0]["shape"] == [-1, -1]
        assert client.get_system_shared_memory_status() == []
        for binary_in, binary_out, coding in (
            (True, True, None), (False, True, "gzip"), (True, False, "deflate"), (False, False, None),
        ):  # fmt: skip
            data = triton_http.InferInput("INPUT0", values.shape, "FP32")
            data.set_data_from_numpy(values, binary_data=binary_in)
            output = triton_http.InferRequestedOutput("OUTPUT0", binary_data=binary_out)
            result = client.infer(
                "m", [data], outputs=[output], request_id="r", request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )  # fmt: skip
            assert np.array_equal(result.as_numpy("OUTPUT0"), values)
            assert result.get_response()["id"] == "r"
        output = triton_http.InferRequestedOutput("OUTPUT0", class_count=2)
        assert client.infer("m", [data], outputs=[output]).as_numpy("OUTPUT0").tolist() == [
            [b"3.000000:3", b"2.000000:2"], [b"7.000000:3", b"6.000000:2"],
        ]  # fmt: skip
        assert client.get_inference_statistics("m")["model_stats"][0]["inference_count"] == 10
        with pytest.raises(InferenceServerException, match="unexpected inference output 'OUTPUT9'"):
            client.infer("m", [data], outputs=[triton_http.InferRequestedOutput("OUTPUT9")])
        client.unload_model("m")
        client.close()

    def use_in_thread(port: int) -> None:
        use(port)
        # The client insists on being finalised by the thread that made it.
        gc.collect()

    async def use_aio(port: int) -> None:
        client = triton_aio.InferenceServerClient(f"127.0.0.1:{port}")
        await client.load_model("m")
        data = triton_aio.InferInput("INPUT0", values.shape, "FP32")
        data.set_data_from_numpy(values)
        results = await asyncio.gather(*(client.infer("m", [data]) for _ in range(20)))
        assert all(np.array_equal(result.as_numpy("OUTPUT0"), values) for result in results)
        await client.close()

    async def test() -> None:
        async with serving(tmp_path, "--model-control-mode=explicit") as (_, endpoint):
            await asyncio.to_thread(use_in_thread, endpoint.port)
            await use_aio(endpoint.port)

    run(test)


def test_nothing_stays_alive_after_refused_requests(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    body, headers = infer_body(np.ones(2, np.float32))

    async def test() -> None:
        async with serving(tmp_path) as (_, endpoint):
            await ask(endpoint.port, "POST", INFER, body, headers)
            before = live_objects()
            for cut in range(0, len(body), 7):
                await ask(endpoint.port, "POST", INFER, body[:cut], headers)
                await ask(endpoint.port, "POST", INFER, body[:cut], [(LENGTH, str(cut // 2))])
            assert live_objects() == before

    run(test)
