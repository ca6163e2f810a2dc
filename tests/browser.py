"""A headless Chromium, driven over a pipe by its DevTools protocol: https://chromedevtools.github.io/devtools-protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections import deque
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
"""Names of the program, of which the first that is found is taken."""
FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
)  # fmt: skip
_PIPES = 'exec "$0" "$@" 3<&$TO_BROWSER 4>&$FROM_BROWSER'  # the program reads from 3 and writes to 4


def find_browser():
    """Return the path of a browser, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running_browser(profile):
    """Run a browser with an empty profile in a folder that is given.

    Yields:
        A `Browser`.
    """
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    command = ["bash", "-c", _PIPES, find_browser(), *FLAGS, f"--user-data-dir={profile}"]
    places = {"TO_BROWSER": str(their_in), "FROM_BROWSER": str(their_out)}
    with (profile / "stderr").open("wb") as errors, os.fdopen(our_in, "rb") as source, os.fdopen(our_out, "wb") as sink:
        process = subprocess.Popen(
            command, env={**os.environ, **places}, pass_fds=(their_in, their_out), stderr=errors, stdout=errors
        )
        os.close(their_in)
        os.close(their_out)
        try:
            browser = Browser(source, sink)
            yield browser
            browser.call("Browser.close")
        finally:
            process.wait(timeout=20)


class Browser:
    """The connection: calls with their answers, and events in between."""

    def __init__(self, source, sink):
        self._source, self._sink, self._numbers = source, sink, itertools.count(1)
        self._unread = b""
        self.events = deque()

    def call(self, method, session=None, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._sink.write(json.dumps(message).encode() + b"\0")
        self._sink.flush()
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        """Read until an event comes."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def open(self, url, *, width=1280, height=900, is_dark=False):
        """Open a page in a tab of its own, and wait until it is loaded."""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        page.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")
        return page

    def _read(self):
        while b"\0" not in self._unread:
            piece = self._source.read1()
            assert piece, "the browser has ended; see the file stderr in its profile"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Tab:
    """A page that is open."""

    def __init__(self, browser, session):
        self._browser, self._session = browser, session

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression):
        """Return the value of an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector):
        """Move the mouse to the middle of an element, and click."""
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
        x, y = self.evaluate(f"{box} return [b.x + b.width / 2, b.y + b.height / 2] }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        """Type a text into what was clicked."""
        self.call("Input.insertText", text=text)

    def press_enter(self):
        """Press the Enter key, and wait for the page that it leads to."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    def wait_for_load(self):
        """Wait until another page is loaded."""
        self._browser.wait_for("Page.loadEventFired")

    def forget_events(self):
        """Forget what has happened until now."""
        self._browser.events.clear()

    def screenshot(self, path):
        """Write the whole page as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    @property
    def errors(self):
        """What the console shows of errors and warnings, and exceptions."""
        self.evaluate("0")  # what happened before has been read then
        found = []
        for event in self._browser.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(parameters["exceptionDetails"]["text"])
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
        return found

    @property
    def requests(self):
        """Addresses that were asked for, without those whose data they hold."""
        self.evaluate("0")
        urls = (e["params"]["request"]["url"] for e in self._browser.events if e.get("method") == _REQUEST)
        return [url for url in urls if not url.startswith("data:")]


_REQUEST = "Network.requestWillBeSent"
