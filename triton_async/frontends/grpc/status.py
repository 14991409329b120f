"""Error codes to gRPC statuses, and statuses to trailers."""

from __future__ import annotations

from grpclib.const import Status
from grpclib.metadata import encode_grpc_message

from triton_async.defines import GRPC_MAX_STATUS_MESSAGE_NBYTES
from triton_async.errors import Code, DeadlineExceeded, Overloaded, ServerError

_STATUS = {
    Code.UNKNOWN: Status.UNKNOWN,
    Code.INTERNAL: Status.INTERNAL,
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.INVALID_ARG: Status.INVALID_ARGUMENT,
    Code.UNAVAILABLE: Status.UNAVAILABLE,
    Code.UNSUPPORTED: Status.UNIMPLEMENTED,
    Code.ALREADY_EXISTS: Status.ALREADY_EXISTS,
    Code.CANCELLED: Status.CANCELLED,
}


def status_of(error: ServerError) -> Status:
    """The status of a call that ends with this error."""
    if isinstance(error, Overloaded):
        return Status.RESOURCE_EXHAUSTED
    return Status.DEADLINE_EXCEEDED if isinstance(error, DeadlineExceeded) else _STATUS[error.code]


def trailers(status: Status, message: str | None) -> list[tuple[str, str]]:
    """`grpc-status` and `grpc-message`; a message too long for clients to accept is cut."""
    found = [("grpc-status", str(status.value))]
    if message:
        encoded = encode_grpc_message(message)
        while len(encoded) > GRPC_MAX_STATUS_MESSAGE_NBYTES:
            # Cutting characters, not the encoded form, keeps every %XX and every code point whole.
            message = message[: len(message) * GRPC_MAX_STATUS_MESSAGE_NBYTES // len(encoded) - 1]
            encoded = encode_grpc_message(message + "…")
        found.append(("grpc-message", encoded))
    return found
