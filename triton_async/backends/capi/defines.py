"""Limits of the engine for shared libraries."""

from __future__ import annotations

# Answers of an execution go up with it, which is cheaper, from so many executions on in which none of them waited for
# its end longer than that. After one that did, never again: they go up one by one, when the backend sends them.
PROMPT_TRUST = 8
PROMPT_NS = 1_000_000

# Seconds that the end of an instance waits for its TRITONBACKEND_ModelInstanceReady: no readiness waits longer for it.
READY_END_S = 5.0
