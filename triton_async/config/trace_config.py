"""What is traced and where to: the options of tracing, and the values that its settings may have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from triton_async.errors import InvalidArg

TIMESTAMPS, TENSORS = 1, 2  # TraceLevel bits
TRITON, OPENTELEMETRY = "triton", "opentelemetry"
MODES = (TRITON, OPENTELEMETRY)
DEFAULT_URL = "http://localhost:4318/v1/traces"

# Numbers of the settings, and what they may be; the first two of Triton's are unsigned 32-bit numbers.
NUMBERS = {
    "trace_rate": (0, 2**32 - 1), "trace_count": (-1, 2**31 - 1), "log_frequency": (0, 2**32 - 1),
}  # fmt: skip
_LEVELS = {"OFF": 0, "TIMESTAMPS": TIMESTAMPS, "TENSORS": TENSORS}
# Triton has had these names; options may still have them.
_OLD_LEVELS = {"FALSE": "OFF", "TRUE": "TIMESTAMPS", "ON": "TIMESTAMPS", "MIN": "TIMESTAMPS", "MAX": "TIMESTAMPS"}
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
# Settings of the batching of spans, each with the range and what OpenTelemetry takes by default.
BATCHING = {
    "bsp_max_queue_size": ("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
    "bsp_schedule_delay": ("OTEL_BSP_SCHEDULE_DELAY", 5000),
    "bsp_max_export_batch_size": ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
}


def _empty() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Tracing as the command line asks for it. `levels`: TIMESTAMPS and TENSORS bits, 0: off. One of `rate` requests is
    traced (0: none, but those that bring a context), `count` in all (-1: without end). `log_frequency`: traces to a
    file, 0: all to one. For OpenTelemetry: `url` of the collector as it was given, `resource` attributes, `batching` by
    the names of BATCHING where they are given.
    """

    mode: str = TRITON
    levels: int = 0
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0
    file: str = ""
    url: str = DEFAULT_URL
    resource: Mapping[str, str] = field(default_factory=_empty)
    batching: Mapping[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """Of the collector. As with Triton's URLs the scheme may be left out."""
        return self.url if "://" in self.url else f"http://{self.url}"


class TraceProblem(ValueError):
    """An option of tracing that is wrong; its text says how."""


def parse_levels(names: Sequence[str]) -> int:
    """Bits of the levels named; none when OFF is. InvalidArg in Triton's words, and for a level there is none of."""
    levels = 0
    for name in names:
        if name not in _LEVELS:
            raise InvalidArg(f"unknown trace level '{name[:100]}', expected OFF, TIMESTAMPS or TENSORS")
        levels |= _LEVELS[name]
    if levels and "OFF" in names:
        raise InvalidArg("Expect only one trace level 'OFF' is specified")
    return levels


def level_names(levels: int) -> list[str]:
    """The reverse."""
    found = [name for bit, name in ((TIMESTAMPS, "TIMESTAMPS"), (TENSORS, "TENSORS")) if levels & bit]
    return found or ["OFF"]


def parse_number(name: str, text: str, gap: str = "") -> int:
    """A setting of NUMBERS from its text. InvalidArg in Triton's words, of all that is no number too. `gap`: between a
    colon and what was got, as gRPC's messages have it.
    """
    low, high = NUMBERS[name]
    if not _INTEGER.fullmatch(text):
        raise InvalidArg(f"Unable to parse '{name}', got: {text[:100]}")
    value = int(text) if len(text) <= 20 else high + 1
    if name == "trace_count" and value < low:
        raise InvalidArg(f"Unable to parse '{name}'. Expecting value >= {low}, got:{gap}{text[:100]}")
    if not low <= value <= high:
        raise InvalidArg(f"Unable to parse '{name}', value is out of range [ {low}, {high} ], got: {text[:100]}")
    return value


def parse_trace(texts: Sequence[str], legacy: Mapping[str, object]) -> TraceConfig:
    """Of the values of --trace-config, `[<mode>,]<setting>=<value>`, and of the deprecated options by their names.
    TraceProblem.
    """
    general: dict[str, list[str]] = {}
    by_mode: dict[str, dict[str, list[str]]] = {mode: {} for mode in MODES}
    for text in texts:
        head, equals, value = text.partition("=")
        mode, comma, setting = head.partition(",")
        if not comma:
            mode, setting = "", head
        if not equals or not setting or not value or (comma and not mode):
            raise TraceProblem(
                f"--trace-config option format is '<mode>,<setting>=<value>' or '<setting>=<value>'. Got {text}"
            )
        if comma and mode not in MODES:
            raise TraceProblem(f"unknown trace mode '{mode}', expected triton or opentelemetry. Got {text}")
        (by_mode[mode] if comma else general).setdefault(setting, []).append(value)
    try:
        return _config(general, by_mode, legacy)
    except InvalidArg as error:
        raise TraceProblem(error.message) from None


def _config(
    general: dict[str, list[str]], by_mode: dict[str, dict[str, list[str]]], legacy: Mapping[str, object]
) -> TraceConfig:
    known = ("mode", "level", "rate", "count")
    _check_known(general, known, "")
    _check_known(by_mode[TRITON], ("file", "log-frequency"), TRITON)
    _check_known(by_mode[OPENTELEMETRY], ("url", "resource", *BATCHING), OPENTELEMETRY)
    mode = general.get("mode", [TRITON])[-1].lower()
    if mode not in MODES:
        raise TraceProblem(f"unknown trace mode '{mode}', expected triton or opentelemetry")
    levels = general.get("level") or [str(level) for level in _sequence(legacy.get("trace-level", ()))]
    rate = general.get("rate", [str(legacy.get("trace-rate", 1000))])[-1]
    count = general.get("count", [str(legacy.get("trace-count", -1))])[-1]
    triton = by_mode[TRITON]
    frequency = triton.get("log-frequency", [str(legacy.get("trace-log-frequency", 0))])[-1]
    telemetry = by_mode[OPENTELEMETRY]
    return TraceConfig(
        mode=mode,
        levels=parse_levels([_OLD_LEVELS.get(name.upper(), name.upper()) for name in levels]),
        rate=parse_number("trace_rate", rate),
        count=parse_number("trace_count", count),
        log_frequency=parse_number("log_frequency", frequency),
        file=triton.get("file", [str(legacy.get("trace-file", ""))])[-1],
        url=telemetry.get("url", [DEFAULT_URL])[-1],
        resource=MappingProxyType(dict(_attribute(text) for text in telemetry.get("resource", ()))),
        batching={name: _positive(name, telemetry[name][-1]) for name in BATCHING if name in telemetry},
    )


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, tuple) else (value,)


def _check_known(given: Mapping[str, object], known: Sequence[str], mode: str) -> None:
    for name in given:
        if name not in known:
            of = f" of mode {mode}" if mode else ""
            raise TraceProblem(f"unknown trace setting '{name}'{of}; there are {', '.join(known)}")


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise TraceProblem(f"the format of a resource attribute is 'resource=<name>=<value>'. Got {text}")
    return name, value


def _positive(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text, re.ASCII) or not int(text):
        raise TraceProblem(f"'{name}' must be a positive number. Got {text}")
    return int(text)
