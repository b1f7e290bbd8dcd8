"""Callbacks: signatures by the vendor's vector, replays, claims, and what repeated forgeries leave."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.errors import UsageError
from klingai_audit.event.context import acting
from klingai_audit.event.record import end_event_id
from klingai_audit.kling.errors import KlingRequestError
from klingai_audit.kling.webhook import Callback, check_signature, decode_secret, receive
from tests.unit.capture.doubles import ORIGIN, make_recorder

SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
VECTOR = {
    "webhook-id": "9876543210",
    "webhook-timestamp": "1781080794",
    "webhook-signature": "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4=",
}
BODY = b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
THEN = 1781080794
OTHER = "whsec_" + base64.b64encode(b"another secret").decode()


def signed(body: bytes, *, secret: str = SECRET, delivery: str = "d-1", moment: int = THEN) -> dict[str, str]:
    """Sign a body as the vendor's page says."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{delivery}.{moment}.".encode() + body
    mac = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    return {"Webhook-Id": delivery, "Webhook-Timestamp": str(moment), "Webhook-Signature": f"v1,{mac}"}


def post(recorder, body=BODY, headers=None, *, now=THEN, **more) -> Callback:
    """Receive one callback."""
    return receive(recorder, {} if headers is None else headers, body, now=now, **more)


def legacy(status: str, **more) -> bytes:
    """Return a callback of a legacy path."""
    return json.dumps({"task_id": "1234567890", "task_status": status, "task_status_msg": "", **more}).encode()


def test_the_vendors_vector():
    """The test vector of the vendor's page, byte by byte."""
    keys = [decode_secret(SECRET)]
    assert check_signature(VECTOR, BODY, keys, now=THEN) == "verified"
    for index in range(0, len(BODY), 7):
        changed = BODY[:index] + bytes([BODY[index] ^ 1]) + BODY[index + 1 :]
        assert check_signature(VECTOR, changed, keys, now=THEN) == "invalid"
    for name in VECTOR:
        assert check_signature({**VECTOR, name: "1"}, BODY, keys, now=THEN) == "invalid"
        assert check_signature({**VECTOR, name: ""}, BODY, keys, now=THEN) == "invalid"
    assert check_signature({}, BODY, keys, now=THEN) == "missing"


@pytest.mark.parametrize(
    "moment,expected",
    [(-301, "expired"), (-300, "verified"), (0, "verified"), (300, "verified"), (301, "expired"), (-86_400, "expired")],
)
def test_the_window(moment, expected):
    """Five minutes both ways; a right signature of another time is told from a wrong one."""
    assert check_signature(VECTOR, BODY, [decode_secret(SECRET)], now=THEN + moment) == expected


def test_rotation():
    """Two signatures, one of a secret that we know, in any order; two secrets of ours; other versions do not count."""
    known, unknown = VECTOR["webhook-signature"], "v1,AAAA"
    for text in (f"{unknown} {known}", f"{known} {unknown}", f"v2,x {known}"):
        headers = {**VECTOR, "webhook-signature": text}
        assert check_signature(headers, BODY, [decode_secret(SECRET)], now=THEN) == "verified"
        assert check_signature(headers, BODY, [decode_secret(OTHER)], now=THEN) == "invalid"
        assert check_signature(headers, BODY, [decode_secret(OTHER), decode_secret(SECRET)], now=THEN) == "verified"
    bare = {**VECTOR, "webhook-signature": known.removeprefix("v1,")}
    assert check_signature(bare, BODY, [decode_secret(SECRET)], now=THEN) == "invalid"


@given(st.dictionaries(st.sampled_from([*VECTOR, "x"]), st.text(st.characters(), max_size=40)), st.binary(max_size=60))
def test_no_headers_are_too_odd(headers, body):
    """Whatever a stranger sends, the answer is a word and never an exception."""
    assert check_signature({**VECTOR, **headers}, body, [decode_secret(SECRET)], now=THEN) in ("invalid", "missing")


def test_secrets_without_padding():
    """The same key, as some consoles show it."""
    assert decode_secret(SECRET.rstrip("=")) == decode_secret(SECRET)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_?", "", 7])
def test_secrets_that_are_none(secret):
    """A mistyped secret is an error of the caller, and not shown."""
    with pytest.raises(UsageError) as caught:
        decode_secret(secret)
    assert "?" not in caught.value.message


@pytest.mark.parametrize("form", [dict, lambda headers: list(headers.items())])
def test_a_signed_end_is_the_end(form):
    """The task's one end, with the id that a poll would give it; header names in any case, as mapping or pairs."""
    recorder, sink = make_recorder()
    done = post(recorder, headers=form({name.upper(): value for name, value in VECTOR.items()}), secret=SECRET)
    assert done == Callback("verified", "verified", 200, "1234567890", "succeeded")
    (draft,) = sink.drafts
    assert (str(draft.event_type), draft.event_id) == (
        "task_completed",
        end_event_id(ORIGIN, "1234567890", "succeeded"),
    )
    assert draft.metadata["signature"] == "verified"
    assert draft.metadata["delivery"] == hashlib.sha256(b"9876543210").hexdigest()[:32]
    again = post(recorder, headers=VECTOR, secret=SECRET)
    assert (again.verdict, again.http_status, len(sink.drafts)) == ("repeated", 200, 1)
    other = post(recorder, headers=signed(BODY, delivery="d-2"), secret=SECRET)
    assert (other.verdict, len(sink.drafts)) == ("verified", 1)


def test_both_shapes_and_every_status():
    """A legacy callback tells the same story: status by status, then the end with its charge."""
    recorder, sink = make_recorder()
    for number, (status, more) in enumerate(
        [("submitted", {}), ("processing", {}), ("succeed", {"final_unit_deduction": "2.4"})]
    ):
        body = legacy(status, **more)
        post(recorder, body, signed(body, delivery=str(number)), secret=SECRET)
    assert sink.story == [
        ("task_status_changed", "success"),
        ("task_status_changed", "success"),
        ("task_completed", "success"),
    ]
    assert sink.drafts[-1].metadata["charge"] == [{"charge_type": "unit", "amount": "2.4"}]


@pytest.mark.parametrize("secret,signature", [(None, "not_checked"), (SECRET, "missing")])
@pytest.mark.parametrize("status", ["processing", "succeed", "failed"])
def test_an_unsigned_callback_is_a_claim(secret, signature, status):
    """It says what somebody says; no end, no charge, no text of it, and no memory that a later poll would trust."""
    recorder, sink = make_recorder()
    body = legacy(status, task_status_msg="a secret lake", final_unit_deduction="99", task_result={"videos": []})
    word = {"succeed": "succeeded"}.get(status, status)
    done = post(recorder, body, secret=secret)
    assert done == Callback("claim", signature, 200, "1234567890", word)
    assert sink.story == [("task_status_changed", "unknown")]
    metadata = sink.drafts[0].metadata
    assert metadata == {"signature": signature, "via": "callback", "claim": True, "status": word}
    assert sink.drafts[0].actor_id == "callback-sender"
    assert recorder.memory.known("1234567890") is None
    post(recorder, body, secret=secret)
    assert len(sink.drafts) == 1


class Asked:
    """A client that says one status, or fails."""

    def __init__(self, status: object) -> None:
        self.status = status
        self.asked: list[str] = []

    def task(self, task_id, *, legacy=None, product=None):
        self.asked.append(task_id)
        if self.status is None:
            raise KlingRequestError("no such task")
        return self


@pytest.mark.parametrize(
    "said,verdict", [("succeeded", "confirmed"), ("processing", "claim"), ("failed", "claim"), (None, "claim")]
)
def test_a_claim_is_believed_when_kling_says_the_same(said, verdict):
    """The client is asked about ends only; what it says decides."""
    recorder, sink = make_recorder()
    client = Asked(said)
    assert post(recorder, client=client).verdict == verdict
    assert client.asked == ["1234567890"]
    assert sink.story == [("task_status_changed", "unknown")]
    post(recorder, legacy("processing"), client=client)
    assert client.asked == ["1234567890"]


def test_an_async_client_cannot_confirm():
    """Said, rather than believed."""
    recorder, _ = make_recorder()
    with pytest.raises(UsageError):
        post(recorder, client=Asked(7))


def test_forgeries():
    """Three are told one by one, then they are counted, and told at each tenfold."""
    recorder, sink = make_recorder()
    client = Asked("succeeded")
    for number in range(40):
        body = legacy("succeed", task_id=str(number)).replace(b"1234567890", str(number).encode())
        done = post(recorder, body, {**VECTOR, "webhook-id": str(number)}, secret=SECRET)
        assert (done.verdict, done.signature, done.http_status) == ("rejected", "invalid", 401)
    claims = [draft for draft in sink.drafts if draft.event_type == "task_status_changed"]
    alarms = [draft for draft in sink.drafts if draft.event_type == "suspicious_activity"]
    assert [draft.metadata["signature"] for draft in claims] == ["invalid"] * 3
    assert [draft.metadata["count"] for draft in alarms] == [3, 30]
    assert client.asked == []
    post(recorder, BODY, {**VECTOR, "webhook-id": "x"}, secret=SECRET, now=THEN + 3600)
    assert len(sink.drafts) == 6


def test_an_old_delivery_is_a_claim():
    """A right signature of an hour ago proves who, not when."""
    recorder, sink = make_recorder()
    done = post(recorder, headers=VECTOR, secret=SECRET, now=THEN + 3600, client=Asked("succeeded"))
    assert (done.verdict, done.signature) == ("confirmed", "expired")
    assert sink.drafts[0].metadata["signature"] == "expired"


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"id":"<script>"}', b"x" * 9_000_000])
def test_bodies_that_name_no_task(body):
    """Rejected, and one entry however often it comes."""
    recorder, sink = make_recorder()
    for _ in range(3):
        assert post(recorder, body).http_status == 400
    assert sink.story == [("task_status_changed", "unknown")]
    assert post(recorder, body, signed(body), secret=SECRET).verdict == "rejected"


def test_parsed_bodies_are_refused():
    """A signature is over bytes; what a framework parsed is not them."""
    recorder, _ = make_recorder()
    with pytest.raises(UsageError):
        receive(recorder, {}, json.loads(BODY))


def test_who_acts():
    """What a bound actor receives is theirs; a known task's entries are of who ordered it."""
    recorder, sink = make_recorder()
    with acting("gate@example.com"):
        post(recorder)
    assert sink.drafts[0].actor_id == "gate@example.com"
