"""What is in scope of process-wide capture, and that it leaves nothing behind."""

from __future__ import annotations

import aiohttp
import httpx
import httpx2
import pytest
import requests

from klingai_audit.capture import instrument as module
from klingai_audit.capture.instrument import Scope, instrument_process
from klingai_audit.errors import UsageError
from tests.unit.capture.doubles import make_recorder

CREATE = "/v1/videos/text2video"
HOOKS = [
    (httpx2.Client, "_transport_for_url"),
    (httpx2.AsyncClient, "_transport_for_url"),
    (httpx.Client, "_transport_for_url"),
    (httpx.AsyncClient, "_transport_for_url"),
    (requests.Session, "get_adapter"),
    (requests.Session, "send"),
    (aiohttp.ClientSession, "_request"),
]


def scope(**options):
    """Return a scope over a fresh recorder."""
    recorder, _ = make_recorder()
    return Scope(recorder, **options)


@pytest.mark.parametrize(
    "method,url,name",
    [
        ("POST", f"https://api-singapore.klingai.com{CREATE}", "text_to_video"),
        ("POST", "https://api.klingai.com/v9/new-thing", "/v9/new-thing"),
        ("GET", "https://cdn.klingai.com/a.mp4", "download"),
        ("POST", f"http://localhost:8080/prefix{CREATE}", "text_to_video"),
        ("POST", f"http://127.0.0.1:1{CREATE}", "text_to_video"),
        ("POST", f"http://[::1]:1{CREATE}", "text_to_video"),
        ("POST", "http://localhost/other", None),
        ("POST", f"https://reseller.example{CREATE}", None),
        ("POST", f"https://notklingai.com{CREATE}", None),
        ("GET", "https://example.com/", None),
        ("GET", "https://example.com/film.mp4", None),
        ("GET", "http://[broken", None),
        ("GET", "http://host:99999999/", None),
        ("GET", "", None),
    ],
)
def test_what_is_klings(method, url, name):
    """Kling's hosts entirely, catalogue paths on loopback, nothing else."""
    found = scope().recognise(method, url)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    "hosts,url,inside",
    [
        (["proxy.example"], "https://proxy.example/whatever", True),
        (["proxy.example"], "https://PROXY.example.:8443/whatever", True),
        (["proxy.example:8443"], "https://proxy.example:8443/whatever", True),
        (["proxy.example:443"], "https://proxy.example/whatever", True),
        (["proxy.example:8443"], "https://proxy.example/whatever", False),
        (["*.example"], "https://a.b.example/whatever", True),
        (["*.example"], "https://example/whatever", False),
        (["localhost:80"], "http://localhost/other", True),
    ],
)
def test_hosts_that_are_named(hosts, url, inside):
    """Named hosts are Kling's with all their paths, by port if one is given."""
    found = scope(hosts=hosts).recognise("POST", url)
    assert (found is not None) == inside
    if inside:
        assert found.kind == "paid_create"


@pytest.mark.parametrize(
    "base,url,inside",
    [
        ("http://gateway.example:9000/kling", "http://gateway.example:9000/kling/x", True),
        ("http://gateway.example:9000/kling", "http://gateway.example:9000/klingon/x", False),
        ("http://gateway.example:9000/kling", "http://gateway.example/kling/x", False),
        ("https://gateway.example", "https://gateway.example:443/x", True),
        ("", "https:///x", False),
        (None, "https://gateway.example/x", False),
    ],
)
def test_the_base_url_of_the_environment(base, url, inside):
    """What is below KLINGAI_BASE_URL is Kling's, at that port and below that path."""
    assert (scope(base_url=base).recognise("POST", url) is not None) == inside


def test_hosts_and_base_urls_that_are_none():
    """One string instead of a list, and an address that is none, are refused."""
    for options in ({"hosts": "klingai.com"}, {"base_url": "http://host:port"}):
        with pytest.raises(UsageError):
            scope(**options)


def test_undo_restores_every_class():
    """After `undo`, also after a second one, the libraries are what they were; inside they are changed."""
    recorder, _ = make_recorder()
    before = [vars(owner)[name] for owner, name in HOOKS]
    with instrument_process(recorder) as made:
        assert all(vars(owner)[name] is not was for (owner, name), was in zip(HOOKS, before, strict=True))
        assert made.libraries == ("httpx2", "httpx", "requests", "aiohttp")
    made.undo()
    assert [vars(owner)[name] for owner, name in HOOKS] == before


def test_undo_in_any_order():
    """Two instrumentations taken back in the order they were made leave functions that do nothing of their own."""
    recorder, _ = make_recorder()
    first, second = instrument_process(recorder), instrument_process(recorder)
    adapter = requests.adapters.HTTPAdapter()
    first.undo()
    second.undo()
    with requests.Session() as session:
        session.mount("https://", adapter)
        assert type(session.get_adapter("https://api.klingai.com/")) is requests.adapters.HTTPAdapter
    for owner, name in HOOKS:
        setattr(owner, name, vars(owner)[name].__wrapped__)


def test_a_library_that_cannot_be_audited_is_left_out(monkeypatch):
    """An old aiohttp is named in a warning, and the others are audited; a missing library is no matter."""
    recorder, _ = make_recorder()
    monkeypatch.delattr(aiohttp.payload.Payload, "as_bytes")
    monkeypatch.delattr(httpx.Client, "_transport_for_url")
    monkeypatch.setitem(module._LIBRARIES, "a_library_that_is_not_here", None)
    monkeypatch.setitem(module._LIBRARIES, "tests.unit.capture.a_broken_one", None)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name.startswith("a_") else name)
    with pytest.warns(UserWarning, match="is not audited") as warned:
        made = instrument_process(recorder)
    made.undo()
    assert made.libraries == ("httpx2", "requests")
    said = [str(warning.message) for warning in warned if warning.category is UserWarning]
    assert ["httpx", "aiohttp"] == [text.partition(" ")[0] for text in said]
