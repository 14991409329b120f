"""The objects of libtritonserver.so that need no server, through ctypes, and that it has what its headers promise."""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import subprocess
from ctypes import byref, c_char_p, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

import pytest

from triton_async import logs, native

CORE = native.INCLUDE / "triton" / "core"
DECLARED = re.compile(r"^TRITON\w+_DECLSPEC\s[^;]*?\b(TRITON\w+)\(", re.MULTILINE)
NAMES = {
    "TRITONSERVER_DataTypeString": (
        "<invalid> BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES BF16 <invalid>"
    ),
    "TRITONSERVER_MemoryTypeString": "CPU CPU_PINNED GPU <invalid>",
    "TRITONSERVER_ParameterTypeString": "STRING INT BOOL DOUBLE BYTES <invalid>",
    "TRITONSERVER_InstanceGroupKindString": "AUTO CPU GPU MODEL <invalid>",
    "TRITONSERVER_InferenceTraceLevelString": "DISABLED MIN MAX <unknown> TIMESTAMPS",
    "TRITONSERVER_InferenceTraceActivityString": (
        "REQUEST_START QUEUE_START COMPUTE_START COMPUTE_INPUT_END COMPUTE_OUTPUT_START COMPUTE_END REQUEST_END "
        "TENSOR_QUEUE_INPUT TENSOR_BACKEND_INPUT TENSOR_BACKEND_OUTPUT CUSTOM_ACTIVITY <unknown>"
    ),
}


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = native.load()
    for name in [*NAMES, "TRITONSERVER_ErrorMessage", "TRITONSERVER_ErrorCodeString"]:
        getattr(loaded, name).restype = c_char_p
    loaded.TRITONSERVER_LogIsEnabled.restype = ctypes.c_bool
    return loaded


def error_of(library: ctypes.CDLL, name: str, *arguments: object) -> tuple[str, str]:
    """Code and message of what a call returns, ("", "") for success."""
    function = getattr(library, name)
    function.restype = c_void_p
    error = function(*arguments)
    if not error:
        return "", ""
    found = (library.TRITONSERVER_ErrorCodeString(c_void_p(error)).decode(),
             library.TRITONSERVER_ErrorMessage(c_void_p(error)).decode())  # fmt: skip
    library.TRITONSERVER_ErrorDelete(c_void_p(error))
    return found


def test_every_function_of_the_headers_is_there(library: ctypes.CDLL) -> None:
    declared = {name for header in CORE.glob("*.h") for name in DECLARED.findall(header.read_text())}
    assert len(declared) == 284
    assert not [name for name in sorted(declared) if not hasattr(library, name)]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")
@pytest.mark.parametrize(("compiler", "standard", "suffix"), [("gcc", "c99", "c"), ("g++", "c++11", "cc")])
def test_headers_compile_as_c_and_as_cpp(compiler: str, standard: str, suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"all.{suffix}"
    source.write_text("".join(f'#include "triton/core/{header.name}"\n' for header in CORE.glob("*.h")))
    subprocess.run(
        [compiler, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{native.INCLUDE}",
         "-fsyntax-only", str(source)], check=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("api", "version"),
    [("TRITONSERVER", (1, 34)), ("TRITONBACKEND", (1, 19)), ("TRITONCACHE", (0, 1)), ("TRITONREPOAGENT", (0, 1))],
)
def test_versions(library: ctypes.CDLL, api: str, version: tuple[int, int]) -> None:
    major, minor = c_uint32(), c_uint32()
    assert error_of(library, f"{api}_ApiVersion", byref(major), byref(minor)) == ("", "")
    assert (major.value, minor.value) == version
    code, text = error_of(library, f"{api}_ApiVersion", None, byref(minor))
    assert (code, text) == ("Invalid argument", "argument 'major' must not be NULL")


@pytest.mark.parametrize("function", NAMES)
def test_names_of_types(library: ctypes.CDLL, function: str) -> None:
    names = NAMES[function].split()
    assert [getattr(library, function)(value).decode() for value in range(len(names))] == names


def test_datatypes_have_sizes_and_are_found_by_name(library: ctypes.CDLL) -> None:
    sizes = [library.TRITONSERVER_DataTypeByteSize(value) for value in range(16)]
    assert sizes == [0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2, 0]
    for value in range(1, 15):
        assert library.TRITONSERVER_StringToDataType(library.TRITONSERVER_DataTypeString(value)) == value
    assert [library.TRITONSERVER_StringToDataType(name) for name in (b"TYPE_FP32", b"", None)] == [0, 0, 0]


def test_errors_keep_code_and_text(library: ctypes.CDLL) -> None:
    codes = ["Unknown", "Internal", "Not found", "Invalid argument", "Unavailable", "Unsupported", "Already exists",
             "Cancelled", "Unknown"]  # fmt: skip
    for code, name in enumerate(codes):
        assert error_of(library, "TRITONSERVER_ErrorNew", code, b"text " * 1000) == (name, "text " * 1000)


def test_messages_give_back_what_they_were_made_of(library: ctypes.CDLL) -> None:
    message, base, nbytes = c_void_p(), c_void_p(), c_size_t()
    text = b'{"a": [1, 2]}'
    assert error_of(
        library, "TRITONSERVER_MessageNewFromSerializedJson", byref(message), text + b"not this", c_size_t(len(text))
    ) == ("", "")
    assert error_of(library, "TRITONSERVER_MessageSerializeToJson", message, byref(base), byref(nbytes)) == ("", "")
    assert ctypes.string_at(base.value or 0, nbytes.value) == text
    assert error_of(library, "TRITONSERVER_MessageDelete", message) == ("", "")
    assert error_of(library, "TRITONSERVER_MessageSerializeToJson", None, byref(base), byref(nbytes))[0] != ""


def test_buffer_attributes_keep_what_is_set(library: ctypes.CDLL) -> None:
    attributes = c_void_p()
    assert error_of(library, "TRITONSERVER_BufferAttributesNew", byref(attributes)) == ("", "")
    for name, value, out in [
        ("MemoryTypeId", c_int64(3), c_int64()), ("MemoryType", ctypes.c_int(2), ctypes.c_int()),
        ("ByteSize", c_size_t(1 << 40), c_size_t()), ("CudaIpcHandle", c_void_p(64), c_void_p()),
    ]:  # fmt: skip
        assert error_of(library, f"TRITONSERVER_BufferAttributesSet{name}", attributes, value) == ("", "")
        assert error_of(library, f"TRITONSERVER_BufferAttributes{name}", attributes, byref(out)) == ("", "")
        assert out.value == value.value
    assert error_of(library, "TRITONSERVER_BufferAttributesDelete", attributes) == ("", "")


def test_log_lines_go_to_the_servers_log(library: ctypes.CDLL, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("triton_async").setLevel(logging.DEBUG)
    before = logs.settings()
    with caplog.at_level(logging.DEBUG, "triton_async"):
        for level, text in enumerate([b"one", b"two", b"three", b"four"]):
            logs.update({"log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": level // 3})
            assert library.TRITONSERVER_LogIsEnabled(level)
            assert error_of(library, "TRITONSERVER_LogMessage", level, b"/src/my.cc", 7, text) == ("", "")
        logs.update({"log_info": False, "log_verbose_level": 0})
        assert not library.TRITONSERVER_LogIsEnabled(0)
        assert not library.TRITONSERVER_LogIsEnabled(3)
        assert error_of(library, "TRITONSERVER_LogMessage", 0, b"my.cc", 7, b"not this") == ("", "")
    logs.update(before)
    lines = [(record.levelname, record.filename, record.lineno, record.getMessage()) for record in caplog.records]
    assert lines == [("INFO", "my.cc", 7, "one"), ("WARNING", "my.cc", 7, "two"), ("ERROR", "my.cc", 7, "three"),
                     ("DEBUG", "my.cc", 7, "four")]  # fmt: skip
    assert error_of(library, "TRITONSERVER_LogMessage", 4, b"my.cc", 7, b"x")[1] == "unknown logging level '4'"
