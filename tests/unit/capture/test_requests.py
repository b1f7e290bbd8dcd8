"""Audited sessions of requests over every kind of body and end; an adapter stands where the network would be."""

from __future__ import annotations

import copy
import gc
import gzip
import hashlib
import io
import json

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError
from urllib3.util.retry import Retry

from klingai_audit.capture import watch
from klingai_audit.capture.attach import attach
from klingai_audit.capture.requests import AuditedAdapter
from klingai_audit.errors import AuditUnavailable, UsageError
from tests.unit.capture.doubles import make_recorder

HOST = "https://api-singapore.klingai.com"
CREATE = f"{HOST}/text-to-video/kling-3.0-turbo"
FILE = "https://cdn.klingai.com/result/a.mp4?token=t"
ACCEPTED = b'{"code":0,"message":"SUCCEED","request_id":"r-1","data":{"id":"700000000000000001","status":"submitted"}}'
STORY = ["prompt_submitted", "api_key_used", "video_generation_started"]
KEY = {"authorization": "Bearer key-of-alice"}


class Wire(HTTPAdapter):
    """An adapter that answers by a function and keeps what was sent."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer, self.bodies, self.options = answer, [], []

    def send(self, request, **options):
        body = request.body
        if hasattr(body, "read"):
            body = body.read()
        elif body is not None and not isinstance(body, str | bytes):
            body = b"".join(body)
        self.bodies.append(body)
        self.options.append(options)
        return self.build_response(request, self.answer(request))


def reply(body=ACCEPTED, status=200, **headers):
    """Return what urllib3 would: unread, undecoded."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTPResponse(io.BytesIO(body), headers=names, status=status, preload_content=False, decode_content=False)


def session_on(answer, recorder):
    """Return an attached session whose network is `answer`, and the adapter."""
    session, wire = requests.Session(), Wire(answer)
    session.mount("https://", wire)
    attach(recorder, session)
    return session, wire


def order(session, **more):
    """Send a create call."""
    return session.post(CREATE, **{"json": {"prompt": "a lake"}, "headers": KEY, **more})


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_create(encoding):
    """Plain and compressed replies are understood, and reach the caller unchanged."""
    recorder, sink = make_recorder()
    body = gzip.compress(ACCEPTED) if encoding else ACCEPTED
    session, wire = session_on(lambda request: reply(body, content_encoding=encoding), recorder)
    assert order(session).json() == json.loads(ACCEPTED)
    assert sink.types == STORY
    assert sink.drafts[0].metadata["prompt"].value == "a lake"
    assert sink.drafts[-1].resource_id == "700000000000000001"
    assert json.loads(wire.bodies[0]) == {"prompt": "a lake"}


def test_the_intent_is_durable_before_the_first_byte():
    """When the adapter is called, the intent stands in the log, and nothing else."""
    recorder, sink = make_recorder()
    seen = []
    session, _ = session_on(lambda request: seen.append(list(sink.types)) or reply(), recorder)
    order(session)
    assert seen == [["prompt_submitted"]]


def test_a_refused_act_is_not_sent():
    """AuditUnavailable reaches the caller and the wire sees nothing."""
    recorder, sink = make_recorder()
    sink.break_down()
    session, wire = session_on(lambda request: reply(), recorder)
    with pytest.raises(AuditUnavailable):
        order(session)
    assert wire.bodies == []


def test_other_requests_pass_untouched():
    """What is none of Kling's leaves no trace, and its raw reply is as it was."""
    recorder, sink = make_recorder()
    session, _ = session_on(lambda request: reply(b"hello"), recorder)
    response = session.get("https://example.com/x", stream=True)
    assert "read" not in vars(response.raw)
    assert (response.content, sink.drafts) == (b"hello", [])


def test_adapters_mounted_later_are_audited_and_stay_themselves():
    """A mount after attach is used and recorded; the session's table holds the caller's own adapter."""
    recorder, sink = make_recorder()
    session = requests.Session()
    attach(recorder, session)
    attach(recorder, session)
    wire = Wire(lambda request: reply())
    session.mount("https://api-", wire)
    order(session, timeout=(1, 2), verify=False)
    assert sink.types == STORY
    assert session.adapters["https://api-"] is wire
    assert (wire.options[0]["timeout"], wire.options[0]["verify"]) == ((1, 2), False)


def test_what_a_session_hands_out_is_its_adapter():
    """Who asks for the adapter gets one of its kind, and sets what the real one has."""
    recorder, _ = make_recorder()
    session, wire = session_on(lambda request: reply(), recorder)
    handed = session.get_adapter(HOST)
    handed.max_retries = Retry(2)
    assert isinstance(handed, Wire)
    assert isinstance(handed, AuditedAdapter)
    assert wire.max_retries.total == handed.max_retries.total == 2


def test_adapters_that_load_the_body_themselves():
    """An adapter of another making, with a loaded body or a raw that takes no attributes, is understood."""
    recorder, sink = make_recorder()

    class Loaded(BaseAdapter):
        def send(self, request, **options):
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            if request.url.endswith("raw"):
                response.raw = io.BytesIO(ACCEPTED)
            else:
                response._content = ACCEPTED
            return response

        def close(self):
            """Nothing to close."""

    session = requests.Session()
    session.mount("https://", Loaded())
    attach(recorder, session)
    for name in ("loaded", "raw"):
        assert session.post(f"{HOST}/text-to-video/{name}", json={"prompt": "a"}).content == ACCEPTED
    assert sink.story == [("prompt_submitted", "success"), ("video_generation_started", "success")] * 2


@pytest.mark.parametrize(
    "reason,outcome",
    [
        (NewConnectionError(None, "refused"), "failure"),
        (ReadTimeoutError(None, "", "slow"), "unknown"),
        (ProtocolError("Connection aborted"), "unknown"),
    ],
)
def test_failures_before_a_reply(reason, outcome):
    """What never connected was not sent; anything else is unknown. The error passes through."""
    recorder, sink = make_recorder()

    def answer(request):
        raise requests.ConnectionError(MaxRetryError(None, "/", reason), request=request)

    session, _ = session_on(answer, recorder)
    with pytest.raises(requests.ConnectionError):
        order(session)
    assert (sink.drafts[-1].outcome, sink.drafts[-1].metadata["error"]) == (outcome, "ConnectionError")


def test_an_interrupted_call_is_unknown():
    """Ctrl-C while waiting for the answer leaves an outcome."""
    recorder, sink = make_recorder()

    def answer(request):
        raise KeyboardInterrupt

    session, _ = session_on(answer, recorder)
    with pytest.raises(KeyboardInterrupt):
        order(session)
    assert sink.story[-1] == ("video_generation_started", "unknown")


# --- request bodies -----------------------------------------------------------------------------------


class Pipe:
    """A readable thing that cannot go back."""

    def __init__(self, data) -> None:
        self._file = io.BytesIO(data)

    def read(self, size=-1):
        return self._file.read(size)


def generated():
    """Yield a body in parts."""
    yield b'{"prompt"'
    yield b':"a la'
    yield b'ke"}'


@pytest.mark.parametrize("limit", [1000, 4])
@pytest.mark.parametrize("kind", ["text", "bytes", "file", "text file", "pipe", "generator"])
def test_request_bodies(kind, limit, monkeypatch):
    """Whatever form a body has, it is read for the intent and arrives whole, also when it is longer than is read."""
    monkeypatch.setattr(watch, "MAX_REQUEST_BYTES", limit)
    monkeypatch.setattr(watch, "MAX_REPLY_BYTES", 10_000 if kind != "pipe" else 7)
    recorder, sink = make_recorder()
    data = b'{"prompt":"a lake"}'
    bodies = {
        "text": data.decode(), "bytes": data, "file": io.BytesIO(data), "text file": io.StringIO(data.decode()),
        "pipe": Pipe(data), "generator": generated(),
    }  # fmt: skip
    monkeypatch.setattr(watch, "MAX_REPLY_BYTES", 10_000)
    session, wire = session_on(lambda request: reply(), recorder)
    session.post(CREATE, data=bodies[kind])
    sent = wire.bodies[0]
    assert (sent.encode() if isinstance(sent, str) else sent) == data
    whole = limit == 1000 or kind in ("text", "bytes")
    assert sink.drafts[0].event_type == ("prompt_submitted" if whole else "task_submitted")


def test_a_file_is_sent_from_where_it_stands():
    """What a caller has read of a file is not sent, before and after."""
    recorder, _ = make_recorder()
    session, wire = session_on(lambda request: reply(), recorder)
    file = io.BytesIO(b'skip{"prompt":"a lake"}')
    file.seek(4)
    session.post(CREATE, data=file)
    assert wire.bodies == [b'{"prompt":"a lake"}']


def test_a_pipe_is_read_in_pieces_and_by_line_of_bytes():
    """What was read ahead of a pipe is handed on in the sizes that are asked for, and by iteration."""
    recorder, _ = make_recorder()
    seen = []

    class Reading(Wire):
        def send(self, request, **options):
            seen.append([request.body.read(3), request.body.read(0), *request.body])
            return self.build_response(request, reply())

    session = requests.Session()
    session.mount("https://", Reading(None))
    attach(recorder, session)
    session.post(CREATE, data=Pipe(b"abcdef"))
    assert seen == [[b"abc", b"", b"def"]]


def test_a_generator_that_fails_sends_nothing():
    """An error while the caller's own body is read happens before the intent: nothing was done."""
    recorder, sink = make_recorder()

    def generate():
        yield b"{"
        raise ValueError("the caller's")

    session, wire = session_on(lambda request: reply(), recorder)
    with pytest.raises(ValueError, match="the caller's"):
        session.post(CREATE, data=generate())
    assert (wire.bodies, sink.drafts) == ([], [])


def test_header_values_of_bytes():
    """A header given as bytes is understood like text."""
    recorder, sink = make_recorder()
    session, _ = session_on(lambda request: reply(), recorder)
    order(session, headers={"Authorization": b"Bearer key-of-alice"})
    assert sink.types == STORY


# --- replies that are read by the caller --------------------------------------------------------------

FILM = b"film" * 5000


def whole(response):
    """Read everything at once."""
    return response.content


def in_pieces(response):
    """Read as most examples do."""
    return b"".join(response.iter_content(512))


def raw_copy(response):
    """Read the raw file, undecoded, as shutil does."""
    parts = []
    while part := response.raw.read(512):
        parts.append(part)
    return b"".join(parts)


def raw_decoded(response):
    """Read the raw file, decoded."""
    return response.raw.read(decode_content=True)


def raw_stream(response):
    """Read urllib3's own stream."""
    return b"".join(response.raw.stream(512, decode_content=True))


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("read", [whole, in_pieces, raw_copy, raw_decoded, raw_stream])
def test_downloads_are_hashed_as_they_are_read(read, encoding):
    """However a caller reads, the digest is that of the film, and the reply is left as it was."""
    recorder, sink = make_recorder()
    body = gzip.compress(FILM) if encoding else FILM
    headers = {"content_type": "video/mp4", "content_encoding": encoding, "content_length": str(len(body))}
    session, _ = session_on(lambda request: reply(body, **headers), recorder)
    with session.get(FILE, stream=True) as response:
        got = read(response)
        assert [] == [name for name in ("read", "stream", "close") if name in vars(response.raw)]
    assert got == (body if read is raw_copy else FILM)
    done = sink.drafts[-1]
    assert (done.outcome, done.metadata["sha256"], done.metadata["bytes"]) == (
        "success", hashlib.sha256(FILM).hexdigest(), len(FILM)
    )  # fmt: skip
    assert done.metadata["type"] == "video/mp4"


def test_a_download_that_is_dropped():
    """Closing early is a failure with the bytes so far."""
    recorder, sink = make_recorder()
    session, _ = session_on(lambda request: reply(FILM), recorder)
    with session.get(FILE, stream=True) as response:
        next(response.iter_content(4))
    done = sink.drafts[-1]
    assert (done.outcome, done.metadata["error"], done.metadata["bytes"]) == ("failure", "ClosedEarly", 4)


def test_a_download_that_breaks_off():
    """A connection that dies in the middle is a failure, and the error is the one that requests raises."""
    recorder, sink = make_recorder()

    class Broken(io.BytesIO):
        def read(self, amt=-1):
            if self.tell():
                raise TimeoutError
            return super().read(4)

    def answer(request):
        return HTTPResponse(Broken(FILM), status=200, preload_content=False, decode_content=False)

    session, _ = session_on(answer, recorder)
    with pytest.raises(requests.ConnectionError):
        session.get(FILE)
    done = sink.drafts[-1]
    assert (done.outcome, done.metadata["error"], done.metadata["complete"]) == ("failure", "ReadTimeoutError", False)


def test_a_reply_that_is_forgotten_is_written_at_the_close():
    """A streamed reply that nobody reads or closes: the collector writes nothing, the close of the log does."""
    recorder, sink = make_recorder()
    session, _ = session_on(lambda request: reply(), recorder)
    order(session, stream=True)
    gc.collect()
    assert sink.types == ["prompt_submitted"]
    recorder.close()
    assert sink.drafts[-1].metadata["error"] == "NeverEnded"


# --- redirects ----------------------------------------------------------------------------------------


def redirecting(request):
    """Send the first request elsewhere."""
    if "hop" in request.url:
        return reply(b"film", content_type="video/mp4")
    return reply(b"moved", 302, location="https://other.example/hop.bin")


def test_redirects_are_one_act():
    """Hop by hop, to another host: one intent, one outcome, with the digest of what was delivered in the end."""
    recorder, sink = make_recorder()
    session, wire = session_on(redirecting, recorder)
    response = session.get(FILE)
    assert (response.content, len(response.history), len(wire.bodies)) == (b"film", 1, 2)
    assert sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "success")]
    done = sink.drafts[-1].metadata
    assert (done["sha256"], done["redirects"]) == (hashlib.sha256(b"film").hexdigest(), 1)
    assert response.request.hooks == {"response": []}


@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_that_is_not_followed(stream):
    """A session that does not follow ends the act at the redirect."""
    recorder, sink = make_recorder()
    session, _ = session_on(redirecting, recorder)
    session.get(FILE, allow_redirects=False, stream=stream)
    assert sink.story == [("video_downloaded", "unknown"), ("video_downloaded", "failure")]
    assert sink.drafts[-1].metadata["http_status"] == 302


def test_endless_redirects_end():
    """Where requests gives up, the act ends at the last redirect."""
    recorder, sink = make_recorder()
    session, _ = session_on(lambda request: reply(b"", 302, location=FILE), recorder)
    session.max_redirects = 3
    with pytest.raises(requests.TooManyRedirects):
        session.get(FILE)
    assert sink.types == ["video_downloaded"] * 2
    assert (sink.drafts[-1].outcome, sink.drafts[-1].metadata["redirects"]) == ("failure", 3)


# --- more than one capture ----------------------------------------------------------------------------


def test_two_captures_of_one_log_make_one_record():
    """An adapter that is wrapped twice, by different means, records once."""
    recorder, sink = make_recorder()
    wire = Wire(lambda request: reply())
    session = requests.Session()
    session.mount("https://", AuditedAdapter(AuditedAdapter(wire, recorder), copy.copy(recorder)))
    attach(recorder, session)
    assert order(session).status_code == 200
    assert sink.types == STORY


def test_two_logs_have_a_record_each():
    """Two logs that watch one session both tell the whole story, redirects included."""
    (one, first), (other, second) = make_recorder(), make_recorder()
    session, _ = session_on(redirecting, one)
    attach(other, session)
    session.get(FILE)
    assert first.story == second.story == [("video_downloaded", "unknown"), ("video_downloaded", "success")]


def test_challenges_are_answered_through_the_audit():
    """An authentication that sends again by itself, past the session, is seen."""
    recorder, sink = make_recorder()
    challenge = {"www_authenticate": 'Digest realm="r", nonce="n", qop="auth"'}

    def answer(request):
        return reply() if "Authorization" in request.headers else reply(b"", 401, **challenge)

    session, wire = session_on(answer, recorder)
    session.post(CREATE, json={"prompt": "a"}, auth=requests.auth.HTTPDigestAuth("u", "p"))
    assert len(wire.bodies) == 2
    assert [draft.outcome for draft in sink.drafts if draft.event_type != "api_key_used"] == [
        "success", "blocked", "success", "success"
    ]  # fmt: skip


def test_a_retry_keeps_its_settings():
    """An adapter's Retry is told apart by nothing but what it tells."""
    recorder, _ = make_recorder()
    session, wire = session_on(lambda request: reply(), recorder)
    wire.max_retries = Retry(total=4, status_forcelist=[503], backoff_factor=0.5)
    order(session)
    order(session)
    kept = wire.max_retries
    assert (kept.total, kept.status_forcelist, kept.backoff_factor) == (4, [503], 0.5)
    assert isinstance(kept, Retry)
    assert kept.increment(method="GET", url="/", error=ProtocolError("x")).total == 3


def test_what_is_no_client():
    """Any other object is refused, with what to do instead."""
    recorder, _ = make_recorder()
    with pytest.raises(UsageError) as caught:
        attach(recorder, object())
    assert "audit.wrap" in caught.value.do
