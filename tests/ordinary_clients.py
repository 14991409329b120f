"""The header fields that ordinary HTTP clients send by default with a POST, as captured from them, in their order.

Without Host and the lengths. Chrome's are those of a page's `fetch`.
"""

from __future__ import annotations

Fields = list[tuple[str, str]]

_FORM = ("Content-Type", "application/x-www-form-urlencoded")
_BYTES = ("Content-Type", "application/octet-stream")

_CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)

CLIENTS: dict[str, Fields] = {
    "requests 2.34": [
        ("User-Agent", "python-requests/2.34.2"), ("Accept-Encoding", "gzip, deflate"), ("Accept", "*/*"),
        ("Connection", "keep-alive"),
    ],
    "requests 2.34 with brotli": [
        ("User-Agent", "python-requests/2.34.2"), ("Accept-Encoding", "gzip, deflate, br, zstd"), ("Accept", "*/*"),
        ("Connection", "keep-alive"), ("Content-Type", "application/json"),
    ],
    "httpx 0.28": [
        ("Accept", "*/*"), ("Accept-Encoding", "gzip, deflate, br"), ("Connection", "keep-alive"),
        ("User-Agent", "python-httpx/0.28.1"),
    ],
    "aiohttp 3.14": [
        ("Accept", "*/*"), ("Accept-Encoding", "gzip, deflate, br"), ("User-Agent", "Python/3.11 aiohttp/3.14.5"),
        _BYTES,
    ],
    "urllib": [("Accept-Encoding", "identity"), _FORM, ("User-Agent", "Python-urllib/3.11"), ("Connection", "close")],
    "http.client": [("Accept-Encoding", "identity")],
    "curl 7.88": [("User-Agent", "curl/7.88.1"), ("Accept", "*/*"), _FORM],
    "curl 7.88 --compressed": [
        ("User-Agent", "curl/7.88.1"), ("Accept", "*/*"), ("Accept-Encoding", "deflate, gzip, br, zstd"), _FORM,
    ],
    "curl 7.88 --http2": [
        ("User-Agent", "curl/7.88.1"), ("Accept", "*/*"), ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"), _FORM,
    ],
    "wget 1.21": [
        ("User-Agent", "Wget/1.21.3"), ("Accept", "*/*"), ("Accept-Encoding", "identity"),
        ("Connection", "Keep-Alive"), _FORM,
    ],
    "Go net/http": [("User-Agent", "Go-http-client/1.1"), _BYTES, ("Accept-Encoding", "gzip")],
    "Java 17 HttpClient": [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("HTTP2-Settings", "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA"), ("Upgrade", "h2c"),
        ("User-Agent", "Java-http-client/17.0.15"),
    ],
    "Java 17 HttpURLConnection": [
        ("User-Agent", "Java/17.0.15"), ("Accept", "text/html, image/gif, image/jpeg, */*; q=0.2"),
        ("Connection", "keep-alive"), _FORM,
    ],
    "Node 20 fetch": [
        ("connection", "keep-alive"), ("content-type", "text/plain;charset=UTF-8"), ("accept", "*/*"),
        ("accept-language", "*"), ("sec-fetch-mode", "cors"), ("user-agent", "node"),
        ("accept-encoding", "gzip, deflate"),
    ],
    "Chrome fetch": [
        ("Connection", "keep-alive"), ("sec-ch-ua-platform", '"Linux"'),
        ("User-Agent", _CHROME),
        ("sec-ch-ua", '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"'), _BYTES,
        ("sec-ch-ua-mobile", "?0"), ("Accept", "*/*"), ("Origin", "http://localhost:8080"),
        ("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty"), ("Referer", "http://localhost:8080/"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"), ("Accept-Language", "en-GB,en-US;q=0.9,en;q=0.8"),
    ],
    "Ruby Net::HTTP": [
        ("Accept-Encoding", "gzip;q=1.0,deflate;q=0.6,identity;q=0.3"), ("Accept", "*/*"), ("User-Agent", "Ruby"),
        _FORM,
    ],
}  # fmt: skip
