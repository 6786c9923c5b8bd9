"""A headless Chromium for the tests of pages, driven by chromedriver over HTTP on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window, as wide as asked for; close it, or use it in a `with`."""

    def __init__(self, profile: Path, width: int, height: int = 900):
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.root = f"http://127.0.0.1:{port}"
        options = {"binary": BROWSER, "args": [*SWITCHES, f"--user-data-dir={profile}"]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait()
            made = self._post("/session", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self.driver.kill()
            raise
        self.root += f"/session/{made['sessionId']}"
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._command("Emulation.setDeviceMetricsOverride", screen)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            LOCAL.open(urllib.request.Request(self.root, method="DELETE"), timeout=30).close()
        finally:
            self.driver.terminate()
            self.driver.wait()

    def open(self, page: Path) -> None:
        self._post("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """The value that `script` returns."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Keys one after the other, to whatever has the focus."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def complaints(self) -> list[str]:
        """What the console has said since the last call: errors of scripts, things that the content policy refused."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        made = self._command("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(made["data"]))

    def _wait(self) -> None:
        for _ in range(300):
            try:
                LOCAL.open(f"{self.root}/status", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver did not start")

    def _command(self, name: str, parameters: dict) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _post(self, path: str, body: dict) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"})
        with LOCAL.open(request, timeout=120) as answer:
            return json.load(answer)["value"]
