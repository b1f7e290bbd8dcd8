"""Audited sessions of aiohttp over every kind of body and end; a real server on loopback, with hosts of Kling."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from klingai_audit.capture import watch
from klingai_audit.capture.aiohttp import attach_session, check_version
from klingai_audit.capture.attach import attach
from klingai_audit.errors import AuditUnavailable, UsageError
from tests.unit.capture.doubles import make_recorder

HOST = "http://api-singapore.klingai.com"
CREATE = "/text-to-video/kling-3.0-turbo"
FILE = "http://cdn.klingai.com:{port}/result/a.mp4"
ACCEPTED = b'{"code":0,"message":"SUCCEED","request_id":"r-1","data":{"id":"700000000000000001","status":"submitted"}}'
BUSY = b'{"code":1303,"message":"parallel tasks","request_id":"r-1"}'
STORY = ["prompt_submitted", "api_key_used", "video_generation_started"]
KEY = {"authorization": "Bearer key-of-alice"}
FILM = b"film" * 5000


class Here(AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self):
        """Nothing to close."""


class Stage:
    """A server that answers by `answer(request)`, an attached session, and what arrived."""

    def __init__(self, answer) -> None:
        self.recorder, self.sink = make_recorder()
        self.answer, self.bodies = answer, []

    def __call__(self, play, **options):
        """Run `play(stage)` while server and session live."""
        return asyncio.run(self._run(play, options))

    async def _run(self, play, options):
        async def handle(request):
            self.bodies.append(await request.read())
            return await self.answer(request)

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Here()), **options) as session:
                self.session = session
                attach(self.recorder, session)
                return await play(self)
        finally:
            await runner.cleanup()

    def order(self, **more):
        """Send a create call."""
        return self.session.post(
            f"{HOST}:{self.port}{CREATE}", **{"json": {"prompt": "a lake"}, "headers": KEY, **more}
        )

    def fetch(self, **more):
        """Ask for the film."""
        return self.session.get(FILE.format(port=self.port), **more)


def always(body=ACCEPTED, status=200, **headers):
    """Return an answer that is the same each time."""

    async def answer(request):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, headers=names)

    return answer


async def whole(response):
    """Read everything at once."""
    return await response.read()


async def chunked(response):
    """Read as most examples do."""
    return b"".join([part async for part in response.content.iter_chunked(512)])


async def any_size(response):
    """Read whatever is there."""
    return b"".join([part async for part in response.content.iter_any()])


async def chunks(response):
    """Read HTTP chunks."""
    return b"".join([part async for part, _ in response.content.iter_chunks()])


async def loop_of_reads(response):
    """Read until nothing comes."""
    parts = []
    while part := await response.content.read(512):
        parts.append(part)
    return b"".join(parts)


async def lines(response):
    """Read by line."""
    return b"".join([line async for line in response.content])


async def exactly(response):
    """Read a known length."""
    return await response.content.readexactly(len(FILM))


READS = [whole, chunked, any_size, chunks, loop_of_reads, lines, exactly]


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_create(encoding):
    """Plain and compressed replies are understood, and reach the caller unchanged."""
    body = gzip.compress(ACCEPTED) if encoding else ACCEPTED
    stage = Stage(always(body, content_encoding=encoding) if encoding else always(body))

    async def play(stage):
        async with stage.order() as response:
            return await response.read()

    assert stage(play) == ACCEPTED
    assert stage.sink.types == STORY
    assert stage.sink.drafts[0].metadata["prompt"].value == "a lake"
    assert stage.sink.drafts[-1].resource_id == "700000000000000001"
    assert stage.bodies == [b'{"prompt": "a lake"}']


def test_the_intent_is_durable_before_the_first_byte():
    """When the server is asked, the intent stands in the log, and nothing else."""
    seen = []

    async def answer(request):
        seen.append(list(stage.sink.types))
        return web.Response(body=ACCEPTED)

    stage = Stage(answer)

    async def play(stage):
        async with stage.order() as response:
            await response.read()

    stage(play)
    assert seen == [["prompt_submitted"]]


def test_a_refused_act_is_not_sent():
    """AuditUnavailable reaches the caller and the server sees nothing."""
    stage = Stage(always())
    stage.sink.break_down()

    async def play(stage):
        with pytest.raises(AuditUnavailable):
            await stage.order()

    stage(play)
    assert stage.bodies == []


def test_other_requests_pass_untouched():
    """What is none of Kling's leaves no trace, and its stream is aiohttp's own."""
    stage = Stage(always(b"hello"))

    async def play(stage):
        async with stage.session.get(f"http://example.com:{stage.port}/x") as response:
            return type(response.content), await response.read()

    assert stage(play) == (aiohttp.StreamReader, b"hello")
    assert stage.sink.drafts == []


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("read", READS)
def test_downloads_are_hashed_as_they_are_read(read, encoding):
    """However a caller reads, the digest is that of the film."""
    headers = {"content_type": "video/mp4"} | ({"content_encoding": "gzip"} if encoding else {})
    stage = Stage(always(gzip.compress(FILM) if encoding else FILM, **headers))

    async def play(stage):
        async with stage.fetch() as response:
            return await read(response)

    assert stage(play) == FILM
    done = stage.sink.drafts[-1]
    assert (done.outcome, done.metadata["sha256"], done.metadata["bytes"], done.metadata["type"]) == (
        "success", hashlib.sha256(FILM).hexdigest(), len(FILM), "video/mp4"
    )  # fmt: skip


def test_a_session_that_does_not_decode():
    """With auto_decompress off the digest is that of the file all the same."""
    packed = gzip.compress(FILM)  # once: it holds the second in which it was made
    stage = Stage(always(packed, content_encoding="gzip"))

    async def play(stage):
        async with stage.fetch() as response:
            return await response.read()

    assert stage(play, auto_decompress=False) == packed
    assert stage.sink.drafts[-1].metadata["sha256"] == hashlib.sha256(FILM).hexdigest()


@pytest.mark.parametrize("how", ["raise_for_status", "read", "content", "json"])
def test_errors_are_read_at_once(how):
    """A refusal is recorded with its code even if the caller raises for the status; others read it as ever."""
    stage = Stage(always(BUSY, 429, content_type="application/json"))

    async def play(stage):
        if how == "raise_for_status":
            with pytest.raises(aiohttp.ClientResponseError) as caught:
                await stage.order(raise_for_status=True)
            return caught.value.status
        async with stage.order() as response:
            match how:
                case "read":
                    return await response.read()
                case "content":
                    return await chunked(response)
                case _:
                    return (await response.json())["code"]

    assert stage(play) == {"raise_for_status": 429, "json": 1303}.get(how, BUSY)
    assert stage.sink.story[-1] == ("rate_limit_exceeded", "blocked")


@pytest.mark.parametrize("status", [200, 204, 500])
def test_replies_without_a_body(status):
    """A reply without a byte ends the act without being read."""
    stage = Stage(always(b"", status))

    async def play(stage):
        async with stage.order():
            return list(stage.sink.types)

    assert stage(play) == STORY
    assert stage.sink.drafts[-1].outcome == "unknown"


def test_a_reply_that_is_not_read():
    """Who lets go of a create's reply unread leaves an unknown outcome; that does not wait for the disk."""
    stage = Stage(always())

    async def play(stage):
        async with stage.order():
            pass

    stage(play)
    stage.recorder.close()
    assert stage.sink.story[-1] == ("video_generation_started", "unknown")
    assert stage.sink.drafts[-1].metadata["error"] == "ClosedEarly"


def test_a_download_that_is_dropped():
    """A download that is left early is a failure with the bytes so far."""

    left = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"film")
        await left.wait()

    stage = Stage(answer)

    async def play(stage):
        try:
            async with stage.fetch() as response:
                while response.content.total_bytes < 4:
                    await asyncio.sleep(0.001)
                return response.content.read_nowait(4)
        finally:
            left.set()

    assert stage(play) == b"film"
    done = stage.sink.drafts[-1]
    assert (done.outcome, done.metadata["error"], done.metadata["bytes"]) == ("failure", "ClosedEarly", 4)


@pytest.mark.parametrize("status", [200, 500])
def test_a_reply_that_breaks_off(status):
    """A reply cut in the middle leaves the create unknown; the caller meets the error where it reads."""

    async def answer(request):
        response = web.StreamResponse(status=status, headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b"{")
        request.transport.close()
        return response

    stage = Stage(answer)

    async def play(stage):
        response = await stage.order()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    stage(play)
    assert stage.sink.story[-1] == ("video_generation_started", "unknown")


def test_a_connection_that_dies_and_one_that_never_was():
    """A server that hangs up leaves an unknown outcome, a refused connection a failure."""

    async def answer(request):
        request.transport.close()

    stage = Stage(answer)

    async def play(stage):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await stage.order()
        with pytest.raises(aiohttp.ClientConnectorError):
            await stage.session.post(f"{HOST}:9{CREATE}", json={"prompt": "a"})

    stage(play)
    assert [draft.outcome for draft in stage.sink.drafts] == ["success", "unknown", "success", "failure"]


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
def test_a_call_that_is_given_up(how):
    """A cancelled call and one whose time is over leave an unknown outcome."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def answer(request):
        asked.set()
        await left.wait()

    stage = Stage(answer)

    async def play(stage):
        try:
            if how == "timeout":
                for seconds in (0.1, 1, 10):  # on a busy machine time may be over before the request is out
                    with pytest.raises(TimeoutError):
                        await stage.order(timeout=aiohttp.ClientTimeout(total=seconds))
                    if asked.is_set():
                        return
            task = asyncio.ensure_future(stage.order().__aenter__())
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            left.set()

    stage(play)
    assert stage.sink.story[-1] == ("video_generation_started", "unknown")


# --- request bodies -----------------------------------------------------------------------------------

DATA = b'{"prompt":"a lake"}'


async def generated():
    """Yield a body in parts."""
    for part in (b'{"prompt"', b':"a la', b'ke"}'):
        yield part


@pytest.mark.parametrize("limit", [1000, 4])
@pytest.mark.parametrize("kind", ["text", "bytes", "file", "generator", "form"])
def test_request_bodies(kind, limit, monkeypatch):
    """Whatever form a body has, it is read for the intent and arrives whole, also when it is longer than is read."""
    monkeypatch.setattr(watch, "MAX_REQUEST_BYTES", limit)
    stage = Stage(always())

    async def play(stage):
        bodies = {
            "text": DATA.decode(), "bytes": DATA, "file": io.BytesIO(DATA), "generator": generated(),
            "form": {"prompt": "a lake"},
        }  # fmt: skip
        async with stage.order(json=None, data=bodies[kind]) as response:
            await response.read()

    stage(play)
    assert stage.bodies == [b"prompt=a+lake" if kind == "form" else DATA]
    intent = stage.sink.drafts[0]
    if limit == 4:
        assert "prompt" not in intent.metadata
        assert intent.metadata["body_bytes"] > 4
    elif kind == "form":
        assert intent.metadata["body"].value == b"prompt=a+lake"
    else:
        assert intent.metadata["prompt"].value == "a lake"


def test_a_pipe_is_sent_and_not_read():
    """A file that cannot be rewound reaches the server; nothing is committed to."""
    stage = Stage(always())

    async def play(stage):
        read, write = os.pipe()
        os.write(write, DATA)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            async with stage.order(json=None, data=file) as response:
                await response.read()

    stage(play)
    assert stage.bodies == [DATA]
    assert stage.sink.types == ["task_submitted", *STORY[1:]]


# --- redirects, middlewares, more than one capture ----------------------------------------------------


async def redirecting(request):
    """Send the first request elsewhere."""
    if "hop" in request.path:
        return web.Response(body=b"film", content_type="video/mp4")
    return web.Response(status=302, headers={"location": f"http://other.example:{request.url.port}/hop.bin"})


def test_redirects_are_one_act():
    """Hop by hop, to another host: one intent, one outcome, with the digest of what was delivered in the end."""
    stage = Stage(redirecting)

    async def play(stage):
        async with stage.fetch() as response:
            return await response.read(), len(response.history)

    assert stage(play) == (b"film", 1)
    assert stage.sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "success")]
    done = stage.sink.drafts[-1].metadata
    assert (done["sha256"], done["redirects"]) == (hashlib.sha256(b"film").hexdigest(), 1)


@pytest.mark.parametrize("reads", [True, False])
def test_a_redirect_that_is_not_followed(reads):
    """A call that does not follow ends the act at the redirect, read or not."""

    async def answer(request):
        return web.Response(status=302, body=b"moved", headers={"location": "http://other.example/hop.bin"})

    stage = Stage(answer)

    async def play(stage):
        async with stage.fetch(allow_redirects=False) as response:
            if reads:
                await response.read()

    stage(play)
    stage.recorder.close()
    assert stage.sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "failure")]
    assert stage.sink.drafts[-1].metadata["http_status"] == 302


def test_endless_redirects_end():
    """Where aiohttp gives up, the act ends at the last redirect."""

    async def answer(request):
        return web.Response(status=302, headers={"location": str(request.url)})

    stage = Stage(answer)

    async def play(stage):
        with pytest.raises(aiohttp.TooManyRedirects):
            await stage.fetch(max_redirects=3)

    stage(play)
    assert stage.sink.types == ["video_downloaded"] * 2
    assert (stage.sink.drafts[-1].outcome, stage.sink.drafts[-1].metadata["redirects"]) == ("failure", 2)


@pytest.mark.parametrize("where", ["session", "call"])
def test_retrying_middlewares_are_seen(where):
    """Each sending of a middleware that tries again is an act, wherever the middleware was given."""

    async def answer(request):
        return web.Response(
            status=200 if len(stage.bodies) > 1 else 503, body=ACCEPTED if len(stage.bodies) > 1 else b""
        )

    async def again(request, handler):
        response = await handler(request)
        return response if response.status == 200 else await handler(request)

    stage = Stage(answer)

    async def play(stage):
        options = {"middlewares": (again,)} if where == "call" else {}
        async with stage.order(**options) as response:
            await response.read()

    stage(play, **({"middlewares": (again,)} if where == "session" else {}))
    assert [draft.outcome for draft in stage.sink.drafts if draft.event_type != "api_key_used"] == [
        "success", "unknown", "success", "success"
    ]  # fmt: skip


def test_attaching_twice_and_two_logs():
    """Twice the same log is one record; another log has its own."""
    stage = Stage(redirecting)
    other, sink = make_recorder()

    async def play(stage):
        attach(stage.recorder, stage.session)
        attach(other, stage.session)
        async with stage.fetch() as response:
            await response.read()

    stage(play)
    assert stage.sink.story == sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "success")]


def test_a_version_that_hides_its_bodies(monkeypatch):
    """The two versions of aiohttp whose middlewares cannot read what is sent are refused, too."""
    monkeypatch.delattr(aiohttp.payload.Payload, "as_bytes")

    async def play():
        async with aiohttp.ClientSession() as session:
            check_version(type(session))

    with pytest.raises(UsageError) as caught:
        asyncio.run(play())
    assert "3.12.2" in caught.value.do


def test_a_version_without_client_middlewares():
    """An older aiohttp is refused with that sentence."""

    class Old:
        __module__ = "aiohttp.client"

        async def _request(self, method, str_or_url, *, data=None):
            """Send, as aiohttp 3.11 does."""

    recorder, _ = make_recorder()
    for refuse in (
        lambda s: check_version(type(s)),
        lambda session: attach_session(session, recorder),
        lambda s: attach(recorder, s),
    ):
        with pytest.raises(UsageError) as caught:
            refuse(Old())
        assert "no client middlewares" in caught.value.message
        assert "3.12" in caught.value.do


class Ancient:
    """A session of an aiohttp that does not even send through `_request`."""

    __module__ = "aiohttp.client"

    async def request(self, method, url):
        """Send, somehow."""


class Compiled:
    """A session whose method has no signature to look at."""

    __module__ = "aiohttp.client"
    _request = type


@pytest.mark.parametrize("kind", [Ancient, Compiled])
def test_a_version_that_sends_otherwise(kind):
    """Without `_request`, or with one that tells nothing, the refusal is a sentence, not an AttributeError."""
    recorder, _ = make_recorder()
    with pytest.raises(UsageError) as caught:
        attach(recorder, kind())
    assert "no client middlewares" in caught.value.message
    assert "3.12" in caught.value.do


def test_what_is_no_session_of_aiohttp():
    """Another object of that library is named, with what to give instead."""
    recorder, _ = make_recorder()
    with pytest.raises(UsageError) as caught:
        attach(recorder, aiohttp.CookieJar.__new__(aiohttp.CookieJar))
    assert caught.value.message == "CookieJar is no session of aiohttp."
    assert "ClientSession" in caught.value.do


def test_a_library_without_payloads(monkeypatch):
    """A module that is missing altogether is refused like one that hides its bodies."""
    monkeypatch.delattr(aiohttp, "payload")
    with pytest.raises(UsageError) as caught:
        check_version(aiohttp.ClientSession)
    assert "cannot be audited" in caught.value.message
