"""Python models that ask other models: chains, themselves, rings, decoupled ones, cancellation. Real threads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from bls_stage import ask, problem, request, with_server, write
from gated_backend import Recorder, until

from triton_async.core.server import InferenceServer

ADD = """
    def execute(self, requests):
        return [y(x_of(request) + 1) for request in requests]
"""

# Asks NEXT and adds one.
CHAIN = """
    def execute(self, requests):
        return [or_error(ask("NEXT", x_of(request)).exec(), lambda array: array + 1) for request in requests]
"""

GATHER = """
    async def execute(self, requests):
        responses = await asyncio.gather(*(ask("NEXT", x_of(request) + i).async_exec()
                                           for request in requests for i in range(20)))
        return [y(sum(pb_utils.get_output_tensor_by_name(one, "Y").as_numpy() for one in responses))]
"""

# As many responses as X says.
COUNT = """
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for i in range(int(x_of(request)[0])):
                if request.is_cancelled():
                    break
                sender.send(y(np.float32([i])))
            sender.send(flags=FINAL)
"""

COLLECT = """
    def execute(self, requests):
        found = []
        for response in ask("NEXT", x_of(requests[0])).exec(decoupled=True):
            if response.has_error():
                return [pb_utils.InferenceResponse(error=response.error())]
            if response.output_tensors():
                found.append(pb_utils.get_output_tensor_by_name(response, "Y").as_numpy())
        return [y(np.concatenate(found))]
"""

# Takes the first response, and leaves the others.
FIRST = """
    def execute(self, requests):
        iterator = iter(ask("NEXT", x_of(requests[0])).exec(decoupled=True))
        next(iterator)
        first = next(iterator)
        self.kept = iterator if x_of(requests[0])[0] < 0 else None
        return [or_error(first)]
"""

# Coroutines that go on behind the end of their execution: X is how often it is asked again.
RECURSE = """
    async def execute(self, requests):
        for request in requests:
            x = x_of(request)
            sender = request.get_response_sender()
            if x[0] <= 0:
                sender.send(y(x), FINAL)
                continue
            iterator = await ask("NEXT", x - 1).async_exec(decoupled=True)
            async for response in iterator:
                if response.has_error():
                    sender.send(pb_utils.InferenceResponse(error=response.error()), FINAL)
                    break
                if response.output_tensors():
                    sender.send(or_error(response), FINAL)
                    break
"""


def test_a_chain_of_three_models(tmp_path: Path) -> None:
    write(tmp_path, "a", CHAIN, "b")
    write(tmp_path, "b", CHAIN, "c")
    write(tmp_path, "c", ADD)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "a", 1, 2) == [4, 5]
        await until(lambda: [entry["inference_count"] for entry in server.statistics()] == [1] * 3, "all are counted")
        several = await asyncio.gather(*(ask(server, "a", i) for i in range(50)))
        assert several == [[i + 3] for i in range(50)]
        large = np.arange(1 << 18, dtype=np.float32)
        assert await ask(server, "a", *large) == (large + 3).tolist()

    with_server(tmp_path, test)


def test_what_the_server_refuses_is_an_error_of_the_response(tmp_path: Path) -> None:
    write(tmp_path, "lost", CHAIN, "nobody")
    write(tmp_path, "plain", CHAIN, "count")
    write(tmp_path, "count", COUNT, decoupled=True)

    async def test(server: InferenceServer) -> None:
        assert await problem(server, "lost", 1) == (
            "Model nobody - Error when running inference: Failed for execute the inference request. Model 'nobody' is "
            "not ready."
        )
        assert await problem(server, "plain", 1) == (
            "Model count - Error when running inference: "
            "Model count is using the decoupled. The current BLS request call doesn't support models using the "
            "decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' calls "
            "for decoupled models.'"
        )

    with_server(tmp_path, test)


def test_many_at_once_in_a_coroutine(tmp_path: Path) -> None:
    write(tmp_path, "gather", GATHER, "add")
    write(tmp_path, "add", ADD, instances=2)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "gather", 0) == [sum(range(1, 21))]

    with_server(tmp_path, test)


def test_models_that_ask_themselves(tmp_path: Path) -> None:
    write(tmp_path, "one", CHAIN, "one")
    write(tmp_path, "a", CHAIN, "b")
    write(tmp_path, "b", CHAIN, "c")
    write(tmp_path, "c", CHAIN, "a")

    async def test(server: InferenceServer) -> None:
        text = await problem(server, "one", 1)
        assert text.startswith("Model one - Error when running inference: the request to model 'one' could never be")
        assert "could never be answered" in await problem(server, "a", 1)
        answers = await asyncio.gather(*(problem(server, name, 1) for name in "abcabcabc"))
        assert all("could never be answered" in text for text in answers)

    with_server(tmp_path, test)


def test_responses_of_a_decoupled_model(tmp_path: Path) -> None:
    write(tmp_path, "collect", COLLECT, "count")
    write(tmp_path, "first", FIRST, "count", instances=2)
    write(tmp_path, "count", COUNT, decoupled=True)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "collect", 3) == [0, 1, 2]
        assert await ask(server, "collect", 5000) == list(range(5000))
        # The sender does not wait for responses that are left.
        assert await ask(server, "first", 3000) == [1]
        assert await ask(server, "collect", 2) == [0, 1]

    with_server(tmp_path, test)


# COUNT sends as many responses as it is told, and an empty one behind them.
LOOPS = """
    def execute(self, requests):
        found = ask("NEXT", x_of(requests[0])).exec(decoupled=True)
        next(found)
        counted = [len(list(found)), len(list(found)), len(list(found))]
        for _ in found:
            break
        next(found)
        counted.append(len(list(found)))
        try:
            next(found)
        except StopIteration:
            counted.append(-1)
        return [y(np.float32(counted))]
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_loops_over_responses_go_on_where_the_last_one_was_left(tmp_path: Path, isolated: bool) -> None:
    """And begin anew behind the last response, as with Triton's iterator."""
    write(tmp_path, "loops", LOOPS, "count", isolated=isolated)
    write(tmp_path, "count", COUNT, decoupled=True)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "loops", 4) == [4, 5, 5, 3, -1]

    with_server(tmp_path, test)


def test_a_decoupled_model_asks_itself_behind_its_execution(tmp_path: Path) -> None:
    write(tmp_path, "recurse", RECURSE, "recurse", decoupled=True)

    async def test(server: InferenceServer) -> None:
        sinks = [Recorder() for _ in range(20)]
        for i, sink in enumerate(sinks):
            server.submit(request("recurse", i), sink)
        await until(lambda: all(sink.responses and sink.responses[-1].final for sink in sinks), "all are answered")
        assert [[r.error for r in sink.responses] for sink in sinks] == [[None]] * 20
        deep = Recorder()
        server.submit(request("recurse", 100), deep)
        await until(lambda: deep.responses, "it is answered")
        assert "nested more than 64 deep" in deep.responses[0].error.message  # type: ignore[union-attr]
        for sink in [*sinks, deep]:
            sink.responses.clear()

    with_server(tmp_path, test)


@pytest.mark.parametrize(("outer_isolated", "inner_isolated"), [(False, False), (True, False), (True, True)])
def test_an_inner_request_is_cancelled_with_its_client(
    tmp_path: Path, outer_isolated: bool, inner_isolated: bool
) -> None:
    write(tmp_path, "collect", COLLECT, "count", isolated=outer_isolated)
    write(tmp_path, "count", COUNT, decoupled=True, isolated=inner_isolated)

    async def test(server: InferenceServer) -> None:
        outer = request("collect", 1e9)
        server.submit(outer, Recorder())
        await until(
            lambda: any(model.signature.model_name == "count" and model.in_flight
                        for model in server.repository.held_models()),
            "the inner one runs",
        )  # fmt: skip
        server.cancel(outer)
        await until(lambda: not any(model.in_flight for model in server.repository.held_models()), "both end")
        [found] = server.statistics("count")
        assert found["inference_stats"]["fail"]["count"] == 1
        del outer

    with_server(tmp_path, test)


LOADS = """
    def execute(self, requests):
        x = x_of(requests[0])
        said = [pb_utils.is_model_ready("add")]
        pb_utils.load_model("add")
        said.append(pb_utils.is_model_ready("add"))
        pb_utils.unload_model("add")
        said.append(pb_utils.is_model_ready("add"))
        return [y(np.float32(said))]
"""


def test_models_load_and_unload_models(tmp_path: Path) -> None:
    write(tmp_path, "loads", LOADS)
    write(tmp_path, "add", ADD)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "loads", 0) == [0, 1, 0]

    with_server(tmp_path, test, "--model-control-mode=explicit", "--load-model=loads")




# Asks itself, and has itself loaded and unloaded, before it can answer, and when it no longer can.
CIRCLE = """
    def initialize(self, args):
        self.tell("begins")

    def finalize(self):
        self.tell("ends")

    def tell(self, when):
        import pathlib
        said = []
        for act in (self.asks, lambda: pb_utils.load_model("m"), lambda: pb_utils.unload_model("m")):
            try:
                said.append(act())
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        pathlib.Path(pb_utils.get_model_dir(), when).write_text("\\n".join(map(str, said)))

    def asks(self):
        response = ask("m", np.float32([1])).exec()
        return response.error().message() if response.has_error() else "answered"

    def execute(self, requests):
        return [y(x_of(request)) for request in requests]
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_a_model_that_asks_itself_where_it_begins_or_ends_is_refused(tmp_path: Path, isolated: bool) -> None:
    """Neither could ever be answered: the model waits for itself."""
    write(tmp_path, "m", CIRCLE, isolated=isolated)

    async def test(server: InferenceServer) -> None:
        assert await ask(server, "m", 5) == [5]
        await asyncio.wait_for(server.unload_model("m"), 30)
        await until((tmp_path / "m/1/ends").exists, "the model has ended")

    with_server(tmp_path, test, "--model-control-mode=explicit", "--load-model=m")
    for when in ("begins", "ends"):
        said = (tmp_path / "m/1" / when).read_text().splitlines()
        assert len(said) == 3 and "answered" not in said and "None" not in said, said
