"""Makes the one document of the page's parts, with the policy that lets a browser run these and nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources

# In the order in which they are read: each uses what stands in those before it.
SCRIPTS = (
    "tensors.js", "pictures.js", "dom.js", "snippets.js", "plots.js", "live.js", "results.js", "inputs.js", "form.js",
    "page.js",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """`body`: HTML, UTF-8. `headers`: what is sent with it. Nothing in either depends on the server or its caller."""

    body: bytes
    headers: dict[str, str]


def read() -> Page:
    """The page, from the package's files. Blocks."""
    folder = resources.files(__package__ or "")
    style = (folder / "style.css").read_text("utf-8")
    scripts = [(folder / name).read_text("utf-8") for name in SCRIPTS]
    text = (folder / "index.html").read_text("utf-8")
    text = text.replace("{{style.css}}", style)
    text = text.replace("{{scripts}}", "\n".join(f"<script>{script}</script>" for script in scripts))
    return Page(text.encode(), _headers(style, scripts))


def _headers(style: str, scripts: list[str]) -> dict[str, str]:
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_digest, scripts)),
        "style-src": _digest(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        # Nobody may show it in a frame and have its buttons pressed.
        "frame-ancestors": "'none'",
        # No text can become markup or code, whatever a script does.
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


def _digest(text: str) -> str:
    """How a policy names an inline script or style (CSP 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
