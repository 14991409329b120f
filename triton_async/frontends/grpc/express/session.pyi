import asyncio
from collections.abc import Mapping
from typing import Any

from triton_async.core.server import InferenceServer
from triton_async.frontends.entry import Entry
from triton_async.frontends.grpc.express.keepalive import PingOptions

class Lane:
    connections: set[Any]
    receiving_nbytes: int
    held_nbytes: int
    max_receiving_nbytes: int
    max_held_nbytes: int
    max_waiting: int
    def __init__(
        self,
        server: InferenceServer,
        loop: asyncio.AbstractEventLoop,
        mapping: Mapping[str, Any],
        ping_options: PingOptions,
        compresses: bool,
        entry: Entry | None = None,
    ) -> None: ...
