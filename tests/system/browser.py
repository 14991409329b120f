"""A real browser without a window: Debian's chromium, driven through its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

# Generous: a browser starts slowly on a busy machine.
START_SECONDS = 90.0
WAIT_SECONDS = 60.0

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The sandbox needs what containers do not give. Nothing is fetched but what the page asks for.
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--window-size=1280,900",
)  # fmt: skip


class Tab:
    """One tab, and what went wrong in it: `complaints` are uncaught errors, errors on the console, and what a policy
    has kept from happening.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session_id: str) -> None:
        self._socket = socket
        self._session_id = session_id
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        # Addresses of everything that was asked for.
        self.requests: list[str] = []
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
                continue
            parameters = said.get("params", {})
            if said["method"] == "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            elif said["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                self.complaints.append(parameters["entry"]["text"])
            elif said["method"] == "Runtime.consoleAPICalled" and parameters["type"] == "error":
                self.complaints.append(str(parameters["args"]))
            elif said["method"] == "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        message = {"id": self._number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session_id} if self._session_id else {}))
        said = await asyncio.wait_for(answer, WAIT_SECONDS)
        assert "error" not in said, f"{method}: {said['error']}"
        result: dict[str, Any] = said["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        result = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True,
            allowUnsafeEvalBlockedByCSP=False,
        )  # fmt: skip
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def wait_for(self, script: str, seconds: float = WAIT_SECONDS) -> None:
        """Returns once an expression is true."""
        end = asyncio.get_running_loop().time() + seconds
        while not await self.evaluate(f"Boolean({script})"):
            assert asyncio.get_running_loop().time() < end, f"{script}\n{self.complaints}\n{await self.text()}"
            await asyncio.sleep(0.05)

    async def text(self) -> str:
        """What a reader sees."""
        return str(await self.evaluate("document.body.innerText"))

    async def open(self, url: str) -> None:
        """Goes to an address; returns when the document is there."""
        await self.command("Page.navigate", url=url)
        begin = json.dumps(url.partition("#")[0])
        await self.wait_for(f"location.href.startsWith({begin}) && document.readyState == 'complete'")

    async def choose_file(self, selector: str, path: Path) -> None:
        """Puts a file into a chooser."""
        root = await self.command("DOM.getDocument")
        node = await self.command("DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector)
        assert node["nodeId"], selector
        await self.command("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def picture(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """A picture of the page, from its top."""
        await self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                           mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(0.3)
        shot = await self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    async def close(self) -> None:
        """Ends what listens to the tab."""
        self._reader.cancel()


@asynccontextmanager
async def browser_tab() -> AsyncIterator[Tab]:
    """A tab of a browser of its own, which ends with it."""
    assert EXECUTABLE is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        port_file = Path(folder) / "DevToolsActivePort"
        process = subprocess.Popen(
            [EXECUTABLE, *ARGUMENTS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port, path = await _address(process, port_file)
            async with aiohttp.ClientSession() as session:
                url = f"ws://127.0.0.1:{port}{path}"
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    tab = await _tab(socket)
                    yield tab
                    await tab.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _address(process: subprocess.Popen[bytes], port_file: Path) -> tuple[str, str]:
    """Port and path of the browser's DevTools, as it writes them."""
    end = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        lines = port_file.read_text().split("\n") if port_file.exists() else []
        if len(lines) >= 2 and lines[1]:
            return lines[0], lines[1]
        assert process.poll() is None, "the browser has ended"
        assert asyncio.get_running_loop().time() < end, "the browser does not start"
        await asyncio.sleep(0.05)


async def _tab(socket: aiohttp.ClientWebSocketResponse) -> Tab:
    """Attaches to a new tab and listens to what it says."""
    numbers = iter(range(-2, 0))

    async def ask(method: str, **parameters: Any) -> dict[str, Any]:
        number = next(numbers)
        await socket.send_json({"id": number, "method": method, "params": parameters})
        while (said := await socket.receive_json(timeout=WAIT_SECONDS)).get("id") != number:
            pass
        result: dict[str, Any] = said["result"]
        return result

    target = await ask("Target.createTarget", url="about:blank")
    attached = await ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
    tab = Tab(socket, attached["sessionId"])
    for domain in ("Runtime", "Log", "Page", "Network", "DOM"):
        await tab.command(f"{domain}.enable")
    return tab
