class ResponseCache:
    remote: bool

class LocalCache(ResponseCache):
    budget_nbytes: int
    nbytes: int
    hits: int
    misses: int
    evictions: int
    lookup_ns: int
    insertion_ns: int
    def __init__(self, budget_nbytes: int) -> None: ...
    def __len__(self) -> int: ...
