"""Credentials: which are taken where, and what each wrong one gets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, mint_token

LEGACY = "/v1/videos/text2video"
AK_SK_REFUSED = (
    "Authentication error. The current API does not support AK/SK; "
    "please go to the console (https://kling.ai/dev/api-key) to create API key."
)


def _token(now_ms: int, **times: int) -> str:
    return mint_token(DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, now_ms=now_ms, **times)


def _resigned(token: str, **claims: object) -> str:
    """The token with other claims and its old signature."""
    head, body, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip('=')}.{signature}"


def _signed(claims: dict[str, object]) -> str:
    """A well-signed token of the default AccessKey with these claims."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256"}, {"iss": DEFAULT_ACCESS_KEY} | claims)
    )
    signature = hmac.new(DEFAULT_SECRET_KEY.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_a_minted_token_has_the_documented_parts(clock) -> None:
    """The token names HS256 and JWT, the AccessKey, and the two times of the vendor's samples."""
    head, claims, _ = _token(clock.now_ms()).split(".")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "HS256", "typ": "JWT"}
    now = clock.now_ms() // 1000
    expected = {"iss": "sim-access-key", "exp": now + 1800, "nbf": now - 5}
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == expected


def test_tokens_live_on_the_simulators_clock(ask, clock) -> None:
    """A token is refused before its time (1003), taken from then on, and refused from its end on (1004)."""
    clock.advance(0.198)  # to a whole second, so that the limits fall on moments of the clock
    token = _token(clock.now_ms(), not_before=10, lifetime=20)
    seen = []
    for step in (0, 9, 1, 9, 1):
        clock.advance(step)
        reply = ask("GET", LEGACY, auth=token)
        seen.append((reply.status, reply.code))
    assert seen == [(401, 1003), (401, 1003), (200, 0), (200, 0), (401, 1004)]


def test_a_token_is_only_as_good_as_its_signature(ask, clock) -> None:
    """Other claims under the old signature, another secret and an unknown issuer are all 401 / 1002."""
    good = _token(clock.now_ms())
    wrong = [
        _resigned(good, exp=clock.now_ms()),
        good[:-2],
        good.rpartition(".")[0] + ".é",
        mint_token(DEFAULT_ACCESS_KEY, "another-secret", now_ms=clock.now_ms()),
        mint_token("another-key", DEFAULT_SECRET_KEY, now_ms=clock.now_ms()),
    ]
    assert [(r.status, r.code) for r in (ask("GET", LEGACY, auth=token) for token in wrong)] == [(401, 1002)] * 5


@pytest.mark.parametrize("claims", [{}, {"exp": "soon"}, {"exp": True}, {"exp": 4e9, "nbf": "now"}], ids=str)
def test_a_token_needs_times_that_are_numbers(claims: dict[str, object], ask) -> None:
    """A well-signed token without an end, or with times that are no numbers, is invalid."""
    assert ask("GET", LEGACY, auth=_signed(claims)).code == 1002


def test_a_token_may_leave_out_its_beginning(ask) -> None:
    """Without `nbf` a token is valid from the first moment; the end alone decides."""
    assert ask("GET", LEGACY, auth=_signed({"exp": 4e9})).status == 200


def test_an_unsigned_token_is_refused(ask) -> None:
    """The algorithm `none` is not HS256."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in ({"alg": "none"}, {"iss": "x"})]
    assert ask("GET", LEGACY, auth=f"{parts[0]}.{parts[1]}.").code == 1002


@pytest.mark.parametrize(
    "token, got", [("garbage", "0"), ("a.b", "2"), ("a.b.c.d", "> 3")], ids=["one part", "two parts", "four parts"]
)
def test_a_token_with_other_than_three_parts_is_told_so(token: str, got: str, ask) -> None:
    """On legacy paths the message counts the parts."""
    reply = ask("GET", LEGACY, auth=token)
    assert (reply.status, reply.code) == (401, 1002)
    assert reply.json["message"] == f"The token was expected to have 3 parts, but got {got}"


@pytest.mark.parametrize(
    "method, path", [("POST", "/text-to-video/kling-3.0"), ("GET", "/tasks?task_ids=1"), ("POST", "/tasks")]
)
def test_the_new_design_takes_api_keys_only(method: str, path: str, ask, clock) -> None:
    """A valid token and garbage get the same advice to create an API key."""
    for auth in (_token(clock.now_ms()), "garbage"):
        reply = ask(method, path, {"prompt": "a"}, auth=auth)
        assert (reply.status, reply.code, reply.json["message"]) == (401, 1002, AK_SK_REFUSED)


@pytest.mark.parametrize("header", [None, "", "  "], ids=["absent", "empty", "blank"])
def test_no_authorization_is_1001(header: str | None, sim, ask) -> None:
    """Without a value there is nothing to be invalid."""
    auth = None if header is None else header + " "
    reply = ask("GET", LEGACY, auth=auth)
    assert (reply.status, reply.code, sim.requests[-1].caller) == (401, 1001, None)


@pytest.mark.parametrize("header", ["Basic sim-api-key", "Bearer  sim-api-key", "sim-api-key x", "bearer sim-api-key"])
def test_the_scheme_is_bearer_and_one_space(header: str, ask) -> None:
    """Anything but `Bearer`, one space and the value is invalid."""
    assert ask("GET", LEGACY, auth=header).code == 1002


def test_a_refused_caller_changes_nothing(sim, ask) -> None:
    """A create with a bad key makes no task and takes no external id."""
    body = {"prompt": "a", "external_task_id": "mine"}
    assert ask("POST", LEGACY, body, auth="garbage").status == 401
    assert sim.tasks == []
    assert ask("POST", LEGACY, body).status == 200


def test_keys_can_be_added_and_revoked(sim, ask) -> None:
    """A key works between being added and being revoked; requests know it by its name."""
    assert ask("GET", "/tasks?task_ids=1", auth="sim-second-key").status == 401
    sim.add_api_key("sim-second-key", "render-farm")
    assert ask("GET", "/tasks?task_ids=1", auth="sim-second-key").status == 200
    caller = sim.requests[-1].caller
    assert (caller.kind, caller.name) == ("api_key", "render-farm")
    sim.revoke("sim-second-key")
    for path in ("/tasks?task_ids=1", LEGACY):
        reply = ask("GET", path, auth="sim-second-key")
        assert (reply.status, reply.code) == (401, 1002)
    assert ask("GET", "/tasks?task_ids=1").status == 200
    sim.add_api_key("sim-second-key", "render-farm")
    assert ask("GET", "/tasks?task_ids=1", auth="sim-second-key").status == 200


def test_access_keys_can_be_added_and_revoked(sim, ask, clock) -> None:
    """A second AccessKey signs its own tokens until it is revoked."""
    sim.credentials.access_keys["ak2"] = "secret-of-ak2"
    token = mint_token("ak2", "secret-of-ak2", now_ms=clock.now_ms())
    assert ask("GET", LEGACY, auth=token).status == 200
    assert (sim.requests[-1].caller.kind, sim.requests[-1].caller.name) == ("access_key", "ak2")
    sim.revoke("ak2")
    assert ask("GET", LEGACY, auth=token).code == 1002


def test_what_cannot_be_meant_is_refused(sim) -> None:
    """Revoking an unknown key and adding a nameless one are mistakes of the test, not of the client."""
    with pytest.raises(UsageError):
        sim.revoke("never-added")
    with pytest.raises(UsageError):
        sim.add_api_key("key", "")


def test_no_credential_shows_in_a_repr(sim, ask) -> None:
    """Keys, secrets and Authorization values stay out of what a failing test prints."""
    ask("POST", LEGACY, {"prompt": "planted-prompt"})
    shown = repr(sim.credentials) + repr(sim.requests) + repr(sim.tasks) + repr(sim)
    assert [word for word in ("sim-api-key", "sim-secret", "planted-prompt") if word in shown] == []
