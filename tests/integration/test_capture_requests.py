"""Sessions of requests over real sockets: their settings are honoured and everything is recorded."""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

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


@pytest.fixture
def session(world):
    """Give an attached session with the key."""
    with requests.Session() as made:
        made.headers.update(AUTHORIZED)
        world.audit.attach(made)
        yield made


def live(world, session, **options):
    """Order, poll and download as scripts do; returns the film and its link."""
    base = world.server.base_url
    task_id = session.post(base + PATH, json=BODY, **options).json()["data"]["task_id"]
    while (found := session.get(f"{base}{PATH}/{task_id}", **options).json()["data"])["task_status"] != "succeed":
        time.sleep(POLL)
    url = found["task_result"]["videos"][0]["url"]
    return session.get(url, **options).content, url


def test_a_whole_life(world, session):
    """An unmodified script: its whole story under one correlation, over pooled connections."""
    film, _ = live(world, session)
    entries = world.entries()
    assert world.story() in LIVES
    assert entries[-1]["metadata"]["sha256"] == hashlib.sha256(film).hexdigest()
    assert len({entry["correlation_id"] for entry in entries}) == 1
    assert entries[-1]["user_agent"].startswith("python-requests/")
    assert entries[-1]["resource_id"] == world.sim.tasks[0].task_id
    assert KEY not in str(entries)


def test_connections_are_pooled(world, session):
    """Twenty calls use one connection, as without the audit."""
    pools = session.get_adapter(world.server.base_url).poolmanager
    for _ in range(20):
        session.get(f"{world.server.base_url}{PATH}/0")
    assert [1] == [pools.pools[key].num_connections for key in pools.pools.keys()]  # noqa: SIM118  not a dict


@pytest.mark.parametrize("given", ["argument", "session", "environment"])
def test_proxies(world, session, given, monkeypatch):
    """A proxy is used however it is given, and everything that passes it is recorded."""
    with proxy() as running:
        options = {}
        if given == "argument":
            options = {"proxies": {"http": running.url}}
        elif given == "session":
            session.proxies = {"http": running.url}
        else:
            monkeypatch.setenv("HTTP_PROXY", running.url)
            monkeypatch.setenv("NO_PROXY", "")
        live(world, session, **options)
    assert world.story() in LIVES
    assert len(running.lines) == len(world.sim.requests)


@pytest.mark.parametrize("verify", ["file", "nothing", "not trusted"])
def test_tls(world, session, verify, monkeypatch):
    """`verify=` and HTTPS_PROXY are honoured: a tunnel, a trusted certificate, none at all, and one nobody trusts."""
    with proxy() as running, tls_in_front_of(world.server.port, world.folder) as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        monkeypatch.setenv("NO_PROXY", "")
        url = f"https://localhost:{port}{PATH}"
        if verify == "not trusted":
            with pytest.raises(requests.exceptions.SSLError):
                session.post(url, json=BODY)
            assert world.story() == [SAID, ("video_generation_failed", "failure")]
            return
        if verify == "file":
            session.post(url, json=BODY, verify=str(world.folder / "localhost.pem"))
        else:
            with pytest.warns(Warning, match="Unverified HTTPS"):
                session.post(url, json=BODY, verify=False)
    assert world.story() == [SAID, STARTED]
    assert running.lines == [f"CONNECT localhost:{port}"]


def test_a_proxy_that_refuses(world, session):
    """A tunnel that is not opened: nothing was sent to Kling."""
    with (
        proxy(refuse=True) as running,
        tls_in_front_of(world.server.port, world.folder) as (port, _),
        pytest.raises(requests.exceptions.ProxyError),
    ):
        session.post(f"https://localhost:{port}{PATH}", json=BODY, proxies={"https": running.url})
    assert world.story() == [SAID, ("video_generation_failed", "failure")]
    assert world.sim.requests == []


@pytest.mark.parametrize("tries", [0, 1])
def test_a_reply_lost_behind_a_proxy(world, session, tries):
    """urllib3 calls it a ProxyError, but the order may have been taken: unknown, and a second try is one of its own."""
    retry = Retry(total=tries, allowed_methods=None, backoff_factor=0)
    session.mount("https://", HTTPAdapter(max_retries=retry))
    world.sim.fail_next("POST", PATH, drop=True, after_accept=True, times=2)
    with (
        proxy() as running,
        tls_in_front_of(world.server.port, world.folder) as (port, _),
        pytest.raises(requests.exceptions.ConnectionError),
    ):
        url = f"https://localhost:{port}{PATH}"
        session.post(url, json=BODY, proxies={"https": running.url}, verify=str(world.folder / "localhost.pem"))
    assert world.story() == [SAID, ("video_generation_started", "unknown")] * (tries + 1)
    assert len(world.sim.tasks) == tries + 1


def test_a_proxy_that_is_not_there(world, session):
    """Nothing was sent to Kling."""
    with pytest.raises(requests.exceptions.ProxyError):
        session.post(world.server.base_url + PATH, json=BODY, proxies={"http": "http://127.0.0.1:9"})
    assert world.story() == [SAID, ("video_generation_failed", "failure")]


def test_a_port_that_nobody_listens_on(world, session):
    """A refused connection is a failure, not an unknown."""
    with pytest.raises(requests.ConnectionError):
        session.post(f"http://127.0.0.1:9{PATH}", json=BODY)
    assert world.story() == [SAID, ("video_generation_failed", "failure")]


def test_adapters_of_their_own(world, session):
    """A mounted adapter with its own TLS context is used and recorded, also when it is mounted after attach."""

    class Pinned(HTTPAdapter):
        def init_poolmanager(self, *args, **kwargs):
            return super().init_poolmanager(*args, **{**kwargs, "ssl_context": context})

    with tls_in_front_of(world.server.port, world.folder) as (port, context):
        assert isinstance(context, ssl.SSLContext)
        session.mount("https://localhost", Pinned())
        session.post(f"https://localhost:{port}{PATH}", json=BODY)
    assert world.story() == [SAID, STARTED]


@pytest.mark.parametrize("size", [0, 6_000_000])
def test_streamed_uploads(world, session, size):
    """Bodies from generators and from files arrive whole, chunked as they were, with a small entry."""
    body = json.dumps({"prompt": "a lake", "image": "A" * size}).encode()

    def parts():
        for start in range(0, len(body), 700_000):
            yield body[start : start + 700_000]

    file = world.folder / "body.json"
    file.write_bytes(body)
    json_type = {"content-type": "application/json"}
    session.post(world.server.base_url + PATH, data=parts(), headers=json_type)
    with file.open("rb") as handle:
        session.post(world.server.base_url + PATH, data=handle, headers=json_type)
    digest = hashlib.sha256(body).hexdigest()
    assert [request.body_sha256 for request in world.sim.requests] == [digest, digest]
    assert [entry["metadata"]["prompt"]["bytes"] for entry in world.entries() if "prompt" in entry["metadata"]] == [
        6,
        6,
    ]
    assert max(len(line) for line in world.audit.entries()) < 4000


def test_streamed_downloads(world, session):
    """A film read in pieces, straight to disk, has the digest of the file on disk."""
    _, url = live(world, session)
    with session.get(url, stream=True) as reply, (world.folder / "x.mp4").open("wb") as file:
        for piece in reply.iter_content(8192):
            file.write(piece)
    digest = hashlib.sha256((world.folder / "x.mp4").read_bytes()).hexdigest()
    assert world.entries()[-1]["metadata"]["sha256"] == digest


def test_redirected_downloads(world, session):
    """Two hops are one act; a session that does not follow ends at the first."""
    _, url = live(world, session)
    world.sim.media_redirects = 2
    session.get(url)
    session.get(url, allow_redirects=False)
    downloads = [entry for entry in world.entries() if entry["event_type"] == "video_downloaded"][2:]
    assert [entry["outcome"] for entry in downloads] == ["unknown", "success", "unknown", "failure"]
    assert downloads[1]["metadata"]["redirects"] == 2
    assert downloads[3]["metadata"]["http_status"] == 302


def test_retries_inside_requests(world, session):
    """urllib3's Retry is honoured, and each try that left is an act of its own, joined to the first."""
    retry = Retry(total=3, status_forcelist=[500, 503], allowed_methods=None, backoff_factor=0)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    world.sim.fail_next("POST", PATH, status=503, code=5001)
    world.sim.fail_next("POST", PATH, drop=True, after_accept=True)
    reply = session.post(world.server.base_url + PATH, json=BODY)
    assert reply.json()["code"] == 0
    assert len(world.sim.requests) == 3
    assert world.story() == [
        SAID, ("video_generation_started", "unknown"), SAID, ("video_generation_started", "unknown"), SAID, STARTED
    ]  # fmt: skip
    said = [entry for entry in world.entries() if entry["event_type"] == "prompt_submitted"]
    assert [entry["metadata"].get("attempt") for entry in said] == [None, 2, 3]
    assert {entry["metadata"]["resend_of"] for entry in said[1:]} == {said[0]["event_id"]}
    assert len({entry["correlation_id"] for entry in said}) == 1


def test_retries_that_never_left(world, session):
    """Tries that do not even connect stay within one act."""
    session.mount("http://", HTTPAdapter(max_retries=Retry(total=2, allowed_methods=None, backoff_factor=0)))
    with pytest.raises(requests.ConnectionError):
        session.post(f"http://127.0.0.1:9{PATH}", json=BODY)
    assert world.story() == [SAID, ("video_generation_failed", "failure")]


def test_threads_share_a_session(world, session):
    """Twelve threads, each with its own person, over one session: twelve stories, none mixed up."""

    def one(number):
        with acting(f"person-{number}"):
            return live(world, session)

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(one, range(12)))) == 12
    stories = {}
    for entry in world.entries():
        stories.setdefault(entry["correlation_id"], []).append(entry)
    assert len(stories) == 12
    for told in stories.values():
        assert {entry["actor_id"] for entry in told} == {told[0]["actor_id"]}
        assert {"prompt_submitted", "video_generation_completed", "video_downloaded"} <= {
            entry["event_type"] for entry in told
        }
