"""Host policies (--host-policy): which cores instance threads run on, and which NUMA node their memory is of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

_NUMBER = re.compile(r"[0-9]{1,5}\Z", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})\Z", re.ASCII)
SETTINGS = ("numa-node", "cpu-cores")


class HostPolicyProblem(ValueError):
    """A setting that is wrong; its text says how."""


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """`numa_node`: that memory comes from, -1 for any; `cpu_cores`: that threads run on, () for any."""

    numa_node: int = -1
    cpu_cores: tuple[int, ...] = ()


def parse_host_policies(texts: Sequence[str]) -> Mapping[str, HostPolicy]:
    """`<policy>,<setting>=<value>` of each text; a later one for the same setting wins. HostPolicyProblem."""
    found: dict[str, HostPolicy] = {}
    for text in texts:
        name, comma, rest = text.partition(",")
        setting, equals, value = rest.partition("=")
        if not (name and comma and setting and equals and value):
            raise HostPolicyProblem(f"--host-policy option format is '<policy>,<setting>=<value>'. Got {text}")
        policy = found.get(name, HostPolicy())
        if setting == "numa-node":
            if not _NUMBER.match(value):
                raise HostPolicyProblem(f"'numa-node' of host policy '{name}' must be the number of a node. Got {text}")
            found[name] = replace(policy, numa_node=int(value))
        elif setting == "cpu-cores":
            found[name] = replace(policy, cpu_cores=_cores(name, value, text))
        else:
            raise HostPolicyProblem(
                f"host policy '{name}' has the setting '{setting}', which is not known: give numa-node=<node> or "
                f"cpu-cores=<first>-<last>. Got {text}"
            )
    return MappingProxyType(found)


def _cores(name: str, value: str, text: str) -> tuple[int, ...]:
    match = _RANGE.match(value)
    if match is None or int(match[1]) > int(match[2]):
        raise HostPolicyProblem(f"'cpu-cores' of host policy '{name}' must be <first>-<last>. Got {text}")
    return tuple(range(int(match[1]), int(match[2]) + 1))
