"""Metric families in Prometheus' text form, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

Labels = Mapping[str, str]
Sample = tuple[Labels, float | int]
# Name, type and text of a metric family with its samples.
Family = tuple[str, str, str, Sequence[Sample]]
# Families that others measure; called on the loop thread at each scrape, so it only hands over what is there.
MetricSource = Callable[[], Iterable[Family]]


def add_family(lines: list[str], name: str, kind: str, text: str, samples: Iterable[Sample]) -> None:
    """Appends the lines of one family."""
    lines.append(f"# HELP {name} {text}")
    lines.append(f"# TYPE {name} {kind}")
    for labels, value in samples:
        shown = ",".join(f'{key}="{_escape(labels[key])}"' for key in sorted(labels))
        lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
