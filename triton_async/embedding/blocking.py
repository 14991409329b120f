"""The server for programs without an event loop: on a loop and a thread of its own, asked by any other thread."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Self, TypeVar, Unpack

import uvloop

from triton_async.config.settings import Settings
from triton_async.embedding.arguments import InferArguments
from triton_async.embedding.requests import make_request
from triton_async.embedding.results import Response
from triton_async.embedding.server import ResponseStream, Server, check_one_response
from triton_async.errors import Unavailable
from triton_async.infer.strings import has_many_strings

T = TypeVar("T")


class LoopThread:
    """An event loop on a thread of its own, from `start` to `stop`. Any thread but that one."""

    def __init__(self, name: str) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._left = False

    def start(self) -> None:
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            if not self._left:
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
                self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            if not self._left:
                self.loop.close()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """The outcome of a coroutine there. It is cancelled when the caller is interrupted, or waited long enough, a
        TimeoutError.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the server's own thread would wait for itself")
        if self.over:
            work.close()
            raise Unavailable("Server exiting")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    @property
    def over(self) -> bool:
        """Whether nothing runs there any more."""
        return self._left or self.loop.is_closed()

    def stop(self) -> None:
        """Ends the thread."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        elif not self._left and not self.loop.is_closed():
            self.loop.close()

    def leave(self) -> None:
        """Ends the thread with its loop as it is: the process ends, and its executors take no work any more."""
        self._left = True
        self.stop()


class SyncResponseStream(Iterator[Response]):
    """The responses to one request, for `for`: see ResponseStream. `close` cancels what is left of it."""

    def __init__(self, server: SyncServer, stream: ResponseStream) -> None:
        self._server = server
        self._stream = stream

    def __next__(self) -> Response:
        try:
            return self._server.run(_next_of(self._stream))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Cancels what is left of the request. Idempotent."""
        self._server.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _next_of(stream: ResponseStream) -> Response:
    return await stream.__anext__()


class SyncServer:
    """`Server` for programs without an event loop: the same arguments and answers, and methods that wait. Any thread,
    and several at once. Use it in a `with` block: one that is left running ends with its process, and frees no models.
    """

    def __init__(self, settings: Settings | None = None, /, **options: Any) -> None:
        """InvalidArg for options that the command line would not take."""
        self._server = Server(settings, **options)
        self._thread: LoopThread | None = None
        self._starting = threading.Lock()

    @property
    def settings(self) -> Settings:
        return self._server.settings

    def start(self) -> None:
        """Loads the models and opens the ports that are asked for. ServerError, and nothing is left then."""
        with self._starting:
            if self._thread is not None:
                raise Unavailable("the server was started before: make another one")
            self._thread = thread = LoopThread("triton-async")
        thread.start()
        try:
            thread.run(self._server.start())
        except BaseException:
            thread.stop()
            raise
        _running.add(thread)

    def stop(self) -> None:
        """See Server.stop. Idempotent."""
        with self._starting:
            thread = self._thread
            if thread is None or thread.over:
                return
            try:
                thread.run(self._server.stop())
            finally:
                _running.discard(thread)
                thread.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """The outcome of a coroutine on the server's loop: for calls of `Server` that are not here. Unavailable while
        the server is not there.
        """
        thread = self._thread
        if thread is None:
            work.close()
            raise Unavailable("Server not ready")
        return thread.run(work, timeout_s)

    @property
    def asynchronous(self) -> Server:
        """The server that is behind it, for `run`."""
        return self._server

    @property
    def ports(self) -> Mapping[str, int]:
        """Of the front-ends that are there: `http`, `grpc`, `metrics`."""
        return self._server.ports

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        timeout_s: float | None = None,
        **arguments: Unpack[InferArguments],
    ) -> Response:
        """See Server.infer. `timeout_s`: how long the caller waits; TimeoutError behind that, and the request is
        cancelled.
        """
        request = make_request(model, inputs, **arguments)
        core = self._server.core
        if self._thread is not None and self._thread.over:
            raise Unavailable("Server exiting")
        check_one_response(core, request)
        if has_many_strings(request):
            core.signature(request.model_name, request.model_version).validate(request)
        return Response(self._server.desk.infer(request, timeout_s))

    def stream(self, model: str, inputs: Mapping[str, Any], **arguments: Unpack[InferArguments]) -> SyncResponseStream:
        """See Server.stream."""
        return SyncResponseStream(self, self._server.stream(model, inputs, **arguments))

    def load(
        self, model: str, *, config: str | Mapping[str, Any] | None = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """See Server.load."""
        self.run(self._server.load(model, config=config, files=files))

    def unload(self, model: str, *, unload_dependents: bool = False) -> None:
        """See Server.unload."""
        self.run(self._server.unload(model, unload_dependents=unload_dependents))

    def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """See Server.index."""
        return self.run(self._server.index(ready_only=ready_only))

    def live(self) -> bool:
        """Whether the server runs."""
        return self._server.live()

    def ready(self, model: str = "", version: int = -1) -> bool:
        """See Server.ready."""
        thread = self._thread
        if thread is None or thread.over:
            return False
        return self.run(self._server.ready(model, version))

    def metadata(self, model: str = "", version: int = -1) -> dict[str, Any]:
        """See Server.metadata."""
        return self.run(_call(self._server.metadata, model, version))

    def config(self, model: str, version: int = -1) -> dict[str, Any]:
        """See Server.config."""
        return self.run(_call(self._server.config, model, version))

    def statistics(self, model: str = "", version: int = -1) -> list[dict[str, Any]]:
        """See Server.statistics."""
        return self.run(self._server.statistics(model, version))

    def metrics(self) -> str:
        """See Server.metrics."""
        return self.run(self._server.metrics())


async def _call(method: Any, *arguments: Any) -> Any:
    return method(*arguments)


# Loops that are left at the end of the process: threads must not run into an interpreter that is going.
_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def leave_all() -> None:
    """Servers that were not stopped end here, as the process does."""
    for thread in list(_running):
        thread.leave()
