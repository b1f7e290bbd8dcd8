"""The leak test of the room: planted secrets, prompts and addresses in every field and form, and none comes through.

Each form is put into each member and into metadata, nested and as text in text. Whatever happens (admitted or
refused), no planted part may be in the event's bytes, in a repr, in an error's text or causes, or
in the subject table's file.
"""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from klingai_audit.errors import KlingAuditError
from klingai_audit.event.context import acting, resolve
from klingai_audit.event.record import MEMBERS, Draft
from klingai_audit.privacy import secrets
from klingai_audit.privacy.commitment import ToCommit
from klingai_audit.privacy.door import Door
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.secrets import scrub_exception
from klingai_audit.privacy.subjects import SqliteSubjects

KEY = bytes(range(32))
SECRET = "Zq7Planted9Secret"
LEARNED = "plain-looking-provider-key"
LOCAL = "jolene.planted"
EMAIL = f"{LOCAL}@example.com"
IP4 = "198.51.77.123"
IP6 = "2001:db8:77:beef::5"
PROMPT = "A planted cormorant above the silver marsh"

NEEDLES = (SECRET, LEARNED, LOCAL, "77.123", "77:beef", "cormorant", "silver marsh", "c2lsdmVyIG1hcnNo")

SECRET_FORMS: dict[str, Any] = {
    "header": f"Authorization: Bearer {SECRET}",
    "bearer": f"sent Bearer {SECRET} to the provider",
    "basic": "Basic " + base64.b64encode(f"u:{SECRET}".encode()).decode(),
    "jwt": f"eyJhbGciOiJIUzI1NiJ9.eyJ{SECRET}.{SECRET}",
    "api key shape": f"failed with api-key-kling-{SECRET}",
    "webhook secret": f"whsec_{SECRET}",
    "note signer": f"PRIVATE+KEY+log.example.com+6c5015ae+{SECRET}",
    "assignment": f"KLINGAI_SECRET_KEY={SECRET}",
    "url userinfo": f"https://user:{SECRET}@example.com/a",
    "url token": f"https://example.com/v.mp4?x-sign={SECRET}1&token={SECRET}",
    "url fragment": f"https://example.com/#access_token={SECRET}",
    "database url": f"postgresql://user:a/{SECRET}@example.com/db",
    "json": json.dumps({"data": {"api_key": SECRET}}),
    "json in json": json.dumps({"data": json.dumps({"headers": json.dumps({"Authorization": SECRET})})}),
    "python repr": repr({"headers": [("authorization", f"Bearer {SECRET}")], "password": SECRET}),
    "exception": repr(ConnectionError(f"POST https://x:{SECRET}@example.com failed: api_key='{SECRET}'")),
    "pem": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
    "learned": f"the provider refused {LEARNED}!",
    "learned, encoded": "x" + base64.b64encode(LEARNED.encode()).decode(),
    "email": f"asked by {EMAIL}",
    "email, quoted": f"?user={EMAIL.replace('@', '%40')}",
    "email in json": json.dumps({"who": [EMAIL]}),
    "addresses": f"from {IP4}:8080 and [{IP6}]:443",
    "address in json": json.dumps({"from": {"ip": IP4, "six": IP6}}),
    "prompt in json": json.dumps({"prompt": PROMPT}),
    "prompt in json in json": json.dumps({"body": json.dumps({"input": {"negative_prompt": PROMPT}})}),
    "prompt assignment": f"400 Bad Request: prompt={PROMPT}",
    "prompt, quoted": f"ValueError: {{'prompt': '{PROMPT}', 'n': 1}}",
    "prompt in a cut reply": f'{{"code":1301,"message":"refused: {PROMPT}","request_id":"r-1", "da',
}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteSubjects]:
    """Return one subject table for all, in a process that knows one secret."""
    secrets.learn(LEARNED)
    yield SqliteSubjects(tmp_path_factory.mktemp("leaks") / "subjects.sqlite", KEY)
    secrets.forget_all()


@pytest.fixture(scope="module", params=["personal", "opaque"])
def door(request: pytest.FixtureRequest, subjects: SqliteSubjects) -> Door:
    """Return a door under either declaration of actor ids."""
    return Door(Policy.parse(f'[privacy]\nactor_ids = "{request.param}"'.encode()), subjects, KEY)


def everything_said(door: Door, draft: Draft, subjects: SqliteSubjects) -> bytes:
    """Admit a draft and return all that was made or printed on the way, whether it passed or not."""
    said: list[Any] = [repr(draft), repr(door), repr(subjects), draft.__rich_repr__()]
    try:
        encoded = door.admit(draft)
        said += [encoded.body.decode(), repr(encoded)]
    except KlingAuditError as exc:
        error: BaseException | None = exc
        said.append("".join(traceback.format_exception_only(exc)))
        while error is not None:
            said += [repr(error), str(error), repr(error.__dict__)]
            error = error.__cause__ or error.__context__
    # Sealed ids aside, the file holds what the table says: it must not hold a planted part either.
    return repr(said).encode() + subjects.path.read_bytes()


def clean(said: bytes) -> None:
    """Fail with the needles that came through."""
    assert [] == [needle for needle in NEEDLES if needle.encode() in said]


TEXT_MEMBERS = [name for name in MEMBERS[3:18] if name not in ("ip_ref", "outcome")]


@pytest.mark.parametrize("member", [*TEXT_MEMBERS, "event_id", "outcome"])
@pytest.mark.parametrize("form", SECRET_FORMS)
def test_members(door: Door, subjects: SqliteSubjects, member: str, form: str) -> None:
    """A planted form in a member does not come through."""
    fields = {"event_type": "x_test", "actor_id": "user@example.com", "resource_type": "video"}
    clean(everything_said(door, Draft(**{**fields, member: SECRET_FORMS[form]}), subjects))


@pytest.mark.parametrize("form", SECRET_FORMS)
def test_metadata(door: Door, subjects: SqliteSubjects, form: str) -> None:
    """A planted form in metadata does not come through: as value, deep, in a list, as text in text, or as key."""
    text = SECRET_FORMS[form]
    for metadata in (
        {"note": text},
        {"a": {"b": [{"c": (text,)}]}},
        {"list": ["before", text, "after"]},
        {"body": json.dumps({"error": text})},
        {"body": json.dumps([json.dumps({"error": [text]})])},
        {"error": f"RuntimeError({text!r})"},
        {text: 1},
        {"a": {text: {"b": text}}},
        {"bad": {text: object()}},
        {"bad": [text, {1, 2}], text: b"x"},
        {"pair": ["x", text]},
        {"h": [{"name": "x-note", "value": text}]},
    ):
        clean(
            everything_said(door, Draft(event_type="x_test", actor_id="user@example.com", metadata=metadata), subjects)
        )


@pytest.mark.parametrize("name", ["api_key", "Authorization", "clientSecret", "cookie", "password", "tokens", "sk"])
def test_under_the_name_of_a_secret(door: Door, subjects: SqliteSubjects, name: str) -> None:
    """Whatever stands under a secret's name goes, plain as it is, at any depth and in any structure."""
    for value in (SECRET, {"a": SECRET}, [SECRET], (SECRET,), {SECRET: 1}, SECRET.encode(), ToCommit(SECRET)):
        for metadata in ({name: value}, {"a": [{name: value}]}, {"headers": [[name, value]]}):
            draft = Draft(event_type="x_test", actor_id="user@example.com", metadata=metadata)
            clean(everything_said(door, draft, subjects))
    text = json.dumps({"a": json.dumps({name: SECRET})})
    clean(everything_said(door, Draft(event_type="x_test", metadata={"note": text}, action=text), subjects))


@pytest.mark.parametrize("name", ["prompt", "negativePrompt", "message", "image_list", "callback_url", "text", "query"])
def test_under_the_name_of_content(door: Door, subjects: SqliteSubjects, name: str) -> None:
    """Whatever stands under the name of content becomes a commitment, and its echo in the event goes."""
    for value in (PROMPT, {"a": PROMPT}, [PROMPT], ToCommit(PROMPT), PROMPT.encode()):
        for metadata in ({name: value}, {"a": [{name: value}]}, {"form": [[name, value]]}):
            draft = Draft(event_type="x_test", actor_id="user@example.com", metadata=metadata)
            clean(everything_said(door, draft, subjects))
    echo = {name: PROMPT, "provider_says": f"refused: {PROMPT}", PROMPT: PROMPT, "deep": [{"a": f"«{PROMPT}»"}]}
    draft = Draft(event_type="x_test", actor_id="user@example.com", action=f"make {PROMPT}", team=PROMPT, metadata=echo)
    clean(everything_said(door, draft, subjects))


def test_wrapped_anywhere(door: Door, subjects: SqliteSubjects) -> None:
    """A wrapped value is withheld under any name, also when something else makes the event fail."""
    for metadata in ({"a": ToCommit(PROMPT)}, {"a": [1, ToCommit({"b": PROMPT})]}, {"a": ToCommit(PROMPT), "b": {1}}):
        draft = Draft(event_type="x_test", actor_id="user@example.com", metadata=metadata)
        clean(everything_said(door, draft, subjects))
    for broken in (
        ToCommit([PROMPT, {1}]),
        ToCommit({PROMPT: {1}}),
        ToCommit(PROMPT, PROMPT),
        ToCommit([PROMPT + "\ud800"]),
    ):
        draft = Draft(event_type="x_test", actor_id="user@example.com", metadata={"a": broken})
        clean(everything_said(door, draft, subjects))


def test_people_and_addresses(door: Door, subjects: SqliteSubjects) -> None:
    """Ids and addresses in their own members come through as pseudonym, mask and reference only."""
    draft = Draft(
        event_type="user_added", actor_id=EMAIL, on_behalf_of=EMAIL, resource_type="user", resource_id=EMAIL,
        action="add", ip_address=IP4, user_agent=f"Mozilla/5.0 ({EMAIL}; {IP4})",
    )  # fmt: skip
    clean(everything_said(door, draft, subjects))
    clean(everything_said(door, draft.replace(ip_address=IP6, user_agent=EMAIL), subjects))
    clean(everything_said(door, draft.replace(ip_address=f"{IP4}, {IP6}"), subjects))


def test_too_large_and_unencodable(door: Door, subjects: SqliteSubjects) -> None:
    """Refusals of size and form do not quote what was too large or could not be encoded."""
    for metadata in ({"note": PROMPT * 3000}, {"note": PROMPT + "\ud800"}, {PROMPT * 10: float("nan")}):
        draft = Draft(event_type="x_test", actor_id="user@example.com", metadata={**metadata, "prompt": PROMPT})
        clean(everything_said(door, draft, subjects))


def test_bound_actors(door: Door, subjects: SqliteSubjects) -> None:
    """What `acting` binds comes through as little, and a conflict shows neither id."""
    with acting(
        EMAIL, ip=IP4, user_agent=f"x/1 {EMAIL}", team=f"team of {EMAIL}", correlation_id=f"Bearer {SECRET}"
    ) as actor:
        clean(everything_said(door, resolve(Draft(event_type="x_test")), subjects))
        clean(repr(actor).encode())
        with pytest.raises(KlingAuditError) as caught:
            resolve(Draft(event_type="x_test", actor_id=f"other-{LOCAL}"))
    clean(repr((caught.value, str(caught.value))).encode())


def test_exception_texts(subjects: SqliteSubjects) -> None:
    """Exceptions that quote credentials and addresses are scrubbed before anything is written of them."""
    for form, text in SECRET_FORMS.items():
        if "prompt" not in form:
            clean(scrub_exception(ConnectionError(text)).encode())
            clean(scrub_exception(OSError(5, text, text)).encode())
            clean(scrub_exception(KeyError(text)).encode())
