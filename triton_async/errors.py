"""The errors of the server: Triton's eight codes, with no HTTP or gRPC number (each front-end maps them)."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """TRITONSERVER_Error_Code, same values."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


_PREFIXES = {
    Code.UNKNOWN: "Unknown",
    Code.INTERNAL: "Internal",
    Code.NOT_FOUND: "Not found",
    Code.INVALID_ARG: "Invalid argument",
    Code.UNAVAILABLE: "Unavailable",
    Code.UNSUPPORTED: "Unsupported",
    Code.ALREADY_EXISTS: "Already exists",
    Code.CANCELLED: "Cancelled",
}


class ServerError(Exception):
    """Any refusal or failure that a client may be told about. `message` carries no path, key or address."""

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_status(self) -> str:
        """The `Code: message` form that load reasons and logs use (Triton's Status::AsString)."""
        return f"{_PREFIXES[self.code]}: {self.message}"


class UnknownError(ServerError):
    code = Code.UNKNOWN


class InternalError(ServerError):
    code = Code.INTERNAL


class NotFound(ServerError):
    code = Code.NOT_FOUND


class InvalidArg(ServerError):
    code = Code.INVALID_ARG


class Unavailable(ServerError):
    code = Code.UNAVAILABLE


class Overloaded(Unavailable):
    """The server has taken as much as it may hold; the same request may be welcome a moment later."""


class DeadlineExceeded(Unavailable):
    """The client's own deadline passed, or cannot be kept any more; a queue timeout is plain Unavailable."""


class Unsupported(ServerError):
    code = Code.UNSUPPORTED


class DecoupledModel(Unsupported):
    """Who asks expects one response, and the model is decoupled."""


class AlreadyExists(ServerError):
    code = Code.ALREADY_EXISTS


class Cancelled(ServerError):
    code = Code.CANCELLED


_BY_CODE: dict[int, type[ServerError]] = {
    error.code: error
    for error in (
        UnknownError, InternalError, NotFound, InvalidArg, Unavailable, Unsupported, AlreadyExists, Cancelled
    )
}  # fmt: skip


def from_code(code: int, message: str) -> ServerError:
    """The error of a code that crossed a C boundary; InternalError for a code that is none of Triton's."""
    return _BY_CODE.get(code, InternalError)(message)
