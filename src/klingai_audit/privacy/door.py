"""The door: the only way from a draft to an `EncodedEvent`. What must not be kept does not pass.

Ids of people become pseudonyms, addresses masks with a keyed reference, user agents product and major version;
content becomes commitments, credentials go, every other text is cleaned. Source: docs/format.md, "Values inside
entries".
"""

from __future__ import annotations

import datetime as dt
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.context import OWN_ACTOR, UNKNOWN_ACTOR
from klingai_audit.event.record import Draft, EncodedEvent, Event, encode_event, format_time, new_event_id
from klingai_audit.event.types import EVENT_TYPES, EventInfo, canonical_type
from klingai_audit.privacy.commitment import Sealing, commit
from klingai_audit.privacy.content import Content, cut_user_agent
from klingai_audit.privacy.entrance import Entrance
from klingai_audit.privacy.masks import canonical_ip, is_masked_ip, mask_ip
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.secrets import REMOVED, generation
from klingai_audit.privacy.subjects import Subject, SubjectTable, is_pseudonym, normalise_id
from klingai_audit.privacy.vault import Vault

__all__ = ["ADDRESS_MEMBER", "MAX_DEADLINE_S", "Door", "missing_members"]

MAX_DEADLINE_S: Final = 10**9
"""Longest deadline of an intent in seconds."""

ADDRESS_MEMBER: Final = "full_address"
"""Metadata under which the whole IP address is committed to where policy wants it sealed."""

# Zones and deadlines are added to times: nothing of that may leave the calendar.
_FIRST_YEAR: Final = "1970"
_LAST_YEAR: Final = "9998"
_CREDENTIAL_DOMAIN: Final = b"klingai-audit/credential/v1\0"
_CACHED: Final = 4096
_TEXT_MEMBERS: Final = ("team", "project", "resource_type", "resource_id", "action", "correlation_id", "request_id")

_DRAFT_MEMBERS: Final = Draft.__struct_fields__
_TIMESTAMP: Final = _DRAFT_MEMBERS.index("timestamp")
_TEXT_TYPES: Final = frozenset({str, type(None)})
_text_members: Final = itemgetter(*map(_DRAFT_MEMBERS.index, ("actor_type", *_TEXT_MEMBERS)))
_other_members: Final = itemgetter(
    *map(_DRAFT_MEMBERS.index, ("event_id", "ip_address", "user_agent", "timestamp", "metadata"))
)
_astuple: Final[Callable[[Draft], tuple[Any, ...]]] = msgspec.structs.astuple


class Door:
    """Admits drafts under one policy; may be shared by threads.

    `lookup_key` are the 32 bytes of the look-up key, `clock` returns nanoseconds since 1970 UTC. Pseudonyms come
    from `subjects`; a new person's row is durable before `admit` returns. What policy wants sealed goes to `vault`,
    durable before `admit` returns; without a vault it stays a commitment only.
    """

    def __init__(
        self,
        policy: Policy,
        subjects: SubjectTable,
        lookup_key: bytes,
        *,
        clock: Callable[[], int] = time.time_ns,
        vault: Vault | None = None,
    ) -> None:
        self.policy = policy
        self._subjects = subjects
        self._lookup_key = lookup_key
        self._clock = clock
        self._content = Content(policy.privacy.commit)
        rules = policy.vault
        self._entrance = Entrance(self._content, Content(rules.seal) if rules.seal else None, rules.max_bytes)
        self._vault = vault if rules.seals else None
        self._opaque = policy.privacy.actor_ids == "opaque"
        self._ids: dict[str, str] = {}
        self._ids_generation = generation()
        self._agents: dict[str, str] = {}
        self._addresses: dict[tuple[str, str], tuple[str, str | UnsetType]] = {}
        subjects.when_erased(self._forget)

    def __repr__(self) -> str:
        return f"Door(policy={self.policy.digest[:16]})"

    def admit(self, draft: Draft, *, seal: bool = True) -> EncodedEvent:
        """Turn a draft, its actor resolved, into event bytes; without `seal` nothing is put into the vault.

        Raises: InvalidEvent (with UnknownEventType, EventTooLarge): names JSON pointer and type, never a value.
        AuditUnavailable: the subject table cannot keep the actor, or the vault what is to be sealed: the act must not
        happen.
        """
        event_type = canonical_type(draft.event_type)
        info = EVENT_TYPES.get(event_type)
        values = _astuple(draft)
        if not _TEXT_TYPES.issuperset(map(type, values[1:_TIMESTAMP])) or not isinstance(draft.metadata, Mapping):
            draft = _plain_members(draft)
            values = _astuple(draft)
        if info is not None and (info.own or info.required):
            _check_registered(draft, info)
        given_id, address, agent, timestamp, raw = _other_members(values)
        now = self._clock()
        event_id = given_id.lower() if given_id else new_event_id(now)
        subject, actor_id = self._actor(draft.actor_id, info)
        texts = _text_members(values)
        clean: Callable[[str], str] = str
        metadata = self._entrance.plain(raw, texts)
        plain = metadata is not None
        to_seal: list[Sealing] = []
        if metadata is None:
            walk = self._entrance.walk(raw, subject.key, event_id, texts[1:])
            metadata, clean, to_seal = walk.result, walk.text, walk.to_seal
        if metadata.get("phase") == "intent":
            _check_deadline(metadata)
        actor_type, team, project, resource_type, resource_id, action, correlation_id, request_id = texts
        masked, reference = self._address(address, subject) if address else (UNSET, UNSET)
        if address and self._vault is not None and self.policy.vault.addresses:
            whole = self._whole_address(address, subject, event_id, metadata)
            to_seal, plain = [*to_seal, *whole], plain and not whole
        encoded = encode_event(
            Event(
                event_id=event_id,
                timestamp=format_time(now) if timestamp is None else _given_time(timestamp),
                event_type=event_type,
                actor_id=actor_id,
                actor_type=clean(actor_type) if actor_type else _default_type(subject),
                on_behalf_of=self._person(draft.on_behalf_of)[1] if draft.on_behalf_of else UNSET,
                team=clean(team) if team else UNSET,
                project=clean(project) if project else UNSET,
                resource_type=clean(resource_type) if resource_type else UNSET,
                resource_id=self._resource(resource_type, resource_id, clean) if resource_id else UNSET,
                action=clean(action) if action else UNSET,
                outcome=draft.outcome,
                ip_address=masked,
                ip_ref=reference,
                user_agent=self._agent(agent) if agent else UNSET,
                correlation_id=clean(correlation_id) if correlation_id else UNSET,
                request_id=clean(request_id) if request_id else UNSET,
                metadata=metadata or UNSET,
            ),
            plain=plain,
        )
        if to_seal and seal and self._vault is not None:
            self._vault.seal(subject, event_id, to_seal)
        return encoded

    def fingerprint(self, credential: str) -> str:
        """Return 16 hex digits that tell credentials apart and reveal none: HMAC under the look-up key."""
        message = _CREDENTIAL_DOMAIN + credential.encode("utf-8", "surrogatepass")
        return hmac.digest(self._lookup_key, message, "sha256")[:8].hex()

    def _forget(self) -> None:
        """Drop what is remembered of people: somebody was erased."""
        self._ids, self._addresses, self._agents = {}, {}, {}

    # --- people -----------------------------------------------------------------------------------

    def _actor(self, given: str | None, info: EventInfo | None) -> tuple[Subject, str]:
        subject, shown = self._person(given or UNKNOWN_ACTOR)
        if subject.reserved:
            if shown == OWN_ACTOR and (info is None or info.category != "log"):
                raise InvalidEvent(f"/actor_id: `{OWN_ACTOR}` is the log itself", do="Name the person or the service.")
            if shown == UNKNOWN_ACTOR and self.policy.privacy.unknown_actor == "refuse":
                raise InvalidEvent(
                    "/actor_id: nobody is bound to this act, and the policy refuses that",
                    do="Bind the actor: with klingai_audit.acting(…).",
                )
        return subject, shown

    def _person(self, given: str) -> tuple[Subject, str]:
        """Return the subject of an id and how the entry shows it."""
        if is_pseudonym(given) and (known := self._subjects.get(given)) is not None:
            return known, given
        safe = self._ids.get(given)
        if safe is None or self._ids_generation != generation():
            safe = self._safe_id(given)
        subject = self._subjects.resolve(safe, kind="opaque" if self._opaque else "person")
        if self._opaque and not subject.reserved and self._content.clean(safe) == safe:
            return subject, safe
        return subject, subject.pseudonym

    def _safe_id(self, given: str) -> str:
        """Return the normalised id, or a name with its fingerprint if it is a credential: those are kept nowhere."""
        safe = normalise_id(given)
        if not safe:
            raise InvalidEvent("/actor_id, /on_behalf_of, /resource_id: an id is empty")
        if REMOVED in self._content.clean(safe):
            safe = f"credential:{self.fingerprint(given)}"
        if self._ids_generation != generation() or len(self._ids) >= _CACHED:
            self._ids_generation = generation()
            self._ids = {}
        self._ids[given] = safe
        return safe

    # --- other members ----------------------------------------------------------------------------

    def _resource(self, kind: str | None, identity: str, clean: Callable[[str], str]) -> str:
        if kind and kind.strip().lower() == "user":
            return self._person(identity)[1]
        return clean(identity)

    def _address(self, given: str, subject: Subject) -> tuple[str, str | UnsetType]:
        known = self._addresses.get((subject.pseudonym, given))
        if known is not None:
            return known
        found = None if is_masked_ip(given) else canonical_ip(given)
        reference: str | UnsetType = UNSET
        if found is not None:
            reference = hmac.digest(subject.key, found.encode("ascii"), "sha256")[:16].hex()
        if len(self._addresses) >= _CACHED:
            self._addresses = {}
        self._addresses[subject.pseudonym, given] = known = (mask_ip(given), reference)
        return known

    def _whole_address(
        self, given: str, subject: Subject, event_id: str, metadata: dict[str, Any]
    ) -> Sequence[Sealing]:
        """Commit to the whole address in `metadata`, and return what is to be sealed of it."""
        found = None if is_masked_ip(given) else canonical_ip(given)
        if found is None:
            return ()
        name = ADDRESS_MEMBER
        while name in metadata:
            name += "~"
        metadata[name] = stored = commit(subject.key, event_id, f"/metadata/{name.replace('~', '~0')}", found)
        return (Sealing(f"/metadata/{name.replace('~', '~0')}", stored["commitment"], found.encode("ascii")),)

    def _agent(self, given: str) -> str:
        known = self._agents.get(given)
        if known is None:
            if len(self._agents) >= _CACHED:
                self._agents = {}
            clean = self._content.clean(given)
            known = REMOVED if REMOVED in clean else self._content.clean(cut_user_agent(given))
            self._agents[given] = known
        return known


def missing_members(draft: Draft, info: EventInfo) -> list[str]:
    """Return what the event type requires and the draft has no value for; metadata keys as `metadata.<key>`."""
    missing = []
    for name in info.required:
        member, _, key = name.partition(".")
        value = draft.metadata.get(key) if member == "metadata" else getattr(draft, member)
        if value is None or value == "":
            missing.append(name)
    return missing


def _check_registered(draft: Draft, info: EventInfo) -> None:
    if info.own:
        raise InvalidEvent(f"/event_type: `{info.name}` is written by the log itself", do="Own types begin with x_.")
    if missing := missing_members(draft, info):
        raise InvalidEvent(f"{info.name}: no value for {', '.join(missing)}")


def _check_deadline(metadata: Mapping[str, Any]) -> None:
    """Check that an intent's deadline, if it names one, is an end that a verifier can reckon with."""
    deadline = metadata.get("deadline_s", 0)
    if type(deadline) not in (int, float) or not 0 <= deadline <= MAX_DEADLINE_S:
        raise InvalidEvent(
            f"/metadata/deadline_s: an intent's deadline is a number from 0 to {MAX_DEADLINE_S:,} (seconds)"
        )


def _given_time(when: dt.datetime) -> str:
    """Return a caller's time as text. Raises: InvalidEvent: outside the years 1970 to 9998, or no aware datetime."""
    text = format_time(when)
    if not _FIRST_YEAR <= text[:4] <= _LAST_YEAR:
        raise InvalidEvent("/timestamp: outside the years 1970 to 9998")
    return text


def _plain_members(draft: Draft) -> Draft:
    """Return the draft with texts of exact type (an enumeration's member becomes its text). Raises: InvalidEvent."""
    changes = {}
    for name in _DRAFT_MEMBERS[1:_TIMESTAMP]:
        value = getattr(draft, name)
        if isinstance(value, str):
            changes[name] = str.__str__(value)
        elif value is not None:
            raise InvalidEvent(f"/{name}: a value of type {type(value).__name__}, expected str")
    if not isinstance(draft.metadata, Mapping):
        raise InvalidEvent(f"/metadata: a value of type {type(draft.metadata).__name__}, expected a mapping")
    return draft.replace(**changes)


def _default_type(subject: Subject) -> str:
    return "system" if subject.reserved else "user"
