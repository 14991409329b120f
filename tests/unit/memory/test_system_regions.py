"""POSIX shared memory of clients: opened once by name, used in place, and safe whatever its owner does to it."""

from __future__ import annotations

import mmap
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from triton_async.errors import AlreadyExists, InternalError, InvalidArg, ServerError
from triton_async.memory.regions import CUDA, SYSTEM, RegionRegistry

WAIT_S = 20
FOLDER = Path("/dev/shm")
PAGE = mmap.PAGESIZE

Make = Callable[..., str]


@pytest.fixture
def registry() -> Iterator[RegionRegistry]:
    made = RegionRegistry(lambda: pytest.fail("no GPU is asked for"))
    yield made
    for future in made.stop():
        future.result(WAIT_S)


@pytest.fixture
def shared() -> Iterator[Make]:
    """Makes shared memory and gives its key, without a slash."""
    made: list[str] = []

    def make(content: bytes) -> str:
        made.append(f"test-{uuid.uuid4().hex}")
        (FOLDER / made[-1]).write_bytes(content)
        return made[-1]

    yield make
    for key in made:
        (FOLDER / key).unlink(missing_ok=True)


def register(registry: RegionRegistry, name: str, key: str, offset: int, nbytes: int) -> None:
    registry.register_system(name, key, offset, nbytes).result(WAIT_S)


def unregister(registry: RegionRegistry, name: str = "") -> None:
    for _, future in registry.unregister(SYSTEM, name):
        future.result(WAIT_S)


def read(registry: RegionRegistry, name: str, offset: int, nbytes: int, private: bool = False) -> bytes:
    return bytes(registry.acquire(name, offset, nbytes, private=private))


@pytest.mark.parametrize("slash", ["", "/", "//"])
@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, PAGE, PAGE + 7])
def test_a_region_is_the_clients_memory(registry: RegionRegistry, shared: Make, slash: str, offset: int) -> None:
    content = bytes(range(256)) * (3 * PAGE // 256)
    key = shared(content)
    register(registry, "r", slash + key, offset, PAGE)
    assert registry.status(SYSTEM) == [{"name": "r", "key": slash + key, "offset": offset, "byte_size": PAGE}]
    assert registry.status(CUDA) == []
    assert read(registry, "r", 0, PAGE) == content[offset : offset + PAGE]
    assert read(registry, "r", PAGE - 3, 3) == content[offset + PAGE - 3 : offset + PAGE]
    (FOLDER / key).unlink()  # its name may go as soon as it is registered
    lease = registry.acquire("r", 5, 2, writable=True)
    memoryview(lease).cast("B")[:] = b"xy"
    assert read(registry, "r", 4, 4) == content[offset + 4 : offset + 5] + b"xy" + content[offset + 7 : offset + 8]
    del lease
    unregister(registry, "r")
    assert registry.status(SYSTEM) == []


def test_what_is_written_is_seen_by_the_client(registry: RegionRegistry, shared: Make) -> None:
    key = shared(bytes(100))
    register(registry, "r", key, 10, 20)
    lease = registry.acquire("r", 0, 20, writable=True)
    memoryview(lease).cast("B")[:] = bytes(range(20))
    assert (FOLDER / key).read_bytes() == bytes(10) + bytes(range(20)) + bytes(70)


LARGEST = (1 << 64) - 1


@pytest.mark.parametrize(("offset", "nbytes"), [
    (0, 1001), (1, 1000), (1000, 1), (1001, 1), (0, LARGEST), (LARGEST, 1), (LARGEST, LARGEST), (1 << 63, 1 << 63),
    (0, 0), (5, 0),
])  # fmt: skip
def test_only_what_is_there_can_be_registered(registry: RegionRegistry, shared: Make, offset: int, nbytes: int) -> None:
    key = shared(bytes(1000))
    with pytest.raises(InvalidArg) as refused:
        register(registry, "r", key, offset, nbytes)
    assert refused.value.message == "failed to register shared memory region 'r': invalid args"
    for all_of_it in ((0, 1000), (999, 1)):
        register(registry, "r", key, *all_of_it)
        unregister(registry, "r")


def refusal(registry: RegionRegistry, key: str) -> ServerError:
    with pytest.raises(ServerError) as refused:
        register(registry, "r", key, 0, 8)
    return refused.value


@pytest.mark.parametrize("key", ["", "/", "///", "a/b", "/a/b", "..", "/..", ".", "a\0b", "a/../b"])
def test_a_key_is_one_name(registry: RegionRegistry, key: str) -> None:
    error = refusal(registry, key)
    assert isinstance(error, InvalidArg)
    assert "is no name of shared memory" in error.message


@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_names_of_the_python_backend_are_reserved(registry: RegionRegistry, slash: str) -> None:
    error = refusal(registry, slash + "triton_python_backend_shm_region_1")
    assert isinstance(error, InvalidArg)
    assert "are reserved" in error.message


def test_what_is_not_there_is_no_region(registry: RegionRegistry) -> None:
    error = refusal(registry, "/none-of-this-name")
    assert isinstance(error, InternalError)
    assert error.message == "Unable to open shared memory region: '/none-of-this-name'"


def test_only_regular_files_are_opened(registry: RegionRegistry) -> None:
    pipe, link = FOLDER / f"test-{uuid.uuid4().hex}", FOLDER / f"test-{uuid.uuid4().hex}"
    os.mkfifo(pipe, stat.S_IRUSR | stat.S_IWUSR)
    link.symlink_to("/etc/hostname")
    try:
        assert isinstance(refusal(registry, pipe.name), InvalidArg)
        assert isinstance(refusal(registry, link.name), InternalError)
    finally:
        pipe.unlink()
        link.unlink()


def test_a_name_can_be_taken_once_for_both_kinds(registry: RegionRegistry, shared: Make) -> None:
    key = shared(bytes(8))
    register(registry, "r", key, 0, 8)
    with pytest.raises(AlreadyExists, match="'r' already in manager"):
        register(registry, "r", key, 0, 8)
    with pytest.raises(AlreadyExists):
        registry.register_cuda("r", bytes(64), 0, 8)
    register(registry, "again", key, 0, 8)


def test_a_region_in_use_stays_until_its_last_lease_ends(registry: RegionRegistry, shared: Make) -> None:
    key = shared(b"12345678")
    register(registry, "r", key, 0, 8)
    lease = registry.acquire("r", 0, 8)
    unregister(registry, "r")
    assert registry.status(SYSTEM, "r")[0]["key"] == key
    register(registry, "r", key, 4, 4)
    assert bytes(lease) == b"12345678"
    assert read(registry, "r", 0, 4) == b"5678"


@pytest.mark.parametrize("private", [False, True])
def test_memory_that_has_become_smaller_is_refused(registry: RegionRegistry, shared: Make, private: bool) -> None:
    key, other = shared(b"a" * 3 * PAGE), shared(b"b" * PAGE)
    register(registry, "r", key, 0, 3 * PAGE)
    register(registry, "other", other, 0, PAGE)
    os.truncate(FOLDER / key, PAGE)
    for offset in (0, 2 * PAGE):
        with pytest.raises(InvalidArg, match="'r' has become smaller since it was registered"):
            registry.acquire("r", offset, 8, private=private)
    os.truncate(FOLDER / key, 3 * PAGE)
    assert read(registry, "r", 0, 2) == b"aa"
    assert read(registry, "other", 0, PAGE) == b"b" * PAGE


def test_memory_that_becomes_smaller_in_use_reads_as_zeros(registry: RegionRegistry, shared: Make) -> None:
    key, other = shared(b"a" * 3 * PAGE), shared(b"b" * PAGE)
    register(registry, "r", key, 0, 3 * PAGE)
    register(registry, "other", other, 0, PAGE)
    lease, written = registry.acquire("r", 0, 3 * PAGE), registry.acquire("r", 0, 3 * PAGE, writable=True)
    os.truncate(FOLDER / key, PAGE)
    assert bytes(lease) == b"a" * PAGE + bytes(2 * PAGE)
    memoryview(written).cast("B")[:] = b"c" * 3 * PAGE
    assert (FOLDER / key).read_bytes() == b"c" * PAGE
    os.truncate(FOLDER / key, 3 * PAGE)
    # What was missing once is not the client's memory any more.
    with pytest.raises(InvalidArg, match="'r' has become smaller"):
        registry.acquire("r", 0, 8)
    assert read(registry, "other", 0, PAGE) == b"b" * PAGE
    del lease, written
    unregister(registry, "r")
    register(registry, "r", key, 0, 3 * PAGE)
    assert read(registry, "r", 0, 1) == b"c"


def test_a_private_lease_does_not_change(registry: RegionRegistry, shared: Make) -> None:
    key = shared(b"before!!")
    register(registry, "r", key, 0, 8)
    private, plain = registry.acquire("r", 0, 8, private=True), registry.acquire("r", 0, 8)
    (FOLDER / key).write_bytes(b"after...")
    assert bytes(private) == b"before!!"
    assert bytes(plain) == b"after..."
    del plain
    assert registry.leases == 0


def test_nothing_stays_open(registry: RegionRegistry, shared: Make) -> None:
    def opened() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("/dev/shm/test-")

    key = shared(bytes(PAGE))
    before = opened()
    for i in range(200):
        register(registry, f"r{i}", key, 0, PAGE)
    assert opened() == (before[0] + 200, before[1] + 200)
    unregister(registry)
    with pytest.raises(ServerError):
        register(registry, "x", key, 0, PAGE + 1)
    assert opened() == before
