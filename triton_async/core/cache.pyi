class ResponseCache:
    remote: bool

class LocalCache(ResponseCache):
    budget_nbytes: int
    nbytes: int
    def __init__(self, budget_nbytes: int) -> None: ...
    def __len__(self) -> int: ...
