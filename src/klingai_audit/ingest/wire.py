"""The shapes of what comes in and goes out, as types: parsers, answers and the OpenAPI document are made from them."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from klingai_audit.errors import UsageError
from klingai_audit.event.types import ALIASES, EVENT_TYPES
from klingai_audit.privacy.subjects import MAX_ID_CHARACTERS

__all__ = [
    "CLOUDEVENT",
    "CLOUDEVENTS",
    "INGESTIBLE",
    "JSON",
    "JSON_LINES",
    "MEMBERS",
    "PROBLEM_JSON",
    "Accepted",
    "CloudEvent",
    "Event",
    "EventData",
    "EventMembers",
    "EventReceipt",
    "Fault",
    "Problem",
    "Refused",
]

JSON_LINES: Final = "application/x-ndjson"
JSON: Final = "application/json"
CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"
PROBLEM_JSON: Final = "application/problem+json"

INGESTIBLE: Final = tuple(
    [name for name, info in EVENT_TYPES.items() if not info.own and info.category != "log"] + list(ALIASES)
)
"""Registered event types that a producer may be allowed to claim: none of what the log says of itself."""

_OWN_TYPE: Final = "^x_[a-z0-9_]{1,62}$"
_HEX: Final = "^[0-9a-f]{64}$"
_UUID: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"
_GIVEN_UUID: Final = _UUID.replace("[1-8]", "[1-7]")

_Text = str | None
_Moment = Annotated[
    dt.datetime, Meta(tz=True, extra_json_schema={"pattern": "^(19[7-9][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2})-"})
]
_Id = Annotated[str, Meta(max_length=MAX_ID_CHARACTERS)] | None


class EventMembers(msgspec.Struct, frozen=True, kw_only=True):
    """What an event may say; null and the empty text mean "no value". The repr shows no values."""

    event_id: Annotated[
        Annotated[str, Meta(pattern=_GIVEN_UUID)] | None,
        Meta(
            description="UUID, best of version 7, not of version 8. The same id again within 24 hours is recorded once;"
            " without one, a request that is repeated is recorded again."
        ),
    ] = None
    timestamp: Annotated[
        _Moment | None,
        Meta(description="When it happened, with a zone (RFC 3339). Default: the time of arrival."),
    ] = None
    actor_id: Annotated[
        _Id, Meta(description="Who did it. People enter as pseudonyms. Default: the producer's `actor`.")
    ] = None
    actor_type: Annotated[_Text, Meta(description="`user`, `admin`, `service` or `system`. Default: `user`.")] = None
    on_behalf_of: Annotated[_Id, Meta(description="For whom; enters as a pseudonym.")] = None
    team: Annotated[_Text, Meta(description="Team.")] = None
    project: Annotated[_Text, Meta(description="Project.")] = None
    resource_type: Annotated[_Text, Meta(description="Kind of thing acted on.")] = None
    resource_id: Annotated[_Text, Meta(description="Which one.")] = None
    action: Annotated[_Text, Meta(description="What was done.")] = None
    outcome: Annotated[
        Literal["success", "failure", "blocked", "unknown"],
        Meta(description="`unknown`: the act was begun, and no answer came."),
    ] = "success"
    ip_address: Annotated[_Text, Meta(description="Address of the actor; enters as a coarse mask.")] = None
    user_agent: Annotated[_Text, Meta(description="Program of the actor; enters as product and version.")] = None
    correlation_id: Annotated[_Text, Meta(description="Joins the events of one act.")] = None
    request_id: Annotated[_Text, Meta(description="The provider's id of the exchange.")] = None
    metadata: Annotated[
        dict[str, Any] | None,
        Meta(
            description="Further facts: JSON, at most 16 levels, integers within ±2⁵³. Prompts and the like enter as"
            " commitments, credentials not at all. `producer` and `cloudevent` are kept for the endpoint."
        ),
    ] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<hidden>)"


class Event(EventMembers, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event, as a line of JSON lines or as one JSON object."""

    event_type: Annotated[
        str,
        Meta(
            description="A registered event type that is not the log's own, or your own `x_…` (docs/events.md).",
            extra_json_schema={"anyOf": [{"enum": list(INGESTIBLE)}, {"pattern": _OWN_TYPE}]},
        ),
    ]


class EventData(EventMembers, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `data` of a CloudEvent: an event, or an entry of another log as `export --format cloudevents` writes it.

    What CloudEvents say in attributes may be left out here. `seq` and what follows it belong to an exported entry.
    """

    event_id: Annotated[str, Meta(pattern=_UUID)] | None = None
    event_type: str | None = None
    schema: Literal[1] | None = None
    ip_ref: str | None = None
    seq: Annotated[int, Meta(ge=0)] | None = None
    logged_at: str | None = None
    prev_hash: Annotated[str, Meta(pattern=_HEX)] | None = None
    seal: str | None = None


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent 1.0 in structured JSON. Its further attributes are kept in `metadata.cloudevent.attributes`."""

    specversion: Annotated[Literal["1.0"], Meta(description="The version of CloudEvents.")]
    id: Annotated[
        str,
        Meta(
            min_length=1, max_length=512, description="With `source` what makes the event one: recorded once in 24 h."
        ),
    ]
    source: Annotated[str, Meta(min_length=1, max_length=512, description="Where it comes from (a URI reference).")]
    type: Annotated[
        str,
        Meta(
            description="`klingai-audit.` and the event type.",
            extra_json_schema={
                "anyOf": [
                    {"enum": [f"klingai-audit.{name}" for name in INGESTIBLE]},
                    {"pattern": _OWN_TYPE.replace("^", r"^klingai-audit\.")},
                ]
            },
        ),
    ]
    time: Annotated[
        _Moment | None,
        Meta(description="When it happened, where `data` does not say it."),
    ] = None
    subject: Annotated[_Text, Meta(description="`resource_type/resource_id`, where `data` has none.")] = None
    datacontenttype: Annotated[
        Annotated[str, Meta(pattern=r"^application/([A-Za-z0-9.-]+\+)?json(;.*)?$")] | None,
        Meta(description="JSON, if it is there."),
    ] = None
    dataschema: Annotated[_Text, Meta(description="Kept in `metadata.cloudevent`.")] = None
    data: Annotated[msgspec.Raw, Meta(description="An event (EventData).")] | UnsetType = UNSET
    data_base64: Annotated[None, Meta(description="Not read here: data has to be JSON.")] = None

    def __repr__(self) -> str:
        return "CloudEvent(<hidden>)"


MEMBERS: Final = EventMembers.__struct_fields__
"""Names of the members that an event and the data of a CloudEvent have in common."""


class EventReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Where one event stands in the log."""

    event_id: Annotated[str, Meta(pattern=_UUID, description="The event's id, given or made.")]
    seq: Annotated[int, Meta(ge=0, description="The entry's number.")]
    leaf_hash: Annotated[str, Meta(pattern=_HEX, description="SHA-256 of one zero byte and the entry.")]
    repeated: Annotated[bool, Meta(description="The log held it before; this is the receipt of the first time.")]
    proof: Annotated[
        str | UnsetType,
        Meta(description="With `wait=published`: C2SP tlog-proof with the entry in it, for `klingai-audit check`."),
    ] = UNSET


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to events that are recorded, all of them."""

    origin: Annotated[str, Meta(description="The log's name.")]
    state: Annotated[
        Literal["durable", "published"],
        Meta(description="What all of them have reached; `durable` if a checkpoint was asked for and did not come."),
    ]
    receipts: Annotated[list[EventReceipt], Meta(description="One for each event, in the order of the request.")]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one event of a request."""

    at: Annotated[int, Meta(ge=0, description="Index of the event, from 0.")]
    line: Annotated[int | UnsetType, Meta(description="Line of JSON lines, from 1.")] = UNSET
    message: Annotated[str, Meta(description="The member as a JSON pointer, and the reason; never a value.")]
    do: Annotated[str, Meta(description="What to do next; may be empty.")] = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing of a request was recorded (RFC 9457)."""

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    kind: Annotated[str, Meta(description="The reason as one word, for programs.")]
    do: Annotated[str, Meta(description="What to do next; may be empty.")] = ""
    events: Annotated[list[Fault], Meta(description="The events that are at fault, the first hundred of them.")] = []
    faults: Annotated[int, Meta(ge=0, description="How many events are at fault.")] = 0


_MOST_FAULTS: Final = 100


class Refused(UsageError):
    """Nothing of a request was recorded; `status` is the HTTP status, `kind_of` the reason as one word."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        do: str = "",
        faults: tuple[Fault, ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, do=do)
        self.status = status
        self.kind_of = kind
        self.faults = faults
        self.headers = headers

    def problem(self, title: str) -> Problem:
        """Return it as the body of an answer."""
        return Problem(
            title=title,
            status=self.status,
            detail=self.message,
            kind=self.kind_of,
            do=self.do,
            events=list(self.faults[:_MOST_FAULTS]),
            faults=len(self.faults),
        )
