# cython: annotation_typing=False, wraparound=True
"""What the objects of one model instance have in common: its way to the server, and how far its life has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .channel import Refused
from .messages import ErrorCode, InferenceResponse, TritonError

if TYPE_CHECKING:
    from .channel import Channel, RequestSource


class Context:
    """Of one instance; made before its model is loaded. `model_dir`: the version's directory. `executing`: between the
    end of `initialize` and the beginning of `finalize`; `initializing`: in `initialize`.
    """

    __slots__ = ("channel", "decoupled", "executing", "initializing", "instance", "model", "model_dir", "version")

    def __init__(  # noqa: PLR0917
        self, channel: Channel, model: str, version: int, instance: str, model_dir: str, decoupled: bool
    ) -> None:
        self.channel = channel
        self.model = model
        self.version = version
        self.instance = instance
        self.model_dir = model_dir
        self.decoupled = decoupled
        self.executing = False
        self.initializing = False

    def send(self, source: RequestSource, response: InferenceResponse | None, final: bool) -> None:
        """Sends a response, or the error that it has outputs that cannot be sent."""
        try:
            self.channel.respond(source, response, final)
        except Refused as error:
            self.channel.respond(source, refused(error), final)


def refused(error: Refused) -> InferenceResponse:
    """The response that says what the server refused."""
    return InferenceResponse([], TritonError(error.message, ErrorCode(error.code)))
