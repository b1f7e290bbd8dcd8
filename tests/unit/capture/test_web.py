"""Who acts, from requests: headers, scopes, addresses behind proxies, streamed answers."""

from __future__ import annotations

import asyncio
import io
import threading
import wsgiref.handlers
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper, setup_testing_defaults

import httpx2
import pytest

from klingai_audit import acting
from klingai_audit.capture.web import ActingASGI, ActingWSGI, signed_in
from klingai_audit.errors import InvalidEvent, UsageError
from klingai_audit.event.context import current


def seen():
    """Return what is bound now, by member."""
    actor = current()
    return None if actor is None else dict(actor.fields)


def ask_asgi(headers=None, client=("192.168.1.7", 1), scope=None, **options):
    """Send one request through the middleware and return what the application saw bound."""
    found = []

    async def app(scope, receive, send):
        found.append(seen())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await asyncio.sleep(0)
        found.append(seen())
        await send({"type": "http.response.body", "body": b""})

    wrapped = ActingASGI(app, **options)

    async def outer(inner_scope, receive, send):
        await wrapped({**inner_scope, **(scope or {})}, receive, send)

    async def play():
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(outer, client=client)) as browser:
            await browser.get("http://app.example/", headers={"user-agent": "Browser/1", **(headers or {})})
        return seen()

    assert asyncio.run(play()) is None
    assert found[0] == found[1]
    return found[0]


def ask_wsgi(headers=None, peer="192.168.1.7", environ=None, **options):
    """Send one request through the middleware and return what the application saw bound."""
    found = []

    def app(environ, start_response):
        found.append(seen())
        start_response("200 OK", [])
        yield b"one"
        found.append(seen())
        yield b"two"

    given = {"REMOTE_ADDR": peer, "HTTP_USER_AGENT": "Browser/1", **(environ or {})}
    setup_testing_defaults(given)
    given |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
    assert list(ActingWSGI(app, **options)(given, lambda status, headers: None)) == [b"one", b"two"]
    assert seen() is None
    assert found[0] == found[1]
    return found[0]


kinds = pytest.mark.parametrize("ask", [ask_asgi, ask_wsgi], ids=["asgi", "wsgi"])
KNOWN = {"ip_address": "192.168.1.7", "user_agent": "Browser/1"}


@kinds
def test_a_user_from_a_header(ask):
    """A header that a front sets names the user; address and agent come with it, also while the answer streams."""
    found = ask({"X-Remote-User": "user@example.com"}, user="X-Remote-User")
    assert found == {"actor_id": "user@example.com", "actor_type": "user", **KNOWN}


@kinds
def test_a_user_from_a_function(ask):
    """A function may return an id, or all that acting takes."""
    assert ask(user=lambda about: 7)["actor_id"] == "7"
    more = {"actor_id": "robot", "actor_type": "service", "team": "studio-a", "project": "film"}
    assert ask(user=lambda about: more) == {**more, **KNOWN}


@kinds
def test_nobody(ask):
    """A user that nobody knows is unknown, with the address all the same."""
    assert ask(user=lambda about: None) == {"actor_id": "unknown", "actor_type": "system", **KNOWN}


@kinds
def test_a_function_that_says_nonsense(ask):
    """An argument that acting does not know, and a value of another type, are errors, not guesses."""
    with pytest.raises(TypeError):
        ask(user=lambda about: {"actor_id": "a", "role": "b"})
    with pytest.raises(InvalidEvent):
        ask(user=lambda about: {"actor_id": "a", "team": 7})


@kinds
@pytest.mark.parametrize(
    "headers,correlation",
    [
        ({"X-Request-ID": "abc-1"}, "abc-1"),
        ({"X-Correlation-ID": "c:2"}, "c:2"),
        ({"X-Request-ID": "two words", "X-Correlation-ID": "c:2"}, "c:2"),
        ({"X-Request-ID": "x" * 129}, None),
        ({}, None),
    ],
)
def test_correlation(ask, headers, correlation):
    """A request id is taken if it is one; whatever else a client writes there is not."""
    assert ask(headers, user=lambda about: "a").get("correlation_id") == correlation


@kinds
@pytest.mark.parametrize(
    "peer,forwarded,trusted,address",
    [
        ("10.0.0.1", "203.0.113.5", [], "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5", ["10.0.0.0/8"], "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.5, 10.0.0.2", ["10.0.0.0/8"], "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5, nonsense", ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", "", ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", ["10.0.0.1"], "2001:db8::1"),
        ("203.0.113.9", "1.1.1.1", ["10.0.0.0/8"], "203.0.113.9"),
        ("unix", "", [], None),
    ],
)
def test_addresses(ask, peer, forwarded, trusted, address):
    """Only trusted proxies are believed, hop by hop from the nearest."""
    options = {"peer": peer} if ask is ask_wsgi else {"client": (peer, 1)}
    found = ask({"X-Forwarded-For": forwarded}, user=lambda about: "a", trusted_proxies=trusted, **options)
    assert found.get("ip_address") == address


def test_proxies_that_are_none():
    """What is no network is refused when the application starts."""
    with pytest.raises(UsageError):
        ActingWSGI(None, trusted_proxies=["proxy.example"])


class Person:
    """A user as Starlette's authentication makes it."""

    def __init__(self, *, known=True, **names) -> None:
        self.is_authenticated = known
        self.names = names

    def __getattr__(self, name):
        if name in ("identity", "username", "display_name"):
            if self.names.get(name) is None:
                raise RuntimeError("the application defines no such name")
            return self.names[name]
        raise AttributeError(name)


@pytest.mark.parametrize(
    "user,actor",
    [
        (Person(identity="i"), "i"),
        (Person(username="u", display_name="d"), "u"),
        (Person(display_name="d"), "d"),
        (Person(), "unknown"),
        (Person(known=False, identity="i"), "unknown"),
        ("plain", "plain"),
        (None, "unknown"),
    ],
)
def test_the_user_of_the_scope(user, actor):
    """Without a function, the scope's authenticated user is taken."""
    assert ask_asgi(scope={"user": user})["actor_id"] == actor


def test_a_function_may_be_a_coroutine():
    """A session store may be asked."""

    async def find(scope):
        await asyncio.sleep(0)
        return "user@example.com"

    assert ask_asgi(user=find)["actor_id"] == "user@example.com"


def test_the_remote_user():
    """Without a function, WSGI's REMOTE_USER is taken."""
    assert ask_wsgi(environ={"REMOTE_USER": "u"})["actor_id"] == "u"


def test_websockets_and_lifespan():
    """A connection is bound like a request; the application's own life is nobody's."""
    found = []

    async def app(scope, receive, send):
        found.append(seen())

    wrapped = ActingASGI(app, user="x-user")
    headers = [(b"X-User", b"u")]
    asyncio.run(wrapped({"type": "websocket", "headers": headers, "client": None}, None, None))
    asyncio.run(wrapped({"type": "lifespan"}, None, None))
    assert found == [{"actor_id": "u", "actor_type": "user"}, None]


def test_requests_at_the_same_time():
    """Two hundred requests of two people on one loop do not see each other."""

    async def app(scope, receive, send):
        await asyncio.sleep(0.001)
        scope["seen"] = current().actor_id

    wrapped = ActingASGI(app, user=lambda scope: scope["who"])

    async def play():
        scopes = [{"type": "http", "who": f"p-{number % 2}"} for number in range(200)]
        await asyncio.gather(*(wrapped(scope, None, None) for scope in scopes))
        return [(scope["who"], scope["seen"]) for scope in scopes]

    assert [] == [pair for pair in asyncio.run(play()) if pair[0] != pair[1]]


def test_answers_that_need_no_context_are_handed_on():
    """Lists and the server's own file wrapper stay what they are, so that the server can send them fast."""
    for answer in ([b"x"], (b"x",), FileWrapper(io.BytesIO(b"x"))):
        environ = {"wsgi.file_wrapper": FileWrapper}
        assert ActingWSGI(lambda environ, start, answer=answer: answer)(environ, None) is answer


def test_an_answer_is_closed_where_it_was_made():
    """`close` runs with the actor bound, once, also for an answer without iteration; some have none."""
    closed = []

    class Answer:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closed.append(current().actor_id)

    middleware = ActingWSGI(lambda environ, start: Answer(), user=lambda environ: "u")
    middleware({}, None).close()
    ActingWSGI(lambda environ, start: iter([b"x"]))({}, None).close()
    assert closed == ["u"]


def test_acting_inside_an_answer_lasts():
    """A generator that binds somebody else keeps that from one part to the next."""

    def app(environ, start_response):
        with acting("other"):
            yield current().actor_id.encode()
            yield current().actor_id.encode()
        yield current().actor_id.encode()

    assert list(ActingWSGI(app, user=lambda environ: "u")({}, None)) == [b"other", b"other", b"u"]


def test_signed_in_keeps_what_is_known_of_the_request():
    """A handler that authenticates itself names the user and keeps address, agent and correlation."""
    with acting("unknown", actor_type="system", ip="10.0.0.1", user_agent="B/1", correlation_id="c"):
        with signed_in("user@example.com", team="studio-a", user_agent="B/2"):
            assert seen() == {
                "actor_id": "user@example.com", "actor_type": "user", "team": "studio-a", "ip_address": "10.0.0.1",
                "user_agent": "B/2", "correlation_id": "c",
            }  # fmt: skip
    with signed_in("user@example.com"):
        assert seen() == {"actor_id": "user@example.com", "actor_type": "user"}


def test_a_real_server():
    """Behind wsgiref's server the address is the peer's, and its own file wrapper is used."""
    found = []

    def app(environ, start_response):
        found.append(seen())
        start_response("200 OK", [("content-length", "2")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"ok"))

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args):
            """Say nothing."""

    assert wsgiref.handlers.BaseHandler.wsgi_file_wrapper is FileWrapper
    with make_server("127.0.0.1", 0, ActingWSGI(app, user="x-user"), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        reply = httpx2.get(url, headers={"x-user": "u"}, trust_env=False, timeout=60)
        thread.join()
    assert reply.content == b"ok"
    assert (found[0]["actor_id"], found[0]["ip_address"]) == ("u", "127.0.0.1")
