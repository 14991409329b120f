from typing import Any

from triton_async.core.latencies import Latencies

class ModelStatistics:
    inference_count: int
    execution_count: int
    last_inference_ms: int
    latencies: Latencies | None
    def as_dict(self, name: str, version: str) -> dict[str, Any]: ...
    def cached(self) -> tuple[int, int, int, int]: ...
    def counters(self) -> tuple[int, dict[str, int], dict[str, int]]: ...
