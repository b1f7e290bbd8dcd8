"""The door: drafts in, event bytes out."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import hmac
import json
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable, EventTooLarge, InvalidEvent, UnknownEventType
from klingai_audit.event.record import MEMBERS, Draft, EncodedEvent, Event, decode_event
from klingai_audit.event.types import EVENT_TYPES, EventType
from klingai_audit.privacy import secrets
from klingai_audit.privacy.commitment import check_opening, opening
from klingai_audit.privacy.door import Door, missing_members
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import SqliteSubjects, is_pseudonym

KEY = bytes(range(32))
NS = 1_795_289_303_123_456_789
USER = "user@example.com"
LAKE = "A serene mountain lake at sunrise"


@pytest.fixture
def subjects(tmp_path: Path) -> SqliteSubjects:
    """Return a fresh subject table."""
    return SqliteSubjects(tmp_path / "subjects.sqlite", KEY)


@pytest.fixture
def door(subjects: SqliteSubjects) -> Door:
    """Return a door with the default policy and a clock that stands still."""
    return Door(Policy.default(), subjects, KEY, clock=lambda: NS)


def with_policy(text: str, subjects: SqliteSubjects) -> Door:
    """Return a door with another policy."""
    return Door(Policy.parse(text.encode()), subjects, KEY)


def admit(door: Door, **members: Any) -> Event:
    """Admit a draft and read the event back from its bytes."""
    encoded = door.admit(Draft(**{"event_type": "x_test", "actor_id": USER, **members}))
    assert isinstance(encoded, EncodedEvent)
    return decode_event(encoded.body)


def test_every_member_arrives_in_its_form(door: Door, subjects: SqliteSubjects) -> None:
    """One full draft: pseudonyms, masks, cut agent, commitment; the rest as given, in the documented order."""
    event = admit(
        door,
        event_type=EventType.VIDEO_GENERATION_STARTED, actor_id=USER, actor_type="admin", outcome="unknown",
        on_behalf_of="client@example.com", team="studio-a", project="lake", resource_type="video",
        resource_id="831000000000000042", action="text_to_video", ip_address="192.168.1.100",
        user_agent="python-httpx/0.28.1", correlation_id="c-1", request_id="CjMkVmeZ-abc_12",
        metadata={"model": "kling-3.0-turbo", "prompt": LAKE},
    )  # fmt: skip
    subject, client = subjects.resolve(USER), subjects.resolve("client@example.com")
    stored = event.details["prompt"]
    assert check_opening(stored, opening(subject.key, event.event_id, "/metadata/prompt"), LAKE)
    expected = Event(
        event_id=event.event_id, timestamp="2026-11-21T19:28:23.123456Z", event_type="video_generation_started",
        actor_id=subject.pseudonym, actor_type="admin", on_behalf_of=client.pseudonym, team="studio-a",
        project="lake", resource_type="video", resource_id="831000000000000042", action="text_to_video",
        outcome="unknown", ip_address="192.168.xxx.xxx",
        ip_ref=hmac.new(subject.key, b"192.168.1.100", hashlib.sha256).hexdigest()[:32],
        user_agent="python-httpx/0", correlation_id="c-1", request_id="CjMkVmeZ-abc_12",
        metadata={"model": "kling-3.0-turbo", "prompt": stored},
    )  # fmt: skip
    assert expected == event
    assert event.event_id.startswith(f"{NS // 1_000_000:012x}"[:8])


def test_what_has_no_value_is_left_out(door: Door) -> None:
    """None, the empty string and empty metadata leave no member behind."""
    encoded = door.admit(
        Draft(event_type="x_test", actor_id=USER, team="", project=None, ip_address="", user_agent="", metadata={})
    )
    expected = "schema event_id timestamp event_type actor_id actor_type outcome"
    assert expected.split() == list(json.loads(encoded.body))


def test_time_and_id_of_the_caller(door: Door) -> None:
    """A given id (in any case) and time are taken; an unusable one is refused."""
    moment = dt.datetime(2026, 11, 21, 20, 0, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    event = admit(door, event_id="01A1FB67-1418-702A-821E-D18EF9931CD6", timestamp=moment)
    assert ("01a1fb67-1418-702a-821e-d18ef9931cd6", "2026-11-21T19:00:00.000000Z") == (event.event_id, event.timestamp)
    with pytest.raises(InvalidEvent, match=r"^/event_id"):
        admit(door, event_id="no uuid")
    with pytest.raises(InvalidEvent, match=r"^/timestamp"):
        admit(door, timestamp=dt.datetime(2026, 11, 21))  # noqa: DTZ001  # naive on purpose


# --- people ---------------------------------------------------------------------------------------------


def test_one_person_one_pseudonym(door: Door, subjects: SqliteSubjects) -> None:
    """Every spelling of one id is one pseudonym, as actor, in whose name, and as a user that is acted on."""
    shown = {
        admit(door, actor_id=USER).actor_id,
        admit(door, actor_id=" USER@example.com").actor_id,
        admit(door, on_behalf_of=USER).on_behalf_of,
        admit(door, resource_type="user", resource_id=USER).resource_id,
        admit(door, resource_type=" User ", resource_id=USER).resource_id,
        admit(door, actor_id=subjects.resolve(USER).pseudonym).actor_id,
    }
    assert {subjects.resolve(USER).pseudonym} == shown


def test_masked_people_stay_two(door: Door) -> None:
    """Two people whose masks are equal have different pseudonyms."""
    assert admit(door, actor_id="us1@example.com").actor_id != admit(door, actor_id="us2@example.com").actor_id


def test_row_is_there_before_the_event(door: Door, subjects: SqliteSubjects, tmp_path: Path) -> None:
    """When `admit` returns, another reader of the file finds the person."""
    pseudonym = admit(door).actor_id
    assert USER == SqliteSubjects(tmp_path / "subjects.sqlite", KEY, read_only=True).reveal(pseudonym)


def test_pseudonym_of_nobody_is_an_id_like_others(door: Door) -> None:
    """A text of a pseudonym's form that stands for nobody becomes a person of its own, not that pseudonym."""
    forged = "p_" + "A" * 22
    shown = admit(door, actor_id=forged).actor_id
    assert forged != shown
    assert is_pseudonym(shown)


def test_an_actor_of_no_given_type_is_a_user(door: Door) -> None:
    """Who is named without a type is of type `user`."""
    assert "user" == admit(door, actor_id=USER).actor_type
    assert "service" == admit(door, actor_id=USER, actor_type="service").actor_type


def test_nobody(door: Door, subjects: SqliteSubjects) -> None:
    """Without an actor the event says `unknown`, type `system`; a policy may refuse that."""
    for given in (None, "", "unknown", " unknown "):
        event = admit(door, actor_id=given)
        assert ("unknown", "system") == (event.actor_id, event.actor_type)
    strict = with_policy('[privacy]\nunknown_actor = "refuse"', subjects)
    with pytest.raises(InvalidEvent, match="nobody is bound") as caught:
        admit(strict, actor_id=None)
    assert "acting" in caught.value.do
    assert admit(strict).actor_id


def test_the_log_is_no_actor_for_others(door: Door) -> None:
    """Nobody may act as the log itself, except for what the log can be asked to do."""
    with pytest.raises(InvalidEvent, match="is the log itself"):
        admit(door, actor_id=" klingai-audit ")
    event = admit(door, event_type="log_verified", actor_id="klingai-audit")
    assert ("klingai-audit", "system") == (event.actor_id, event.actor_type)


@pytest.mark.parametrize("name", [name for name, info in EVENT_TYPES.items() if info.own])
def test_own_types_are_refused(door: Door, name: str) -> None:
    """What only the log writes is refused from anyone, also in the log's name."""
    for actor in (USER, "klingai-audit"):
        with pytest.raises(InvalidEvent, match="written by the log itself"):
            admit(door, event_type=name, actor_id=actor)


@pytest.mark.parametrize("name", [name for name, info in EVENT_TYPES.items() if not info.own])
def test_every_other_type_passes_with_what_it_requires(door: Door, name: str) -> None:
    """Each type is accepted with its required members, and refused by name without each of them."""
    full = dict.fromkeys(EVENT_TYPES[name].required, "thing")
    assert name == admit(door, event_type=name, **full).event_type
    for member in full:
        with pytest.raises(InvalidEvent, match=f"^{name}: no value for {member}$"):
            admit(door, event_type=name, **{**full, member: ""})


def test_required_metadata_is_named() -> None:
    """Required keys of metadata are checked like members."""
    info = EVENT_TYPES["log_opened"]
    assert ["metadata.policy"] == missing_members(Draft(event_type="log_opened"), info)
    assert [] == missing_members(Draft(event_type="log_opened", metadata={"policy": "x"}), info)


def test_opaque_ids(subjects: SqliteSubjects) -> None:
    """Where ids are declared to name no person they are kept, but for what looks like one, or like a credential."""
    door = with_policy('[privacy]\nactor_ids = "opaque"', subjects)
    event = admit(door, actor_id=" render-farm ", on_behalf_of="studio-b", metadata={"prompt": LAKE})
    assert ("render-farm", "studio-b") == (event.actor_id, event.on_behalf_of)
    key = subjects.resolve("render-farm").key
    assert check_opening(event.details["prompt"], opening(key, event.event_id, "/metadata/prompt"), LAKE)
    for personal in (USER, "10.1.2.3", "sk-abc123def456ghi"):
        assert is_pseudonym(admit(door, actor_id=personal).actor_id)


def test_credential_as_id_is_kept_nowhere(door: Door, subjects: SqliteSubjects) -> None:
    """A key given as id stands for itself by its fingerprint: always the same person, and not in the table."""
    first = admit(door, actor_id="api-key-kling-abc123").actor_id
    assert first == admit(door, actor_id="api-key-kling-abc123").actor_id
    assert first != admit(door, actor_id="api-key-kling-abc124").actor_id
    assert f"credential:{door.fingerprint('api-key-kling-abc123')}" == subjects.reveal(first)


def test_key_learned_later_is_no_id(door: Door, subjects: SqliteSubjects) -> None:
    """An id that turns out to be a learned secret is treated as one from then on."""
    before = admit(door, actor_id="plain-looking-key").actor_id
    try:
        secrets.learn("plain-looking-key")
        after = admit(door, actor_id="plain-looking-key").actor_id
    finally:
        secrets.forget_all()
    assert before != after
    assert "plain" not in (subjects.reveal(after) or "")


def test_an_unavailable_table_stops_the_act(door: Door, tmp_path: Path) -> None:
    """If a new person's row cannot be kept, nothing is admitted."""
    (tmp_path / "subjects.sqlite").unlink()
    with pytest.raises(AuditUnavailable):
        admit(door)


# --- addresses, agents, texts ---------------------------------------------------------------------------


def test_ip_references_tell_addresses_of_one_person_apart(door: Door) -> None:
    """One address of one person has one reference in every spelling; other addresses and people have others."""
    one = admit(door, ip_address="2001:db8::1")
    assert one.ip_ref == admit(door, ip_address="[2001:0DB8:0::1]:443").ip_ref
    assert one.ip_ref != admit(door, ip_address="2001:db8::2").ip_ref
    assert one.ip_ref != admit(door, ip_address="2001:db8::1", actor_id="other@example.com").ip_ref
    assert "2001:db8::/32" == one.ip_address
    assert isinstance(one.ip_ref, str)
    assert 32 == len(one.ip_ref)


@pytest.mark.parametrize(
    "given, mask", [("192.168.xxx.xxx", "192.168.xxx.xxx"), ("2001:db8::/32", "2001:db8::/32"), ("pipe", "[removed]")]
)
def test_masked_and_unusable_addresses_have_no_reference(door: Door, given: str, mask: str) -> None:
    """A mask stays a mask; what is no address is removed and does not stop the act; neither has a reference."""
    event = admit(door, ip_address=given)
    assert (mask, None) == (event.get("ip_address"), event.get("ip_ref"))


@pytest.mark.parametrize(
    "given, cut",
    [
        ("curl/8.5.0", "curl/8"),
        (f"Foo/1.2 ({USER})", "Foo/1"),
        (f"Bearer {'x1' * 10}", "[removed]"),
        (USER, "[removed]"),
    ],
)
def test_user_agents_are_cut(door: Door, given: str, cut: str) -> None:
    """Product and major version, no more; a credential in the header removes it all."""
    assert cut == admit(door, user_agent=given).user_agent
    assert cut == admit(door, user_agent=given).user_agent


@pytest.mark.parametrize(
    "member",
    ["team", "project", "resource_type", "resource_id", "action", "correlation_id", "request_id", "actor_type"],
)
def test_texts_are_cleaned_in_every_member(door: Door, member: str) -> None:
    """No member keeps an address or a credential."""
    event = admit(door, **{member: f"{USER} 192.168.1.100 api_key=abc"})
    assert "us***@example.com 192.168.xxx.xxx api_key=[removed]" == event.get(member)


def test_echo_in_a_member_is_removed(door: Door) -> None:
    """Text that the metadata withholds does not stand in a member."""
    event = admit(door, action=f"generate {LAKE}", metadata={"prompt": LAKE})
    assert "generate [removed]" == event.action


class Name(enum.StrEnum):
    """An enumeration of texts."""

    TEAM = "studio-a"
    BLOCKED = "blocked"


def test_members_of_enumerations_are_texts(door: Door) -> None:
    """A member of an enumeration of texts is its text; so is any mapping metadata."""
    event = admit(door, team=Name.TEAM, outcome=Name.BLOCKED, metadata=MappingProxyType({"a": Name.TEAM}))
    assert ("studio-a", "blocked", {"a": "studio-a"}) == (event.team, event.outcome, event.details)


@pytest.mark.parametrize("member", [name for name in MEMBERS[4:18] if name != "ip_ref"])
def test_members_are_texts(door: Door, member: str) -> None:
    """A member that is no text is refused by name and type."""
    with pytest.raises(InvalidEvent) as caught:
        admit(door, **{member: 5})
    assert f"/{member}: a value of type int, expected str" == caught.value.message


@pytest.mark.parametrize("metadata", [None, [], "x", 5])
def test_metadata_is_a_mapping(door: Door, metadata: object) -> None:
    """Metadata that is no mapping is refused by type."""
    with pytest.raises(InvalidEvent, match=r"^/metadata: a value of type"):
        admit(door, metadata=metadata)


def test_unusable_outcome_and_type(door: Door) -> None:
    """Another outcome or type is refused without being shown."""
    with pytest.raises(InvalidEvent, match=r"^/outcome"):
        admit(door, outcome="ok")
    with pytest.raises(UnknownEventType):
        admit(door, event_type="nonsense")
    assert "video_generation_failed" == admit(door, event_type="generation_failed").event_type


def test_too_large(door: Door) -> None:
    """An event over the limit is refused with size and limit; the same text as prompt is only its length."""
    with pytest.raises(EventTooLarge, match=r"the limit is 65,338"):
        admit(door, metadata={"note": "x y " * 20_000})
    assert 80_000 == admit(door, metadata={"prompt": "x y " * 20_000}).details["prompt"]["bytes"]


@pytest.mark.parametrize(
    "value", [float("nan"), 2**53 + 1, "\ud800 x", {"a": [float("inf")]}, [[["\udfff"]]], {"\ud800": 1}]
)
def test_what_has_no_json_form_is_refused(door: Door, value: object) -> None:
    """Numbers and texts that JSON readers do not share are refused by place, the short way too."""
    with pytest.raises(InvalidEvent, match=r"^/metadata/v"):
        admit(door, metadata={"v": value})


def test_fingerprints(door: Door) -> None:
    """A credential's fingerprint is the documented HMAC, 16 hex digits."""
    expected = hmac.new(KEY, b"klingai-audit/credential/v1\0" + b"sim-api-key", hashlib.sha256).hexdigest()[:16]
    assert expected == door.fingerprint("sim-api-key")
    assert door.fingerprint("\ud800")


def test_caches_are_bounded(door: Door) -> None:
    """Any number of people, addresses and agents leaves bounded caches."""
    for number in range(5000):
        door._addresses[str(number), "x"] = ("x", "x")
        door._agents[str(number)] = "x"
        door._ids[str(number)] = "x"
    admit(door, ip_address="192.168.1.100", user_agent="curl/8")
    assert max(len(door._addresses), len(door._agents), len(door._ids)) <= 4096


def test_threads_share_a_door(door: Door) -> None:
    """Many threads get distinct ids and the same pseudonyms."""
    found: list[Event] = []

    def work() -> None:
        found.extend(
            admit(door, actor_id=f"user{number % 5}@example.com", metadata={"n": number}) for number in range(50)
        )

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 300 == len({event.event_id for event in found})
    assert 5 == len({event.actor_id for event in found})


def test_repr_shows_no_people(door: Door) -> None:
    """The door prints its policy only."""
    admit(door)
    assert "example" not in repr(door)


@pytest.mark.parametrize("deadline", [-1, -0.5, 10**9 + 1, 1e300, float("inf"), True, None, "5", [5]])
def test_absurd_deadlines_are_refused(door: Door, deadline: object) -> None:
    """An intent whose deadline no verifier can reckon with does not enter; under another phase it is a mere number."""
    with pytest.raises(InvalidEvent, match=r"^/metadata/deadline_s: "):
        admit(door, metadata={"phase": "intent", "deadline_s": deadline})
    assert (
        b"deadline_s" in door.admit(Draft(event_type="x_test", metadata={"phase": "other", "deadline_s": 5**20})).body
    )


@pytest.mark.parametrize("deadline", [0, 0.5, 10**9])
def test_deadlines_are_kept(door: Door, deadline: float) -> None:
    """Any other number is kept, and an intent may name none."""
    assert deadline == admit(door, metadata={"phase": "intent", "deadline_s": deadline}).details["deadline_s"]
    assert "intent" == admit(door, metadata={"phase": "intent"}).details["phase"]


@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_times_at_the_ends_of_the_calendar_are_refused(door: Door, year: int) -> None:
    """Times outside the years 1970 to 9998 do not enter."""
    with pytest.raises(InvalidEvent, match=r"^/timestamp: "):
        admit(door, timestamp=dt.datetime(year, 12, 31, 12, tzinfo=dt.UTC))


@pytest.mark.parametrize("year", [1970, 9998])
def test_first_and_last_year(door: Door, year: int) -> None:
    """The first and the last year are inside."""
    assert str(year) == admit(door, timestamp=dt.datetime(year, 12, 31, tzinfo=dt.UTC)).timestamp[:4]
