"""The one place where Triton's error codes become HTTP status numbers."""

from __future__ import annotations

from triton_async.errors import Code

_STATUS = {
    Code.UNKNOWN: 400,
    Code.INTERNAL: 500,
    Code.NOT_FOUND: 404,
    Code.INVALID_ARG: 400,
    Code.UNAVAILABLE: 503,
    Code.UNSUPPORTED: 501,
    Code.ALREADY_EXISTS: 400,
    Code.CANCELLED: 400,
}


def http_status(code: Code) -> int:
    """HTTP status of an error code, as Triton's HttpCodeFromError."""
    return _STATUS[code]
