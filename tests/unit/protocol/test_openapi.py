"""The OpenAPI document: every route is in it, and it refers to nothing that is not there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from triton_async.frontends.http import routes
from triton_async.frontends.http.server import HttpService
from triton_async.protocol.openapi import document, templates


class Server:
    share_nbytes = 1 << 20

    def metadata(self) -> dict[str, Any]:
        return {"name": "s", "version": "1.2.3"}


SERVICE = HttpService(Server(), 1)  # type: ignore[arg-type]
ROWS = [(route.pattern, route.method, route.category) for route in SERVICE.routes.routes]


@pytest.mark.parametrize(("pattern", "paths"), [
    (routes.SERVER, ["/v2"]),
    (routes.INFER, ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"]),
    (routes.LOAD, ["/v2/repository/models/{model}/load", "/v2/repository/{repository}/models/{model}/load"]),
    (routes.OPENAPI, ["/v2/openapi.json"]),
])  # fmt: skip
def test_paths_of_a_pattern(pattern: str, paths: list[str]) -> None:
    assert [path for path, _ in templates(pattern)] == paths


def test_every_route_is_in_it_and_every_path_leads_to_one() -> None:
    made = document(ROWS, "s", "1", frozenset())
    for path, operations in made["paths"].items():
        names = re.findall(r"{(\w+)}", path)
        found = SERVICE.routes.find(re.sub(r"{version}", "1", re.sub(r"{(?!version)\w+}", "x", path)))
        assert found is not None, path
        for method, operation in operations.items():
            assert method.upper() in found.handlers and operation["tags"] == [found.category]
            assert [each["name"] for each in operation.get("parameters", [])] == names
    covered = {(pattern, method) for pattern, method, _ in ROWS for path, _ in templates(pattern)
               if method.lower() in made["paths"][path]}  # fmt: skip
    assert covered == {(pattern, method) for pattern, method, _ in ROWS}
    ids = [operation["operationId"] for operations in made["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


def test_references_lead_somewhere_and_keys_are_asked_for_where_they_are() -> None:
    made = document(ROWS, "s", "1", frozenset({"inference"}))
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(made)):
        assert name in made["components"]["schemas"]
    assert made["components"]["securitySchemes"]
    for path, operations in made["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (operation["tags"] == ["inference"]), path
    assert "securitySchemes" not in document(ROWS, "s", "1", frozenset())["components"]
