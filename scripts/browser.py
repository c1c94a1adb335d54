"""Headless Chromium for scripts and tests: what a page shows, its errors, its picture.

Speaks the DevTools protocol through aiohttp, which the development packages bring.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-unsafe-swiftshader", "--hide-scrollbars", "--remote-debugging-port=0"),
)
# The text of a page with that of its shadow trees and frames.
ALL_TEXT = """
(() => { const texts = [];
  const walk = node => {
    if (node.nodeType === 3) { texts.push(node.data); return }
    if (['STYLE', 'SCRIPT'].includes(node.tagName)) return;
    if (node.shadowRoot) walk(node.shadowRoot);
    if (node.tagName === 'IFRAME' && node.contentDocument) walk(node.contentDocument);
    node.childNodes.forEach(walk) };
  walk(document.body); return texts.join(' ') })()
"""


@dataclass(frozen=True)
class Look:
    """`overflow` is how many pixels the page is wider than the screen."""

    text: str
    errors: list[str]
    overflow: int
    png: bytes


def look(
    url: str,
    width: int = 1280,
    height: int = 900,
    until: Sequence[str] = (),
    script: str = "",
    settle: float = 0.5,
    timeout: float = 90.0,
    whole: bool = False,
) -> Look:
    """Open `url` on a screen of that size, wait until all words of `until` stand there, look.

    `script` is run then, and `settle` seconds waited. `whole` takes the picture of the page in
    its full length.

    Raises:
        TimeoutError: they never came; names those, and what the page shows instead.
    """
    if CHROMIUM is None:
        raise FileNotFoundError("there is no chromium on the PATH; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = port_of(Path(profile), timeout)
            size = width, height
            return asyncio.run(visit(port, url, size, until, script, settle, timeout, whole))
        finally:
            browser.kill()
            browser.wait()


def port_of(profile: Path, timeout: float) -> int:
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + timeout
    while not (file.exists() and file.read_text().strip()):
        if time.monotonic() > deadline:
            raise TimeoutError("Chromium did not start")
        time.sleep(0.1)
    return int(file.read_text().split()[0])


class Tab:
    """One page, commanded by DevTools messages."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket = socket
        self.errors: list[str] = []
        self.number = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        async for message in self.socket:
            told = json.loads(message.data)
            if told.get("id") == self.number:
                return told.get("result", {})
            self.hear(told)
        raise ConnectionError("Chromium has gone")

    def hear(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("text", "exception"))
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(" ".join(str(a.get("value", "")) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("value")


async def visit(
    port: int,
    url: str,
    size: tuple[int, int],
    until: Sequence[str],
    script: str,
    settle: float,
    timeout: float,
    whole: bool,
) -> Look:
    width, height = size
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer,
        session.ws_connect((await answer.json())["webSocketDebuggerUrl"], max_msg_size=0) as socket,
    ):
        tab = Tab(socket)
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await tab.call("Page.navigate", url=url)
        await wait_for(tab, until, timeout)
        if script:
            await tab.value(script)
        await asyncio.sleep(settle)
        text = await tab.value(ALL_TEXT)
        overflow = await tab.value("document.documentElement.scrollWidth - window.innerWidth")
        shot = await tab.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return Look(text or "", tab.errors, int(overflow or 0), base64.b64decode(shot["data"]))


async def wait_for(tab: Tab, words: Sequence[str], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        ready = await tab.value("document.readyState")
        text = (await tab.value(ALL_TEXT) or "") if ready == "complete" else ""
        missing = [word for word in words if word not in text]
        if ready == "complete" and not missing:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{missing} are not there; the page shows: {' '.join(text.split())[-600:]}"
            )
        await asyncio.sleep(0.3)
