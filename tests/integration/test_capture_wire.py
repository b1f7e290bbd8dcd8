"""Capture over real sockets: proxies, TLS, mounts, foreign clients, connection pools, streamed uploads."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time

import httpx
import httpx2
import pytest

from klingai_audit import acting
from klingai_audit.capture.httpx import attach_client, audited_transport
from klingai_audit.kling import errors
from tests.unit.kling.wires import proxy, tls_in_front_of
from tests.unit.kling.world import AUTHORIZED, LIVES, POLL, SAID, SEEN, STARTED, make_world

ways = pytest.mark.parametrize("way", ["sync", "async"])
libraries = pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path, speed=SEEN) as made, acting("tester"):
        yield made


def live(world, way, **options):
    """Order, wait and download with our client."""
    if way == "sync":
        with world.client(**options) as kling:
            kling.text_to_video("a lake").wait(poll_interval=POLL).download(world.folder / "x.mp4")
        return

    async def run():
        async with world.async_client(**options) as kling:
            task = await kling.text_to_video("a lake")
            await (await task.wait(poll_interval=POLL)).download(world.folder / "x.mp4")

    asyncio.run(run())


@ways
def test_a_proxy_that_was_given(world, way):
    """Everything goes through `proxy=`, and everything is recorded."""
    with proxy() as running:
        live(world, way, proxy=running.url)
    assert world.story() in LIVES
    assert len(running.lines) == len(world.sim.requests)
    assert running.lines[0] == f"POST {world.server.base_url}/text-to-video/kling-3.0-turbo"


@ways
@pytest.mark.parametrize("trusting", [True, False])
def test_the_proxy_of_the_environment(world, way, trusting, monkeypatch):
    """HTTPS_PROXY is honoured (unless trust_env=False) and what passes it is recorded: TLS through a tunnel."""
    with proxy() as running, tls_in_front_of(world.server.port, world.folder) as (port, context):
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "")
        base = f"https://localhost:{port}"
        if way == "sync":
            with world.client(base_url=base, verify=context, trust_env=trusting) as kling:
                kling.text_to_video("a lake")
        else:

            async def run():
                async with world.async_client(base_url=base, verify=context, trust_env=trusting) as kling:
                    await kling.text_to_video("a lake")

            asyncio.run(run())
    assert world.story() == [SAID, STARTED]
    assert running.lines == ([f"CONNECT localhost:{port}"] if trusting else [])


def test_a_proxy_that_refuses(world):
    """A tunnel that is not opened: nothing was sent to the provider."""
    with proxy(refuse=True) as running, tls_in_front_of(world.server.port, world.folder) as (port, context):
        options = {"base_url": f"https://localhost:{port}", "verify": context, "proxy": running.url}
        with world.client(**options) as kling, pytest.raises(errors.KlingConnectionError):
            kling.text_to_video("a lake")
    assert world.story() == [SAID, ("video_generation_failed", "failure")]
    assert world.entries()[-1]["metadata"]["error"] == "ProxyError"
    assert world.sim.requests == []


@libraries
def test_a_reply_lost_behind_a_proxy(world, library):
    """The order may have been taken: unknown."""
    world.sim.fail_next("POST", "/v1/videos/text2video", drop=True, after_accept=True)
    with proxy() as running, tls_in_front_of(world.server.port, world.folder) as (port, context):
        with library.Client(headers=AUTHORIZED, proxy=running.url, verify=context) as client:
            attach_client(client, world.audit.recorder)
            with pytest.raises(library.RemoteProtocolError):
                client.post(f"https://localhost:{port}/v1/videos/text2video", json={"prompt": "a lake"})
    assert world.story() == [SAID, ("video_generation_started", "unknown")]
    assert len(world.sim.tasks) == 1


def test_a_certificate_that_nobody_trusts(world):
    """TLS is verified by default; a failed handshake sent nothing."""
    with (
        tls_in_front_of(world.server.port, world.folder) as (port, _),
        world.client(base_url=f"https://localhost:{port}") as kling,
        pytest.raises(errors.KlingConnectionError),
    ):
        kling.text_to_video("a lake")
    assert world.story()[-1] == ("video_generation_failed", "failure")


def test_mounts_of_our_client(world):
    """A mounted transport is used and recorded."""
    seen = []

    class Counting(httpx2.HTTPTransport):
        def handle_request(self, request):
            seen.append(request.url.path)
            return super().handle_request(request)

    live(world, "sync", mounts={"http://localhost": Counting()})
    assert world.story() in LIVES
    assert len(seen) == len(world.sim.requests)


@libraries
@ways
def test_a_foreign_client(world, library, way):
    """An existing client of either library, attached: its whole story, over pooled connections, with its own polls."""
    base, path = world.server.base_url, "/v1/videos/text2video"
    body = {"model_name": "kling-v2-6", "prompt": "a lake"}
    if way == "sync":
        with library.Client(base_url=base, headers=AUTHORIZED) as client:
            attach_client(client, world.audit.recorder)
            task_id = client.post(path, json=body).json()["data"]["task_id"]
            while (found := client.get(f"{path}/{task_id}").json()["data"])["task_status"] != "succeed":
                time.sleep(POLL)
            film = client.get(found["task_result"]["videos"][0]["url"]).content
    else:

        async def run():
            async with library.AsyncClient(base_url=base, headers=AUTHORIZED) as client:
                attach_client(client, world.audit.recorder)
                created = await client.post(path, json=body)
                task_id = created.json()["data"]["task_id"]
                while True:
                    found = (await client.get(f"{path}/{task_id}")).json()["data"]
                    if found["task_status"] == "succeed":
                        return (await client.get(found["task_result"]["videos"][0]["url"])).content
                    await asyncio.sleep(POLL)

        film = asyncio.run(run())
    assert world.story() in LIVES
    entries = world.entries()
    assert entries[-1]["metadata"]["sha256"] == hashlib.sha256(film).hexdigest()
    assert len({entry["correlation_id"] for entry in entries}) == 1
    assert entries[-1]["user_agent"].startswith("python-")
    assert entries[-1]["resource_id"] == world.sim.tasks[0].task_id


@libraries
def test_a_client_composed_by_hand(world, library):
    """`audited_transport` around nothing: the request's own library reaches the wire."""
    with library.Client(transport=audited_transport(world.audit.recorder), headers=AUTHORIZED) as client:
        client.post(f"{world.server.base_url}/text-to-video/kling-3.0", json={"prompt": "a lake"})
    assert world.story() == [SAID, STARTED]


@libraries
def test_a_streamed_upload(world, library):
    """A body from a generator arrives whole and its prompt is committed."""

    def parts():
        yield b'{"prompt":"a la'
        yield b'ke"}'

    with library.Client(headers={**AUTHORIZED, "content-type": "application/json"}) as client:
        attach_client(client, world.audit.recorder)
        reply = client.post(f"{world.server.base_url}/text-to-video/kling-3.0", content=parts())
    assert reply.status_code == 200
    assert world.sim.requests[0].body == b'{"prompt":"a lake"}'
    assert world.entries()[0]["metadata"]["prompt"]["bytes"] == 6


@libraries
def test_a_big_upload(world, library):
    """A body of several megabytes (media in base64) is sent as it is and leaves a small entry."""
    body = json.dumps({"prompt": "a lake", "image": "A" * 6_000_000}).encode()
    with library.Client(headers={**AUTHORIZED, "content-type": "application/json"}) as client:
        attach_client(client, world.audit.recorder)
        client.post(f"{world.server.base_url}/v1/videos/text2video", content=body)
    assert world.sim.requests[0].body_sha256 == hashlib.sha256(body).hexdigest()
    assert world.entries()[0]["metadata"]["other_fields"] == ["image"]
    assert max(len(line) for line in world.audit.entries()) < 4000


@libraries
def test_redirected_downloads(world, library):
    """A client that follows redirects makes one act of them; one that does not ends there."""
    with world.client() as kling:
        url = kling.text_to_video("a lake").wait(poll_interval=POLL).videos[0].url
    world.sim.media_redirects = 2
    with library.Client(follow_redirects=True) as client:
        attach_client(client, world.audit.recorder)
        client.get(url)
        client.get(url, follow_redirects=False)
    downloads = [entry for entry in world.entries() if entry["event_type"] == "video_downloaded"]
    assert [entry["outcome"] for entry in downloads] == ["unknown", "success", "unknown", "failure"]
    assert downloads[1]["metadata"]["redirects"] == 2
    assert downloads[3]["metadata"]["http_status"] == 302
