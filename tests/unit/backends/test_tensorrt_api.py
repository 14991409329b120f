"""The import seam: which library is taken, what is said when there is none, plugins, and the library's messages."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tensorrt_models import rtx

from triton_async.backends.tensorrt.api import Library, Messages, open_library
from triton_async.errors import InternalError, InvalidArg, Unsupported


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)


def stub(name: str, version: str, **members: object) -> ModuleType:
    """The vendor's module, as far as it is looked at when it is chosen."""
    module = ModuleType(name)
    module.__dict__.update({"__version__": version, "ILogger": object, **members})
    return module


NAME_API = SimpleNamespace(num_io_tensors=0)


def test_what_is_missing_is_named(nothing_installed: None) -> None:
    with pytest.raises(Unsupported) as error:
        open_library()
    assert "TensorRT cannot be used: " in error.value.message
    assert "pip install triton-async[gpu]" in error.value.message


def test_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", stub("tensorrt", "10.16.0", ICudaEngine=NAME_API))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stub("tensorrt_rtx", "1.7.1", ICudaEngine=NAME_API))
    found = open_library()
    assert (found.name, found.major, found.is_rtx) == ("tensorrt", 10, False)
    found = open_library("rtx")
    assert (found.name, found.major, found.is_rtx) == ("tensorrt_rtx", 11, True)


def test_a_tensorrt_that_does_not_load_gives_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = tmp_path / "tensorrt" / "libnvinfer.so.10"
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(
        f"raise ImportError('{library}: cannot open shared object file: No such file or directory')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stub("tensorrt_rtx", "1.7.1", ICudaEngine=NAME_API))
    assert open_library().name == "tensorrt_rtx"
    with pytest.raises(Unsupported) as error:
        open_library("tensorrt")
    assert "tensorrt is installed but does not load (libnvinfer.so.10: cannot open" in error.value.message
    assert str(tmp_path) not in error.value.message
    assert str(library) in caplog.text


def test_a_tensorrt_without_the_name_api_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", stub("tensorrt", "8.4.1", ICudaEngine=SimpleNamespace()))
    with pytest.raises(Unsupported, match=r"tensorrt 8\.4\.1 has no ICudaEngine\.num_io_tensors: 8\.6 or later"):
        open_library("tensorrt")


def test_an_unknown_choice() -> None:
    with pytest.raises(InvalidArg, match="library is 'lean', expected one of: rtx, tensorrt"):
        open_library("lean")


def test_names_that_only_some_versions_have() -> None:
    library = rtx()
    assert library.optional("IRuntimeConfig") is not None
    assert library.optional("IInt8Calibrator") is None


def test_a_plan_without_a_gpu_is_no_crash() -> None:
    library = rtx()
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InternalError, match="unable to create TensorRT "):
        library.engine(b"not a plan", host_code=False)


def test_a_plugin_library_that_does_not_load(tmp_path: Path) -> None:
    library = rtx()
    (tmp_path / "bad.so").write_bytes(b"no library")
    for setting in (str(tmp_path / "bad.so"), f'"{tmp_path / "bad.so"};"', f" ; {tmp_path / 'missing.so'}"):
        with pytest.raises(InvalidArg, match=r"unable to load TensorRT plugin library '(bad|missing)\.so'") as error:
            library.load_plugins(setting)
        assert str(tmp_path) not in error.value.message


def test_a_plugin_library_is_loaded_once(tmp_path: Path) -> None:
    library = rtx()
    real = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so.6" in line)
    link = tmp_path / "plugin.so"
    link.symlink_to(real)
    library.load_plugins(str(link))
    link.unlink()
    library.load_plugins(str(link))


# -- messages --------------------------------------------------------------------------------------


def test_the_last_error_of_a_thread_is_its_own() -> None:
    messages = Messages()
    other = threading.Thread(target=messages.add, args=("ERROR", "of another thread"))
    with messages.listening() as heard:
        messages.add("ERROR", "first")
        messages.add("INTERNAL_ERROR", "last")
        messages.add("WARNING", "no error")
        other.start()
        other.join()
        assert heard.error() == "last"


def test_an_error_of_the_librarys_own_thread_is_heard() -> None:
    messages = Messages()
    messages.add("ERROR", "long ago")
    with messages.listening() as heard:
        assert heard.error() == "TensorRT gave no reason"
        other = threading.Thread(target=messages.add, args=("ERROR", "of a builder's thread"))
        other.start()
        other.join()
        assert heard.error() == "of a builder's thread"


def test_an_error_is_taken_once() -> None:
    messages = Messages()
    messages.add("ERROR", "once")
    assert (messages.take(), messages.take()) == ("once", "")


def test_errors_of_many_threads_are_bounded() -> None:
    messages = Messages()
    for _ in range(3):
        for _ in range(Messages.KEPT):
            thread = threading.Thread(target=messages.add, args=("ERROR", "x"))
            thread.start()
            thread.join()
    assert len(messages._errors) <= Messages.KEPT


def test_messages_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    messages = Messages()
    with caplog.at_level(logging.DEBUG, "triton_async.tensorrt"):
        for severity in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
            messages.add(severity, severity.lower())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "internal_error"),
        ("ERROR", "error"),
        ("WARNING", "warning"),
        ("DEBUG", "info"),
        ("DEBUG", "verbose"),
    ]


def test_the_library_speaks_through_our_logger(caplog: pytest.LogCaptureFixture) -> None:
    library: Library = rtx()
    with caplog.at_level(logging.DEBUG, "triton_async.tensorrt"), library.messages.listening() as heard:
        builder = library.trt.Builder(library.logger)
        network = builder.create_network(0)
        assert builder.build_serialized_network(network, builder.create_builder_config()) is None
        assert "API Usage Error" in heard.error()
    assert any("API Usage Error" in record.getMessage() for record in caplog.records)
