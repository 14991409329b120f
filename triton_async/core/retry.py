"""When something that failed is tried again. No clock: `now_ns` is an argument."""

from __future__ import annotations


class Retry:
    """Due at once, then after `first_ns` and twice as long with each failure, up to `longest_ns`."""

    def __init__(self, first_ns: int, longest_ns: int) -> None:
        self.wait_ns = 0
        self._next_ns = first_ns
        self._longest_ns = longest_ns
        self._due_ns: int | None = None

    def is_due(self, now_ns: int) -> bool:
        """Whether an attempt may be made now."""
        return self._due_ns is None or now_ns >= self._due_ns

    def failed(self, now_ns: int) -> None:
        """An attempt has failed."""
        self.wait_ns = self._next_ns
        self._due_ns = now_ns + self.wait_ns
        self._next_ns = min(2 * self.wait_ns, self._longest_ns)
