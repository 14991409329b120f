import asyncio

class Turn:
    running: bool
    loop: asyncio.AbstractEventLoop
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def close(self) -> None: ...
