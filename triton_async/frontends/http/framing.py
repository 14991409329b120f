"""How a body with binary tensors says where its JSON ends: in a header, or in the content type, as for clouds."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDictProxy

from triton_async.errors import InvalidArg

HEADER_LENGTH = "Inference-Header-Content-Length"


def sent_headers(request: web.BaseRequest) -> list[tuple[str, str]]:
    """As the client wrote their names: of some, aiohttp's own have another case."""
    return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in request.raw_headers]


@dataclass(frozen=True, slots=True)
class Framing:
    """`mime`: content type of such bodies, behind which the length stands; "": it stands in a header of its own, as it
    does for answers unless they are `both_ways` alike.
    """

    mime: str = ""
    both_ways: bool = True

    @property
    def name(self) -> str:
        """What says it, for error messages."""
        return self.mime.rpartition(";")[2].removesuffix("=") if self.mime else HEADER_LENGTH

    def lines(self, headers: CIMultiDictProxy[str]) -> list[str]:
        """What a request says; more than one is a mistake, none is a body that is JSON alone. InvalidArg."""
        if not self.mime:
            return headers.getall(HEADER_LENGTH, [])
        found = headers.get("Content-Type", "")
        before, mime, length = found.partition(self.mime)
        if not mime:
            return []
        if before:
            raise InvalidArg(f"expect MIME type for binary data starts with '{self.mime}', got: {found[:200]}")
        return [length]

    def headers(self, length: int | None, content_type: str) -> dict[str, str]:
        """Of an answer. `length`: of its JSON, None for one that is JSON alone; `content_type`: the one that goes with
        the header.
        """
        if length is None:
            return {"Content-Type": content_type}
        if self.mime and self.both_ways:
            return {"Content-Type": f"{self.mime}{length}"}
        return {"Content-Type": content_type, HEADER_LENGTH: str(length)}


TRITON = Framing()
