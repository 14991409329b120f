"""What the examples of Triton's Python clients do, in short: every client, kind of call and model of theirs."""

from __future__ import annotations

import asyncio
import io
import queue
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import example_models
import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from PIL import Image
from server_process import ServerProcess, running_server
from triton_clients import PROTOCOLS, Array, client_module
from tritonclient import utils
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, shared_memory

SECONDS = 60
FIRST, SECOND = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)
VALUES = [11, 7, 5, 3, 2, 0, 1]
KEEPALIVE = grpcclient.KeepAliveOptions(
    keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20000, keepalive_permit_without_calls=False,
    http2_max_pings_without_data=2,
)  # fmt: skip
CHANNEL = [
    ("grpc.max_send_message_length", 1 << 20), ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.keepalive_time_ms", 2**31 - 1), ("grpc.keepalive_timeout_ms", 20000),
    ("grpc.keepalive_permit_without_calls", False), ("grpc.http2.max_pings_without_data", 2),
    ("grpc.dns_enable_srv_queries", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository = tmp_path_factory.mktemp("example-models")
    example_models.build(repository)
    options = ["--allow-client-shm=true"]
    with running_server([repository], tmp_path_factory.mktemp("examples-server"), options) as process:
        yield process
        process.stop()


def texts(values: Array) -> Array:
    return np.array([str(value).encode() for value in values.flatten()], np.object_).reshape(values.shape)


def inputs(module: Any, first: Array, second: Array, **more: Any) -> list[Any]:
    found = []
    for name, values in (("INPUT0", first), ("INPUT1", second)):
        found.append(module.InferInput(name, values.shape, utils.np_to_triton_dtype(values.dtype)))
        found[-1].set_data_from_numpy(values, **more)
    return found


def outputs(module: Any) -> list[Any]:
    return [module.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]


def check(result: Any, first: Array = FIRST, second: Array = SECOND) -> None:
    assert np.array_equal(result.as_numpy("OUTPUT0"), first + second)
    assert np.array_equal(result.as_numpy("OUTPUT1"), first - second)


@pytest.mark.parametrize("more", [
    {}, {"keepalive_options": KEEPALIVE}, {"channel_args": CHANNEL}, {"verbose": True},
])  # fmt: skip
def test_grpc_clients_of_any_making(examples: ServerProcess, more: dict[str, Any]) -> None:
    with grpcclient.InferenceServerClient(examples.grpc_url, **more) as client:
        given = inputs(grpcclient, FIRST, SECOND)
        check(client.infer("simple", given, outputs=outputs(grpcclient), headers={"test": "1"}, client_timeout=20))
        check(client.infer("simple", given, compression_algorithm="gzip"))
        assert len(client.get_inference_statistics("simple").model_stats) == 1

    async def ask() -> None:
        async with grpcaio.InferenceServerClient(examples.grpc_url, **more) as client:
            check(await client.infer("simple", given, outputs=outputs(grpcaio), headers={"test": "1"}))

    asyncio.run(ask())


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_http_tensors_binary_and_not(examples: ServerProcess, compression: str | None) -> None:
    more: dict[str, Any] = {"query_params": {"test_1": 1, "test_2": 2}}
    packed = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    first, second = inputs(httpclient, FIRST, -SECOND)
    first.set_data_from_numpy(FIRST, binary_data=False)
    wanted = [httpclient.InferRequestedOutput("OUTPUT0"), httpclient.InferRequestedOutput("OUTPUT1", binary_data=False)]
    with httpclient.InferenceServerClient(examples.http_url) as client:
        for asked in (wanted, None):
            check(client.infer("simple", [first, second], outputs=asked, **more, **packed), second=-SECOND)
        with pytest.raises(InferenceServerException, match="Request for unknown model") as caught:
            client.infer("wrong_model_name", [first, second], **more)
        assert caught.value.message().startswith("Request for unknown model")
        assert client.is_server_live(**more) and client.is_server_ready() and client.is_model_ready("simple")
        assert client.get_server_metadata()["name"] == "triton"
        assert client.get_model_metadata("simple", **more)["name"] == "simple"


def test_texts_of_any_kind(examples: ServerProcess) -> None:
    given = texts(FIRST), texts(SECOND)
    nulls = np.array([b"he\x00llo"] * 16, np.object_)[None]
    blobs = np.array([b"\x00\x01\x02\x03"] * 16, np.bytes_)[None]
    for module, url, ways in ((httpclient, examples.http_url, ({"binary_data": True}, {"binary_data": False})),
                              (grpcclient, examples.grpc_url, ({},))):  # fmt: skip
        with module.InferenceServerClient(url) as client:
            for way in ways:
                asked = [module.InferRequestedOutput(name, **way) for name in ("OUTPUT0", "OUTPUT1")]
                found = client.infer("simple_string", inputs(module, *given, **way), outputs=asked)
                sums, differences = (found.as_numpy(name).astype(np.int32) for name in ("OUTPUT0", "OUTPUT1"))
                assert np.array_equal(sums, FIRST + SECOND) and np.array_equal(differences, FIRST - SECOND)
                for values in (nulls, blobs):
                    one = module.InferInput("INPUT0", values.shape, "BYTES")
                    one.set_data_from_numpy(values, **way)
                    asked = [module.InferRequestedOutput("OUTPUT0", **way)]
                    found = client.infer("simple_identity", [one], outputs=asked).as_numpy("OUTPUT0")
                    flat = [value if isinstance(value, bytes) else value.encode() for value in found.flatten()]
                    assert flat == [bytes(value).ljust(4, b"\0") if values is blobs else value for value in values[0]]


@pytest.mark.parametrize(("model", "datatype", "field", "dtype"), [
    ("simple", "INT32", "int_contents", np.int32), ("simple_int8", "INT8", "int_contents", np.int8),
    ("simple_string", "BYTES", "bytes_contents", None),
])  # fmt: skip
def test_stubs_with_typed_contents(
    examples: ServerProcess, model: str, datatype: str, field: str, dtype: Any
) -> None:
    with grpc.insecure_channel(examples.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, values in (("INPUT0", FIRST), ("INPUT1", SECOND)):
            tensor = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
            made = texts(values) if dtype is None else values
            getattr(tensor.contents, field).extend(made[0].tolist())
        for name in ("OUTPUT0", "OUTPUT1"):
            request.outputs.add(name=name)
        answer = stub.ModelInfer(request)
        for output, raw, expected in zip(answer.outputs, answer.raw_output_contents, (FIRST + SECOND, FIRST - SECOND),
                                         strict=True):  # fmt: skip
            found = utils.deserialize_bytes_tensor(raw).astype(int) if dtype is None else np.frombuffer(raw, dtype)
            assert np.array_equal(found.reshape(output.shape), expected)
        request.model_version = "wrong_specification"
        with pytest.raises(grpc.RpcError, match="failed to get model version from specified version string "
                                                "'wrong_specification'"):  # fmt: skip
            stub.ModelInfer(request)
        ready = service_pb2.ModelReadyRequest(name=model)
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live and stub.ModelReady(ready).ready
        assert stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config.name == model


# -- sequences ------------------------------------------------------------------------------------------------------


def sequences(dyna: bool) -> dict[int | str, tuple[str, list[int], list[int]]]:
    """By id: its model, what it sends, and what comes back."""
    texted = "1002" if dyna else str(uuid.uuid4())
    found: dict[int | str, tuple[str, list[int], list[int]]] = {}
    for name, begin, sign in ((1000, 0, 1), (1001, 100, -1), (texted, 20, -1)):
        given = [begin, *(sign * value for value in VALUES)]
        if dyna:
            model = "simple_string_dyna_sequence" if isinstance(name, str) else "simple_dyna_sequence"
            expected = list(np.cumsum(given))
            expected[-1] += int(name)
        else:
            model, expected = "simple_sequence", [given[0] + 1, *given[1:]]
        found[name] = (model, given, [int(value) for value in expected])
    return found


def steps(module: Any, name: int | str, model: str, values: list[int]) -> Iterator[dict[str, Any]]:
    for number, value in enumerate(values, 1):
        given = module.InferInput("INPUT", [1, 1], "INT32")
        given.set_data_from_numpy(np.full((1, 1), value, np.int32))
        yield {
            "model_name": model, "inputs": [given], "outputs": [module.InferRequestedOutput("OUTPUT")],
            "request_id": f"{name}_{number}", "sequence_id": name, "sequence_start": number == 1,
            "sequence_end": number == len(values),
        }  # fmt: skip


def value_of(result: Any) -> int:
    return int(result.as_numpy("OUTPUT")[0][0])


@pytest.mark.parametrize("dyna", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sequences_step_by_step(examples: ServerProcess, protocol: str, dyna: bool) -> None:
    module = client_module(protocol)
    with module.InferenceServerClient(examples.url(protocol)) as client:
        for name, (model, values, expected) in sequences(dyna).items():
            assert [value_of(client.infer(**step)) for step in steps(module, name, model, values)] == expected


@pytest.mark.parametrize("dyna", [False, True])
def test_sequences_on_a_stream(examples: ServerProcess, dyna: bool) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    made = sequences(dyna)
    with grpcclient.InferenceServerClient(examples.grpc_url) as client:
        client.start_stream(lambda result, error: heard.put(error or result), stream_timeout=None)
        for name, (model, values, _) in made.items():
            for step in steps(grpcclient, name, model, values):
                client.async_stream_infer(**step)
        found: dict[str, list[int]] = {str(name): [] for name in made}
        for _ in range(3 * len(VALUES) + 3):
            result = heard.get(timeout=SECONDS)
            assert not isinstance(result, Exception), result
            found[result.get_response().id.rpartition("_")[0]].append(value_of(result))
    assert found == {str(name): expected for name, (_, _, expected) in made.items()}


@pytest.mark.parametrize("dyna", [False, True])
def test_sequences_on_a_stream_of_asyncio(examples: ServerProcess, dyna: bool) -> None:
    made = sequences(dyna)

    async def ask() -> dict[str, list[int]]:
        async def all_steps() -> AsyncIterator[dict[str, Any]]:
            for name, (model, values, _) in made.items():
                for step in steps(grpcaio, name, model, values):
                    yield step

        found: dict[str, list[int]] = {str(name): [] for name in made}
        async with grpcaio.InferenceServerClient(examples.grpc_url) as client:
            async for result, error in client.stream_infer(inputs_iterator=all_steps(), stream_timeout=None):
                assert error is None, error
                found[result.get_response().id.rpartition("_")[0]].append(value_of(result))
        return found

    assert asyncio.run(ask()) == {str(name): expected for name, (_, _, expected) in made.items()}


def test_several_responses_to_one_request(examples: ServerProcess) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    given = []
    for name, values in (("IN", np.arange(100, 110, dtype=np.int32)), ("DELAY", np.full(10, 10, np.uint32)),
                         ("WAIT", np.array([20], np.uint32))):  # fmt: skip
        given.append(grpcclient.InferInput(name, values.shape, utils.np_to_triton_dtype(values.dtype)))
        given[-1].set_data_from_numpy(values)
    with grpcclient.InferenceServerClient(examples.grpc_url) as client:
        client.start_stream(callback=partial(lambda kept, result, error: kept.put(error or result), heard))
        client.async_stream_infer(model_name="repeat_int32", inputs=given,
                                  outputs=[grpcclient.InferRequestedOutput("OUT")])  # fmt: skip
        found = [heard.get(timeout=SECONDS) for _ in range(10)]
    assert [int(result.as_numpy("OUT")[0]) for result in found] == list(range(100, 110))


# -- shared memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_objects_with_regions_and_without(examples: ServerProcess, protocol: str) -> None:
    module, nbytes = client_module(protocol), FIRST.nbytes
    with module.InferenceServerClient(examples.url(protocol)) as client:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        keys = {name: f"/{name}_{uuid.uuid4()}" for name in ("input_data", "output_data")}
        regions = {name: shared_memory.create_shared_memory_region(name, key, 2 * nbytes) for name, key in keys.items()}
        try:
            for name, key in keys.items():
                client.register_system_shared_memory(name, key, 2 * nbytes)
            shared_memory.set_shared_memory_region(regions["input_data"], [FIRST[0], SECOND[0]])
            given, wanted = inputs(module, FIRST, SECOND), outputs(module)
            for shared in (True, False, True):
                for number, (one, other) in enumerate(zip(given, wanted, strict=True)):
                    if shared:
                        one.set_shared_memory("input_data", nbytes, offset=number * nbytes)
                        other.set_shared_memory("output_data", nbytes, offset=number * nbytes)
                    else:
                        one.set_data_from_numpy((FIRST, 2 * SECOND)[number])
                        other.unset_shared_memory()
                result = client.infer("simple", given, outputs=wanted)
                if not shared:
                    check(result, second=2 * SECOND)
                    continue
                for number, expected in enumerate((FIRST + SECOND, FIRST - SECOND)):
                    output = result.get_output(f"OUTPUT{number}")
                    shape = output["shape"] if protocol == "http" else output.shape
                    found = shared_memory.get_contents_as_numpy(
                        regions["output_data"], np.int32, shape, offset=number * nbytes
                    )
                    assert np.array_equal(found, expected)
                shared_memory.set_shared_memory_region(regions["output_data"], [np.zeros(32, np.int32)])
            status = client.get_system_shared_memory_status()
            assert len(status if protocol == "http" else status.regions) == 2
        finally:
            client.unregister_system_shared_memory()
            for region in regions.values():
                shared_memory.destroy_shared_memory_region(region)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_texts_in_regions(examples: ServerProcess, protocol: str) -> None:
    """The outputs' region is as large as what is in it in the end."""
    module = client_module(protocol)
    given = [utils.serialize_byte_tensor(texts(values)) for values in (FIRST, SECOND)]
    expected = [texts(FIRST + SECOND), texts(FIRST - SECOND)]
    sizes = [utils.serialized_byte_size(one) for one in (*given, *map(utils.serialize_byte_tensor, expected))]
    names = ("in0", "in1", "out0", "out1")
    keys = [f"/{name}_{uuid.uuid4()}" for name in names]
    with module.InferenceServerClient(examples.url(protocol)) as client:
        made = list(zip(names, keys, sizes, strict=True))
        regions = [shared_memory.create_shared_memory_region(*one) for one in made]
        try:
            for one in made:
                client.register_system_shared_memory(*one)
            for region, one in zip(regions, given, strict=False):
                shared_memory.set_shared_memory_region(region, [one])
            asked = [module.InferInput(f"INPUT{n}", [1, 16], "BYTES") for n in range(2)]
            wanted = outputs(module)
            for one, name, size in zip([*asked, *wanted], names, sizes, strict=True):
                one.set_shared_memory(name, size)
            result = client.infer("simple_string", asked, outputs=wanted)
            for number, values in enumerate(expected):
                output = result.get_output(f"OUTPUT{number}")
                shape = output["shape"] if protocol == "http" else output.shape
                found = shared_memory.get_contents_as_numpy(regions[2 + number], np.object_, shape)
                assert np.array_equal(found, values)
        finally:
            client.unregister_system_shared_memory()
            for region in regions:
                shared_memory.destroy_shared_memory_region(region)


# -- pictures -------------------------------------------------------------------------------------------------------


def picture() -> bytes:
    values = np.random.default_rng(5).integers(0, 255, (40, 30, 3), np.uint8)
    values[..., 0] //= 4
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def scaled() -> Array:
    image = Image.open(io.BytesIO(picture())).convert("RGB").resize((24, 24))
    found: Array = (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return found


def classes(result: Array) -> list[tuple[int, str]]:
    """Index and label of each, the best first."""
    parts = ["".join(chr(x) for x in row).split(":") for row in result]
    assert [float(score) for score, *_ in parts] == sorted((float(score) for score, *_ in parts), reverse=True)
    return [(int(index), label) for _, index, label in parts]


def test_pictures_are_classified_however_they_are_sent(examples: ServerProcess) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    found = []

    def hear(result: Any, error: Any) -> None:
        heard.put(error or result)

    for module, url in ((httpclient, examples.http_url), (grpcclient, examples.grpc_url)):
        with module.InferenceServerClient(url) as client:
            given = module.InferInput("data_0", [3, 24, 24], "FP32")
            given.set_data_from_numpy(scaled())
            asked = {"inputs": [given], "outputs": [module.InferRequestedOutput("fc6_1", class_count=3)],
                     "request_id": "1", "model_version": ""}  # fmt: skip
            metadata, config = client.get_model_metadata("densenet_onnx"), client.get_model_config("densenet_onnx")
            if module is httpclient:
                shape, layout = metadata["inputs"][0]["shape"], config["input"][0]["format"]
                assert (shape, layout, metadata["outputs"][0]["shape"]) == ([3, 24, 24], "FORMAT_NCHW", [6])
            found.append(client.infer("densenet_onnx", **asked))
            if module is httpclient:
                found.append(client.async_infer("densenet_onnx", **asked).get_result())
            else:
                client.async_infer("densenet_onnx", callback=hear, **asked)
                found.append(heard.get(timeout=SECONDS))
                client.start_stream(hear)
                client.async_stream_infer("densenet_onnx", **asked)
                client.stop_stream()
                found.append(heard.get(timeout=SECONDS))
            whole = module.InferInput("INPUT", [1], "BYTES")
            whole.set_data_from_numpy(np.array([picture()], np.object_))
            wanted = [module.InferRequestedOutput("OUTPUT", class_count=3)]
            found.append(client.infer("preprocess_densenet_ensemble", [whole], outputs=wanted))
    names = ["fc6_1" if result.get_output("fc6_1") is not None else "OUTPUT" for result in found]
    labels = [classes(result.as_numpy(name)) for result, name in zip(found, names, strict=True)]
    assert len(labels[0]) == 3 and {str(one) for one in labels} == {str(labels[0])}


# -- control --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_models_are_loaded_with_other_configs(tmp_path: Path, protocol: str) -> None:
    example_models.build(tmp_path / "models")
    count = len(list((tmp_path / "models").iterdir()))
    with running_server([tmp_path / "models"], tmp_path, ["--model-control-mode=explicit"]) as process:
        module = client_module(protocol)
        with module.InferenceServerClient(process.url(protocol)) as client:
            index = client.get_model_repository_index()
            assert len(index if protocol == "http" else index.models) == count
            client.load_model("simple")
            assert client.is_model_ready("simple")
            with pytest.raises(InferenceServerException, match="failed to load"):
                client.load_model("simple", config='"parameters": {"config": {{"max_batch_size": "16"}}}')
            client.load_model("simple", config='{"max_batch_size":"16"}')
            config = client.get_model_config("simple")
            assert (config["max_batch_size"] if protocol == "http" else config.config.max_batch_size) == 16
            client.unload_model("simple")
            assert not client.is_model_ready("simple")
            with pytest.raises(InferenceServerException, match="Invalid file path"):
                client.load_model("simple", config="{}", files={"file:" + "A" * 256: b"a"})
            assert client.is_server_live()
            with pytest.raises(InferenceServerException, match="failed to load"):
                client.load_model("wrong_model_name")

        async def ask() -> None:
            async with (httpaio if protocol == "http" else grpcaio).InferenceServerClient(process.url(protocol)) as aio:
                await aio.load_model("simple")
                assert await aio.is_model_ready("simple")
                await aio.unload_model("simple")
                assert not await aio.is_model_ready("simple")

        asyncio.run(ask())
        process.stop()
