from triton_async.errors import InternalError

class Malformed(InternalError):
    def __init__(self) -> None: ...
