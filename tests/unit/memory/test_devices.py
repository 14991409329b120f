"""Opening GPUs where there is none, in one plain sentence, and CuPy's runtime behind the protocol."""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_devices import FakeDevices

from triton_async.errors import InternalError, InvalidArg
from triton_async.memory.devices import CupyDevices, DeviceInfo, Devices

HERE = Path(__file__).resolve()
HAS_DRIVER = Path("/dev/nvidiactl").exists()
HAS_CUPY = importlib.util.find_spec("cupy") is not None

# A process, so that neither a driver nor CuPy is loaded yet.
OPEN = """if True:
    import sys
    from triton_async.errors import Unsupported
    from triton_async.memory.cuda import load_driver
    from triton_async.memory.devices import open_devices
    {before}
    try:
        print(open_devices({minimum}).infos)
    except Unsupported as error:
        print(error.message)
"""


def opened(before: str = "", minimum: str = "") -> str:
    code = OPEN.format(before=before, minimum=minimum)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the driver's functions, which all succeed and do nothing."""
    names = set(re.findall(r'"(cu[A-Z]\w+)"', (HERE.parents[3] / "csrc" / "cuda.c").read_text()))
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names)))
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "driver.c"], check=True)
    return library


@pytest.mark.skipif(HAS_DRIVER, reason="there is a driver")
def test_without_a_driver_that_is_what_it_says() -> None:
    assert opened() == (
        "no GPU can be used: the NVIDIA driver is not installed (libcuda.so.1 can not be loaded)"
    )


def test_without_cupy_that_is_what_it_says(driver: Path) -> None:
    before = f"load_driver({str(driver)!r}); sys.modules['cupy'] = None"
    assert opened(before) == "no GPU can be used: CuPy is not installed; it comes with triton-async[gpu]"


@pytest.mark.skipif(HAS_DRIVER or not HAS_CUPY, reason="needs CuPy, and no driver that it can use")
def test_what_cuda_says_is_part_of_the_reason(driver: Path) -> None:
    assert opened(f"load_driver({str(driver)!r})") == (
        "no GPU can be used: failed to count the GPUs: cudaErrorInsufficientDriver: CUDA driver version is "
        "insufficient for CUDA runtime version"
    )


class CudaError(RuntimeError):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Runtime:
    """cupy.cuda.runtime as far as it is called; notes what was called on which device."""

    CUDARuntimeError = CudaError
    hostAllocPortable, streamNonBlocking, eventDisableTiming, eventBlockingSync = 1, 1, 2, 1
    streamCaptureModeThreadLocal = 1

    def __init__(self, capabilities: list[tuple[int, int]]) -> None:
        self.capabilities = capabilities
        self.device = 0
        self.calls: list[tuple[Any, ...]] = []
        self.error: CudaError | None = None

    def getDeviceCount(self) -> int:
        return len(self.capabilities)

    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        major, minor = self.capabilities[device]
        return {"name": b"GPU", "major": major, "minor": minor, "totalGlobalMem": 1 << 30}

    def deviceGetPCIBusId(self, device: int) -> str:
        return f"0000:{device:02X}:00.0"

    def getDevice(self) -> int:
        return self.device

    def setDevice(self, device: int) -> None:
        self.device = device

    def pointerGetAttributes(self, address: int) -> Any:
        return SimpleNamespace(device=address // 1000 - 1)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, self.device, *arguments))
            if self.error is not None:
                raise self.error
            if name == "streamCreateWithPriority":
                return 4096 + len(self.calls)
            return (5, 9) if name == "memGetInfo" else 4096

        return call


class Driver:
    """libcuda as far as it is called, over the same devices. Allocations of 256 bytes begin at every thousand."""

    def __init__(self) -> None:
        self.with_context = {0, 1, 2}

    def cuDevicePrimaryCtxGetState(self, device: int, flags: Any, active: Any) -> int:
        active._obj.value = device in self.with_context
        return 0

    def cuMemGetAddressRange_v2(self, base: Any, nbytes: Any, address: Any) -> int:
        base._obj.value, nbytes._obj.value = address.value // 1000 * 1000, 256
        return 0 if address.value % 1000 < 256 else 500

    def cuCtxGetStreamPriorityRange(self, least: Any, most_urgent: Any) -> int:
        least._obj.value, most_urgent._obj.value = 0, -5
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = b"named symbol not found"
        return 0


class Module:
    """cupy.RawModule: fails as a compiler does when the code says so."""

    def __init__(self, code: str = "", path: str = "") -> None:
        if "error" in code:
            raise ValueError("line 1 of /a/path: error")
        self.source = code or Path(path).name

    def get_function(self, name: str) -> Any:
        return SimpleNamespace(kernel=SimpleNamespace(ptr=len(self.source) * 100 + len(name)))


class DriverError(CudaError):
    pass


def cupy(runtime: Runtime) -> Any:
    """The module, as far as it is used."""
    driver = SimpleNamespace(CUDADriverError=DriverError)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, driver=driver), RawModule=Module)


@pytest.fixture
def driver_calls(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr("ctypes.CDLL", lambda name: made)
    return made


@pytest.fixture
def runtime(driver_calls: Driver) -> Runtime:
    return Runtime([(9, 0), (7, 5), (12, 1)])


def test_gpus_below_the_minimum_are_left_out_and_named(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        devices: Devices = CupyDevices(cupy(runtime), 8.0)
    assert [info.index for info in devices.infos] == [0, 2]
    assert devices.infos[1] == DeviceInfo(2, "GPU", (12, 1), 1 << 30, "0000:02:00.0")
    assert [record.message for record in caplog.records] == [
        "gpu 1 has compute capability '7.5' which is less than the minimum supported of '8.0'"
    ]
    assert [len(CupyDevices(cupy(runtime), least).infos) for least in (0.0, 7.5, 7.6, 12.1, 12.2)] == [3, 3, 2, 1, 0]


def test_every_call_runs_on_its_device_and_leaves_the_thread_on_its_own(runtime: Runtime) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    devices.use(1)
    assert devices.allocate(2, 0) == 4096
    devices.free(2, 4096)
    assert devices.memory_info(0) == (5, 9)
    devices.create_stream(2, -3)
    devices.create_event(0)
    devices.create_event(1, timing=True, spin=True)
    devices.open_ipc(2, bytes(64))
    devices.close_ipc(2, 4096)
    devices.allocate_pinned(100)
    assert runtime.calls == [
        ("malloc", 2, 1), ("free", 2, 4096), ("memGetInfo", 0), ("streamCreateWithPriority", 2, 1, -3),
        ("eventCreateWithFlags", 0, 3), ("eventCreateWithFlags", 1, 0), ("ipcOpenMemHandle", 2, bytes(64)),
        ("ipcCloseMemHandle", 2, 4096), ("hostAlloc", 1, 100, 1),
    ]  # fmt: skip
    assert runtime.device == 1


def test_a_graph_is_instantiated_and_its_capture_always_ends(runtime: Runtime) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    devices.begin_capture(5)
    assert devices.end_capture(5) == 4096
    devices.destroy_graph(4096)
    assert runtime.calls == [
        ("streamBeginCapture", 0, 5, 1), ("streamEndCapture", 0, 5), ("graphInstantiate", 0, 4096),
        ("graphDestroy", 0, 4096), ("graphExecDestroy", 0, 4096),
    ]  # fmt: skip
    runtime.error = CudaError(901, "cudaErrorStreamCaptureInvalidated: operation failed")
    with pytest.raises(InternalError, match="failed to capture a CUDA graph: cudaErrorStreamCaptureInvalidated"):
        devices.end_capture(5)


def test_kernels_come_from_a_file_or_a_compiler(runtime: Runtime, tmp_path: Path) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    (tmp_path / "k.cu").write_text("code")
    (tmp_path / "k.fatbin").write_bytes(b"\x50")
    assert devices.load_kernel(2, tmp_path / "k.cu", "f") == 401
    assert devices.load_kernel(2, tmp_path / "k.fatbin", "ff") == 802
    (tmp_path / "k.cu").write_text("error")
    with pytest.raises(InternalError) as raised:
        devices.load_kernel(2, tmp_path / "k.cu", "f")
    assert raised.value.message == "failed to load the kernel f on GPU 2: ValueError"  # no path for a client
    assert runtime.device == 0
    assert devices.stream_priorities(1) == (0, -5)


def test_a_drivers_error_is_one_of_cuda(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)

    def fail(self: Module, name: str) -> Any:
        raise DriverError(209, "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available")

    monkeypatch.setattr(Module, "get_function", fail)
    with pytest.raises(InternalError, match="failed to load the kernel f on GPU 1: CUDA_ERROR_NO_BINARY_FOR_GPU"):
        devices.load_kernel(1, tmp_path / "k.fatbin", "f")


def test_no_context_is_made_on_a_gpu_only_to_return_to_it(runtime: Runtime, driver_calls: Driver) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    driver_calls.with_context = {2}
    devices.allocate(2, 100)
    assert runtime.device == 2


def test_the_size_of_an_allocation_is_what_is_left_of_it(runtime: Runtime) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    assert devices.allocation_nbytes(3000) == 256  # of GPU 2
    assert devices.allocation_nbytes(3100) == 156
    with pytest.raises(InternalError, match="failed to read the size of a CUDA allocation: named symbol not found"):
        devices.allocation_nbytes(3500)
    with pytest.raises(InternalError, match="no memory of a GPU"):
        devices.allocation_nbytes(10)
    assert runtime.device == 0


def test_a_failure_carries_cudas_text_and_leaves_the_thread_on_its_device(runtime: Runtime) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    runtime.error = CudaError(700, "cudaErrorIllegalAddress: an illegal memory access was encountered")
    with pytest.raises(InternalError) as raised:
        devices.free(2, 4096)
    assert raised.value.message == (
        "failed to free memory on GPU 2: cudaErrorIllegalAddress: an illegal memory access was encountered"
    )
    runtime.error = CudaError(2, "cudaErrorMemoryAllocation: out of memory")
    for allocate in (lambda: devices.allocate(2, 100), lambda: devices.allocate_pinned(100)):
        with pytest.raises(MemoryError, match="out of memory"):
            allocate()
    assert runtime.device == 0


@pytest.mark.parametrize("nbytes", [0, 1, 63, 65, 640])
def test_a_handle_of_another_size_never_gets_to_cuda(runtime: Runtime, nbytes: int) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    with pytest.raises(InvalidArg, match=f"a CUDA IPC handle has 64 bytes, not {nbytes}"):
        devices.open_ipc(0, bytes(nbytes))
    assert runtime.calls == []


def test_streams_are_given_out_again(runtime: Runtime) -> None:
    devices = CupyDevices(cupy(runtime), 0.0)
    kinds = [(0, 0), (0, 0), (0, -3), (2, 0)]
    streams = [devices.create_stream(*kind) for kind in kinds]
    assert len(set(streams)) == len(kinds)
    for stream in streams:
        devices.destroy_stream(stream)
    calls = list(runtime.calls)
    assert sorted(devices.create_stream(*kind) for kind in kinds) == sorted(streams)
    assert runtime.calls == calls
    for stream, kind in zip(streams[2:], kinds[2:], strict=True):
        devices.destroy_stream(stream)
        assert devices.create_stream(*kind) == stream
    assert devices.create_stream(0, 0) not in streams
    with pytest.raises(InternalError, match="it is none of ours"):
        devices.destroy_stream(7)


def test_the_fake_tells_what_was_not_given_back_and_shares_memory_between_processes() -> None:
    server, client = FakeDevices(), FakeDevices()
    address = client.allocate(0, 100)
    handle = client.export_ipc(address)
    base = server.open_ipc(0, handle)
    client.view(address, 4)[:] = b"abcd"
    assert bytes(server.view(base, 4)) == b"abcd" and server.allocation_nbytes(base) == 100
    assert (client.leaks, server.leaks) == ({"device": 1}, {"ipc": 1})
    with pytest.raises(InternalError, match="invalid device context"):
        client.open_ipc(0, handle)
    with pytest.raises(InternalError, match="invalid resource handle"):
        server.open_ipc(0, bytes(64))
    server.close_ipc(0, base)
    client.free(0, address)
    assert client.leaks == server.leaks == {}
    with pytest.raises(InternalError, match="invalid resource handle"):
        server.open_ipc(0, handle)
    with pytest.raises(AssertionError, match="freed twice"):
        client.free(0, address)
