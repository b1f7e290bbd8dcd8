"""What capture hands around holds no credential."""

from __future__ import annotations

from klingai_audit.capture.facts import Credential, Exchange, Operation, RequestFacts


def test_credentials_leave_the_headers():
    """Only harmless headers stay, in lower case; the credential is beside them and in no repr."""
    facts = RequestFacts(
        method="POST",
        url="https://user:pw@example.com/x?token=abc",
        headers={"Authorization": "Bearer secret-key", "Cookie": "s=1", "X-Api-Key": "k", "User-Agent": "tool/1"},
        body=b"a prompt",
    )
    assert {"user-agent": "tool/1"} == facts.headers
    assert facts.authorization == "Bearer secret-key"
    assert facts.body_bytes == 8
    assert not any(word in repr(facts) for word in ("secret-key", "pw@", "token=", "a prompt", "s=1"))


def test_reprs_show_no_content():
    """Exchanges and credentials can be printed by a debugger without harm."""
    request = RequestFacts(method="GET", url="https://example.com/")
    exchange = Exchange(request=request, status=200, headers={"Set-Cookie": "s=1", "Content-Type": "x"}, body=b"echo")
    assert {"content-type": "x"} == exchange.headers
    assert "echo" not in repr(exchange)
    assert "hidden" not in repr(Credential("api_key", "hidden"))


def test_every_kind_has_a_failure_class():
    """Each kind of operation names the class of the failure policy that decides about it."""
    kinds = ("paid_create", "paid_sync", "read", "destructive", "download")
    classes = [Operation(name="x", kind=kind).failure_class for kind in kinds]
    assert classes == ["paid_create", "paid_create", "read", "delete", "download"]
