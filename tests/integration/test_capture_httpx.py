"""Existing clients of httpx2 and httpx: proxies, mounts, certificates and HTTP/2 are honoured and recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import urllib.request

import h2.config
import h2.connection
import h2.events
import httpx
import httpx2
import pytest

from klingai_audit import acting
from tests.unit.kling.wires import Listener, proxy, tls_in_front_of
from tests.unit.kling.world import AUTHORIZED, SAID, STARTED, make_world

PATH = "/v1/videos/text2video"
BODY = {"model_name": "kling-v2-6", "prompt": "a lake"}
ways = pytest.mark.parametrize("way", ["sync", "async"])
libraries = pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])


@pytest.fixture
def world(tmp_path):
    """Give a log and a simulator, with someone acting."""
    with make_world(tmp_path) as made, acting("tester"):
        yield made


def order(world, library, way, url, *, times=1, how="attach", **options):
    """Order `times` over one client with `options`; returns the HTTP versions of the replies."""
    scope = contextlib.nullcontext() if how == "attach" else world.audit.instrument()
    if way == "sync":
        with library.Client(headers=AUTHORIZED, **options) as client, scope:
            if how == "attach":
                world.audit.attach(client)
            return [client.post(url, json=BODY).http_version for _ in range(times)]

    async def run():
        async with library.AsyncClient(headers=AUTHORIZED, **options) as client:
            with scope:
                if how == "attach":
                    world.audit.attach(client)
                replies = await asyncio.gather(*(client.post(url, json=BODY) for _ in range(times)))
                return [reply.http_version for reply in replies]

    return asyncio.run(run())


@libraries
@ways
@pytest.mark.parametrize("how", ["attach", "instrument"])
@pytest.mark.parametrize("given", ["proxy", "mounts", "environment"])
def test_proxies(world, library, way, how, given, monkeypatch):
    """A proxy is used however it was given, and what passes it is recorded."""
    transport = library.HTTPTransport if way == "sync" else library.AsyncHTTPTransport
    with proxy() as running:
        monkeypatch.setenv("HTTP_PROXY", running.url)
        monkeypatch.setenv("NO_PROXY", "")
        options = {
            "proxy": {"proxy": running.url, "trust_env": False},
            "mounts": {"mounts": {"http://": transport(proxy=running.url)}, "trust_env": False},
            "environment": {},
        }[given]
        order(world, library, way, world.server.base_url + PATH, how=how, **options)
    assert world.story() == [SAID, STARTED]
    assert running.lines == [f"POST {world.server.base_url}{PATH}"]


@libraries
@ways
@pytest.mark.parametrize("verify", ["context", "nothing", "not trusted"])
def test_certificates(world, library, way, verify, monkeypatch):
    """`verify=` and HTTPS_PROXY are honoured: a tunnel, a trusted certificate, none at all, and one nobody trusts."""
    with proxy() as running, tls_in_front_of(world.server.port, world.folder) as (port, context):
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        monkeypatch.setenv("NO_PROXY", "")
        url = f"https://localhost:{port}{PATH}"
        if verify == "not trusted":
            with pytest.raises(library.ConnectError):
                order(world, library, way, url)
        else:
            order(world, library, way, url, verify=context if verify == "context" else False)
    assert world.story() == [SAID, ("video_generation_failed", "failure") if verify == "not trusted" else STARTED]
    assert running.lines == [f"CONNECT localhost:{port}"]


class SecondVersion:
    """Speaks HTTP/2 over TLS and asks a plain server; keeps what it was asked, one list per connection."""

    def __init__(self, port, folder):
        self.seen = []
        self._port = port
        with tls_in_front_of(port, folder):  # makes the certificate
            pass
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "localhost.pem")
        self._context.set_alpn_protocols(["h2"])
        self.trusted = ssl.create_default_context(cafile=str(folder / "localhost.pem"))
        self._listener = Listener(self._serve)
        self.url = f"https://localhost:{self._listener.port}"

    def _serve(self, client):
        with self._context.wrap_socket(client, server_side=True) as secure:
            self._talk(secure)

    def _talk(self, secure):
        talk = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        talk.initiate_connection()
        secure.sendall(talk.data_to_send())
        bodies, heads, here = {}, {}, []
        self.seen.append(here)
        while data := secure.recv(65_536):
            for event in talk.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = {name.decode(): value.decode() for name, value in event.headers}
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    talk.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    here.append(heads[event.stream_id][":path"])
                    self._answer(talk, event.stream_id, heads[event.stream_id], bodies[event.stream_id])
            secure.sendall(talk.data_to_send())

    def _answer(self, talk, stream, head, body):
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{head[':path']}", data=body or None, method=head[":method"],
            headers={"authorization": head["authorization"], "content-type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(asked) as reply:
            content = reply.read()
        talk.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        talk.send_data(stream, content, end_stream=True)

    def close(self):
        self._listener.close()


@libraries
@ways
@pytest.mark.parametrize("how", ["attach", "instrument"])
def test_the_second_version_of_http(world, library, way, how):
    """HTTP/2 is spoken as before, several calls share one connection, and each is recorded."""
    server = SecondVersion(world.server.port, world.folder)
    try:
        versions = order(
            world, library, way, server.url + PATH, times=3, how=how, http2=True, verify=server.trusted, trust_env=False
        )
    finally:
        server.close()
    assert versions == ["HTTP/2"] * 3
    assert server.seen == [[PATH] * 3]
    assert sorted(world.story()) == sorted([SAID, STARTED] * 3)


@libraries
def test_a_wrapped_client_in_threads(world, library):
    """One client shared by four threads, each with its own person: stories stay apart."""
    problems = []

    def one(client, person):
        with acting(person):
            reply = client.post(world.server.base_url + PATH, json=BODY)
            problems.extend([] if json.loads(reply.content)["code"] == 0 else [reply.content])

    with library.Client(headers=AUTHORIZED) as client:
        world.audit.attach(client)
        threads = [threading.Thread(target=one, args=(client, f"person-{number}")) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []
    people = {}
    for entry in world.entries():
        people.setdefault(entry["correlation_id"], set()).add(entry["actor_id"])
    assert [1, 1, 1, 1] == [len(names) for names in people.values()]
