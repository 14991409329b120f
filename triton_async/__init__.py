"""triton-async: a drop-in replacement for NVIDIA Triton Inference Server. Importing it loads no engine.

`Server` and `SyncServer` are the server inside another program (docs/in-process.md); they come in when they are named.
"""

from triton_async.version import VERSION as __version__

__all__ = [
    "InferArguments", "Response", "ResponseStream", "Server", "ServerError", "Settings", "SyncResponseStream",
    "SyncServer", "__version__",
]  # fmt: skip

_HOMES = {
    "InferArguments": "embedding.arguments",
    "Response": "embedding.results",
    "ResponseStream": "embedding.server",
    "Server": "embedding.server",
    "ServerError": "errors",
    "Settings": "config.settings",
    "SyncResponseStream": "embedding.blocking",
    "SyncServer": "embedding.blocking",
}


def __getattr__(name):
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'triton_async' has no attribute '{name}'")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"triton_async.{home}"), name)
    return value


def __dir__():
    return sorted({*globals(), *__all__})
