"""The options that say who may call what."""

from __future__ import annotations

import re

import pytest

from triton_async.config.access import is_reserved, with_forwarded
from triton_async.config.settings import Settings, UsageError, parse


def settings(*options: str) -> Settings:
    return parse(["--model-repository=/m", *options])


def test_restrictions_by_category() -> None:
    found = settings(
        "--http-restricted-api=inference,health:Key=a=b", "--http-restricted-api=trace:other=c",
        "--grpc-restricted-protocol=model-repository:Key=d",
    )  # fmt: skip
    assert dict(found.http_restricted_api) == {
        "inference": ("Key", "a=b"), "health": ("Key", "a=b"), "trace": ("other", "c"),
    }  # fmt: skip
    assert dict(found.grpc_restricted_protocol) == {"model-repository": ("triton-grpc-protocol-Key", "d")}


@pytest.mark.parametrize(("option", "problem"), [
    ("http-restricted-api=nothing:k=v", "unknown restricted api 'nothing'"),
    ("grpc-restricted-protocol=nothing:k=v", "unknown restricted protocol 'nothing'"),
    ("http-restricted-api=health", "option format is '<config name>:<setting>=<value>'. Got health"),
    ("http-restricted-api=health:k", "option format is"), ("http-restricted-api=:k=v", "option format is"),
    ("http-restricted-api=health:k=", "option format is"), ("http-restricted-api=health:a b=v", "name of a header"),
    ("http-restricted-api=health,health:k=v", "'health' can not be specified in multiple config groups"),
    ("http-header-forward-pattern=(", "is no regular expression"),
    ("api-key-exempt=nothing", "unknown category 'nothing'"),
])  # fmt: skip
def test_what_is_wrong_is_said_and_no_secret_with_it(option: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        settings(f"--{option}")
    with pytest.raises(UsageError) as caught:
        settings("--http-restricted-api=health:secret")
    assert "secret" not in caught.value.message


def test_exemptions_and_patterns() -> None:
    found = settings("--api-key-exempt=health,metrics", "--http-header-forward-pattern=^my-")
    assert found.api_key_exempt == {"health", "metrics"}
    assert found.http_header_forward_pattern is not None and found.http_header_forward_pattern.search("My-Header")
    assert found.grpc_header_forward_pattern is None
    found = settings("--grpc-header-forward-pattern=(?-i)^My-")
    assert found.grpc_header_forward_pattern is not None and not found.grpc_header_forward_pattern.search("my-header")


@pytest.mark.parametrize(("pattern", "names", "others"), [
    ("my_(?-i)HEADER|other", ["MY_HEADER", "other"], ["my_header", "OTHER"]),
    ("^[[:alpha:]]+[[:punct:]][^[:space:]]$", ["ab-1"], ["a1-1"]),
    (r"^\Qa.b\E\z", ["A.b"], ["axb"]),
    ("(?<name>my)_", ["my_"], ["my"]),
    # Linear in the length of a name, where others try each way to divide it.
    ("^x-([a-z]+-?)*$", ["x-a-b"], [f"x-{'a' * 4000}!"]),
])  # fmt: skip
def test_patterns_mean_what_they_mean_to_triton(pattern: str, names: list[str], others: list[str]) -> None:
    found = settings(f"--http-header-forward-pattern={pattern}").http_header_forward_pattern
    assert found is not None
    assert [name for name in names + others if found.search(name)] == names


@pytest.mark.parametrize("pattern", ["[[:nothing:]]", "a**", "\\", "(?=a)", r"(a)\1"])
def test_what_is_no_pattern_to_triton_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="is no regular expression"):
        settings(f"--http-header-forward-pattern={pattern}")


def test_headers_win_over_parameters_of_the_body() -> None:
    assert with_forwarded({"a": 1, "my-user": "forged"}, {"My-User": "u"}) == {"a": 1, "My-User": "u"}
    assert with_forwarded(None, {"x": "u"}) == {"x": "u"}


@pytest.mark.parametrize(("name", "reserved"), [
    ("sequence_id", True), ("Priority", True), ("triton_x", True), ("TRITON_x", True), ("headers", True),
    ("my-header", False), ("tritonx", False),
])  # fmt: skip
def test_names_of_the_protocols_own_parameters(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved
