"""The cache of built plans: hits, damage, other users, limits, and several builders at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from triton_async.backends.tensorrt.plans import PlanCache, cache_key, default_directory, file_digest, read_model
from triton_async.errors import InternalError, InvalidArg

KEY = cache_key("a plan")
OTHER = cache_key("another plan")


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans", 1 << 20)


class Build:
    """Makes a plan and counts how often."""

    def __init__(self, content: bytes = b"plan") -> None:
        self.content = content
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return self.content


def entry(directory: Path, key: str = KEY) -> Path:
    return directory / "plans" / f"{key}.plan"


def test_a_plan_is_built_once(cache: PlanCache, tmp_path: Path) -> None:
    build = Build(bytes(range(256)) * 100)
    assert cache.get(KEY, build) == build.content
    assert cache.get(KEY, build) == build.content
    assert PlanCache(tmp_path / "plans", 1 << 20).get(KEY, build) == build.content
    assert build.count == 1
    assert cache.get(OTHER, Build(b"other")) == b"other"


def test_an_empty_content_is_a_content(cache: PlanCache) -> None:
    build = Build(b"")
    assert cache.get(KEY, build) == cache.get(KEY, build) == b""
    assert build.count == 1


def test_only_the_owner_can_read_it(cache: PlanCache, tmp_path: Path) -> None:
    cache.get(KEY, Build())
    assert stat.S_IMODE((tmp_path / "plans").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "plans").iterdir()} == {0o600}


def truncated(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        flipped,
        lambda content: content + b"x",
        lambda content: b"",
        lambda content: content[:50],
        lambda content: b"X" + content[1:],
        lambda content: content[:20] + bytes(32) + content[52:],
        lambda content: content[:-12] + b"\xff" * 8 + content[-4:],
    ],
    ids=["shorter", "a bit", "longer", "empty", "half a header", "another format", "another key", "a huge length"],
)
def test_a_damaged_entry_is_built_again(
    cache: PlanCache, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    build = Build()
    cache.get(KEY, build)
    entry(tmp_path).write_bytes(damage(entry(tmp_path).read_bytes()))
    assert cache.get(KEY, build) == b"plan"
    assert build.count == 2
    assert cache.get(KEY, build) == b"plan"
    assert build.count == 2


def test_an_entry_of_another_key_is_not_taken(cache: PlanCache, tmp_path: Path) -> None:
    cache.get(OTHER, Build(b"other"))
    os.rename(entry(tmp_path, OTHER), entry(tmp_path))
    assert cache.get(KEY, Build(b"own")) == b"own"


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("x")])
def test_what_is_no_file_is_not_read(cache: PlanCache, tmp_path: Path, put: Callable[[Path], None]) -> None:
    put(entry(tmp_path))
    assert cache.get(KEY, Build()) == b"plan"


def test_an_entry_that_others_may_write_is_not_used(cache: PlanCache, tmp_path: Path) -> None:
    build = Build()
    cache.get(KEY, build)
    entry(tmp_path).chmod(0o666)
    cache.get(KEY, build)
    assert build.count == 2
    assert stat.S_IMODE(entry(tmp_path).stat().st_mode) == 0o600


def test_a_link_in_place_of_an_entry_is_not_followed(cache: PlanCache, tmp_path: Path) -> None:
    cache.get(KEY, Build())
    elsewhere = tmp_path / "elsewhere"
    os.rename(entry(tmp_path), elsewhere)
    entry(tmp_path).symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert cache.get(KEY, Build(b"new")) == b"new"
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans").chmod(mode)
    with pytest.raises(InvalidArg, match="may be written by others"):
        PlanCache(tmp_path / "plans", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir(mode=0o700)
    os.chown(tmp_path / "plans", 65534, 65534)
    with pytest.raises(InvalidArg, match="belongs to another user"):
        PlanCache(tmp_path / "plans", 1)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArg) as error:
        PlanCache(tmp_path / "file" / "plans", 1)
    assert str(tmp_path) not in error.value.message


def test_a_directory_in_place_of_the_first_is_not_used(cache: PlanCache, tmp_path: Path) -> None:
    os.rename(tmp_path / "plans", tmp_path / "moved")
    (tmp_path / "plans").mkdir()
    cache.get(KEY, Build())
    assert not list((tmp_path / "plans").iterdir())
    assert (tmp_path / "moved" / f"{KEY}.plan").exists()


def test_a_build_that_fails_leaves_nothing(cache: PlanCache, tmp_path: Path) -> None:
    def fail() -> bytes:
        raise InternalError("no such layer")

    with pytest.raises(InternalError, match="no such layer"):
        cache.get(KEY, fail)
    assert not entry(tmp_path).exists()
    assert cache.get(KEY, Build()) == b"plan"


def test_what_a_process_that_died_left_is_no_entry(cache: PlanCache, tmp_path: Path) -> None:
    (tmp_path / "plans" / f"{KEY}.plan.new").write_bytes(b"half a pl")
    assert cache.get(KEY, Build()) == b"plan"
    assert not (tmp_path / "plans" / f"{KEY}.plan.new").exists()


def test_a_cache_that_cannot_be_written_still_gives_plans(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans", 1 << 20)
    os.rmdir(tmp_path / "plans")
    assert cache.get(KEY, Build()) == b"plan"


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans", 3 * 1200)
    keys = [cache_key(str(index)) for index in range(4)]
    for index, key in enumerate(keys[:3]):
        cache.get(key, Build(bytes(1000)))
        os.utime(entry(tmp_path, key), (index, index))
    cache.store_kernels(keys[2], b"kernels")
    assert cache.get(keys[0], Build(b"")) == bytes(1000)  # used again: the youngest now
    os.utime(entry(tmp_path, keys[2]), (2, 2))
    cache.get(keys[3], Build(bytes(1000)))
    left = {path.name for path in (tmp_path / "plans").iterdir() if path.suffix == ".plan"}
    assert left == {f"{key}.plan" for key in (keys[0], keys[2], keys[3])}
    assert not (tmp_path / "plans" / f"{keys[1]}.lock").exists()


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans", 1000)
    cache.get(KEY, Build(b"small"))
    assert cache.get(OTHER, Build(bytes(1000))) == bytes(1000)
    assert entry(tmp_path).exists()
    assert not entry(tmp_path, OTHER).exists()


def test_kernels_are_kept_beside_the_plan(cache: PlanCache, tmp_path: Path) -> None:
    assert cache.read_kernels(KEY) is None
    cache.store_kernels(KEY, b"kernels")
    assert cache.read_kernels(KEY) == b"kernels"
    (tmp_path / "plans" / f"{KEY}.kernels").write_bytes(b"garbage")
    assert cache.read_kernels(KEY) is None


def test_threads_build_a_plan_once(cache: PlanCache) -> None:
    started = threading.Barrier(4)
    build = Build()
    found: list[bytes] = []

    def work() -> None:
        started.wait()
        found.append(cache.get(KEY, build))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"plan"] * 4
    assert build.count == 1


BUILDER = """
import sys
from pathlib import Path
from triton_async.backends.tensorrt.plans import PlanCache

def build():
    print("builds", flush=True)
    sys.stdin.readline()
    return b"plan"

assert PlanCache(Path(sys.argv[1]), 1 << 20).get(sys.argv[2], build) == b"plan"
"""


def test_processes_build_a_plan_once(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path / "plans"), KEY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "builds\n"
    # The first holds the lock and waits for its input: whoever comes now has to wait for it.
    second = start()
    output, _ = first.communicate("\n", timeout=60)
    assert (output, first.returncode) == ("", 0)
    output, _ = second.communicate("\n", timeout=60)
    assert (output, second.returncode) == ("", 0)


def test_a_builder_that_dies_gives_way(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(tmp_path / "plans"), KEY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "builds\n"
        first.kill()
    assert PlanCache(tmp_path / "plans", 1 << 20).get(KEY, Build()) == b"plan"


def test_keys_tell_parts_apart() -> None:
    assert cache_key("ab", "c") != cache_key("a", "bc")
    assert cache_key("a") != cache_key("a", "")


def test_the_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/triton-async/tensorrt")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_directory() == Path("/home/me/.cache/triton-async/tensorrt")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for read in (read_model, file_digest):
        for name in ("fifo", "missing", ""):
            with pytest.raises(InvalidArg, match="failed to read the plan") as error:
                read(tmp_path / name, "the plan")
            assert str(tmp_path) not in error.value.message
