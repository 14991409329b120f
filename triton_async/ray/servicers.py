"""Which RPCs Ray Serve's gRPC proxy takes for a deployment: all of them, as bytes, which only replicas read."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc

from triton_async import protos


class Rpc(NamedTuple):
    """`path`: as it is called. `client_streams`, `server_streams`: any number of messages that way."""

    path: str
    client_streams: bool
    server_streams: bool

    @property
    def name(self) -> str:
        """Of the method of a deployment that Ray calls."""
        return self.path.rpartition("/")[2]


def _rpcs(service: str) -> tuple[Rpc, ...]:
    methods = protos.POOL.FindServiceByName(service).methods
    return tuple(Rpc(f"/{service}/{m.name}", m.client_streaming, m.server_streaming) for m in methods)


INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
SERVICES = {service: _rpcs(service) for service in (INFERENCE, HEALTH)}

_HANDLERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _add(service: str, servicer: Any, server: Any) -> None:
    # Without serialisers messages stay bytes.
    handlers = {
        rpc.name: _HANDLERS[rpc.client_streams, rpc.server_streams](getattr(servicer, rpc.name))
        for rpc in SERVICES[service]
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    if hasattr(server, "add_registered_method_handlers"):
        server.add_registered_method_handlers(service, handlers)


def add_GRPCInferenceServiceServicer_to_server(servicer: Any, server: Any) -> None:
    """For `grpc_servicer_functions` of Ray Serve's gRPC options, like the function of that name which grpcio's compiler
    makes, but messages are bytes.
    """
    _add(INFERENCE, servicer, server)


def add_HealthServicer_to_server(servicer: Any, server: Any) -> None:
    """The same for grpc.health.v1: the health of one replica, as its server says."""
    _add(HEALTH, servicer, server)
