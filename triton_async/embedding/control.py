"""What the C API asks of a server beside inference: for programs that have one, and for backends that live in one.

Each call has a name and texts, and answers with bytes, a number or nothing. `run` has a coroutine run on the server's
loop, and waits for it. Any thread but the loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from triton_async.core.server import InferenceServer
from triton_async.errors import ServerError, Unsupported
from triton_async.protocol import http_control

Answer = bytes | int | None
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Texts = Sequence[bytes]


def answer(server: InferenceServer, run: Run, what: str, texts: Texts) -> Answer:
    """The answer to a call. ServerError."""
    call = _CALLS.get(what)
    if call is None:
        raise Unsupported(f"the call '{what}' is not for those who live in the server")
    return call(server, run, texts)


async def _on_loop(question: Callable[..., Any], *arguments: Any) -> Any:
    return question(*arguments)


def _version(texts: Texts) -> tuple[str, int]:
    return texts[0].decode(), int(texts[1])


def _live(server: InferenceServer, run: Run, _: Texts) -> int:
    try:
        return int(run(_on_loop(server.live)))
    except ServerError:
        return 0


def _ready(server: InferenceServer, run: Run, _: Texts) -> int:
    try:
        return int(run(server.is_ready()))
    except ServerError:
        return 0


def _model_ready(server: InferenceServer, run: Run, texts: Texts) -> int:
    return int(run(server.model_is_ready(*_version(texts))))


def _batch_properties(server: InferenceServer, _: Run, texts: Texts) -> int:
    return 2 if server.signature(*_version(texts)).max_batch_size > 0 else 1


def _transaction_properties(server: InferenceServer, _: Run, texts: Texts) -> int:
    return 2 if server.signature(*_version(texts)).decoupled else 1


def _metadata(server: InferenceServer, run: Run, _: Texts) -> bytes:
    return http_control.dumps(run(_on_loop(server.metadata)))


def _model_metadata(server: InferenceServer, run: Run, texts: Texts) -> bytes:
    return http_control.dumps(run(_on_loop(server.model_metadata, *_version(texts))))


def _config(server: InferenceServer, run: Run, texts: Texts) -> bytes:
    return http_control.dumps(run(_on_loop(server.model_config_json, *_version(texts))))


def _statistics(server: InferenceServer, run: Run, texts: Texts) -> bytes:
    model, version = _version(texts)
    found = server.model_statistics(model, version) if model else server.all_statistics()
    return http_control.statistics_body(run(found))


def _index(server: InferenceServer, run: Run, texts: Texts) -> bytes:
    return http_control.dumps([dict(row) for row in run(server.repository_index(int(texts[1]) & 1 == 1))])


def _load(server: InferenceServer, run: Run, texts: Texts) -> None:
    parameters: dict[str, str | bytes] = {}
    for key, value in zip(texts[1::2], texts[2::2], strict=True):
        name = key.decode()
        parameters[name] = value if name.startswith("file:") else value.decode()
    run(server.load_model(texts[0].decode(), parameters or None))


def _unload(server: InferenceServer, run: Run, texts: Texts) -> None:
    run(server.unload_model(texts[0].decode(), texts[1] == b"1"))


async def _page(server: InferenceServer) -> bytes:
    return b"".join(await server.metrics_parts())


def _metrics(server: InferenceServer, run: Run, _: Texts) -> bytes:
    page: bytes = run(_page(server))
    return page


_CALLS: dict[str, Callable[[InferenceServer, Run, Texts], Answer]] = {
    "live": _live, "ready": _ready, "model_ready": _model_ready, "batch_properties": _batch_properties,
    "transaction_properties": _transaction_properties, "metadata": _metadata, "model_metadata": _model_metadata,
    "config": _config, "statistics": _statistics, "index": _index, "load": _load, "unload": _unload,
    "metrics": _metrics,
}  # fmt: skip
