from triton_async.embedding.desk import Desk

class NativeDesk(Desk):
    @property
    def address(self) -> int: ...

def register(register_calls: int) -> None: ...
