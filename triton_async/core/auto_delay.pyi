class AutoDelay:
    overhead_ns: float
    row_ns: float
    load: float
    def __init__(self, max_rows: int, bound_us: int, instances: int) -> None: ...
