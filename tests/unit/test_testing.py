"""The shipped test kit: events of one log, a clock by hand, and a guard that lets nothing leave unaudited."""

from __future__ import annotations

import asyncio
import datetime as dt
import http.client
import importlib.metadata
import os
import subprocess
import sys
import textwrap
import threading
import tomllib
import urllib.request
from pathlib import Path

import aiohttp
import httpx
import httpx2
import pytest
import requests

from klingai_audit import AuditLog, acting
from klingai_audit.errors import InvalidPolicy, UsageError
from klingai_audit.kling.simulator import ManualClock, Simulator, serve
from klingai_audit.testing import (
    CapturedEvents,
    HandClock,
    UnauditedRequest,
    capture_events,
    memory_log,
    refuse_unaudited,
)

HOST = "https://api-singapore.klingai.com"
CREATE = f"{HOST}/v1/videos/text2video"


def accepted(_request):
    """What Kling answers to an order."""
    return httpx2.Response(
        200, json={"code": 0, "request_id": "r", "data": {"task_id": "8310", "task_status": "submitted"}}
    )


# --- events --------------------------------------------------------------------------------------------


def test_events_of_the_block_are_given():
    """In order, without the log's own, with people as a reader sees them."""
    with capture_events() as captured:
        captured.audit.log("x_one", "user@example.com", n=1)
        captured.audit.log("x_two", "user@example.com", n=2)
        assert (["x_one", "x_two"], 2) == (captured.types, len(captured))
        assert [1, 2] == [event.metadata["n"] for event in captured]
        assert ("x_two", ["x_two"]) == (captured[-1].event_type, [event.event_type for event in captured.of("x_two")])
        assert ("us***@example.com", "user@example.com") == (captured[0].actor(), captured[0].actor("id"))
        assert "CapturedEvents(x_one, x_two)" == repr(captured)


def test_two_blocks_see_their_own_events_only():
    """Nothing is shared between them."""
    with capture_events() as one, capture_events() as two:
        one.audit.log("x_one", "a")
        two.audit.log("x_two", "a")
        assert (["x_one"], ["x_two"]) == (one.types, two.types)


def test_log_of_your_own_can_be_watched(tmp_path):
    """Events from before the block are not in it."""
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("x_before", "a")
        with capture_events(audit) as captured:
            audit.log("x_in", "a")
            assert ["x_in"] == captured.types


def test_memory_log_leaves_nothing_behind(tmp_path, monkeypatch):
    """Its folder is gone, and this machine does not remember it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with memory_log() as audit:
        assert audit.verify().integrity_ok
        folder = audit.places.keys.parent
        assert folder.exists()
    assert (False, []) == (folder.exists(), list(tmp_path.rglob("*")))


def test_policy_of_a_memory_log_is_yours():
    """The whole privacy of a real log, by the policy given; a wrong one is refused."""
    with capture_events(policy='[privacy]\nactor_ids = "opaque"\n') as captured:
        captured.audit.log("x_a", "render-farm")
        assert "render-farm" == captured[0].actor_id
    with pytest.raises(InvalidPolicy), memory_log(policy="[nothing]\nx = 1\n"):
        pass


def test_clock_moves_by_hand():
    """Both clocks advance, only the wall steps, and a log takes its times from it."""
    clock = HandClock(dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    boot = clock.boot_ns()
    clock.advance(90.5)
    clock.step(-60)
    assert dt.datetime(2026, 3, 1, 0, 0, 30, 500_000, tzinfo=dt.UTC) == clock.now
    assert 90.5 * 10**9 == clock.boot_ns() - boot
    with capture_events(clock=clock) as captured:
        captured.audit.log("x_a", "a")
        clock.advance(3600)
        captured.audit.log("x_b", "a")
        first, second = (event.timestamp for event in captured)
    assert dt.timedelta(hours=1) == second - first
    for wrong in (lambda: clock.advance(-1), lambda: HandClock(dt.datetime(2026, 3, 1))):  # noqa: DTZ001
        with pytest.raises(UsageError):
            wrong()


# --- the guard -----------------------------------------------------------------------------------------


def by_httpx2(url: str) -> None:
    """A request that a mocked transport would answer."""
    httpx2.Client(transport=httpx2.MockTransport(accepted)).post(url, json={"prompt": "a lake"})


def by_httpx(url: str) -> None:
    """The same with httpx."""
    httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))).post(url)


def by_urllib(url: str) -> None:
    """The standard library."""
    urllib.request.urlopen(url, data=b"{}", timeout=1)


def by_connection(url: str) -> None:
    """Its lower half."""
    host, _, path = url.removeprefix("https://").partition("/")
    connection = http.client.HTTPSConnection(host)
    connection.connect = lambda: None
    connection.request("POST", f"/{path}?secret=1", b"{}")


def by_requests(url: str) -> None:
    """A session of requests."""
    with requests.Session() as session:
        session.post(f"{url}?secret=1", json={"prompt": "a lake"}, timeout=1)


def by_aiohttp(url: str) -> None:
    """A session of aiohttp."""

    async def send() -> None:
        async with aiohttp.ClientSession() as session, session.post(f"{url}?secret=1", json={}):
            pass

    asyncio.run(send())


@pytest.mark.parametrize("send", [by_httpx2, by_httpx, by_urllib, by_connection, by_requests, by_aiohttp])
def test_unaudited_request_is_stopped(send):
    """Whatever library sends it; the message holds neither query nor body."""
    with refuse_unaudited() as stopped:
        with pytest.raises(UnauditedRequest) as caught:
            send(CREATE)
        assert ["POST api-singapore.klingai.com/v1/videos/text2video"] == stopped.requests
        assert "secret" not in str(caught.value)
        with pytest.raises(UnauditedRequest):
            stopped.check()
        stopped.check(since=1)


def test_async_clients_are_stopped():
    """Both libraries' async clients, too."""

    async def send() -> None:
        for library in (httpx2, httpx):
            transport = library.MockTransport(lambda _, library=library: library.Response(200))
            async with library.AsyncClient(transport=transport) as client:
                with pytest.raises(UnauditedRequest):
                    await client.post(CREATE)

    with refuse_unaudited() as stopped:
        asyncio.run(send())
        assert 2 == len(stopped.requests)


def test_audited_requests_pass():
    """Through an audited transport, sync and async, a request leaves, and is an entry."""
    with capture_events() as captured, refuse_unaudited() as stopped, acting("user@example.com"):
        client = httpx2.Client(transport=httpx2.MockTransport(accepted))
        captured.audit.attach(client)
        client.post(CREATE, json={"prompt": "a lake"}, headers={"Authorization": "Bearer k"})

        async def send() -> None:
            transport = captured.audit.httpx_transport(httpx2.MockTransport(accepted))
            async with httpx2.AsyncClient(transport=transport) as other:
                await other.post(CREATE, json={"prompt": "a lake"})

        asyncio.run(send())
        stopped.check()
        assert 2 == len(captured.of("prompt_submitted"))


def test_audited_sessions_pass():
    """requests and aiohttp, with the log attached, leave and are entries."""

    async def send(session: aiohttp.ClientSession, url: str) -> None:
        async with session, session.post(url, json={"prompt": "a lake"}):
            pass

    async def send_audited(audit: AuditLog, url: str) -> None:
        session = aiohttp.ClientSession()
        audit.attach(session)
        await send(session, url)

    sim = Simulator(ManualClock())
    with serve(sim) as server, capture_events() as captured, refuse_unaudited() as stopped, acting("user@example.com"):
        url = f"{server.base_url}/v1/videos/text2video"
        with requests.Session() as session:
            captured.audit.attach(session)
            session.post(url, json={"prompt": "a lake"}, timeout=60)
        asyncio.run(send_audited(captured.audit, url))
        stopped.check()
        assert (2, 2) == (len(captured.of("prompt_submitted")), len(sim.requests))


def test_other_hosts_are_nobodys_business():
    """Only what is Kling's is looked at, by host or by path."""
    with refuse_unaudited() as stopped:
        by_httpx2("https://example.com/anything")
        with pytest.raises(UnauditedRequest):
            by_httpx2("http://127.0.0.1:9/v1/videos/text2video")
        with pytest.raises(UnauditedRequest):
            by_httpx("https://proxy.example.com/kling/v1/videos/text2video")
    assert 2 == len(stopped.requests)


def test_tunnels_and_proxies_are_seen_through():
    """What goes to a proxy is for the host behind it."""
    with refuse_unaudited() as stopped:
        tunnel = http.client.HTTPSConnection("proxy.example.com")
        tunnel.set_tunnel("api.klingai.com")
        plain = http.client.HTTPConnection("[::1]")
        for connection, url in ((tunnel, "/account/costs"), (plain, CREATE), (plain, "/v1/videos/text2video")):
            with pytest.raises(UnauditedRequest):
                connection.putrequest("GET", url)
    assert ["GET api.klingai.com/account/costs", "GET api-singapore.klingai.com/v1/videos/text2video",
            "GET ::1/v1/videos/text2video"] == stopped.requests  # fmt: skip


def test_threads_are_watched_and_the_block_ends():
    """Patches hold for the whole process, and are gone afterwards."""
    errors = []

    def send() -> None:
        try:
            by_httpx2(CREATE)
        except UnauditedRequest as exc:
            errors.append(exc)

    before = http.client.HTTPConnection.putrequest
    with refuse_unaudited():
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    assert 1 == len(errors)
    assert before is http.client.HTTPConnection.putrequest
    by_httpx2(CREATE)


# --- pytest --------------------------------------------------------------------------------------------

SUITE = """
    import httpx2, pytest
    from klingai_audit import acting

    def order(client):
        try:
            client.post("https://api.klingai.com/v1/videos/text2video", json={"prompt": "a lake"})
        except Exception as exc:
            print("swallowed", type(exc).__name__)
        except AssertionError:
            pass

    def client():
        return httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(500)))

    def test_audited(audited_kling):
        audited = client()
        audited_kling.audit.attach(audited)
        with acting("user@example.com"):
            order(audited)
        assert audited_kling.types[0] == "prompt_submitted"

    def test_forgotten(audited_kling):
        order(client())

    def test_not_asked():
        order(client())

    @pytest.fixture
    def late(audited_kling):
        yield
        order(client())

    def test_late(late):
        pass

    def test_own_failure(audited_kling):
        order(client())
        assert 0
"""


def run_suite(folder: Path, *options: str) -> dict[str, str]:
    """Run the made-up suite with the plugin and return what became of its tests."""
    (folder / "test_made_up.py").write_text(textwrap.dedent(SUITE))
    command = [sys.executable, "-m", "pytest", "-p", "klingai_audit.testing.plugin", "-p", "no:cacheprovider", "-rA",
               "-W", "error", *options, str(folder)]  # fmt: skip
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "ERROR") and "::" in rest:
            name = rest.split("::")[1].split(" ")[0]
            found[name] = f"{found[name]} {word}" if name in found else word
    return found


def test_fixture_fails_tests_that_forget_to_audit(tmp_path):
    """Also where the code under test swallows the error; tests that do not ask are left alone."""
    assert {
        "test_audited": "PASSED",
        "test_forgotten": "FAILED",
        "test_not_asked": "PASSED",
        "test_late": "PASSED ERROR",
        "test_own_failure": "FAILED",
    } == run_suite(tmp_path)


def test_plugin_is_found_and_light(repository):
    """The entry point names it, and loading it imports neither the log nor a client."""
    entry = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert {"klingai-audit": "klingai_audit.testing.plugin"} == entry
    point = importlib.metadata.EntryPoint("klingai-audit", entry["klingai-audit"], "pytest11")
    assert "audited_kling" in point.load().__all__
    code = "import sys, klingai_audit.testing.plugin as p; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set() == {"klingai_audit.log", "httpx", "httpx2", "cryptography", "rich"} & set(loaded)


TYPED = """
    import datetime as dt
    from klingai_audit import AuditLog
    from klingai_audit.testing import CapturedEvents, HandClock, capture_events, memory_log, refuse_unaudited
    from klingai_audit.views.entry import EntryView

    def test_it(audited_kling: CapturedEvents) -> None:
        log: AuditLog = audited_kling.audit
        events: list[EntryView] = audited_kling.events
        clock = HandClock(dt.datetime.now(dt.UTC))
        with memory_log(clock=clock, policy="") as audit, capture_events(audit) as captured:
            kinds: list[str] = captured.types
        with refuse_unaudited() as stopped:
            seen: list[str] = stopped.requests
"""


@pytest.mark.slow
@pytest.mark.parametrize("text,code", [(TYPED, 0), (TYPED.replace("list[str] = captured", "list[int] = captured"), 1)])
def test_kit_is_typed(repository, tmp_path, text, code):
    """A strict type checker accepts right use and refuses wrong use."""
    path = tmp_path / "typed.py"
    path.write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", repository / "pyproject.toml", path]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert code == done.returncode, done.stdout


def test_names_are_those_of_the_kit():
    """What the package offers is there, and nothing that is not."""
    import klingai_audit.testing as kit

    assert CapturedEvents is kit.CapturedEvents
    with pytest.raises(AttributeError):
        kit.nothing  # noqa: B018
