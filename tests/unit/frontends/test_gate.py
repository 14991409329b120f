"""What is asked of calls, the file of keys, and files that change while they are used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from triton_async.config.access import CATEGORIES
from triton_async.defines import API_KEYS_MAX_NBYTES
from triton_async.errors import InvalidArg
from triton_async.frontends.gate import OPEN, ApiKeys, Gate, Refusal, check_categories
from triton_async.frontends.grpc.guard import category_of
from triton_async.frontends.renewal import Renewal
from triton_async.protos import POOL


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    (tmp_path / "keys").write_text("# ours\n\nfirst\n  second  \n")
    return ApiKeys(str(tmp_path / "keys"))


@pytest.mark.parametrize(("headers", "holds"), [
    ({"authorization": "Bearer first"}, True), ({"authorization": "bearer second"}, True),
    ({"x-api-key": "first"}, True), ({"x-api-key": " second "}, True),
    ({}, False), ({"authorization": "first"}, False), ({"authorization": "Basic first"}, False),
    ({"authorization": "Bearer"}, False), ({"authorization": "Bearer  "}, False), ({"x-api-key": ""}, False),
    ({"x-api-key": "firs"}, False), ({"x-api-key": "first2"}, False), ({"x-api-key": "# ours"}, False),
    ({"x-api-key": "\udcff"}, False), ({"x-api-key": "wrong", "authorization": "Bearer first"}, False),
])  # fmt: skip
def test_keys(keys: ApiKeys, headers: dict[str, str], holds: bool) -> None:
    assert keys.holds(headers) is holds


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"x" * (API_KEYS_MAX_NBYTES + 1)])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(InvalidArg, match="api-key-file"):
        ApiKeys(str(tmp_path / "keys"))
    with pytest.raises(InvalidArg, match="cannot read"):
        ApiKeys(str(tmp_path / "other"))


def test_a_restriction_asks_for_its_header_alone() -> None:
    gate = Gate({"inference": ("My-Key", "v")})
    assert gate.refusal("inference", {"my-key": "v"}) is None
    assert gate.refusal("health", {}) is None
    for headers in ({}, {"my-key": "w"}, {"my-key": ""}, {"my-key": "v "}, {"other": "v"}):
        assert gate.refusal("inference", headers) is Refusal.RESTRICTED
    assert gate.header_of("inference") == "My-Key"
    assert gate.guards(("inference",)) and not gate.guards(("health",)) and not OPEN.guards(CATEGORIES)


def test_keys_are_asked_for_everywhere_but_where_they_are_not(keys: ApiKeys) -> None:
    gate = Gate({"trace": ("k", "v")}, keys, frozenset({"health"}))
    assert gate.refusal("health", {}) is None and not gate.guards(("health",))
    assert gate.refusal("inference", {}) is Refusal.NO_KEY and gate.refusal("metrics", {}) is Refusal.NO_KEY
    shown = {"x-api-key": "first"}
    assert gate.refusal("inference", shown) is None and gate.refusal("metrics", shown) is None
    assert gate.refusal("trace", shown) is Refusal.RESTRICTED
    assert gate.refusal("trace", {**shown, "k": "v"}) is None


def test_every_rpc_has_a_category_and_one_without_stops_the_start() -> None:
    for service in ("inference.GRPCInferenceService", "grpc.health.v1.Health"):
        for name in POOL.FindServiceByName(service).methods_by_name:
            assert category_of(f"/{service}/{name}") in CATEGORIES
    assert category_of("/inference.GRPCInferenceService/New") is None
    with pytest.raises(ValueError, match="no restricted-API category: /a/New"):
        check_categories({"/a/New": None, "/a/Old": "health"})


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


def test_a_file_that_changes_is_read_again_and_a_bad_one_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("first")
    keys = ApiKeys(str(file))

    def replace(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    async def main() -> None:
        renewal = Renewal([keys], 0.01)
        renewal.start()
        await asyncio.sleep(0.05)
        replace("second")
        await until(lambda: keys.holds({"x-api-key": "second"}))
        assert not keys.holds({"x-api-key": "first"})
        replace("")
        await until(lambda: "can not be used" in caplog.text)
        file.unlink()
        await asyncio.sleep(0.05)
        assert keys.holds({"x-api-key": "second"})
        replace("third")
        await until(lambda: keys.holds({"x-api-key": "third"}))
        renewal.stop()

    asyncio.run(main())
    assert "second" not in caplog.text and "third" not in caplog.text
