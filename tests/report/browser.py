"""A headless Chromium, driven over its debugging pipe: real pointers, keys and downloads, without another package."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 60.0  # seconds for one answer

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page's script is not run")


class Tab:
    """One page. `requests`: the addresses that it asked for; `errors`: what went wrong in its script."""

    def __init__(self, to: int, back: int, downloads: Path) -> None:
        self.to, self.back, self.downloads = to, back, downloads
        self.left, self.number, self.session = b"", 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.size(1200, 900)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command; what the page says meanwhile is noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self.number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self._note(said)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            assert select.select([self.back], [], [], PATIENCE)[0], "the browser does not answer"
            piece = os.read(self.back, 1 << 20)
            assert piece, "the browser is gone"
            self.left += piece
        said, self.left = self.left.split(b"\0", 1)
        return json.loads(said)

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.errors.append(json.dumps(params))
            case "Page.javascriptDialogOpening":
                self.errors.append(f"dialog: {params['message']}")

    def open(self, page: Path, mark: str = "") -> None:
        """Load a file and wait until its script has run."""
        self.send("Page.navigate", url=page.as_uri() + mark)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def reload(self) -> None:
        self.run("window.old = true")
        self.send("Page.reload")
        self.wait("!window.old && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self._holds(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.run(condition))
        except RuntimeError:  # asked while one page made room for the next
            return False

    def size(self, width: int, height: int, phone: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def theme(self, name: str) -> None:
        """light or dark."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def centre(self, selector: str) -> tuple[float, float]:
        """Of an element, scrolled into view."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return found[0], found[1]

    def click(self, selector: str) -> None:
        x, y = self.centre(selector)
        self.mouse([(x, y)])

    def mouse(self, points: Sequence[tuple[float, float]]) -> None:
        """Press the left button at the first point, move along, release at the last."""
        for kind, (x, y) in self._stroke("mouseMoved", "mousePressed", "mouseReleased", points):
            buttons = {} if kind == "mouseMoved" and (x, y) == points[0] else {"buttons": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, **buttons)

    @staticmethod
    def _stroke(
        move: str, press: str, release: str, points: Sequence[tuple[float, float]]
    ) -> Iterator[tuple[str, tuple[float, float]]]:
        yield press, points[0]
        yield from ((move, point) for point in points[1:])
        yield release, points[-1]

    def touch(self, points: Sequence[tuple[float, float]]) -> None:
        """One finger along the points."""
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        for kind, (x, y) in self._stroke("touchMove", "touchStart", "touchEnd", points):
            self.send(
                "Input.dispatchTouchEvent", type=kind, touchPoints=[] if kind == "touchEnd" else [{"x": x, "y": y}]
            )

    def press(self, key: str, shift: bool = False, control: bool = False) -> None:
        """One key: a letter, or its name as in KeyboardEvent.key."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}
        codes |= {f"Arrow{side}": 37 + number for number, side in enumerate(("Left", "Up", "Right", "Down"))}
        code = codes.get(key, ord(key[0].upper()))
        values = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift + 2 * control}
        text = "\r" if key == "Enter" else key if len(key) == 1 and not control else None
        self.send("Input.dispatchKeyEvent", type="keyDown", **values, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def downloaded(self, name: str) -> Path:
        """A file that the page saved, whole."""
        file, end = self.downloads / name, time.monotonic() + PATIENCE
        while not file.exists() or list(self.downloads.glob("*.crdownload")):
            assert time.monotonic() < end, f"{name} is not downloaded"
            time.sleep(0.05)
        return file

    def screenshot(self, path: Path, full: bool = False) -> None:
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """A browser with a fresh profile below the folder, whose downloads lie in `downloads`, and its one page."""
    (folder / "downloads").mkdir(parents=True)
    pipes = [os.pipe(), os.pipe()]
    (theirs, to), (back, answers) = pipes
    theirs, answers = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs, answers))

    def third_and_fourth() -> None:
        os.dup2(theirs, 3)
        os.dup2(answers, 4)

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [str(CHROMIUM), *options, f"--user-data-dir={folder / 'profile'}"],
        preexec_fn=third_and_fourth,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Tab(to, back, folder / "downloads")
    finally:
        process.terminate()
        process.wait()
        for fd in (*pipes[0], *pipes[1], theirs, answers):
            os.close(fd)
