"""Whatever models ask of each other: all of it ends, everybody hears of one end, only what is in a circle is refused.

An execution that waits for inner requests ends behind them, as that of a Python model does.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inner_stage import Call, Execution, InnerStage
from puppet_stage import Sink


class Play:
    """Models m0, m1, ... that do what dice say."""

    def __init__(self, counts: list[int], seed: int) -> None:
        self.dice = random.Random(seed)
        self.stage = InnerStage()
        self.counts = counts
        for i, count in enumerate(counts):
            self.stage.add(f"m{i}", count)
        self.running: list[tuple[str, int, Execution, list[Call]]] = []
        self.clients: list[Sink] = []
        self.calls: list[Call] = []
        self.refused = 0

    def name(self) -> str:
        return f"m{self.dice.randrange(len(self.counts))}"

    def step(self) -> None:
        move = self.dice.random()
        if move < 0.25:
            self.clients.append(self.stage.send(self.name()))
        elif move < 0.5:
            self.begin()
        elif move < 0.85:
            self.ask()
        elif self.running:
            self.cancel_or_end()

    def begin(self) -> bool:
        """An instance begins what is in its mailbox."""
        busy = {(name, i) for name, i, _, _ in self.running}
        free = [
            (name, i)
            for name, puppets in self.stage.puppets.items()
            for i, held in enumerate(puppets)
            if (name, i) not in busy and held.waiting
        ]
        if not free:
            return False
        name, i = self.dice.choice(free)
        batch = self.stage.puppets[name][i].begin()
        if batch is None:
            self.stage.turn()
        else:
            self.running.append((name, i, Execution(self.stage, name, i, batch), []))
        return True

    def ask(self) -> None:
        if not self.running:
            return
        _, _, execution, calls = self.dice.choice(self.running)
        # One thread waits for one request; a coroutine, as here now and then, for several.
        if any(not call.over for call in calls) and self.dice.random() < 0.7:
            return
        target = self.name()
        waiting = self.who_waits()
        call = execution.ask(target)
        calls.append(call)
        self.calls.append(call)
        if call.refusals and "never be answered" in call.refusals[0].message:
            self.refused += 1
            held = {(name, i): one for name, i, one, _ in self.running if name == target}
            assert len(held) == self.counts[int(target[1:])], "an instance is free"
            assert all(one in waiting or one is execution for one in held.values()), "one of them ends by itself"

    def who_waits(self) -> list[Execution]:
        return [execution for _, _, execution, calls in self.running if any(not call.over for call in calls)]

    def cancel_or_end(self) -> None:
        open_calls = [call for _, _, _, calls in self.running for call in calls if not call.over]
        if open_calls and self.dice.random() < 0.2:
            self.dice.choice(open_calls).handle()
            self.stage.turn()
        else:
            self.end()

    def end(self) -> bool:
        """An execution that waits for nothing ends."""
        waiting = self.who_waits()
        able = [entry for entry in self.running if entry[2] not in waiting]
        if not able:
            return False
        entry = self.dice.choice(able)
        self.running.remove(entry)
        entry[2].end()
        return True

    def finish(self) -> None:
        while self.begin() or self.end():
            pass
        assert not self.running, "executions wait for each other"
        assert all(call.over for call in self.calls)
        assert all(len(sink.responses) == 1 and sink.releases == 1 for sink in self.clients)
        for call in self.calls:
            assert len(call.refusals) + sum(response.final for response in call.responses) == 1
            assert call.releases <= 1
            assert call.releases or call.refusals
        assert [model.in_flight for model in self.stage.models.values()] == [0] * len(self.counts)
        for client in self.clients:
            client.responses.clear()
        for call in self.calls:
            call.responses.clear()
        self.stage.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 1 << 32), st.integers(5, 80))
def test_all_ends(counts: list[int], seed: int, steps: int) -> None:
    play = Play(counts, seed)
    for _ in range(steps):
        play.step()
    play.finish()


@pytest.mark.parametrize("counts", [[1], [1, 1], [2, 1], [1, 1, 1]])
def test_circles_are_met(counts: list[int]) -> None:
    """The test above would show nothing if nothing were refused."""
    refused = 0
    for seed in range(8):
        play = Play(counts, seed)
        for _ in range(60):
            play.step()
        play.finish()
        refused += play.refused
    assert refused
