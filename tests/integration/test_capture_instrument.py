"""One line for a whole process: every library, clients from before and after, and nothing but Kling."""

from __future__ import annotations

import asyncio
import http.server
import threading

import aiohttp
import httpx
import httpx2
import pytest
import requests

from klingai_audit import acting
from tests.unit.kling.wires import proxy
from tests.unit.kling.world import AUTHORIZED, SAID, STARTED, make_world

PATH = "/v1/videos/text2video"
BODY = {"model_name": "kling-v2-6", "prompt": "a lake"}


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path) as made, acting("tester"):
        yield made


async def by_aiohttp(url, session=None, **options):
    """Order with aiohttp, with a session of its own unless one is given."""
    if session is None:
        async with aiohttp.request("POST", url, json=BODY, headers=AUTHORIZED, **options) as response:
            return response.status, await response.json()
    async with session.post(url, json=BODY, headers=AUTHORIZED, **options) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("library", ["requests", "httpx", "httpx2", "aiohttp"])
def test_module_level_functions(world, library):
    """Nobody needs a client object: the libraries' own functions are audited, until `undo`."""
    url = world.server.base_url + PATH
    plain = {"requests": requests, "httpx": httpx, "httpx2": httpx2}

    def order():
        if library == "aiohttp":
            assert asyncio.run(by_aiohttp(url))[1]["code"] == 0
        else:
            assert plain[library].post(url, json=BODY, headers=AUTHORIZED).json()["code"] == 0

    with world.audit.instrument():
        order()
    order()
    assert world.story() == [SAID, STARTED]
    assert len(world.sim.requests) == 2


def test_clients_from_before_and_after(world):
    """Clients that existed are audited as well as new ones, threads and coroutines alike."""
    world.sim.concurrency["video"] = 9
    url = world.server.base_url + PATH

    async def play():
        async with aiohttp.ClientSession() as early, httpx.AsyncClient() as also_early:
            made = world.audit.instrument()
            async with httpx2.AsyncClient() as late:
                await by_aiohttp(url, early)
                await also_early.post(url, json=BODY, headers=AUTHORIZED)
                await late.post(url, json=BODY, headers=AUTHORIZED)
            made.undo()
            await by_aiohttp(url, early)

    asyncio.run(play())
    assert world.story() == [SAID, STARTED] * 3
    with requests.Session() as early, httpx2.Client() as also_early, world.audit.instrument(), httpx.Client() as late:
        for client in (early, also_early, late):
            client.post(url, json=BODY, headers=AUTHORIZED)
    assert world.story() == [SAID, STARTED] * 6


def test_proxies_are_still_used(world):
    """A proxied call goes through its proxy and is recorded, in each library."""
    url = world.server.base_url + PATH
    with proxy() as running, world.audit.instrument():
        requests.post(url, json=BODY, headers=AUTHORIZED, proxies={"http": running.url})
        httpx.post(url, json=BODY, headers=AUTHORIZED, proxy=running.url)
        httpx2.post(url, json=BODY, headers=AUTHORIZED, proxy=running.url)
        asyncio.run(by_aiohttp(url, proxy=running.url))
    assert world.story() == [SAID, STARTED] * 4
    assert len(running.lines) == 4


def test_everything_else_is_untouched(world):
    """Other servers see the same requests, and the log stays empty."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/other"
    with world.audit.instrument():
        for library in (requests, httpx, httpx2):
            assert library.post(url, json={"a": 1}).json() == {}
    server.shutdown()
    server.server_close()
    assert len(seen) == 3
    assert world.entries() == []


def test_hosts_and_base_url(world, monkeypatch):
    """A path that no catalogue knows is recorded where the address is declared to be Kling's."""
    monkeypatch.setenv("KLINGAI_BASE_URL", world.server.base_url)
    with world.audit.instrument():
        requests.post(f"{world.server.base_url}/v9/new", json=BODY, headers=AUTHORIZED)
    monkeypatch.delenv("KLINGAI_BASE_URL")
    host = world.server.base_url.removeprefix("http://")
    with world.audit.instrument(hosts=[host]):
        httpx.post(f"{world.server.base_url}/v9/new", json=BODY, headers=AUTHORIZED)
    with world.audit.instrument():
        httpx2.post(f"{world.server.base_url}/v9/new", json=BODY, headers=AUTHORIZED)
    assert [entry["action"] for entry in world.entries() if entry["event_type"] == "prompt_submitted"] == [
        "/v9/new"
    ] * 2


def test_with_other_captures_there_is_one_record(world):
    """Attached clients, our own client and a second instrumentation do not count an act twice."""
    url = world.server.base_url + PATH
    with world.audit.instrument(), world.audit.instrument(), requests.Session() as session, httpx.Client() as client:
        world.audit.attach(session)
        world.audit.attach(client)
        session.post(url, json=BODY, headers=AUTHORIZED)
        client.post(url, json=BODY, headers=AUTHORIZED)
        with world.client() as kling:
            kling.text_to_video("a lake")

        async def play():
            async with aiohttp.ClientSession() as existing:
                world.audit.attach(existing)
                await by_aiohttp(url, existing)

        asyncio.run(play())
    assert world.story() == [SAID, STARTED] * 4


def test_a_download_that_was_named_by_a_reply(world):
    """Links from recorded replies are in scope, wherever they point."""
    with world.client() as kling:
        url = kling.text_to_video("a lake").wait(poll_interval=0.02).videos[0].url
    with world.audit.instrument():
        requests.get(url)
    assert world.story()[-2:] == [("video_downloaded", "unknown"), ("video_downloaded", "success")]
