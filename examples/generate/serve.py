"""Serves the page beside this file on 127.0.0.1, and hands its requests on to the inference server.

Pages may only ask the origin that they come from, and the inference server serves no page but its own.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "index.html"
CHUNK = 65536


class Handler(http.server.BaseHTTPRequestHandler):
    """GET / is the page; a POST below /v2 goes to the server at `upstream`, its answer comes back as it arrives."""

    upstream = "localhost:8000"

    def do_GET(self) -> None:
        """The page."""
        if self.path.partition("?")[0] != "/":
            self.send_error(404)
            return
        content = PAGE.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        """Hands on a request; closing the page closes the connection to the server too, which cancels it there."""
        if not self.path.startswith("/v2/models/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request("POST", self.path, body)
            response = connection.getresponse()
            self.send_response(response.status)
            self.send_header("Content-Type", response.getheader("Content-Type", "application/json"))
            self.end_headers()
            while part := response.read1(CHUNK):
                self.wfile.write(part)
                self.wfile.flush()
        except ConnectionRefusedError:
            self.send_error(502, f"no inference server on {self.upstream}")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Serve the page that streams words from text_generator.")
    parser.add_argument(
        "-u", "--url", default="localhost:8000", help="HTTP address of the inference server, %(default)s"
    )
    parser.add_argument("-p", "--port", type=int, default=8080, help="port of the page, %(default)s")
    options = parser.parse_args(arguments)
    Handler.upstream = options.url
    with http.server.ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
