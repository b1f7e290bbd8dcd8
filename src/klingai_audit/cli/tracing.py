"""`trace`: from a media file to the generation it came out of, or went into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from klingai_audit.cli.options import Record, Resolve
from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session, SessionArgument, escaped

if TYPE_CHECKING:
    from klingai_audit.views.entry import ActorStyle
    from klingai_audit.views.trace import Sighting, Trace

_ROLES = {"delivered": "delivered by", "handed_in": "handed in for"}


def trace(
    file: Annotated[Path, Parameter(name="FILE", help="A media file.")],
    /,
    *,
    resolve: Resolve = False,
    record: Record = False,
    session: SessionArgument,
) -> int:
    """Find the generation that made a media file, or that it was handed in for. Exit 1 if the log knows no such file.

    The file must be byte for byte what was delivered: a re-encoded or trimmed copy is another file.
    """
    from klingai_audit.cli.recording import record_read, tell_recorded
    from klingai_audit.config import open_reader, open_subjects
    from klingai_audit.views.trace import MediaFile
    from klingai_audit.views.trace import trace as find

    with progress_bar(session, "hashing", "bytes") as progress:
        media = MediaFile.of(file, progress)
    reader, subjects = open_reader(session.places), open_subjects(session.places)
    size = reader.size
    found = find(lambda: reader.entries(0, size), media, subjects)
    recorded = record_read(session, "trace", {"sha256": media.sha256}, size, subjects, asked=record)
    if session.as_json:
        session.emit({**_to_json(found), "recorded": recorded})
    else:
        _draw(session, found, "id" if resolve else "mask")
        tell_recorded(session, recorded)
    return 0 if found.sightings else 1


def _to_json(found: Trace) -> dict[str, Any]:
    return {
        "file": escaped(str(found.file.path)),
        "sha256": found.file.sha256,
        "bytes": found.file.bytes,
        "found": bool(found.sightings),
        "inputs_checked": found.inputs_checked,
        "sightings": [
            {
                "seq": one.entry.seq,
                "event_id": one.entry.event_id,
                "event_type": one.entry.event_type,
                "role": one.role,
                "pointer": one.pointer,
                "task": one.entry.resource_id,
                "actor_id": one.entry.actor_id,
                "timestamp": one.entry.timestamp.isoformat(),
            }
            for one in found.sightings
        ],
        "tasks": [{"task": story.task, "seqs": [step.entry.seq for step in story.steps]} for story in found.stories],
    }


def _draw(session: Session, found: Trace, style: ActorStyle) -> None:
    from klingai_audit.cli.showing import draw_story
    from klingai_audit.views.inert import inert

    session.say((inert(escaped(found.file.path.name)), "bold"), f", {found.file.bytes:,} bytes")
    session.say((f"SHA-256 {found.file.sha256}", "dim"))
    for one in found.sightings:
        session.say(*_sentence(one, style))
    if not found.sightings:
        session.say(("The log does not know this file.", "yellow"), " Only a byte for byte copy can be found.")
        if not found.inputs_checked:
            session.say("What people handed in was not searched: that needs the subject table (--subjects).")
    for story in found.stories:
        session.say("")
        draw_story(session, story, style)


def _sentence(one: Sighting, style: ActorStyle) -> tuple[str | tuple[str, str], ...]:
    from klingai_audit.cli.render import format_moment
    from klingai_audit.views.inert import inert

    entry = one.entry
    what = inert(entry.resource_id or entry.correlation_id or "-")
    who = inert(entry.actor(style) or "-")
    return (
        (f"  {_ROLES[one.role]} ", "green"),
        f"{inert(entry.resource_type or 'task')} {what}",
        (f" (entry {entry.seq}, {inert(entry.event_type)} by {who}, {format_moment(entry.timestamp)} UTC)", "dim"),
    )
