"""Debian's Firefox, as far as the tests need it, over WebDriver BiDi (https://w3c.github.io/webdriver-bidi):
Playwright drives only a Firefox of its own build.

    with Firefox(folder) as firefox:
        page = firefox.open("http://127.0.0.1:7860")
        page.click("tab", "About")
        page.until("() => document.querySelector('h1')")
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from base64 import b64decode
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

FIREFOX = shutil.which("firefox-esr") or "/usr/bin/firefox-esr"
SECONDS = 60  # for whatever is waited for, on a busy machine
#: A camera that shows colours and a microphone that plays a tone, which nobody need allow, and nothing to play on.
PREFERENCES = {
    "media.cubeb.force_mock_context": True,
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
}


class Firefox:
    """A browser without a window.

    Args:
        folder: for its profile.
    """

    def __init__(self, folder: Path):
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items())
        (folder / "user.js").write_text("\n".join(lines))
        self._process = subprocess.Popen(
            [FIREFOX, "--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port", "0"],
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        found = (re.search(r"BiDi listening on (ws://\S+)", line) for line in self._process.stderr)
        address = next(match[1] for match in found if match)
        threading.Thread(target=self._process.stderr.read, daemon=True).start()  # a full pipe would halt it
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(f"{address}/session", max_size=None))
        self._ids = itertools.count()
        self.errors: list[str] = []  # that pages wrote to the console, or did not catch
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])

    def __enter__(self) -> "Firefox":
        return self

    def __exit__(self, *_) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(SECONDS)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and what it gives."""
        id = next(self._ids)
        self._socket.send(json.dumps({"id": id, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv(timeout=SECONDS))).get("id") != id:
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.errors.append(message["params"]["text"])
        if message["type"] == "error":
            raise AssertionError(f"{method}: {message['error']}, {message['message']}")
        return message["result"]

    def open(self, url: str, width: int = 1280, height: int = 900, before: str | None = None) -> "Page":
        """A page in a tab of its own, in which the function `before`, in JavaScript, runs before its own scripts."""
        tab = self.call("browsingContext.create", type="tab")["context"]
        self.call("browsingContext.setViewport", context=tab, viewport={"width": width, "height": height})
        if before:
            self.call("script.addPreloadScript", functionDeclaration=before, contexts=[tab])
        self.call("browsingContext.navigate", context=tab, url=url, wait="complete")
        return Page(self, tab)


class Page:
    """One tab. `evaluate` takes what Playwright's takes."""

    def __init__(self, firefox: Firefox, tab: str):
        self._firefox, self._tab = firefox, tab

    def evaluate(self, function: str, argument: Any = None) -> Any:
        """What a function in JavaScript gives, or what its promise becomes, as JSON has it."""
        result = self._firefox.call(
            "script.callFunction",
            functionDeclaration=f"async (json) => JSON.stringify(await ({function})(JSON.parse(json)) ?? null)",
            arguments=[{"type": "string", "value": json.dumps(argument)}],
            target={"context": self._tab},
            awaitPromise=True,
            userActivation=True,
        )
        if result["type"] == "exception":
            raise AssertionError(result["exceptionDetails"]["text"])
        return json.loads(result["result"]["value"])

    def until(self, function: str, argument: Any = None) -> None:
        """Waits until a function gives something; TimeoutError where it never does."""
        self.evaluate(
            f"""(argument) => new Promise((done) => {{
                const look = () => (({function})(argument) ? done() : setTimeout(look, 50));
                look();
            }})""",
            argument,
        )

    def until_shown(self, selector: str, text: str = "") -> None:
        """Waits until an element is visible and holds a text."""
        self.until(
            """([selector, text]) => [...document.querySelectorAll(selector)].some((each) =>
                each.checkVisibility({ visibilityProperty: true }) && each.textContent.includes(text))""",
            [selector, text],
        )

    def click(self, role: str, name: str) -> None:
        """Clicks, with the mouse, what has a role and a name."""
        found = {"type": "accessibility", "value": {"role": role, "name": name}}
        nodes = self._firefox.call("browsingContext.locateNodes", context=self._tab, locator=found)["nodes"]
        assert nodes, f"There is no {role} {name!r}."
        origin = {"type": "element", "element": {"sharedId": nodes[0]["sharedId"]}}
        self._firefox.call(
            "input.performActions",
            context=self._tab,
            actions=[
                {
                    "type": "pointer",
                    "id": "mouse",
                    "actions": [
                        {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
                        {"type": "pointerDown", "button": 0},
                        {"type": "pointerUp", "button": 0},
                    ],
                }
            ],
        )

    def set_files(self, selector: str, *files: Path) -> None:
        """Puts files into an <input>."""
        found = {"type": "css", "value": selector}
        [node] = self._firefox.call("browsingContext.locateNodes", context=self._tab, locator=found)["nodes"]
        shared = {"sharedId": node["sharedId"]}
        self._firefox.call("input.setFiles", context=self._tab, element=shared, files=[str(file) for file in files])

    def close(self) -> None:
        """Closes the tab, whatever goes on in it."""
        self._firefox.call("browsingContext.close", context=self._tab)

    def screenshot(self, path: Path) -> None:
        """A PNG of what is seen."""
        path.write_bytes(b64decode(self._firefox.call("browsingContext.captureScreenshot", context=self._tab)["data"]))
