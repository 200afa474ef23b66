"""A headless Chromium over its debugging pipe: what a page shows, logs and asks the network for."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """The browser on this machine, None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in a fresh profile; ``logged``: console messages and exceptions, ``asked``: what it requests."""

    def __init__(self, program: str, home: Path, *, javascript: bool = True) -> None:
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        options += [f"--user-data-dir={home / 'profile'}", "--remote-debugging-pipe", "about:blank"]
        line = f'exec "$0" "$@" 3<&{down} 4>&{up}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, program, *options], pass_fds=(down, up), env={**os.environ, "HOME": str(home)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(down)
        os.close(up)
        self._id, self._left, self._session = 0, b"", ""
        self.logged: list[str] = []
        self.asked: list[str] = []
        target = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Emulation.setScriptExecutionDisabled", value=not javascript)

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """One command, its result."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            while b"\0" not in self._left:
                if not select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]:
                    raise TimeoutError(method)
                self._left += os.read(self._read, 1 << 20) or self._gone(method)
            text, _, self._left = self._left.partition(b"\0")
            told = json.loads(text)
            if told.get("id") == self._id:
                assert "error" not in told, told
                return told["result"]
            self._note(told.get("method"), told.get("params", {}))

    def _gone(self, method: str) -> bytes:
        raise EOFError(f"the browser ended during {method}")

    def _note(self, kind: str | None, params: dict[str, Any]) -> None:
        if kind in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.logged.append(json.dumps(params)[:2000])
        elif kind == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def open(self, address: str, width: int = 1280, height: int = 1000, *, dark: bool = False) -> None:
        """Load a page at this size, and wait until it is there."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url="about:blank")  # a new fragment alone would load nothing
        self("Page.navigate", url=address)
        until = time.monotonic() + 60
        bare = address.partition("#")[0]
        while not (
            self.value("location.href.split('#')[0]") == bare and self.value("document.readyState") == "complete"
        ):
            assert time.monotonic() < until, address
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """What JavaScript makes of it; a promise is waited for."""
        told = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def key(self, key: str) -> None:
        """Press a key, and let the page answer."""
        text = {"text": key} if len(key) == 1 else {}
        self("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def settle(self, milliseconds: int = 60) -> None:
        """Wait for what the page has put off."""
        self.value(f"new Promise((done) => setTimeout(done, {milliseconds}))")

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """A screenshot, of the whole page or of what is in view."""
        file.write_bytes(base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
