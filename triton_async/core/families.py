"""Metric families in Prometheus' text form, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

Labels = Mapping[str, str]
# Labels and value; of a histogram also what stands behind the family's name.
Sample = tuple[Labels, float | int] | tuple[Labels, float | int, str]
# Name, type and text of a metric family with its samples.
Family = tuple[str, str, str, Sequence[Sample]]
# Families that others measure; called on the loop thread at each scrape, so it only hands over what is there.
MetricSource = Callable[[], Iterable[Family]]


def family_text(family: Family) -> str:
    """The lines of one family."""
    name, kind, text, samples = family
    lines = [family_head(name, kind, text)]
    for labels, value, *end in samples:
        shown, full = label_text(labels), name + "".join(end)
        lines.append(f"{full}{{{shown}}} {number(value)}\n" if shown else f"{full} {number(value)}\n")
    return "".join(lines)


def family_head(name: str, kind: str, text: str) -> str:
    """The lines above the samples of a family."""
    return f"# HELP {name} {_escape_text(text)}\n# TYPE {name} {kind}\n"


def label_text(labels: Labels) -> str:
    """Labels as they stand between the braces, by name."""
    return ",".join(f'{key}="{_escape(labels[key])}"' for key in sorted(labels))


def number(value: float | int) -> str:
    """A value, or a bound, as it is written."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _escape_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
