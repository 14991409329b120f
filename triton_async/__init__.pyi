from triton_async.config.settings import Settings as Settings
from triton_async.embedding.arguments import InferArguments as InferArguments
from triton_async.embedding.blocking import SyncResponseStream as SyncResponseStream
from triton_async.embedding.blocking import SyncServer as SyncServer
from triton_async.embedding.results import Response as Response
from triton_async.embedding.server import ResponseStream as ResponseStream
from triton_async.embedding.server import Server as Server
from triton_async.errors import ServerError as ServerError

__version__: str
