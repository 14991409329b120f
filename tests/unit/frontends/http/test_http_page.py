"""The page at `/`: what is sent, and what its policy lets a browser do. A browser itself: tests/system/test_page.py."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from core_harness import run, write_model
from http_harness import ask, serving

from triton_async.config.access import CATEGORIES
from triton_async.frontends.gate import ApiKeys, Gate
from triton_async.frontends.page import document

PAGE = document.read()
TEXT = PAGE.body.decode()
POLICY = {
    words[0]: words[1:] for words in (part.split() for part in PAGE.headers["Content-Security-Policy"].split("; "))
}


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_the_pages_own_scripts_and_style_and_nothing_else() -> None:
    scripts = re.findall(r"<script>(.*?)</script>", TEXT, re.DOTALL)
    assert len(scripts) == len(document.SCRIPTS) == TEXT.count("<script")
    assert POLICY["script-src"] == [digest(script) for script in scripts]
    (style,) = re.findall(r"<style>(.*?)</style>", TEXT, re.DOTALL)
    assert POLICY["style-src"] == [digest(style)]
    assert POLICY["default-src"] == POLICY["base-uri"] == POLICY["form-action"] == ["'none'"]
    assert POLICY["frame-ancestors"] == POLICY["trusted-types"] == ["'none'"]
    assert POLICY["connect-src"] == ["'self'"]
    assert "unsafe" not in PAGE.headers["Content-Security-Policy"]
    assert "*" not in PAGE.headers["Content-Security-Policy"]


def test_all_parts_are_in_it_and_no_placeholder_is_left() -> None:
    folder = Path(document.__file__).parent
    assert sorted(document.SCRIPTS) == sorted(path.name for path in folder.glob("*.js"))
    assert "{{" not in TEXT.replace("}}", "{{").split("<style>")[0]
    assert "{{style.css}}" not in TEXT
    assert "{{scripts}}" not in TEXT


def test_it_names_no_address_outside() -> None:
    names = set(re.findall(r"https?://[\w.-]+", TEXT))
    assert names <= {"http://www.w3.org"}, "only the name of SVG's namespace"
    assert not re.search(r"\b(?:src|href)=[\"'](?!data:|#)", TEXT)


def test_it_makes_no_markup_of_texts() -> None:
    """Whatever a model is called or says stays a text; a browser is made sure of by Trusted Types besides."""
    for word in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser",
        "setHTML", "createContextualFragment", "localStorage", "sessionStorage", "document.cookie",
    ):  # fmt: skip
        assert word not in TEXT, word


def test_it_is_there_by_an_option_and_changes_no_other_path(tmp_path: Path) -> None:
    write_model(tmp_path, "m")

    async def test() -> None:
        for page in (PAGE, None):
            async with serving(tmp_path, page=page) as (_, endpoint):
                for path in ("/", "/?x=1"):
                    answer = await ask(endpoint.port, "GET", path)
                    assert answer.status == (200 if page else 404)
                    assert (answer.body == PAGE.body) is (page is not None)
                if page:
                    assert {name: answer.headers[name.lower()] for name in PAGE.headers} == PAGE.headers
                for path in ("//", "/index.html", "/page.js", "/style.css", "/favicon.ico", "/.", "/v2/"):
                    assert (await ask(endpoint.port, "GET", path)).status == 404, path
                assert (await ask(endpoint.port, "POST", "/")).status == (405 if page else 404)

    run(test)


def test_it_is_the_same_for_everybody_and_opens_no_call(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "m")
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    gate = Gate(dict.fromkeys(CATEGORIES, ("x-team", "blue")), ApiKeys(str(keys)))

    async def test() -> None:
        async with serving(tmp_path / "models", page=PAGE, gate=gate) as (_, endpoint):
            answer = await ask(endpoint.port, "GET", "/")
            assert (answer.status, answer.body) == (200, PAGE.body)
            for method, path in (("GET", "/v2"), ("POST", "/v2/repository/index"), ("GET", "/v2/models/stats")):
                assert (await ask(endpoint.port, method, path)).status == 401, path

    run(test)
