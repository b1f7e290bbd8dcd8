"""Sessions of aiohttp over real sockets: their settings are honoured and everything is recorded."""

from __future__ import annotations

import asyncio
import hashlib
import json

import aiohttp
import pytest

from klingai_audit import acting
from tests.unit.kling.wires import proxy, tls_in_front_of
from tests.unit.kling.world import AUTHORIZED, KEY, LIVES, POLL, SAID, SEEN, STARTED, make_world

PATH = "/v1/videos/text2video"
BODY = {"model_name": "kling-v2-6", "prompt": "a lake"}


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path, speed=SEEN) as made, acting("tester"):
        yield made


def within(world, play, **options):
    """Run `play(session)` with an attached session."""

    async def run():
        async with aiohttp.ClientSession(headers=AUTHORIZED, **options) as session:
            world.audit.attach(session)
            return await play(session)

    return asyncio.run(run())


async def live(world, session, **options):
    """Order, poll and download as services do; returns the film and its link."""
    base = world.server.base_url
    async with session.post(base + PATH, json=BODY, **options) as response:
        task_id = (await response.json())["data"]["task_id"]
    while True:
        async with session.get(f"{base}{PATH}/{task_id}", **options) as response:
            found = (await response.json())["data"]
        if found["task_status"] == "succeed":
            break
        await asyncio.sleep(POLL)
    url = found["task_result"]["videos"][0]["url"]
    async with session.get(url, **options) as response:
        return await response.read(), url


def test_a_whole_life(world):
    """An unmodified service: its whole story under one correlation, over one pooled connection."""
    created = []
    trace = aiohttp.TraceConfig()

    async def count(*about):
        created.append(about)

    trace.on_connection_create_end.append(count)
    film, _ = within(world, lambda session: live(world, session), trace_configs=[trace])
    entries = world.entries()
    assert world.story() in LIVES
    assert entries[-1]["metadata"]["sha256"] == hashlib.sha256(film).hexdigest()
    assert len({entry["correlation_id"] for entry in entries}) == 1
    assert entries[-1]["user_agent"].startswith("Python")
    assert len(created) == 1
    assert KEY not in str(entries)


@pytest.mark.parametrize("given", ["argument", "session", "environment"])
def test_proxies(world, given, monkeypatch):
    """A proxy is used however it is given, and everything that passes it is recorded."""
    with proxy() as running:
        call = {"proxy": running.url} if given == "argument" else {}
        session = {"proxy": running.url} if given == "session" else {"trust_env": given == "environment"}
        monkeypatch.setenv("HTTP_PROXY", running.url)
        monkeypatch.setenv("NO_PROXY", "")
        within(world, lambda session: live(world, session, **call), **session)
    assert world.story() in LIVES
    assert len(running.lines) == len(world.sim.requests)


@pytest.mark.parametrize("ssl", ["context", "nothing", "not trusted"])
def test_tls(world, ssl, monkeypatch):
    """`ssl=` and HTTPS_PROXY are honoured: a tunnel, a trusted certificate, none at all, and one nobody trusts."""

    async def play(session):
        url = f"https://localhost:{port}{PATH}"
        if ssl == "not trusted":
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.post(url, json=BODY)
            return
        async with session.post(url, json=BODY, ssl=context if ssl == "context" else False) as response:
            await response.read()

    with proxy() as running, tls_in_front_of(world.server.port, world.folder) as (port, context):
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        monkeypatch.setenv("NO_PROXY", "")
        within(world, play, trust_env=True)
    assert world.story() == [SAID, ("video_generation_failed", "failure") if ssl == "not trusted" else STARTED]
    assert running.lines == [f"CONNECT localhost:{port}"]


def test_a_proxy_that_refuses(world):
    """A tunnel that is not opened: nothing was sent to Kling."""

    async def play(session):
        with pytest.raises(aiohttp.ClientHttpProxyError):
            await session.post(f"https://localhost:{port}{PATH}", json=BODY, proxy=running.url)

    with proxy(refuse=True) as running, tls_in_front_of(world.server.port, world.folder) as (port, _):
        within(world, play)
    assert world.story() == [SAID, ("video_generation_failed", "failure")]
    assert world.sim.requests == []


def test_a_reply_lost_behind_a_proxy(world):
    """The order may have been taken: unknown."""

    async def play(session):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(f"https://localhost:{port}{PATH}", json=BODY, proxy=running.url, ssl=context)

    world.sim.fail_next("POST", PATH, drop=True, after_accept=True)
    with proxy() as running, tls_in_front_of(world.server.port, world.folder) as (port, context):
        within(world, play)
    assert world.story() == [SAID, ("video_generation_started", "unknown")]
    assert len(world.sim.tasks) == 1


def test_streamed_uploads(world):
    """Megabytes from a generator and from a file arrive whole, with a small entry."""
    body = json.dumps({"prompt": "a lake", "image": "A" * 6_000_000}).encode()
    path = world.folder / "body.json"
    path.write_bytes(body)

    async def parts():
        for start in range(0, len(body), 700_000):
            yield body[start : start + 700_000]

    async def play(session):
        for data in (parts(), path.open("rb")):
            async with session.post(
                world.server.base_url + PATH, data=data, headers={"content-type": "application/json"}
            ) as response:
                await response.read()

    within(world, play)
    digest = hashlib.sha256(body).hexdigest()
    assert [request.body_sha256 for request in world.sim.requests] == [digest, digest]
    assert [entry["metadata"]["prompt"]["bytes"] for entry in world.entries() if "prompt" in entry["metadata"]] == [
        6,
        6,
    ]
    assert max(len(line) for line in world.audit.entries()) < 4000


def test_streamed_and_redirected_downloads(world):
    """A film in pieces after two hops is one act with the digest of the film."""

    async def play(session):
        _, url = await live(world, session)
        world.sim.media_redirects = 2
        digest = hashlib.sha256()
        async with session.get(url) as response:
            async for piece in response.content.iter_chunked(8192):
                digest.update(piece)
        async with session.get(url, allow_redirects=False):
            pass
        return digest.hexdigest()

    digest = within(world, play)
    downloads = [entry for entry in world.entries() if entry["event_type"] == "video_downloaded"][2:]
    assert [entry["outcome"] for entry in downloads] == ["unknown", "success", "unknown", "failure"]
    assert (downloads[1]["metadata"]["redirects"], downloads[1]["metadata"]["sha256"]) == (2, digest)


def test_tasks_share_a_session(world):
    """Four tasks, each with its own person, over one session: four stories, none mixed up."""

    async def one(session, number):
        async with acting(f"person-{number}"):
            return await live(world, session)

    async def play(session):
        return await asyncio.gather(*(one(session, number) for number in range(4)))

    assert len(within(world, play)) == 4
    stories = {}
    for entry in world.entries():
        stories.setdefault(entry["correlation_id"], []).append(entry)
    assert len(stories) == 4
    assert [] == [told for told in stories.values() if len({entry["actor_id"] for entry in told}) > 1]
