"""Who a link tells of what its worker says."""

from __future__ import annotations

from typing import Any


class LinkOwner:
    """Who is told, on the reader's thread, what a worker has to say beyond its answers."""

    def batch_done(self, batch: Any) -> None:
        """A batch that `submit` took is over."""

    def ended(self, problem: str | None) -> None:
        """The worker has closed its socket (None), or said what no worker of ours says (the text)."""

    def started(self, failed: bool, text: str) -> None:
        """`initialize` has returned or failed."""

    def finalized(self) -> None:
        """`finalize` has returned."""

    def called(self, call: int, content: dict[str, Any]) -> None:
        """It asks for something: a dict, checked no further. 0 as `call`: no answer is wanted."""

    def executes(self, call: int, fields: dict[str, Any]) -> None:
        """It makes an inference request."""

    def cancels(self, call: int) -> None:
        """It does not want the answers to that any more."""

    def told_ready(self, question: int, answer: int, text: str) -> None:
        """What `is_ready` has said: 1, 0, or 2 for an error."""

    def takes(self, call: int, count: int) -> None:
        """Its model has taken so many of them."""

    def logs(self, level: int, line: int, file: str, text: str) -> None:
        """An entry for the log."""
