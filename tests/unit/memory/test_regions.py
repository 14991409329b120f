"""The registry of client shared memory: registering, leasing, draining, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import fake_cuda_sync
import pytest
from fake_cuda_sync import Devices

from triton_async.defines import MAX_REGION_NAME_NBYTES
from triton_async.errors import (
    AlreadyExists,
    InternalError,
    InvalidArg,
    NotFound,
    ServerError,
    Unavailable,
    Unsupported,
)
from triton_async.memory import regions
from triton_async.memory.buffer import live_buffers
from triton_async.memory.regions import CUDA, SYSTEM, RegionRegistry

WAIT_S = 20


@pytest.fixture
def gpus() -> Iterator[Devices]:
    with fake_cuda_sync.devices(2) as found:
        yield found


@pytest.fixture
def registry(gpus: Devices) -> Iterator[RegionRegistry]:
    made = RegionRegistry(lambda: gpus)
    yield made
    for future in made.stop():
        future.result(WAIT_S)


def register(registry: RegionRegistry, gpus: Devices, name: str, nbytes: int, device: int = 0) -> None:
    registry.register_cuda(name, gpus.share(nbytes, device).handle, device, nbytes).result(WAIT_S)


def unregister(registry: RegionRegistry, name: str = "") -> list[str]:
    """Names of what was closed at once."""
    closing = registry.unregister(CUDA, name)
    for _, future in closing:
        future.result(WAIT_S)
    return [closed for closed, _ in closing]


def finish(registry: RegionRegistry) -> None:
    """Waits for everything that the registry's thread has still to do."""
    for future in registry.stop():
        future.result(WAIT_S)


def names(registry: RegionRegistry) -> list[object]:
    return [entry["name"] for entry in registry.status(CUDA)]


def test_a_region_is_registered_listed_and_closed(registry: RegionRegistry, gpus: Devices) -> None:
    register(registry, gpus, "b", 100, 1)
    register(registry, gpus, "a", 64)
    assert registry.status(CUDA) == [
        {"name": "a", "device_id": 0, "byte_size": 64}, {"name": "b", "device_id": 1, "byte_size": 100},
    ]  # fmt: skip
    assert registry.status(CUDA, "b") == [{"name": "b", "device_id": 1, "byte_size": 100}]
    assert unregister(registry, "a") == ["a"]
    assert names(registry) == ["b"]
    assert unregister(registry) == ["b"]
    assert registry.status(CUDA) == [] and gpus.opened == {}
    assert registry.status(SYSTEM) == []


def test_the_first_bytes_of_an_allocation_can_be_registered(registry: RegionRegistry, gpus: Devices) -> None:
    shared = gpus.share(100)
    registry.register_cuda("r", shared.handle, 0, 60).result(WAIT_S)
    assert registry.status(CUDA, "r")[0]["byte_size"] == 60
    with pytest.raises(InvalidArg):
        registry.acquire("r", 0, 61)


def test_one_allocation_under_two_names_is_opened_and_closed_twice(registry: RegionRegistry, gpus: Devices) -> None:
    shared = gpus.share(100)
    for name in "ab":
        registry.register_cuda(name, shared.handle, 0, 100).result(WAIT_S)
    assert list(gpus.opened.values()) == [2]
    unregister(registry, "a")
    assert list(gpus.opened.values()) == [1]


def test_unknown_names_unregister_silently(registry: RegionRegistry) -> None:
    assert unregister(registry, "nobody") == []


def refusal(registry: RegionRegistry, *arguments: object) -> ServerError:
    with pytest.raises(ServerError) as caught:
        registry.register_cuda(*arguments).result(WAIT_S)  # type: ignore[arg-type]
    return caught.value


def test_a_name_can_be_taken_once(registry: RegionRegistry, gpus: Devices) -> None:
    register(registry, gpus, "r", 8)
    error = refusal(registry, "r", gpus.share(8).handle, 0, 8)
    assert isinstance(error, AlreadyExists) and error.message == "shared memory region 'r' already in manager"
    assert len(gpus.opened) == 1


def test_a_name_is_taken_while_it_is_being_opened(registry: RegionRegistry, gpus: Devices) -> None:
    gpus.gate.clear()
    first = registry.register_cuda("r", gpus.share(8).handle, 0, 8)
    assert gpus.opening.wait(WAIT_S)
    with pytest.raises(AlreadyExists):
        registry.register_cuda("r", gpus.share(8).handle, 0, 8)
    with pytest.raises(NotFound):
        registry.acquire("r", 0, 8)
    assert registry.unregister(CUDA) == []
    gpus.gate.set()
    first.result(WAIT_S)
    assert names(registry) == ["r"]


def test_a_name_is_free_again_after_a_refusal(registry: RegionRegistry, gpus: Devices) -> None:
    refusal(registry, "r", b"?" * 64, 0, 8)
    register(registry, gpus, "r", 8)


def test_more_bytes_than_the_allocation_has_are_refused_and_it_is_closed(
    registry: RegionRegistry, gpus: Devices
) -> None:
    for nbytes in (65, 1 << 63, (1 << 64) - 1):
        error = refusal(registry, "r", gpus.share(64).handle, 0, nbytes)
        assert isinstance(error, InvalidArg)
        assert error.message == "failed to register shared memory region 'r': invalid args"
        assert gpus.opened == {}


def test_a_size_that_cannot_be_found_out_is_refused(
    registry: RegionRegistry, gpus: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(address: int) -> int:
        raise InternalError("no such address")

    monkeypatch.setattr(gpus, "allocation_nbytes", fail)
    assert refusal(registry, "r", gpus.share(64).handle, 0, 8).message.endswith("'r': invalid args")
    assert gpus.opened == {}


def test_a_handle_that_does_not_open_is_refused(registry: RegionRegistry) -> None:
    error = refusal(registry, "r", b"\0" * 64, 0, 8)
    assert isinstance(error, InvalidArg)
    assert error.message == "failed to register shared memory region: invalid args"


@pytest.mark.parametrize("length", [0, 63, 65, 4096])
def test_a_handle_of_another_length_is_refused(registry: RegionRegistry, length: int) -> None:
    assert "64 bytes" in refusal(registry, "r", b"h" * length, 0, 8).message


@pytest.mark.parametrize("device", [2, -1, 1 << 40, -(1 << 63)])
def test_a_gpu_that_is_not_there_is_refused(registry: RegionRegistry, gpus: Devices, device: int) -> None:
    error = refusal(registry, "r", gpus.share(8).handle, device, 8)
    assert isinstance(error, InvalidArg) and error.message.endswith(f"invalid args, there is no GPU {device}")


def test_names_are_bounded(registry: RegionRegistry, gpus: Devices) -> None:
    assert "region name" in refusal(registry, "", gpus.share(8).handle, 0, 8).message
    assert "must not exceed" in refusal(registry, "r" * (MAX_REGION_NAME_NBYTES + 1), b"h" * 64, 0, 8).message


def test_the_number_of_regions_is_bounded(
    registry: RegionRegistry, gpus: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "MAX_REGIONS", 2)
    register(registry, gpus, "a", 8)
    register(registry, gpus, "b", 8)
    assert isinstance(refusal(registry, "c", gpus.share(8).handle, 0, 8), Unavailable)
    unregister(registry, "a")
    register(registry, gpus, "c", 8)


def test_a_thousand_regions(registry: RegionRegistry, gpus: Devices) -> None:
    shared = gpus.share(1000)
    opening = [registry.register_cuda(f"r{i:04}", shared.handle, 0, 1000) for i in range(1000)]
    for future in opening:
        future.result(WAIT_S)
    assert names(registry) == [f"r{i:04}" for i in range(1000)]
    leases = [registry.acquire(f"r{i:04}", i, 1) for i in range(1000)]
    assert registry.leases == 1000
    assert unregister(registry) == []
    del leases
    finish(registry)
    assert gpus.opened == {}


def test_off_by_default() -> None:
    registry = RegionRegistry()
    off = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    for call in (
        lambda: registry.register_cuda("r", b"h" * 64, 0, 8), lambda: registry.unregister(CUDA, "r"),
        lambda: registry.unregister(SYSTEM), registry.check_allowed,
        lambda: registry.register_system("r", "key", 0, 8),
    ):  # fmt: skip
        with pytest.raises(Unsupported) as caught:
            call()
        assert caught.value.message == off
    assert registry.status(CUDA) == [] and registry.stop() == []


def test_without_a_gpu_the_reason_is_told() -> None:
    def fail() -> Devices:
        raise Unavailable("no GPU can be used: the NVIDIA driver is not installed")

    registry = RegionRegistry(fail)
    error = refusal(registry, "r", b"h" * 64, 0, 8)
    assert isinstance(error, InvalidArg)
    assert error.message == (
        "failed to register CUDA shared memory region: 'r', GPUs not supported: no GPU can be used: the NVIDIA driver "
        "is not installed"
    )
    none = RegionRegistry(lambda: Devices(0))
    assert refusal(none, "r", b"h" * 64, 0, 8).message.endswith("GPUs not supported: no GPU can be used")


def test_status_of_what_is_not_there(registry: RegionRegistry, gpus: Devices) -> None:
    register(registry, gpus, "r", 8)
    for kind in (CUDA, SYSTEM):
        with pytest.raises(NotFound) as caught:
            registry.status(kind, "x")
        assert caught.value.message == f"Unable to find {kind} shared memory region: 'x'"
    with pytest.raises(NotFound) as caught:
        registry.status(SYSTEM, "r")
    assert caught.value.message == (
        "The region named 'r' is registered as CUDA shared memory, not system shared memory"
    )


SIZE = 100
EDGES = [0, 1, SIZE - 1, SIZE, SIZE + 1, 2**31, 2**63 - 1, 2**63, 2**64 - SIZE, 2**64 - 1]


@pytest.mark.parametrize("nbytes", EDGES)
@pytest.mark.parametrize("offset", EDGES)
def test_only_what_lies_wholly_inside_is_leased(
    registry: RegionRegistry, gpus: Devices, offset: int, nbytes: int
) -> None:
    register(registry, gpus, "r", SIZE)
    if offset < SIZE and offset + nbytes <= SIZE:
        lease = registry.acquire("r", offset, nbytes, True)
        assert (lease.nbytes, lease.memory_type, lease.device_id) == (nbytes, 2, 0)
        return
    with pytest.raises(InvalidArg) as caught:
        registry.acquire("r", offset, nbytes)
    if offset >= SIZE:
        assert caught.value.message == "Invalid offset for shared memory region: 'r'"
    elif offset + nbytes >= 1 << 64:
        assert caught.value.message == (
            f"Integer overflow detected: byte_size ({nbytes}) + offset ({offset}) exceeds maximum value "
            "(18446744073709551615) for region 'r'"
        )
    else:
        assert caught.value.message == "Invalid offset + byte size for shared memory region: 'r'"
    assert registry.leases == 0


def test_nothing_can_be_leased_from_a_region_of_no_bytes(registry: RegionRegistry, gpus: Devices) -> None:
    registry.register_cuda("r", gpus.share(8).handle, 0, 0).result(WAIT_S)
    with pytest.raises(InvalidArg, match="Invalid offset"):
        registry.acquire("r", 0, 0)


def test_an_unregistered_region_stays_until_its_last_lease_ends(registry: RegionRegistry, gpus: Devices) -> None:
    before = live_buffers()
    register(registry, gpus, "r", 8)
    first, second = registry.acquire("r", 0, 8), registry.acquire("r", 4, 4, True)
    assert registry.leases == 2
    assert unregister(registry, "r") == []
    # It is still shown, as Triton does, but no request finds it any more.
    assert names(registry) == ["r"] and len(gpus.opened) == 1
    with pytest.raises(NotFound):
        registry.acquire("r", 0, 8)
    del first
    assert len(gpus.opened) == 1 and registry.leases == 1
    del second
    finish(registry)
    assert gpus.opened == {} and names(registry) == [] and live_buffers() == before


def test_the_name_of_a_region_in_use_is_free_at_once(registry: RegionRegistry, gpus: Devices) -> None:
    register(registry, gpus, "r", 8)
    lease = registry.acquire("r", 0, 8)
    unregister(registry, "r")
    register(registry, gpus, "r", 16)
    assert registry.status(CUDA) == [{"name": "r", "device_id": 0, "byte_size": 16}]
    assert registry.acquire("r", 0, 16).nbytes == 16
    unregister(registry, "r")
    del lease
    finish(registry)
    assert gpus.opened == {}


def test_leases_that_end_on_other_threads_close_the_region(registry: RegionRegistry, gpus: Devices) -> None:
    register(registry, gpus, "r", 8)
    held = [[registry.acquire("r", 0, 8)] for _ in range(8)]
    unregister(registry)
    threads = [threading.Thread(target=lease.clear) for lease in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    finish(registry)
    assert gpus.opened == {} and registry.leases == 0


def test_a_region_that_does_not_close_is_gone_all_the_same(registry: RegionRegistry, gpus: Devices) -> None:
    register(registry, gpus, "r", 8)
    gpus.fail_close = True
    with pytest.raises(InternalError, match="failed to close CUDA IPC handle: CUDA_ERROR_OF_THE_FAKE: stays open"):
        unregister(registry, "r")
    assert names(registry) == []
    gpus.opened.clear()


def test_nothing_can_be_done_after_the_stop(gpus: Devices) -> None:
    registry = RegionRegistry(lambda: gpus)
    register(registry, gpus, "r", 8)
    gpus.gate.clear()
    gpus.opening.clear()
    late = registry.register_cuda("late", gpus.share(8).handle, 0, 8)
    assert gpus.opening.wait(WAIT_S)
    waiting = registry.stop()
    gpus.gate.set()
    for future in waiting:
        future.result(WAIT_S)
    # What was being opened meanwhile is closed again.
    assert isinstance(late.exception(WAIT_S), Unavailable) and gpus.opened == {}
    assert isinstance(refusal(registry, "r", b"h" * 64, 0, 8), Unavailable)
    with pytest.raises(NotFound):
        registry.acquire("r", 0, 8)
