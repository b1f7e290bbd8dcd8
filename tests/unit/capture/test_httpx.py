"""The audited transports over every kind of body and end, for httpx2 and httpx, threads and coroutines."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import zlib

import httpx
import httpx2
import pytest

from klingai_audit.capture import watch
from klingai_audit.capture.httpx import (
    MARK,
    AsyncAuditedTransport,
    AuditedTransport,
    EitherTransport,
    attach_client,
    audited_transport,
)
from klingai_audit.errors import AuditUnavailable, UsageError
from tests.unit.capture.doubles import make_recorder

HOST = "https://api-singapore.klingai.com"
CREATE = f"{HOST}/text-to-video/kling-3.0-turbo"
FILE = "https://cdn.klingai.com/result/a.mp4?token=t"
ACCEPTED = b'{"code":0,"message":"SUCCEED","request_id":"r-1","data":{"id":"700000000000000001","status":"submitted"}}'
STORY = ["prompt_submitted", "api_key_used", "video_generation_started"]
KEY = {"authorization": "Bearer key-of-alice"}

libraries = pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
ways = pytest.mark.parametrize("way", ["sync", "async"])


class Parts(httpx2.SyncByteStream, httpx2.AsyncByteStream, httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response stream in pieces that may break, and knows if it was closed."""

    def __init__(self, *parts: bytes, error: BaseException | None = None) -> None:
        self.parts, self.error, self.closed = parts, error, False

    def __iter__(self):
        yield from self.parts
        if self.error is not None:
            raise self.error

    async def __aiter__(self):
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Wire:
    """An inner transport of either kind: answers by a function and keeps what was sent."""

    def __init__(self, answer) -> None:
        self.answer, self.bodies, self.requests = answer, [], []

    def handle_request(self, request):
        self.requests.append(request)
        self.bodies.append(b"".join(request.stream))
        return self.answer(request)

    async def handle_async_request(self, request):
        self.requests.append(request)
        self.bodies.append(b"".join([part async for part in request.stream]))
        return self.answer(request)

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""


def exchange(library, way, wire, recorder, do, **options):
    """Run `do(client)` (sync) or its coroutine (async) with an audited client around `wire`."""
    if way == "sync":
        with library.Client(transport=AuditedTransport(wire, recorder), **options) as client:
            return do(client)

    async def run():
        async with library.AsyncClient(transport=AsyncAuditedTransport(wire, recorder), **options) as client:
            return await do(client)

    return asyncio.run(run())


def post(client, **more):
    """Send a create call."""
    return client.post(CREATE, **{"json": {"prompt": "a lake"}, "headers": KEY, **more})


@libraries
@ways
@pytest.mark.parametrize("form", ["loaded", "streamed", "gzip", "deflate"])
def test_replies_in_every_form(library, way, form):
    """A loaded, a streamed and a compressed reply are understood alike, and reach the caller unchanged."""
    recorder, sink = make_recorder()
    squeezed = {"gzip": gzip.compress, "deflate": zlib.compress}

    def answer(request):
        if form == "loaded":
            return library.Response(200, content=ACCEPTED)
        body = squeezed.get(form, bytes)(ACCEPTED)
        headers = {"content-encoding": form} if form in squeezed else {}
        return library.Response(200, headers=headers, stream=Parts(body[:9], body[9:]))

    wire = Wire(answer)
    response = exchange(library, way, wire, recorder, post)
    assert response.content == ACCEPTED
    assert sink.types == STORY
    assert sink.drafts[-1].resource_id == "700000000000000001"
    assert json.loads(wire.bodies[0]) == {"prompt": "a lake"}


@libraries
@ways
def test_the_intent_is_durable_before_the_first_byte(library, way):
    """When the inner transport is called, the intent stands in the log, and nothing else."""
    recorder, sink = make_recorder()
    seen = []

    def answer(request):
        seen.append(list(sink.types))
        return library.Response(200, content=ACCEPTED)

    exchange(library, way, Wire(answer), recorder, post)
    assert seen == [["prompt_submitted"]]


@libraries
@ways
def test_a_refused_act_is_not_sent(library, way):
    """AuditUnavailable reaches the caller and the wire sees nothing."""
    recorder, sink = make_recorder()
    sink.break_down()
    wire = Wire(lambda request: library.Response(200, content=ACCEPTED))
    with pytest.raises(AuditUnavailable):
        exchange(library, way, wire, recorder, post)
    assert wire.requests == []


@libraries
@ways
@pytest.mark.parametrize(
    "error,outcome",
    [("ConnectError", "failure"), ("ReadTimeout", "unknown"), ("RemoteProtocolError", "unknown")],
)
def test_failures_before_a_reply(library, way, error, outcome):
    """Connection failures were not sent, time-outs and broken connections are unknown; the error passes through."""
    recorder, sink = make_recorder()

    def answer(request):
        raise getattr(library, error)("the server said: a lake")

    with pytest.raises(getattr(library, error)):
        exchange(library, way, Wire(answer), recorder, post)
    assert sink.drafts[-1].outcome == outcome
    assert sink.drafts[-1].metadata["error"] == error
    assert "a lake" not in str(sink.drafts[-1].metadata)


@libraries
@ways
def test_a_reply_that_breaks_off(library, way):
    """A reply cut in the middle leaves the create unknown."""
    recorder, sink = make_recorder()
    broken = Parts(ACCEPTED[:20], error=library.ReadError("cut"))
    with pytest.raises(library.ReadError):
        exchange(library, way, Wire(lambda request: library.Response(200, stream=broken)), recorder, post)
    assert sink.story[-1] == ("video_generation_started", "unknown")
    assert sink.drafts[-1].metadata["http_status"] == 200


def test_an_interrupted_call_is_unknown():
    """Ctrl-C while waiting for the answer: the interrupt passes, the outcome is queued without waiting."""
    recorder, sink = make_recorder()

    def answer(request):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exchange(httpx2, "sync", Wire(answer), recorder, post)
    assert sink.story[-1] == ("video_generation_started", "unknown")


@libraries
def test_a_cancelled_call_is_unknown(library):
    """A cancelled task leaves an outcome, without awaiting anything on its way out."""
    recorder, sink = make_recorder()
    asked = asyncio.Event()

    class Slow(Wire):
        async def handle_async_request(self, request):
            asked.set()
            await asyncio.sleep(60)

    async def run():
        client = library.AsyncClient(transport=AsyncAuditedTransport(Slow(None), recorder))
        task = asyncio.ensure_future(post(client))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert sink.story[-1] == ("video_generation_started", "unknown")
    assert sink.drafts[-1].metadata["error"] == "CancelledError"


@libraries
@ways
def test_a_stream_closed_early(library, way):
    """Whoever closes a create's reply unread leaves an unknown outcome; whoever has read all of it does not."""
    recorder, sink = make_recorder()

    def answer(request):
        return library.Response(200, headers={"content-length": str(len(ACCEPTED))}, stream=Parts(ACCEPTED))

    def unread(client):
        with client.stream("POST", CREATE, json={"prompt": "a lake"}) as response:
            assert response.status_code == 200

    async def unread_async(client):
        async with client.stream("POST", CREATE, json={"prompt": "a lake"}) as response:
            assert response.status_code == 200

    exchange(library, way, Wire(answer), recorder, unread if way == "sync" else unread_async)
    assert sink.story[-1] == ("video_generation_started", "unknown")
    assert sink.drafts[-1].metadata["error"] == "ClosedEarly"

    def first_part(client):
        with client.stream("POST", CREATE, json={"prompt": "a lake"}) as response:
            next(response.iter_raw())

    async def first_part_async(client):
        async with client.stream("POST", CREATE, json={"prompt": "a lake"}) as response:
            async for _ in response.aiter_raw():
                break

    exchange(library, way, Wire(answer), recorder, first_part if way == "sync" else first_part_async)
    assert sink.story[-1] == ("video_generation_started", "success")


@libraries
@ways
@pytest.mark.parametrize("limit", [1000, 4])
def test_bodies_from_generators(library, way, limit, monkeypatch):
    """A streamed request body is read for the intent and still arrives whole, also when it is longer than is read."""
    monkeypatch.setattr(watch, "MAX_REQUEST_BYTES", limit)
    recorder, sink = make_recorder()
    parts = [b'{"prompt"', b':"a la', b'ke"}']

    def generate():
        yield from parts

    async def agenerate():
        for part in parts:
            yield part

    wire = Wire(lambda request: library.Response(200, content=ACCEPTED))
    body = generate() if way == "sync" else agenerate()
    exchange(library, way, wire, recorder, lambda client: client.post(CREATE, content=body))
    assert wire.bodies == [b'{"prompt":"a lake"}']
    intent = sink.drafts[0]
    if limit == 1000:
        assert intent.metadata["prompt"].value == "a lake"
    else:
        assert (intent.event_type, intent.metadata["body_bytes"]) == ("task_submitted", 9)


def test_a_generator_that_fails_sends_nothing():
    """An error while the caller's own body is read happens before the intent: nothing was done."""
    recorder, sink = make_recorder()

    def generate():
        yield b"{"
        raise ValueError("the caller's")

    wire = Wire(None)
    with pytest.raises(ValueError, match="the caller's"):
        exchange(httpx2, "sync", wire, recorder, lambda client: client.post(CREATE, content=generate()))
    assert (wire.requests, sink.drafts) == ([], [])


def redirecting(library, *, loaded: bool):
    """Answer the first request with a redirect, the second with a file."""

    def answer(request):
        if "hop" not in str(request.url):
            headers = {"location": "https://other.example/hop.bin"}
            content = {"content": b"moved"} if loaded else {"stream": Parts(b"moved")}
            return library.Response(302, headers=headers, **content)
        return library.Response(200, headers={"content-type": "video/mp4"}, stream=Parts(b"fi", b"lm"))

    return answer


@libraries
@ways
@pytest.mark.parametrize("loaded", [False, True])
def test_redirects_are_one_act(library, way, loaded):
    """Hop by hop, to another host: one intent, one outcome, with the digest of what was delivered in the end."""
    recorder, sink = make_recorder()
    wire = Wire(redirecting(library, loaded=loaded))
    response = exchange(library, way, wire, recorder, lambda client: client.get(FILE), follow_redirects=True)
    assert response.content == b"film"
    assert sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "success")]
    done = sink.drafts[-1].metadata
    assert (done["sha256"], done["bytes"], done["redirects"]) == (hashlib.sha256(b"film").hexdigest(), 4, 1)
    assert len(wire.requests) == 2


@libraries
@ways
def test_a_redirect_that_is_not_followed(library, way):
    """A client that does not follow ends the act at the redirect."""
    recorder, sink = make_recorder()
    exchange(library, way, Wire(redirecting(library, loaded=False)), recorder, lambda client: client.get(FILE))
    assert sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "failure")]
    assert sink.drafts[-1].metadata["http_status"] == 302


def test_a_redirect_that_nobody_follows_is_written_later(monkeypatch):
    """Where it cannot be seen that a redirect is not followed, the next act or the end of the log writes it."""
    monkeypatch.setattr("klingai_audit.capture.recorder.HOP_SECONDS", -1.0)
    recorder, sink = make_recorder()
    wire = Wire(redirecting(httpx2, loaded=True))
    exchange(httpx2, "sync", wire, recorder, lambda client: client.get(FILE))
    assert sink.types == ["video_downloaded"]
    exchange(httpx2, "sync", wire, recorder, lambda client: client.get(FILE))
    recorder.close()
    assert sink.story == [("video_downloaded", "unknown")] * 4
    assert sink.drafts[1].metadata["error"] == "RedirectNotFollowed"


def test_endless_redirects_end():
    """A client that gives up leaves the act to be ended at the close, not lost."""
    recorder, sink = make_recorder()
    wire = Wire(lambda request: httpx2.Response(302, headers={"location": FILE}, stream=Parts(b"")))
    with pytest.raises(httpx2.TooManyRedirects):
        exchange(
            httpx2, "sync", wire, recorder, lambda client: client.get(FILE), follow_redirects=True, max_redirects=3
        )
    recorder.close()
    assert sink.types == ["video_downloaded", "video_downloaded"]
    assert sink.drafts[-1].metadata["redirects"] == 3


@libraries
@ways
def test_downloads_are_hashed_as_they_pass(library, way):
    """A streamed download: digest, size and type of what the caller got, nothing kept in memory."""
    recorder, sink = make_recorder()
    headers = {"content-type": "video/mp4; x=1"}
    wire = Wire(lambda request: library.Response(200, headers=headers, stream=Parts(b"fi", b"lm")))
    exchange(library, way, wire, recorder, lambda client: client.get(FILE))
    done = sink.drafts[-1].metadata
    assert (done["sha256"], done["bytes"], done["type"], done["complete"]) == (
        hashlib.sha256(b"film").hexdigest(),
        4,
        "video/mp4",
        True,
    )


@libraries
@ways
@pytest.mark.parametrize("how", ["breaks", "closed"])
def test_incomplete_downloads(library, way, how):
    """A download that breaks off or is dropped is a failure with the bytes so far."""
    recorder, sink = make_recorder()
    error = library.ReadError("cut") if how == "breaks" else None

    def get(client):
        if how == "breaks":
            return client.get(FILE)
        with client.stream("GET", FILE) as response:
            return next(response.iter_raw())

    async def get_async(client):
        if how == "breaks":
            return await client.get(FILE)
        async with client.stream("GET", FILE) as response:
            return await anext(response.aiter_raw())

    wire = Wire(lambda request: library.Response(200, stream=Parts(b"fi", b"lm", error=error)))
    try:
        exchange(library, way, wire, recorder, get if way == "sync" else get_async)
    except library.ReadError:
        assert how == "breaks"
    done = sink.drafts[-1]
    assert (done.outcome, done.metadata["complete"]) == ("failure", False)
    assert done.metadata["bytes"] == (4 if how == "breaks" else 2)
    assert "sha256" not in done.metadata
    assert done.metadata["error"] == ("ReadError" if how == "breaks" else "ClosedEarly")


@pytest.mark.parametrize("status,outcome", [(200, "success"), (206, "success"), (403, "failure"), (404, "failure")])
def test_download_statuses(status, outcome):
    """Only delivered bytes are a success; an expired link is a failure, not a refusal of the key."""
    recorder, sink = make_recorder()
    headers = {"content-range": "bytes 0-3/10"} if status == 206 else {}
    wire = Wire(lambda request: httpx2.Response(status, headers=headers, stream=Parts(b"film")))
    exchange(httpx2, "sync", wire, recorder, lambda client: client.get(FILE))
    assert sink.story[-1] == ("video_downloaded", outcome)
    assert sink.drafts[-1].metadata.get("range") == ("bytes 0-3/10" if status == 206 else None)


def test_a_compressed_download_has_the_digest_of_the_file():
    """The digest is of the bytes that end up on disk."""
    recorder, sink = make_recorder()
    headers = {"content-encoding": "gzip"}
    wire = Wire(lambda request: httpx2.Response(200, headers=headers, stream=Parts(gzip.compress(b"film"))))
    response = exchange(httpx2, "sync", wire, recorder, lambda client: client.get(FILE))
    assert sink.drafts[-1].metadata["sha256"] == hashlib.sha256(response.content).hexdigest()
    assert sink.drafts[-1].metadata["bytes"] == 4


def test_a_reply_that_explodes_is_not_decoded(monkeypatch):
    """A small reply that decodes to a huge one costs no memory here; its outcome is unknown."""
    monkeypatch.setattr(watch, "MAX_REPLY_BYTES", 10_000)
    recorder, sink = make_recorder()
    bomb = gzip.compress(b"[" + b" " * 5_000_000 + b"]")
    headers = {"content-encoding": "gzip"}
    wire = Wire(lambda request: httpx2.Response(200, headers=headers, stream=Parts(bomb)))
    exchange(httpx2, "sync", wire, recorder, post)
    assert sink.story[-1] == ("video_generation_started", "unknown")


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b"\xff\xfe", b"{" * 100_000, b'{"code":"0","data":{"id":7}}'])
def test_malformed_replies_raise_nothing(body):
    """Whatever the body, the caller gets it and the log gets an outcome."""
    recorder, sink = make_recorder()
    response = exchange(httpx2, "sync", Wire(lambda request: httpx2.Response(200, stream=Parts(body))), recorder, post)
    assert response.content == body
    assert sink.types[-1] == "video_generation_started"


def test_a_reply_with_a_false_encoding_is_unknown():
    """A reply that does not decode is the library's error to raise; the act ends unknown."""
    recorder, sink = make_recorder()
    headers = {"content-encoding": "gzip"}
    wire = Wire(lambda request: httpx2.Response(200, headers=headers, stream=Parts(ACCEPTED)))
    with pytest.raises(httpx2.DecodingError):
        exchange(httpx2, "sync", wire, recorder, post)
    assert sink.story[-1][1] == "unknown"


@libraries
@ways
def test_other_hosts_pass_untouched(library, way):
    """A request that is none of Kling's is neither read nor recorded nor marked."""
    recorder, sink = make_recorder()
    wire = Wire(lambda request: library.Response(200, content=b"x"))
    exchange(library, way, wire, recorder, lambda client: client.post("https://example.com/v1/other", content=b"abc"))
    assert sink.drafts == []
    assert MARK not in wire.requests[0].extensions


@libraries
@ways
def test_nested_transports_make_one_record(library, way):
    """Two audited transports around one another write one act, over redirects too."""
    recorder, sink = make_recorder()
    kind = AuditedTransport if way == "sync" else AsyncAuditedTransport
    wire = kind(Wire(redirecting(library, loaded=False)), recorder)
    exchange(library, way, wire, recorder, lambda client: client.get(FILE), follow_redirects=True)
    assert sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "success")]
    assert sink.drafts[-1].metadata["bytes"] == 4
    recorder.close()
    assert len(sink.drafts) == 2


def test_the_same_request_sent_twice_is_two_acts():
    """A caller that sends one request object again acts again."""
    recorder, sink = make_recorder()
    wire = Wire(lambda request: httpx2.Response(200, content=ACCEPTED))

    def twice(client):
        request = client.build_request("POST", CREATE, json={"prompt": "a lake"})
        client.send(request)
        client.send(request)

    exchange(httpx2, "sync", wire, recorder, twice)
    assert sink.types.count("prompt_submitted") == 2
    assert len({draft.event_id for draft in sink.drafts}) == len(sink.drafts)


@libraries
def test_attaching_wraps_transport_and_mounts(library):
    """An existing client is audited with its mounts and proxies, once however often it is attached."""
    recorder, sink = make_recorder()
    mounted, plain = (Wire(lambda request: library.Response(200, content=ACCEPTED)) for _ in range(2))
    mounts = {"https://api-beijing.klingai.com": mounted, "https://direct.example": None}
    client = library.Client(transport=plain, mounts=mounts)
    attach_client(client, recorder)
    attach_client(client, recorder)
    post(client)
    client.post(CREATE.replace("singapore", "beijing"), json={"prompt": "b"})
    assert (len(plain.requests), len(mounted.requests)) == (1, 1)
    assert sink.types.count("prompt_submitted") == 2
    assert sink.types.count("video_generation_started") == 2


def test_attaching_something_else_is_refused():
    """What has no transports cannot be audited by wrapping them."""
    recorder, _ = make_recorder()
    with pytest.raises(UsageError):
        attach_client(object(), recorder)
    with pytest.raises(UsageError):
        audited_transport(recorder, object())


@libraries
def test_the_inner_transport_comes_from_the_arriving_library(library):
    """Without an inner transport the request's own library reaches the wire."""
    recorder, sink = make_recorder()
    transport = audited_transport(recorder)
    assert isinstance(transport, EitherTransport)
    with library.Client(transport=transport) as client, pytest.raises(library.ConnectError):
        client.post("http://127.0.0.1:9/text-to-video/kling-3.0-turbo", json={"prompt": "a"})

    async def run():
        async with library.AsyncClient(transport=transport) as client:
            with pytest.raises(library.ConnectError):
                await client.post("http://127.0.0.1:9/text-to-video/kling-3.0-turbo", json={"prompt": "a"})

    asyncio.run(run())
    assert sink.story == [("prompt_submitted", "success"), ("video_generation_failed", "failure")] * 2


@pytest.mark.parametrize(
    "inner,expected",
    [
        (httpx2.MockTransport(None), EitherTransport),
        (httpx2.HTTPTransport(), AuditedTransport),
        (httpx2.AsyncHTTPTransport(), AsyncAuditedTransport),
    ],
)
def test_a_transport_is_wrapped_in_its_own_kind(inner, expected):
    """What can only wait in one way is wrapped for that way."""
    recorder, _ = make_recorder()
    assert type(audited_transport(recorder, inner)) is expected


def test_authorization_reaches_the_wire_and_no_draft():
    """The credential is sent as it was and stands nowhere else."""
    recorder, sink = make_recorder()
    wire = Wire(lambda request: httpx2.Response(200, content=ACCEPTED))
    exchange(httpx2, "sync", wire, recorder, post)
    assert wire.requests[0].headers["authorization"] == "Bearer key-of-alice"
    assert not any("key-of-alice" in str(draft.metadata) + str(draft.resource_id) for draft in sink.drafts)
