"""Cases about shared memory of clients that is there: registered, used, given back. They build on each other: order
matters.

The files are made before a server starts (replay.py): `a`, and `d` to `i`, have 256 bytes, the INT32 numbers 0 to 63,
`c` has these behind a page of zeros, `b` has 64 bytes, 100 to 115, `s` the strings "abc" and "". The real server takes
each only once. `KEY` in a case is replaced by the name that they have in this run.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from .cases import Case, GrpcCase, HttpCase, In, byte_strings, get, infer, out
from .corpus_grpc import message, tensor

KEY = "REGIONS-KEY"
STRINGS = byte_strings(b"abc", b"")

_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
_A, _B = f"/{KEY}-a", f"/{KEY}-b"
_HANDLE = base64.b64encode(bytes(64)).decode()
_MODEL = "identity_int32"


def _post(case_id: str, path: str, body: Any = None) -> HttpCase:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return HttpCase(f"regions-{case_id}", "POST", path, (), data)


def _register(case_id: str, name: str, body: Any) -> HttpCase:
    return _post(f"register-{case_id}", f"{_SYSTEM}/region/{name}/register", body)


def _cuda(case_id: str, body: Any) -> HttpCase:
    return _post(f"cuda-register-{case_id}", f"{_CUDA}/region/c/register", body)


def _get(case_id: str, path: str) -> HttpCase:
    return get(f"regions-{case_id}", path)


def _grpc(case_id: str, method: str, **request: Any) -> GrpcCase:
    return GrpcCase(f"regions-grpc-{case_id}", method, (request,))


def _file(name: str) -> str:
    return f"/{KEY}-{name}"


def _region(key: str = _A, offset: Any = 0, nbytes: Any = 256) -> dict[str, Any]:
    return {"key": key, "offset": offset, "byte_size": nbytes}


def _in(region: Any = "a", nbytes: Any = 8, shape: Any = (1, 2), **more: Any) -> In:
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": nbytes, **more}
    return In("INPUT0", "INT32", list(shape), parameters={k: v for k, v in parameters.items() if v != "absent"})


def _out(region: Any = "b", nbytes: Any = 8, **more: Any) -> dict[str, Any]:
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": nbytes, **more}
    return out("OUTPUT0", **{k: v for k, v in parameters.items() if v != "absent"})


def _use(case_id: str, tensors: In, *outputs: dict[str, Any], model: str = _MODEL, **more: Any) -> HttpCase:
    return infer(f"regions-{case_id}", model, [tensors], outputs or None, **more)


_DATA = In("INPUT0", "INT32", [1, 2], data=[7, 8])

REGISTER: tuple[Case, ...] = (
    _register("a", "a", _region()),
    _register("a-again", "a", _region()),
    _register("a-again-other-key", "a", _region(_B, 0, 64)),
    _register("a-again-other-size", "a", _region(_A, 0, 64)),
    _register("a-again-other-offset", "a", _region(_A, 8, 64)),
    _register("same-key", "a2", _region()),
    _register("offset", "off", _region(_file("c"), 4096, 256)),
    _register("odd-offset", "odd", _region(_file("d"), 3, 8)),
    _register("no-offset", "b", {"key": _B, "byte_size": 64}),
    _register("key-without-slash", "plain", _region(_file("f")[1:], 0, 16)),
    _register("extra-members", "extra", {**_region(_file("e")), "colour": "red"}),
    _register("key-number", "r", {**_region(), "key": 5}),
    _register("key-null", "r", {**_region(), "key": None}),
    _register("key-empty", "r", _region("")),
    _register("key-slashes", "r", _region("//")),
    _register("key-nested", "r", _region(f"{_A}/x")),
    _register("offset-text", "r", _region(_A, "0")),
    _register("offset-negative", "r", _region(_A, -8)),
    _register("offset-float", "r", _region(_A, 0.5)),
    _register("offset-over-uint64", "r", _region(_A, 2**64)),
    _register("size-negative", "r", _region(_A, 0, -8)),
    _register("size-float", "r", _region(_A, 0, 8.5)),
    _register("size-null", "r", _region(_A, 0, None)),
    _register("size-over-uint64", "r", _region(_A, 0, 2**64)),
    _register("list", "r", []),
    _register("number", "r", 5),
    _post("register-without-name", f"{_SYSTEM}/register", _region()),
    _post("register-slash", f"{_SYSTEM}/region/r/register/", _region()),
    HttpCase("regions-register-put", "PUT", f"{_SYSTEM}/region/r/register", (), json.dumps(_region()).encode()),
    _grpc("register-g", "SystemSharedMemoryRegister", name="g", key=_file("g"), byteSize=256),
    _grpc("register-g-again", "SystemSharedMemoryRegister", name="g", key=_file("g"), byteSize=256),
    _grpc("register-a-of-http", "SystemSharedMemoryRegister", name="a", key=_B, byteSize=64),
    _grpc("register-part", "SystemSharedMemoryRegister", name="goff", key=_file("h"), byteSize=128),
    _grpc("register-odd-offset", "SystemSharedMemoryRegister", name="godd", key=_file("i"), offset=8, byteSize=128),
    _grpc("register-no-key", "SystemSharedMemoryRegister", name="r", byteSize=64),
    _grpc("register-unknown-key", "SystemSharedMemoryRegister", name="r", key=f"/{KEY}-none", byteSize=64),
)  # fmt: skip

STATUS: tuple[Case, ...] = (
    _get("status-a", f"{_SYSTEM}/region/a/status"),
    _get("status-off", f"{_SYSTEM}/region/off/status"),
    _get("status-unknown", f"{_SYSTEM}/region/nobody/status"),
    _get("status-slash", f"{_SYSTEM}/status/"),
    _get("status-no-name", f"{_SYSTEM}/region//status"),
    _get("status-bare", _SYSTEM),
    _get("status-region-bare", f"{_SYSTEM}/region/a"),
    _post("status-post", f"{_SYSTEM}/region/a/status", {}),
    _get("cuda-status-of-system", f"{_CUDA}/region/a/status"),
    _get("cuda-status-unknown", f"{_CUDA}/region/nobody/status"),
    _grpc("status-a", "SystemSharedMemoryStatus", name="a"),
    _grpc("status-unknown", "SystemSharedMemoryStatus", name="nobody"),
    _grpc("cuda-status-of-system", "CudaSharedMemoryStatus", name="a"),
    _grpc("cuda-status-unknown", "CudaSharedMemoryStatus", name="nobody"),
)

USE: tuple[Case, ...] = (
    _use("in", _in()),
    _use("in-offset", _in(shared_memory_offset=8)),
    _use("in-region-offset", _in("off")),
    _use("in-unaligned", _in("odd")),
    _use("in-whole", _in(nbytes=256, shape=(1, 64))),
    _use("in-end", _in(shared_memory_offset=248)),
    _use("in-offset-null", _in(shared_memory_offset=None)),
    _use("in-unknown", _in("nobody")),
    _use("in-too-large", _in(nbytes=16)),
    _use("in-too-small", _in(nbytes=4)),
    _use("in-beyond", _in(shared_memory_offset=252)),
    _use("in-offset-at-end", _in(shared_memory_offset=256)),
    _use("in-offset-over", _in(shared_memory_offset=2**63)),
    _use("in-offset-negative", _in(shared_memory_offset=-8)),
    _use("in-offset-text", _in(shared_memory_offset="8")),
    _use("in-size-over-region", _in(nbytes=260, shape=(1, 65))),
    _use("in-size-negative", _in(nbytes=-8)),
    _use("in-size-text", _in(nbytes="8")),
    _use("in-size-zero", _in(nbytes=0)),
    _use("in-no-size", _in(nbytes="absent")),
    _use("in-region-number", _in(5)),
    _use("in-region-empty", _in("")),
    _use("in-size-without-region", _in("absent")),
    _use("in-and-binary-size", _in(binary_data_size=8)),
    _use("out", _DATA, _out()),
    _use("out-read-back", _in("b")),
    _use("out-offset", _DATA, _out(shared_memory_offset=16)),
    _use("out-offset-read-back", _in("b", shared_memory_offset=8, nbytes=16, shape=(1, 4))),
    _use("out-larger", _DATA, _out(nbytes=64)),
    _use("out-too-small", _DATA, _out(nbytes=4)),
    _use("out-beyond", _DATA, _out(shared_memory_offset=60)),
    _use("out-offset-at-end", _DATA, _out(shared_memory_offset=64)),
    _use("out-size-over-region", _DATA, _out(nbytes=65)),
    _use("out-size-text", _DATA, _out(nbytes="8")),
    _use("out-size-zero", _DATA, _out(nbytes=0)),
    _use("out-no-size", _DATA, _out(nbytes="absent")),
    _use("out-offset-text", _DATA, _out(shared_memory_offset="8")),
    _use("out-region-number", _DATA, _out(5)),
    _use("out-and-binary", _DATA, _out(binary_data=True)),
    _use("out-and-classes", _DATA, _out(classification=1)),
    _use("in-and-out-of-one", _in(), _out("a", shared_memory_offset=64)),
    _use("in-and-out-read-back", _in(shared_memory_offset=64)),
    _use("in-and-request-binary", _in(), parameters={"binary_data_output": True}),
    _use(
        "strings-in",
        In("INPUT0", "BYTES", [1, 2], parameters={"shared_memory_region": "strings",
                                                  "shared_memory_byte_size": len(STRINGS)}),
        model="identity_bytes",
    ),
)  # fmt: skip


def _grpc_in(region: Any, nbytes: Any, offset: Any = None) -> dict[str, Any]:
    parameters: dict[str, Any] = {"shared_memory_region": region, "shared_memory_byte_size": nbytes}
    if offset is not None:
        parameters["shared_memory_offset"] = offset
    return tensor("INPUT0", "INT32", [1, 2], parameters=parameters)


def _text(value: str) -> dict[str, Any]:
    return {"string_param": value}


def _number(value: int) -> dict[str, Any]:
    return {"int64_param": value}


def _grpc_use(case_id: str, inputs: dict[str, Any], raw: tuple[bytes, ...] = (), **more: Any) -> GrpcCase:
    return GrpcCase(f"regions-grpc-{case_id}", "ModelInfer", (message(_MODEL, [inputs], raw, **more),))


def _grpc_out(region: Any, nbytes: Any, **more: Any) -> dict[str, Any]:
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": nbytes, **more}
    return {"outputs": [{"name": "OUTPUT0", "parameters": parameters}]}


_RAW = ((7).to_bytes(4, "little") + (9).to_bytes(4, "little"),)
_PLAIN = tensor("INPUT0", "INT32", [1, 2])

GRPC_USE: tuple[Case, ...] = (
    _grpc_use("in", _grpc_in(_text("a"), _number(8))),
    _grpc_use("in-offset", _grpc_in(_text("g"), _number(8), _number(16))),
    _grpc_use("in-unknown", _grpc_in(_text("nobody"), _number(8))),
    _grpc_use("in-region-number", _grpc_in(_number(5), _number(8))),
    _grpc_use("in-size-text", _grpc_in(_text("a"), _text("8"))),
    _grpc_use("in-size-bool", _grpc_in(_text("a"), {"bool_param": True})),
    _grpc_use("in-size-uint64", _grpc_in(_text("a"), {"uint64_param": 8})),
    _grpc_use("in-too-large", _grpc_in(_text("a"), _number(16))),
    _grpc_use("in-offset-text", _grpc_in(_text("a"), _number(8), _text("8"))),
    _grpc_use("in-offset-at-end", _grpc_in(_text("a"), _number(8), _number(256))),
    _grpc_use("in-beyond", _grpc_in(_text("a"), _number(8), _number(252))),
    _grpc_use("in-and-raw", _grpc_in(_text("a"), _number(8)), _RAW),
    _grpc_use("out", _PLAIN, _RAW, **_grpc_out(_text("b"), _number(8))),
    _grpc_use("out-read-back", _grpc_in(_text("b"), _number(8))),
    _grpc_use("out-too-small", _PLAIN, _RAW, **_grpc_out(_text("b"), _number(4))),
    _grpc_use("out-beyond", _PLAIN, _RAW, **_grpc_out(_text("b"), _number(8), shared_memory_offset=_number(60))),
    _grpc_use("out-unknown", _PLAIN, _RAW, **_grpc_out(_text("nobody"), _number(8))),
    _grpc_use("out-size-text", _PLAIN, _RAW, **_grpc_out(_text("b"), _text("8"))),
    _grpc_use("out-region-number", _PLAIN, _RAW, **_grpc_out(_number(5), _number(8))),
    _grpc_use("out-and-classes", _PLAIN, _RAW, **_grpc_out(_text("b"), _number(8), classification=_number(1))),
    GrpcCase(
        "regions-grpc-stream",
        "ModelStreamInfer",
        (
            message(_MODEL, [_grpc_in(_text("a"), _number(8))], id="in"),
            message(_MODEL, [_grpc_in(_text("nobody"), _number(8))], id="lost"),
            message(_MODEL, [_PLAIN], _RAW, id="out", **_grpc_out(_text("b"), _number(8))),
        ),
        mask="by-id",
    ),
)  # fmt: skip

GIVE_BACK: tuple[Case, ...] = (
    _post("unregister-off", f"{_SYSTEM}/region/off/unregister"),
    _post("unregister-off-again", f"{_SYSTEM}/region/off/unregister"),
    _get("status-off-after", f"{_SYSTEM}/region/off/status"),
    _use("in-after-unregister", _in("off")),
    _register("off-after-unregister", "off", _region(_file("c"), 4096, 64)),
    _post("unregister-a2", f"{_SYSTEM}/region/a2/unregister"),
    _register("a2-after-unregister", "a2", _region(_file("i"), 0, 64)),
    _use("in-of-new-a2", _in("a2")),
    _post("unregister-body", f"{_SYSTEM}/region/a2/unregister", b"nonsense"),
    _get("unregister-get", f"{_SYSTEM}/region/a/unregister"),
    _post("cuda-unregister-of-system", f"{_CUDA}/region/a/unregister"),
    _get("status-a-after-cuda", f"{_SYSTEM}/region/a/status"),
    _post("cuda-unregister-unknown", f"{_CUDA}/region/nobody/unregister"),
    _grpc("unregister-g", "SystemSharedMemoryUnregister", name="g"),
    _grpc("unregister-g-again", "SystemSharedMemoryUnregister", name="g"),
    _grpc("cuda-unregister-of-system", "CudaSharedMemoryUnregister", name="a"),
    _grpc("cuda-unregister-unknown", "CudaSharedMemoryUnregister", name="nobody"),
    _post("cuda-unregister-all", f"{_CUDA}/unregister"),
    _get("status-a-after-cuda-all", f"{_SYSTEM}/region/a/status"),
    _post("unregister-all", f"{_SYSTEM}/unregister"),
    _get("status-all-after", f"{_SYSTEM}/status"),
    _use("in-after-unregister-all", _in()),
    _register("a-after-all", "a", _region()),
    _grpc("unregister-all", "SystemSharedMemoryUnregister"),
    _grpc("status-all-after", "SystemSharedMemoryStatus"),
)

# Of a machine without a GPU.
_GIVEN = {"raw_handle": {"b64": _HANDLE}, "device_id": 0, "byte_size": 64}

CUDA: tuple[Case, ...] = (
    _cuda("no-gpu", _GIVEN),
    _cuda("no-body", None),
    _cuda("no-json", b"{"),
    _cuda("empty", {}),
    _cuda("list", []),
    _cuda("no-handle", {"device_id": 0, "byte_size": 64}),
    _cuda("handle-text", {**_GIVEN, "raw_handle": _HANDLE}),
    _cuda("handle-no-b64", {**_GIVEN, "raw_handle": {}}),
    _cuda("handle-b64-number", {**_GIVEN, "raw_handle": {"b64": 5}}),
    _cuda("no-device", {"raw_handle": {"b64": _HANDLE}, "byte_size": 64}),
    _cuda("device-text", {**_GIVEN, "device_id": "0"}),
    _cuda("device-negative", {**_GIVEN, "device_id": -1}),
    _cuda("no-size", {"raw_handle": {"b64": _HANDLE}, "device_id": 0}),
    _cuda("size-text", {**_GIVEN, "byte_size": "64"}),
    _get("cuda-register-get", f"{_CUDA}/region/c/register"),
    _post("cuda-register-without-name", f"{_CUDA}/register", _GIVEN),
    _get("cuda-status-after", f"{_CUDA}/status"),
    _grpc("cuda-register", "CudaSharedMemoryRegister", name="c", rawHandle=_HANDLE, byteSize=64),
    _grpc("cuda-register-device", "CudaSharedMemoryRegister", name="c", rawHandle=_HANDLE, deviceId=7, byteSize=64),
    _grpc("cuda-status-after", "CudaSharedMemoryStatus"),
)

CASES: tuple[Case, ...] = (
    _register("strings", "strings", _region(f"/{KEY}-s", 0, len(STRINGS))),
    *REGISTER,
    *STATUS,
    *USE,
    *GRPC_USE,
    *GIVE_BACK,
    *CUDA,
)
