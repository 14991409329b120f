"""Ensembles load, leave, come back and are reloaded with the models of their steps, in a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from core_harness import request, run, running, write_model

from triton_async.errors import InternalError, InvalidArg, NotFound, ServerError

EXPLICIT = "--model-control-mode=explicit"


def write_ensemble(root: Path, name: str, *models: str, batch: int = 0, more: str = "", version: int = -1) -> None:
    """A chain of identity models, or of ensembles of them, whose tensors have the same names."""
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    tensors = ["INPUT0", *(f"t{i}" for i in range(1, len(models))), "OUTPUT0"]
    steps = "".join(
        f'step {{ model_name: "{model}" model_version: {version} input_map {{ key: "INPUT0" value: "{tensors[i]}" }} '
        f'output_map {{ key: "OUTPUT0" value: "{tensors[i + 1]}" }} }}\n'
        for i, model in enumerate(models)
    )
    (root / name / "config.pbtxt").write_text(f"""
        platform: "ensemble" max_batch_size: {batch} {more}
        input {{ name: "INPUT0" data_type: TYPE_FP32 dims: -1 }}
        output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: -1 }}
        ensemble_scheduling {{ {steps} }}
    """)


def states(server: object) -> dict[str, tuple[str, str]]:
    rows = server.repository.index(False)  # type: ignore[attr-defined]
    return {row["name"]: (row["state"], row.get("reason", "")) for row in rows if "state" in row}


async def settled(server: object) -> dict[str, tuple[str, str]]:
    while any(state in ("UNLOADING", "LOADING") for state, _ in states(server).values()):
        await server.readiness_change()  # type: ignore[attr-defined]
    return states(server)


READY = ("READY", "")
GONE = ("UNAVAILABLE", "unloaded")


def test_a_server_starts_with_ensembles_before_and_behind_their_models(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "a_ensemble", "m", "z_ensemble")
    write_ensemble(tmp_path, "z_ensemble", "m")
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path) as server:
            assert states(server) == dict.fromkeys(("a_ensemble", "m", "z_ensemble"), READY)
            assert server.ready()
            response = await server.infer(request("a_ensemble", [1, 2]))
            assert response.outputs[0].numpy().tolist() == [1, 2]
            assert server.model_metadata("a_ensemble")["platform"] == "ensemble"
            assert [entry["name"] for entry in server.statistics()] == ["a_ensemble", "m", "z_ensemble"]
            assert server.statistics("m")[0]["inference_count"] == 2
            assert b'nv_inference_count{model="a_ensemble",version="1"} 1' in b"".join(await server.metrics_parts())

    run(body)


def test_one_that_does_not_fit_keeps_the_server_unready_and_says_why(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "e", "nobody")
    write_ensemble(tmp_path, "over", "e")
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path) as server:
            reason = "ensemble e contains models that are not available or ambiguous: nobody"
            assert states(server)["e"] == ("UNAVAILABLE", reason)
            assert states(server)["over"] == (
                "UNAVAILABLE",
                f"ensemble 'over' depends on 'e' which is not valid. Model 'e' failed with error: {reason}",
            )
            assert not server.ready()
            with pytest.raises(NotFound, match="Request for unknown model: 'e' is not found"):
                await server.infer(request("e", [1]))

    run(body)


def test_loading_an_ensemble_loads_its_steps_and_theirs(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "outer", "inner", "m")
    write_ensemble(tmp_path, "inner", "n")
    for name in "mnx":
        write_model(tmp_path, name)

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("outer")
            assert states(server) == dict.fromkeys(("outer", "inner", "m", "n"), READY)
            await server.load_model("outer")
            await server.unload_model("outer")
            assert (await settled(server))["n"] == READY
            await server.load_model("outer")
            await server.unload_model("outer", True)
            assert await settled(server) == dict.fromkeys(("outer", "inner", "m", "n"), GONE)

    run(body)


def test_explicit_start_loads_the_steps_too(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "e", "m")
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path, EXPLICIT, "--load-model=e") as server:
            assert states(server) == {"e": READY, "m": READY}

    run(body)


def test_steps_that_others_ask_or_that_were_asked_for_stay(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "e", "m", "n", "o")
    write_ensemble(tmp_path, "f", "n")
    for name in "mno":
        write_model(tmp_path, name)

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("o")
            await server.load_model("e")
            await server.load_model("f")
            await server.unload_model("e", True)
            assert await settled(server) == {"e": GONE, "f": READY, "m": GONE, "n": READY, "o": READY}

    run(body)


def test_it_leaves_and_comes_back_with_a_step(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "outer", "e")
    write_ensemble(tmp_path, "e", "m")
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("outer")
            await server.unload_model("m")
            assert await settled(server) == {"outer": GONE, "e": GONE, "m": GONE}
            assert server.ready()
            with pytest.raises(NotFound, match="'outer' has no available versions"):
                await server.infer(request("outer", [1]))
            await server.load_model("m")
            assert states(server) == {"outer": READY, "e": READY, "m": READY}
            assert (await server.infer(request("outer", [3]))).outputs[0].numpy().tolist() == [3]

    run(body)


def test_a_request_is_finished_by_the_models_it_began_with(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "e", "slow", "m")
    write_model(tmp_path, "slow", delay_ms=300)
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("e")
            waiting = asyncio.ensure_future(server.infer(request("e", [5])))
            await asyncio.sleep(0.05)
            for name in ("m", "slow", "e"):
                await server.unload_model(name)
            assert states(server)["m"][0] == "UNLOADING"
            assert (await waiting).outputs[0].numpy().tolist() == [5]
            del waiting
            assert set((await settled(server)).values()) == {GONE}

    run(body)


def test_a_step_that_is_reloaded_and_does_not_fit_takes_it_out_until_it_does(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "e", "m", batch=4)
    write_model(tmp_path, "m", max_batch_size=4)

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("e")
            before = server.statistics("e")
            write_model(tmp_path, "m", max_batch_size=8)
            await server.load_model("m")
            assert states(server)["e"] == READY
            write_model(tmp_path, "m", max_batch_size=2)
            await server.load_model("m")
            assert (await settled(server))["e"] == GONE
            with pytest.raises(InvalidArg, match="only allows maximum batch size to be 2"):
                await server.load_model("e")
            assert not server.ready()
            write_model(tmp_path, "m", max_batch_size=16)
            await server.load_model("m")
            assert states(server)["e"] == READY
            assert server.ready()
            assert before[0]["inference_count"] == 0

    run(body)


def test_an_ensemble_whose_new_config_does_not_fit_goes_on_as_it_was(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "e", "m")
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("e")
            for wrong in ("nobody", "e"):
                write_ensemble(tmp_path, "e", wrong)
                with pytest.raises(InvalidArg, match="load failed for model 'e'"):
                    await server.load_model("e")
                assert states(server)["e"] == READY
                assert (await server.infer(request("e", [1]))).error is None
            write_ensemble(tmp_path, "e", "m", "m")
            await server.load_model("e")
            await server.infer(request("e", [1]))
            assert server.statistics("m")[0]["inference_count"] == 4

    run(body)


def test_a_circle_is_refused_by_all_its_members(tmp_path: Path) -> None:
    for name, step in (("a", "b"), ("b", "c"), ("c", "a"), ("self", "self"), ("over", "a")):
        write_ensemble(tmp_path, name, step)

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            with pytest.raises(InvalidArg, match="circular dependency between ensembles: a -> b -> c -> a"):
                await server.load_model("a")
            with pytest.raises(InvalidArg, match="circular dependency between ensembles: self -> self"):
                await server.load_model("self")
            with pytest.raises(InvalidArg, match="ensemble 'over' depends on 'a' which is not valid"):
                await server.load_model("over")
            assert {state for state, _ in states(server).values()} == {"UNAVAILABLE"}
            write_ensemble(tmp_path, "c", "m")
            write_model(tmp_path, "m")
            await server.load_model("c")
            assert states(server)["over"] == READY

    run(body)


def test_too_deep_a_nest_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "e0")
    for i in range(1, 70):
        write_ensemble(tmp_path, f"e{i}", f"e{i - 1}")

    async def body() -> None:
        async with running(tmp_path) as server:
            assert states(server)["e64"] == READY
            assert states(server)["e65"][1] == "ensemble 'e65' asks ensembles that are nested more than 64 deep"
            response = await server.infer(request("e64", [1]))
            assert response.error is None

    run(body)


@pytest.mark.parametrize(
    ("version", "text"),
    [(9, "ensemble 'e' depends on 'm' whose required version 9 is not loaded."), (1, "")],
)
def test_a_step_may_ask_for_a_version(tmp_path: Path, version: int, text: str) -> None:
    write_ensemble(tmp_path, "e", "m", version=version)
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            try:
                await server.load_model("e")
            except ServerError as error:
                assert error.message == f"load failed for model 'e': {text}\n"
            else:
                assert not text

    run(body)


def test_a_model_becomes_an_ensemble_and_a_model_again(tmp_path: Path) -> None:
    write_model(tmp_path, "e")
    write_model(tmp_path, "m")

    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            await server.load_model("e")
            assert server.model_metadata("e")["platform"] == "identity"
            write_ensemble(tmp_path, "e", "m")
            await server.load_model("e")
            assert server.model_metadata("e")["platform"] == "ensemble"
            assert (await server.infer(request("e", [1]))).error is None
            write_model(tmp_path, "e")
            await server.load_model("e")
            await server.unload_model("m")
            assert server.model_metadata("e")["platform"] == "identity"
            assert (await server.infer(request("e", [1]))).error is None

    run(body)


def test_what_a_load_asks_of_no_directory_is_said(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path, EXPLICIT) as server:
            with pytest.raises(InternalError, match="failed to load 'e', failed to poll"):
                await server.load_model("e")

    run(body)
