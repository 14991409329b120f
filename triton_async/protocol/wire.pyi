from triton_async.errors import InternalError
from triton_async.memory.buffer import Buffer

class Malformed(InternalError):
    def __init__(self) -> None: ...

def check_field_count(data: bytes | bytearray | Buffer, most: int, nested: int = 0) -> None: ...
