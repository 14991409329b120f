"""Our own parameters of dynamic batching: what they say, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_models import load_text

from triton_async.config.model_config import DynamicBatching
from triton_async.errors import InvalidArg

BASE = "backend: 'onnxruntime' max_batch_size: 8 "
STRICT = "dynamic_batching.strict_preferred_batch_size"
DELAY = "dynamic_batching.max_queue_delay"
FIRST = "dynamic_batching.earliest_deadline_first"


def parameters(**values: str) -> str:
    names = {"delay": DELAY, "strict": STRICT, "first": FIRST}
    return "".join(
        f"parameters {{ key: '{names.get(key, key)}' value {{ string_value: '{value}' }} }} "
        for key, value in values.items()
    )


def batching(tmp_path: Path, text: str) -> DynamicBatching:
    found = load_text(tmp_path, text).dynamic_batching
    assert found is not None
    return found


@pytest.mark.parametrize(("text", "expected"), [
    ("dynamic_batching { } ", None),
    ("dynamic_batching { max_queue_delay_microseconds: 100 } ", False),
    ("dynamic_batching { } " + parameters(delay="auto"), True),
    ("dynamic_batching { max_queue_delay_microseconds: 100 } " + parameters(delay="auto"), True),
    ("dynamic_batching { } " + parameters(delay="fixed"), False),
    ("dynamic_batching { max_queue_delay_microseconds: 100 } " + parameters(strict="true"), False),
    # Auto-complete gives this model its dynamic batching.
    (parameters(delay="auto"), True),
])  # fmt: skip
def test_who_finds_the_delay(tmp_path: Path, text: str, expected: bool | None) -> None:
    assert batching(tmp_path, BASE + text).auto_delay is expected


def test_orders_and_sizes(tmp_path: Path) -> None:
    plain = batching(tmp_path / "plain", BASE + "dynamic_batching { } " + parameters(strict="false", first="false"))
    assert (plain.strict_sizes, plain.by_deadline) == (False, False)
    text = "dynamic_batching { max_queue_delay_microseconds: 5 } " + parameters(strict="true", first="true")
    both = batching(tmp_path / "both", BASE + text)
    assert (both.strict_sizes, both.by_deadline) == (True, True)


@pytest.mark.parametrize(("text", "words"), [
    ("dynamic_batching { } " + parameters(delay="5"), f"'{DELAY}' of model 'm' must be 'auto' or 'fixed', not '5'"),
    ("dynamic_batching { } " + parameters(first="yes"), f"'{FIRST}' of model 'm' must be 'true' or 'false'"),
    ("dynamic_batching { } parameters { key: 'dynamic_batching.delay' value { string_value: '1' } }",
     "'dynamic_batching.delay' of model 'm' is not known: there are"),
    ("dynamic_batching { } " + parameters(strict="true"), "needs dynamic_batching.max_queue_delay_microseconds"),
    ("dynamic_batching { max_queue_delay_microseconds: 5 } " + parameters(strict="true", delay="auto"), "contradict"),
    ("dynamic_batching { preserve_ordering: true } " + parameters(first="true"), "preserve_ordering"),
    ("sequence_batching { } " + parameters(delay="auto"), "needs 'dynamic_batching'"),
])  # fmt: skip
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArg, match=words) as caught:
        load_text(tmp_path, BASE + text)
    assert caught.value.message.endswith("(in config.pbtxt)")


@pytest.mark.parametrize("given", [parameters(delay="auto"), parameters(delay="fixed")])
def test_a_model_without_batches_has_no_delay(tmp_path: Path, given: str) -> None:
    with pytest.raises(InvalidArg, match="needs max_batch_size above 0"):
        load_text(tmp_path, "backend: 'onnxruntime' max_batch_size: 0 dynamic_batching { } " + given)


def test_a_model_without_batches_may_serve_by_deadline(tmp_path: Path) -> None:
    text = "backend: 'onnxruntime' max_batch_size: 0 dynamic_batching { } " + parameters(first="true")
    assert batching(tmp_path, text).by_deadline
