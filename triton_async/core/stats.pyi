from typing import Any

class ModelStatistics:
    inference_count: int
    execution_count: int
    last_inference_ms: int
    def as_dict(self, name: str, version: str) -> dict[str, Any]: ...
    def counters(self) -> tuple[int, dict[str, int], dict[str, int]]: ...
