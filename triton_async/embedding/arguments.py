"""What a request is asked with, beside the model and its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict


class InferArguments(TypedDict, total=False):
    """Keyword arguments of `infer` and `stream`; `embedding.requests` has their defaults."""

    #: -1, the default: the version policy's choice.
    version: int
    #: Names; all by default.
    outputs: Iterable[str] | None
    request_id: str
    parameters: Mapping[str, str | int | float | bool] | None
    #: 0 or "", the default: it is none of a sequence.
    sequence_id: int | str
    sequence_start: bool
    sequence_end: bool
    #: 0, the default: that of the model's config.
    priority: int
    #: How long it may wait in the queue, in microseconds; 0, the default: as the model's config says.
    timeout_us: int
