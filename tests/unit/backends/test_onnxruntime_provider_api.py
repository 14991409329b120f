"""Entries of the C API for providers and GPU memory: at their places in csrc/ort_api.h, with and without providers."""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backend_models import add_sub

from triton_async.backends.base import execute_requests
from triton_async.backends.onnxruntime.api import Environment, Library, find_library
from triton_async.backends.onnxruntime.instance import OnnxRuntimeInstance
from triton_async.backends.onnxruntime.options import SessionSettings
from triton_async.backends.onnxruntime.providers import CUDA, OPENVINO, TENSORRT, Provider
from triton_async.backends.onnxruntime.session import Session
from triton_async.errors import InternalError
from triton_async.infer.request import InferRequest
from triton_async.infer.signature import ModelSignature, TensorSpec
from triton_async.infer.tensor import from_numpy
from triton_async.memory.slab import SlabPool

HEADER = Path(__file__).resolve().parents[3] / "csrc" / "ort_api.h"
SETTINGS = SessionSettings(intra_op_threads=1, inter_op_threads=1)
ON_CPU, NAME = 0, b"Cpu"

needs_cpu_wheel = pytest.mark.skipif(CUDA in Library().providers, reason="the installed ONNX Runtime has GPU providers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "model.onnx"
    onnx.save(add_sub(), made)
    return made


def test_the_cpus_provider_is_always_there() -> None:
    assert "CPUExecutionProvider" in Library().providers


@needs_cpu_wheel
@pytest.mark.parametrize(("provider", "message"), [
    (Provider(CUDA, (("device_id", "0"),)), "CUDA execution provider is not enabled in this build"),
    (Provider(TENSORRT, (("device_id", "0"),)), "TensorRT execution provider is not enabled in this build"),
    (Provider(OPENVINO, (("device_type", "CPU"),)), "OpenVINO execution provider is not supported in this build"),
    (Provider("nope"), "Unknown provider name 'nope'"),
])  # fmt: skip
def test_a_provider_that_is_not_in_the_library_fails_the_session(
    path: Path, provider: Provider, message: str
) -> None:
    if provider.name in Library().providers:
        pytest.skip("the installed ONNX Runtime has this one")
    with pytest.raises(InternalError, match=message):
        Session(Environment(Library()), path, replace(SETTINGS, providers=(provider,)))


@pytest.mark.skipif("AzureExecutionProvider" not in Library().providers, reason="no provider that is always usable")
def test_a_provider_with_options_that_the_library_has_is_taken(path: Path) -> None:
    environment = Environment(Library())
    azure = Provider("AZURE", (("key", "value"), ("other", "value")))
    assert Session(environment, path, replace(SETTINGS, providers=(azure,))).device == -1
    with pytest.raises(InternalError, match="options key/value cannot be empty"):
        Session(environment, path, replace(SETTINGS, providers=(replace(azure, options=(("key", ""),)),)))


@needs_cpu_wheel
def test_an_instance_that_can_not_use_its_gpus_memory_says_so_and_takes_the_hosts(
    path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(Environment(Library()), path, replace(SETTINGS, device=0))
    assert session.device == 0
    inputs, outputs = ([TensorSpec(f"{what}{i}", 11, (16,)) for i in (0, 1)] for what in ("INPUT", "OUTPUT"))
    signature = ModelSignature("m", 1, inputs, outputs, 4)
    with caplog.at_level(logging.WARNING):
        instance = OnnxRuntimeInstance("m_0", session, signature, pool)
    assert re.search(
        "inputs in memory of GPU 0 go through the host: .*(driver is not installed|provider is either not enabled)",
        caplog.text,
    )
    assert not instance.takes_device  # type: ignore[attr-defined]
    ones = np.ones((2, 16), np.float32)
    tensors = [from_numpy(f"INPUT{i}", ones) for i in (0, 1)]
    response = execute_requests(instance, signature, [InferRequest("m", inputs=tensors)])[0]
    assert response.outputs[0].numpy().tolist() == [[2.0] * 16] * 2
    instance.close()


class Table:
    """The library's function table, called by the header's index. `call` gives the text of an error, or None."""

    def __init__(self) -> None:
        base = ctypes.CDLL(str(find_library())).OrtGetApiBase
        base.restype = ctypes.POINTER(ctypes.c_void_p * 2)
        get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(base().contents[0])
        text = HEADER.read_text()
        version = re.search(r"define ORT_API_VERSION (\d+)", text)
        assert version is not None
        self.entries = ctypes.cast(get_api(int(version[1])), ctypes.POINTER(ctypes.c_void_p))
        self.index = {name: int(at) for name, at in re.findall(r"\bORT_([A-Z_]+) = (\d+),", text)}

    def call(self, entry: str, types: Sequence[Any], *arguments: Any) -> str | None:
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, *types)(self.entries[self.index[entry]])
        status = function(*arguments)
        if not status:
            return None
        message = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(self.entries[self.index["GET_ERROR_MESSAGE"]])
        found = message(status).decode()
        self.release("STATUS", status)
        return str(found)

    def release(self, what: str, pointer: Any) -> None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.entries[self.index[f"RELEASE_{what}"]])(pointer)

    def make(self, entry: str, types: Sequence[Any], *arguments: Any) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        assert self.call(entry, [*types, ctypes.c_void_p], *arguments, ctypes.addressof(made)) is None
        assert made.value
        return made


def test_memory_of_a_sessions_allocator(path: Path) -> None:
    table, pointer, number = Table(), ctypes.c_void_p, ctypes.c_int
    env = table.make("CREATE_ENV", [number, ctypes.c_char_p], 4, b"test")
    options = table.make("CREATE_SESSION_OPTIONS", [])
    session = table.make("CREATE_SESSION", [pointer, ctypes.c_char_p, pointer], env, bytes(path), options)
    info = table.make("CREATE_MEMORY_INFO", [ctypes.c_char_p, number, number, number], NAME, 0, 0, 0)
    allocator = table.make("CREATE_ALLOCATOR", [pointer, pointer], session, info)
    memory = table.make("ALLOCATOR_ALLOC", [pointer, ctypes.c_size_t], allocator, 1000)
    ctypes.memset(memory, 7, 1000)
    assert table.call("ALLOCATOR_FREE", [pointer, pointer], allocator, memory) is None
    table.release("ALLOCATOR", allocator)

    cuda = table.make("CREATE_MEMORY_INFO", [ctypes.c_char_p, number, number, number], b"Cuda", 0, 0, 0)
    made = ctypes.c_void_p()
    error = table.call("CREATE_ALLOCATOR", [pointer] * 3, session, cuda, ctypes.addressof(made))
    assert error is not None
    assert "No requested allocator available" in error
    for what, made in (("MEMORY_INFO", cuda), ("MEMORY_INFO", info), ("SESSION", session),
                       ("SESSION_OPTIONS", options), ("ENV", env)):  # fmt: skip
        table.release(what, made)


@needs_cpu_wheel
def test_entries_of_gpus_say_that_the_library_has_none() -> None:
    table = Table()
    error = table.call("SET_CURRENT_GPU", [ctypes.c_int], 0)
    assert error == "CUDA execution provider is either not enabled or not available."
    made = ctypes.c_void_p()
    for entry, name in (("CREATE_CUDA_OPTIONS", "CUDA"), ("CREATE_TENSORRT_OPTIONS", "TensorRT")):
        error = table.call(entry, [ctypes.c_void_p], ctypes.addressof(made))
        assert error == f"{name} execution provider is not enabled in this build."
    for entry, name in (("UPDATE_CUDA_OPTIONS", "CUDA"), ("UPDATE_TENSORRT_OPTIONS", "TensorRT")):
        error = table.call(entry, [ctypes.c_void_p] * 3 + [ctypes.c_size_t], None, None, None, 0)
        assert error == f"{name} execution provider is not enabled in this build."
