"""The texts of --host-policy."""

from __future__ import annotations

import pytest

from triton_async.config.host_policy import HostPolicy, HostPolicyProblem, parse_host_policies
from triton_async.config.settings import UsageError, parse


def test_settings_of_a_policy_come_together() -> None:
    texts = ["cpu,cpu-cores=0-3", "gpu_0,numa-node=1", "cpu,numa-node=0", "cpu,cpu-cores=2-2"]
    assert parse_host_policies(texts) == {"cpu": HostPolicy(0, (2,)), "gpu_0": HostPolicy(1)}
    assert parse(["--model-repository=/m", "--host-policy=cpu,numa-node=0"]).host_policy == {"cpu": HostPolicy(0)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cpu", "option format"), ("cpu,numa-node", "option format"), (",numa-node=0", "option format"),
        ("cpu,numa-node=", "option format"), ("cpu,numa-node=-1", "number of a node"),
        ("cpu,numa-node=+1", "number of a node"), ("cpu,cpu-cores=3", "<first>-<last>"),
        ("cpu,cpu-cores=3-2", "<first>-<last>"), ("cpu,cpu-cores=0-3,5", "<first>-<last>"),
        ("cpu,pages=huge", "setting 'pages', which is not known: give numa-node"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    with pytest.raises(HostPolicyProblem, match=problem) as caught:
        parse_host_policies([text])
    assert str(caught.value).endswith(text)
    with pytest.raises(UsageError, match=problem):
        parse(["--model-repository=/m", f"--host-policy={text}"])
