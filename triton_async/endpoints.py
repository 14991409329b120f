"""The front-ends that options ask for: what protects them, their ports, and how each is started. Loop thread."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from triton_async.addresses import shown
from triton_async.config.access import Restrictions
from triton_async.config.settings import Settings
from triton_async.core.archives import Archives
from triton_async.core.server import InferenceServer
from triton_async.frontends import metrics, sockets, tls
from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.grpc import server as grpc
from triton_async.frontends.grpc.express.keepalive import PingOptions
from triton_async.frontends.http import clouds
from triton_async.frontends.http import server as http
from triton_async.frontends.page import document
from triton_async.frontends.renewal import Renewable

log = logging.getLogger("triton_async.app")


class Endpoint(Protocol):
    """A started front-end."""

    @property
    def address(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def connected(self) -> bool: ...

    def leave(self) -> None: ...

    async def stop_accepting(self) -> None: ...

    async def close(self, deadline_s: float) -> None: ...


class Certificates(NamedTuple):
    """TLS of each front-end; None: it serves in plain."""

    grpc: tls.Certificate | None
    http: tls.Certificate | None


class Security(NamedTuple):
    """What protects the front-ends; `keys`: None where clients need none."""

    certificates: Certificates
    keys: ApiKeys | None

    def gate(self, settings: Settings, restrictions: Restrictions) -> Gate:
        """What a front-end asks of calls."""
        return Gate(restrictions, self.keys, settings.api_key_exempt)

    @property
    def renewable(self) -> list[Renewable]:
        """What follows its files."""
        return [one for one in (*self.certificates, self.keys) if one is not None]


def try_ports(settings: Settings) -> None:
    """OSError for an address that is taken, or not to be had. Before models are loaded, which may take long."""
    front_ends = (
        (settings.allow_grpc, "GRPC", settings.grpc_address, settings.grpc_port, settings.reuse_grpc_port),
        (settings.allow_http, "HTTP", settings.http_address, settings.http_port, settings.reuse_http_port),
        *((True, *where, False) for where in _cloud_ports(settings)),
        (settings.allow_metrics, "Metrics", settings.metrics_address, settings.metrics_port, False),
    )
    for allowed, name, address, port, reuse_port in front_ends:
        if allowed:
            try:
                sockets.probe(address, port, reuse_port)
            except OSError as error:
                raise not_listening(error, name, address, port) from None


def open_certificates(settings: Settings) -> Certificates:
    """What each front-end has for TLS. Before models are loaded, so that a mistake shows at once."""
    grpc_tls = http_tls = None
    if settings.allow_grpc and (settings.grpc_use_ssl or settings.grpc_use_ssl_mutual):
        grpc_tls = tls.certificate(
            "grpc",
            cert=settings.grpc_server_cert,
            key=settings.grpc_server_key,
            root=settings.grpc_root_cert,
            mutual=settings.grpc_use_ssl_mutual,
            alpn=grpc.ALPN,
        )
    if settings.allow_http and (settings.http_use_ssl or settings.http_use_ssl_mutual):
        http_tls = tls.certificate(
            "http",
            cert=settings.http_server_cert,
            key=settings.http_server_key,
            root=settings.http_root_cert,
            mutual=settings.http_use_ssl_mutual,
            alpn=http.ALPN,
        )
    return Certificates(grpc_tls, http_tls)


async def start_endpoints(
    settings: Settings, security: Security, server: InferenceServer, endpoints: dict[str, Endpoint],
    loaded: bool = True,
) -> None:  # fmt: skip
    """gRPC, HTTP, metrics, as Triton starts them: into `endpoints`, by the names of services. OSError naming the
    service that found its port taken. Not `loaded`: the models are not there yet; `start_behind_models` follows then.
    """
    await start_services(settings, security, server, endpoints)
    await start_others(settings, security, server, endpoints, loaded)


async def start_services(
    settings: Settings, security: Security, server: InferenceServer, endpoints: dict[str, Endpoint], quiet: bool = False
) -> None:
    """What front-end processes can do, too: gRPC and HTTP. OSError. `quiet`: another process says that they started."""
    if settings.allow_grpc:
        service = "GRPCInferenceService"
        endpoint: Endpoint = await _listening(
            grpc.start(
                server,
                address=settings.grpc_address,
                port=settings.grpc_port,
                reuse_port=settings.reuse_grpc_port,
                response_compression=settings.grpc_infer_response_compression_level,
                max_waiting=settings.grpc_max_response_pool_size,
                pings=ping_options(settings),
                tls=security.certificates.grpc,
                gate=security.gate(settings, settings.grpc_restricted_protocol),
                forwarded=settings.grpc_header_forward_pattern,
            ),
            "GRPC", settings.grpc_address, settings.grpc_port,
        )  # fmt: skip
        _started(service, endpoint, endpoints, quiet)
    if settings.allow_http:
        endpoint = await _listening(
            http.start(
                server,
                address=settings.http_address,
                port=settings.http_port,
                reuse_port=settings.reuse_http_port,
                max_input_nbytes=settings.http_max_input_size,
                tls=security.certificates.http,
                gate=security.gate(settings, settings.http_restricted_api),
                forwarded=settings.http_header_forward_pattern,
                page=document.read() if settings.allow_page else None,
            ),
            "HTTP", settings.http_address, settings.http_port,
        )  # fmt: skip
        _started("HTTPService", endpoint, endpoints, quiet)


async def start_others(
    settings: Settings, security: Security, server: InferenceServer, endpoints: dict[str, Endpoint],
    loaded: bool = True,
) -> None:  # fmt: skip
    """What the models' process does itself however many front-ends there are: metrics, front doors of clouds. OSError.
    `loaded`: see `start_endpoints`.
    """
    if settings.sagemaker is not None:
        await _start_sagemaker(settings, security, server, endpoints)
    if loaded:
        await start_behind_models(settings, security, server, endpoints)
    if settings.allow_metrics:
        endpoint: Endpoint = await _listening(
            metrics.start(
                server,
                address=settings.metrics_address,
                port=settings.metrics_port,
                gate=security.gate(settings, {}),
            ),
            "Metrics", settings.metrics_address, settings.metrics_port,
        )  # fmt: skip
        _started("Metrics Service", endpoint, endpoints)


def _cloud_ports(settings: Settings) -> Iterator[tuple[str, str, int]]:
    for name, cloud in (("Sagemaker", settings.sagemaker), ("Vertex AI", settings.vertex_ai)):
        if cloud is not None:
            yield name, clouds.ADDRESS, cloud.port


async def _start_sagemaker(
    settings: Settings, security: Security, server: InferenceServer, endpoints: dict[str, Endpoint]
) -> None:
    config = settings.sagemaker
    assert config is not None
    starting = clouds.start_sagemaker(
        server, config, Archives(server.repository, config.models), max_input_nbytes=settings.http_max_input_size,
        gate=security.gate(settings, settings.http_restricted_api),
    )  # fmt: skip
    endpoint = await _listening(starting, "Sagemaker", clouds.ADDRESS, config.port)
    _started("Sagemaker HTTPService", endpoint, endpoints)


async def start_behind_models(
    settings: Settings, security: Security, server: InferenceServer, endpoints: dict[str, Endpoint]
) -> None:
    """Vertex AI's front door, which has to know which model is the default one. OSError, and InvalidArg where that is
    not clear.
    """
    config = settings.vertex_ai
    if config is None:
        return
    starting = clouds.start_vertex_ai(
        server, config, max_input_nbytes=settings.http_max_input_size,
        gate=security.gate(settings, settings.http_restricted_api),
    )  # fmt: skip
    endpoint = await _listening(starting, "Vertex AI", clouds.ADDRESS, config.port)
    _started("Vertex AI HTTPService", endpoint, endpoints)


def ping_options(settings: Settings) -> PingOptions:
    """What the options say about keep-alive and the age of gRPC connections."""
    return PingOptions(
        time_ms=settings.grpc_keepalive_time,
        timeout_ms=settings.grpc_keepalive_timeout,
        permit_without_calls=settings.grpc_keepalive_permit_without_calls,
        max_pings_without_data=settings.grpc_http2_max_pings_without_data,
        min_recv_interval_ms=settings.grpc_http2_min_recv_ping_interval_without_data,
        max_strikes=settings.grpc_http2_max_ping_strikes,
        max_age_ms=settings.grpc_max_connection_age,
        age_grace_ms=settings.grpc_max_connection_age_grace,
    )


async def _listening(starting, name: str, address: str, port: int) -> Endpoint:  # type: ignore[no-untyped-def]
    try:
        endpoint: Endpoint = await starting
    except OSError as error:
        raise not_listening(error, name, address, port) from None
    return endpoint


def not_listening(error: OSError, name: str, address: str, port: int) -> OSError:
    what = "already in use" if error.errno == errno.EADDRINUSE else "cannot be used"
    return OSError(
        f"failed to start {name} service: Unavailable - Socket '{shown(address, port)}' {what} "
        f"({error.strerror or error})"
    )


def _started(service: str, endpoint: Endpoint, endpoints: dict[str, Endpoint], quiet: bool = False) -> None:
    endpoints[service] = endpoint
    if not quiet:
        say_started(service, endpoint.address, endpoint.port)


def say_started(service: str, address: str, port: int) -> None:
    """The line that scripts wait for."""
    log.info("Started %s at %s", service, shown(address, port))
