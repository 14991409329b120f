import asyncio
import ssl
from collections.abc import Callable

class TlsFactory:
    def __init__(
        self,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        loop: asyncio.AbstractEventLoop,
        required_alpn: str | None = None,
    ) -> None: ...
    def __call__(self) -> asyncio.BaseProtocol: ...
