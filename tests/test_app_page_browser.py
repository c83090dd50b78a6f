"""Around the tabs, in a real Chromium: their addresses, what is removed, and the demo behind a proxy with a path."""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from helpers import ASTRONAUT, CHROMIUM, add_file, open_tab

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="the browser tests need chromium: apt-get install chromium"
)
expect = sync_api.expect

T = TypeVar("T")


def selected_tab(page):
    return page.locator("#tabs [role=tab][aria-selected=true]")


def test_every_tab_has_an_address_and_back_leads_to_the_tab_before(open_page, server):
    page = open_page("Live")
    assert page.url == server
    for tab, address in (("Words", "#words"), ("About", "#about")):
        open_tab(page, tab)
        assert page.url == server + address
    page.go_back()
    expect(selected_tab(page)).to_have_text("Words")
    page.go_back()
    expect(selected_tab(page)).to_have_text("Live")
    page.go_forward()
    expect(selected_tab(page)).to_have_text("Words")
    page.goto(f"{server}#video")
    page.reload()
    expect(selected_tab(page)).to_have_text("Video")
    page.goto(f"{server}#nowhere")
    page.reload()
    expect(selected_tab(page)).to_have_text("Live")


def test_a_removed_photo_takes_its_answer_along(open_page):
    page = open_page()
    add_file(page, "photo", ASTRONAUT)
    page.get_by_role("button", name="Recognise").click()
    expect(page.locator("#answer .frame")).to_be_visible()
    page.get_by_role("button", name="Why this answer?").click()
    expect(page.locator("#why")).to_contain_text("spoke for")
    page.locator("#photo").get_by_label("Remove Image").click()
    expect(page.locator("#answer")).to_contain_text("The answer appears here")
    expect(page.locator("#why")).to_be_empty()
    expect(page.locator("#ask-why")).to_be_hidden()


# --- Behind a proxy


class Proxy:
    """A reverse proxy on loopback that takes /emoclip off every path, and knows no other; WebSockets pass."""

    prefix = b"/emoclip"

    def __init__(self, server: str):
        self._port = urlsplit(server).port
        self.refused = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._listening = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/emoclip"

    def _run(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_server = None
        try:
            first, *headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            method, path, version = first.split()
            if not path.startswith(self.prefix):
                self.refused.append(path)
                return writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            path = path.removeprefix(self.prefix) or b"/"
            if not any(line.lower().startswith(b"upgrade:") for line in headers):  # one request a connection
                headers = [line for line in headers if not line.lower().startswith(b"connection:")]
                headers.insert(0, b"Connection: close")
            up_reader, with_server = await asyncio.open_connection("127.0.0.1", self._port)
            with_server.write(b"\r\n".join([b" ".join([method, path, version]), *headers]))
            await asyncio.wait(
                [asyncio.ensure_future(copy(reader, with_server)), asyncio.ensure_future(copy(up_reader, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for each in filter(None, (writer, with_server)):
                each.close()

    def close(self) -> None:
        async def end() -> None:
            self._listening.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.fixture
def proxy(server, app, monkeypatch):
    monkeypatch.setattr(app.demo.app, "root_path", "/emoclip")  # as GRADIO_ROOT_PATH sets it
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("slash", ["", "/"])
def test_behind_a_proxy_with_a_path_everything_is_found(open_page, proxy, slash):
    page = open_page("Live", address=proxy.address + slash)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".live .box.main")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    open_tab(page, "Photo and voice")
    assert page.url == f"{proxy.address}{slash}#photo"
    page.get_by_role("button", name="Admiral alone").click()
    expect(page.locator("#answer .frame")).to_be_visible()
    assert [path for path in proxy.refused if not path.startswith((b"/favicon", b"/manifest"))] == []
