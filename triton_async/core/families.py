"""Metric families in Prometheus' text form, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

Labels = Mapping[str, str]
# Labels and value; of a histogram also what stands behind the family's name.
Sample = tuple[Labels, float | int] | tuple[Labels, float | int, str]
# Name, type and text of a metric family with its samples.
Family = tuple[str, str, str, Sequence[Sample]]
# Families that others measure; called on the loop thread at each scrape, so it only hands over what is there.
MetricSource = Callable[[], Iterable[Family]]


def add_family(lines: list[str], name: str, kind: str, text: str, samples: Iterable[Sample]) -> None:
    """Appends the lines of one family."""
    lines += family_head(name, kind, text)
    for labels, value, *end in samples:
        shown, full = label_text(labels), name + "".join(end)
        lines.append(f"{full}{{{shown}}} {value}" if shown else f"{full} {value}")


def family_head(name: str, kind: str, text: str) -> list[str]:
    """The lines above the samples of a family."""
    return [f"# HELP {name} {_escape_text(text)}", f"# TYPE {name} {kind}"]


def label_text(labels: Labels) -> str:
    """Labels as they stand between the braces, by name."""
    return ",".join(f'{key}="{_escape(labels[key])}"' for key in sorted(labels))


def _escape_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
