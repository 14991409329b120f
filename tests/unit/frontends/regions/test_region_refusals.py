"""Requests that CUDA shared memory cannot serve, and in which words they are refused: both protocols, both lanes."""

from __future__ import annotations

from typing import Any

import pytest
from region_harness import NO_UINT, Client, Server, code, floats, until


def test_unknown_regions(client: Client) -> None:
    memory = client.register("r", 64)
    unknown = (code(client, "NOT_FOUND"), "Unable to find shared memory region: 'x'")
    assert client.refusal(client.infer, "fp32", client.input([16], "x", 64)) == unknown
    assert client.refusal(
        client.infer, "fp32", client.input([16], "r", 64), outputs=[client.output("x", 64)]
    ) == unknown
    client.triton.unregister_cuda_shared_memory("r")
    assert client.refusal(client.infer, "fp32", client.input([16], "r", 64))[0] == code(client, "NOT_FOUND")
    assert memory.nbytes == 64


EDGES = [0, 1, 63, 64, 65, 2**31, 2**63 - 1]


@pytest.mark.parametrize("offset", EDGES)
def test_ranges_outside_the_region(client: Client, offset: int) -> None:
    client.register("r", 64)
    for nbytes in EDGES:
        if offset < 64 and offset + nbytes <= 64:
            continue
        expected = "Invalid offset" if offset >= 64 else "Invalid offset + byte size"
        for inputs, outputs in (
            ([client.input([16], "r", nbytes, offset)], None),
            ([client.values(floats(16))], [client.output("r", nbytes, offset)]),
        ):
            assert client.refusal(client.infer, "fp32", *inputs, outputs=outputs) == (
                code(client, "INVALID_ARGUMENT"), f"{expected} for shared memory region: 'r'"
            )  # fmt: skip


def test_numbers_that_wrap(server: Server) -> None:
    http, grpc = Client(server, "http"), Client(server, "grpc")
    http.register("r", 64)
    top = (1 << 64) - 1
    overflow = (
        f"Integer overflow detected: byte_size ({top}) + offset (1) exceeds maximum value ({top}) for region 'r'"
    )
    invalid = "Invalid offset for shared memory region: 'r'"
    for offset, nbytes, message in ((1, top, overflow), (top, 1, invalid), (1 << 63, 1 << 63, invalid)):
        place = {"shared_memory_region": "r", "shared_memory_offset": offset, "shared_memory_byte_size": nbytes}
        body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "parameters": place}]}
        assert server.ask("models/fp32/infer", body) == (400, {"error": message})
        # What is unsigned there is signed over gRPC, with the same bits.
        signed = [value - (1 << 64) if value >> 63 else value for value in (offset, nbytes)]
        assert grpc.refusal(grpc.infer, "fp32", grpc.input([1], "r", signed[1], signed[0])) == (
            "INVALID_ARGUMENT", message
        )  # fmt: skip
    http.triton.unregister_cuda_shared_memory("r")
    http.close()
    grpc.close()


def test_an_input_of_another_size_than_its_shape(client: Client) -> None:
    client.register("r", 64)
    for nbytes in (60, 0, 64):
        expected = 32 if nbytes == 64 else 64
        assert client.refusal(client.infer, "fp32", client.input([expected // 4], "r", nbytes)) == (
            code(client, "INVALID_ARGUMENT"),
            f"[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model 'fp32'. Expected "
            f"{expected}, got {nbytes}",
        )


def http_infer(server: Server, inputs: dict[str, Any], outputs: dict[str, Any] | None = None) -> tuple[int, Any]:
    body: dict[str, Any] = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], **inputs}]}
    if outputs is not None:
        body["outputs"] = [{"name": "OUTPUT0", **outputs}]
    return server.ask("models/fp32/infer", body)


REGION = {"shared_memory_region": "engine", "shared_memory_byte_size": 8}
HTTP_REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, int, str]] = {
    "data too": (
        {"parameters": REGION, "data": [1, 2]}, None, 400,
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        "'shared_memory_region' in 'parameters'. But set 'data' 'shared_memory_region'",
    ),
    "binary too": (
        {"parameters": {**REGION, "binary_data_size": 8}}, None, 400,
        "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        "'shared_memory_region' in 'parameters'. But set 'binary_data_size' 'shared_memory_region'",
    ),
    "no size": (
        {"parameters": {"shared_memory_region": "engine"}}, None, 400,
        "[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model 'fp32'. Expected 8, got 0",
    ),
    "offset without region": (
        {"data": [1, 2], "parameters": {"shared_memory_offset": "0"}}, None, 400,
        f"Unable to parse 'shared_memory_offset': {NO_UINT}",
    ),
    "negative offset": (
        {"parameters": {**REGION, "shared_memory_offset": -1}}, None, 400,
        f"Unable to parse 'shared_memory_offset': {NO_UINT}",
    ),
    "size of another kind": (
        {"parameters": {**REGION, "shared_memory_byte_size": 8.0}}, None, 400,
        f"Unable to parse 'shared_memory_byte_size': {NO_UINT}",
    ),
    "region of another kind": (
        {"parameters": {**REGION, "shared_memory_region": 1}}, None, 400,
        "Unable to parse 'shared_memory_region': attempt to access JSON non-string as string",
    ),
    "output with classes": (
        {"data": [1, 2]}, {"parameters": {**REGION, "classification": 1}}, 400,
        "Output can't set both 'shared_memory_region' and 'classification'",
    ),
    "output in binary form": (
        {"data": [1, 2]}, {"parameters": {**REGION, "binary_data": True}}, 400,
        "Output can't set both 'shared_memory_region' and 'binary_data'",
    ),
    "output without size": (
        {"data": [1, 2]}, {"parameters": {"shared_memory_region": "engine"}}, 500,
        "shared memory size specified with the request for output 'OUTPUT0' (0 bytes) should be at least 8 bytes to "
        "hold the results",
    ),
    "output offset of another kind": (
        {"data": [1, 2]}, {"parameters": {"shared_memory_offset": "0"}}, 400,
        f"Unable to parse 'shared_memory_offset': {NO_UINT}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HTTP_REFUSALS, ids=str)
def test_http_parameters_that_do_not_go_together(server: Server, case: str) -> None:
    inputs, outputs, status, message = HTTP_REFUSALS[case]
    assert http_infer(server, inputs, outputs) == (status, {"error": message})
    assert server.regions.leases == 0


def test_http_answers_say_nothing_of_regions(server: Server) -> None:
    """Triton sends neither data nor parameters of an output in shared memory, whatever else the request says."""
    answer = {
        "model_name": "fp32", "model_version": "1",
        "outputs": [{"name": "OUTPUT0", "datatype": "FP32", "shape": [2]}],
    }  # fmt: skip
    assert http_infer(server, {"parameters": REGION}, {"parameters": REGION}) == (200, answer)
    assert http_infer(server, {"data": [1, 2]}, {"parameters": {**REGION, "binary_data": False}}) == (200, answer)
    body = {
        "parameters": {"binary_data_output": True}, "outputs": [{"name": "OUTPUT0", "parameters": REGION}],
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1, 2]}],
    }  # fmt: skip
    assert server.ask("models/fp32/infer", body) == (200, answer)
    until(lambda: server.regions.leases == 0, "no lease is out")


def _stray(key: str) -> str:
    return f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor 'INPUT0'"


def _wrong(key: str, kind: str) -> str:
    return f"invalid value type for '{key}' parameter for tensor 'INPUT0', expected {kind}."


NAME, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
GRPC_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({NAME: "engine"}, f"'{SIZE}' must be specified along with '{NAME}' parameter for tensor 'INPUT0'"),
    "name of another kind": ({NAME: 5, SIZE: 8}, _wrong(NAME, "string_param")),
    "size of another kind": ({NAME: "engine", SIZE: "8"}, _wrong(SIZE, "int64_param")),
    "offset of another kind": ({NAME: "engine", SIZE: 8, OFFSET: True}, _wrong(OFFSET, "int64_param")),
    "offset alone": ({OFFSET: 8}, _stray(OFFSET)),
    "size alone": ({SIZE: 8}, _stray(SIZE)),
}


@pytest.mark.parametrize("where", ["input", "output"])
@pytest.mark.parametrize("case", GRPC_REFUSALS, ids=str)
def test_grpc_parameters_that_do_not_go_together(server: Server, case: str, where: str) -> None:
    parameters, message = GRPC_REFUSALS[case]
    client = Client(server, "grpc")
    request = client.values(floats(2))
    output = client.output()
    tensor = request._get_tensor() if where == "input" else output._get_tensor()
    for key, value in parameters.items():
        kind = {str: "string_param", bool: "bool_param", int: "int64_param"}[type(value)]
        setattr(tensor.parameters[key], kind, value)
    expected = message if where == "input" else message.replace("INPUT0", "OUTPUT0")
    assert client.refusal(client.infer, "fp32", request, outputs=[output]) == ("INVALID_ARGUMENT", expected)
    client.close()
    until(lambda: server.regions.leases == 0, "no lease is out")


def test_grpc_data_beside_a_region(server: Server) -> None:
    client = Client(server, "grpc")
    request = client.input([2], "engine", 8)
    request._get_tensor().contents.fp32_contents.extend([1, 2])
    assert client.refusal(client.infer, "fp32", request)[1] == (
        "unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for model 'fp32'"
    )
    output = client.output("engine", 8)
    output._get_tensor().parameters["classification"].int64_param = 1
    assert client.refusal(client.infer, "fp32", client.values(floats(2)), outputs=[output]) == (
        "INVALID_ARGUMENT", "output can't set both 'shared_memory_region' and 'classification'"
    )  # fmt: skip
    client.close()
