"""The server that a replica has: started, asked, measured and stopped on one loop. Without Ray."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from core_harness import run, write_model

from triton_async import protos
from triton_async.errors import InternalError, Unavailable
from triton_async.frontends.grpc.calls_in_memory import CallFailed
from triton_async.ray.on_demand import Lent, ModelsOnDemand, model_of_path
from triton_async.ray.options import settings_of
from triton_async.ray.replica_server import ReplicaServer

BODY = json.dumps({"inputs": [{"name": "INPUT0", "shape": [2], "datatype": "FP32", "data": [1.5, -2]}]}).encode()
INFER = "/inference.GRPCInferenceService/ModelInfer"


@asynccontextmanager
async def replica(root: Path, on_demand: bool = False, **options: Any) -> AsyncIterator[ReplicaServer]:
    made = ReplicaServer(settings_of(str(root), [], on_demand, {"log_info": False, **options}))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def post(made: ReplicaServer, model: str) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY}

    async def send(found: Any) -> None:
        sent.append(found)

    path = f"/v2/models/{model}/infer"
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [(b"host", b"x")]}
    await made.http(scope, receive, send)
    return sent[0]["status"], b"".join(found["body"] for found in sent[1:])


def test_it_answers_http_and_grpc_and_stops_twice(tmp_path: Path) -> None:
    async def main() -> None:
        write_model(tmp_path, "m")
        async with replica(tmp_path) as made:
            status, body = await post(made, "m")
            assert status == 200 and json.loads(body)["outputs"][0]["data"] == [1.5, -2]
            assert (await post(made, "nope"))[0] == 404
            request = protos.message("inference.ModelInferRequest")(model_name="nope")
            with pytest.raises(CallFailed, match="unknown model"):
                await made.grpc.unary(INFER, request.SerializeToString())
            await made.stop()
        with pytest.raises(Unavailable):
            _ = made.server
    run(main)


def test_a_model_that_cannot_be_loaded_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        write_model(tmp_path, "m")
        write_model(tmp_path, "wrong", more='parameters { key: "execute_delay_ms" value { string_value: "x" } }')
        (tmp_path / "wrong" / "config.pbtxt").write_text('backend: "nope"')
        with pytest.raises(InternalError, match=r"wrong: .*nope"):
            async with replica(tmp_path):
                pass
        async with replica(tmp_path, exit_on_error=False) as made:
            assert (await post(made, "m"))[0] == 200
    run(main)


def test_what_is_in_work_is_answered_before_it_stops(tmp_path: Path) -> None:
    async def main() -> None:
        write_model(tmp_path, "slow", delay_ms=100)
        async with replica(tmp_path) as made:
            asked = [asyncio.ensure_future(post(made, "slow")) for _ in range(3)]
            await asyncio.sleep(0.02)
            await made.stop()
            assert [(await one)[0] for one in asked] == [200, 200, 200]
    run(main)


def test_it_tells_what_waits_and_how_busy_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        write_model(tmp_path, "slow", delay_ms=50)
        async with replica(tmp_path) as made:
            assert made.load() == {"pending": 0, "busy": 0}
            asked = [asyncio.ensure_future(post(made, "slow")) for _ in range(4)]
            await asyncio.sleep(0.02)
            assert made.load()["pending"] >= 2
            await asyncio.gather(*asked)
            busy = made.load()["busy"]
            assert 0.5 < busy <= 1
            await asyncio.sleep(0.1)
            assert made.load() == {"pending": 0, "busy": 0}
    run(main)


def test_paths_name_models() -> None:
    names = {
        "/v2/models/m/infer": "m", "/v2/models/m": "m", "/v2/models/a%20b/versions/1": "a b", "/v2/models/stats": "",
        "/v2/models/": "", "/v2": "", "/v2/repository/models/m/load": "",
    }  # fmt: skip
    assert {path: model_of_path(path) for path in names} == names


class Keeper:
    """As Ray keeps models: at most so many, the least recently used leaves before another one comes."""

    def __init__(self, models: ModelsOnDemand, most: int) -> None:
        self._models, self._most = models, most
        self._kept: OrderedDict[str, Lent] = OrderedDict()
        self._lock = asyncio.Lock()
        self.most_kept = 0

    async def __call__(self, name: str) -> Lent:
        async with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
            if len(self._kept) >= self._most:
                _, oldest = self._kept.popitem(last=False)
                await oldest.__del__()
            self._kept[name] = await self._models.load(name)
            self.most_kept = max(self.most_kept, len(self._kept))
            return self._kept[name]


def test_models_on_demand_come_and_go_under_load_without_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        for name in "abc":
            write_model(tmp_path, name, delay_ms=1)
        async with replica(tmp_path, on_demand=True) as made:
            models = ModelsOnDemand(made.server)
            models.keeper = keeper = Keeper(models, 2)

            async def ask(name: str) -> int:
                async with models.using(name):
                    return (await post(made, name))[0]

            found = await asyncio.gather(*(ask("abc"[number % 3]) for number in range(60)))
            assert set(found) == {200}
            assert keeper.most_kept == 2
            ready = [row for row in await made.server.repository_index() if row.get("state") == "READY"]
            assert len(ready) == 2
    run(main)


def test_what_is_not_there_or_cannot_be_loaded_is_answered_by_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        write_model(tmp_path, "a")
        (tmp_path / "wrong" / "1").mkdir(parents=True)
        (tmp_path / "wrong" / "config.pbtxt").write_text('backend: "nope"')
        async with replica(tmp_path, on_demand=True) as made:
            models = ModelsOnDemand(made.server)
            models.keeper = Keeper(models, 1)

            async def ask(name: str) -> tuple[int, bytes]:
                async with models.using(name):
                    return await post(made, name)

            assert (await ask("a"))[0] == 200
            for name in ("nope", "../a", "", "a/../a"):
                status, _ = await ask(name)
                assert status in (400, 404), name
            assert (await ask("a"))[0] == 200
            status, body = await ask("wrong")
            assert status == 404 and b"has no available versions" in body, body
            # Models that come later are found.
            write_model(tmp_path, "later")
            assert (await ask("later"))[0] == 200
    run(main)
