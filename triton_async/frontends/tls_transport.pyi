import asyncio
from collections.abc import Callable

from triton_async.frontends.tls import ServerTls

class TlsFactory:
    def __init__(
        self,
        context: ServerTls,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        loop: asyncio.AbstractEventLoop,
        required_alpn: str | None = None,
    ) -> None: ...
    def __call__(self) -> asyncio.BaseProtocol: ...
